"""The list of known base models: its numbers are those of the architectures, and nothing is fetched for it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

from lift.errors import RecipeError
from lift.models import known_models as module
from lift.models.known_models import KnownModel, find_weights, known_models
from lift.models.load import DEFAULT_MODEL

IDS = [known.model for known in known_models()]


def config_of(known: KnownModel) -> Any:
    return AutoConfig.for_model(
        known.architecture,
        vocab_size=known.vocabulary,
        hidden_size=known.hidden,
        intermediate_size=known.intermediate,
        num_hidden_layers=known.layers,
        num_attention_heads=known.heads,
        num_key_value_heads=known.key_value_heads,
        head_dim=known.head_size,
        tie_word_embeddings=known.tied,
        max_position_embeddings=known.window_tokens,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def test_the_list_begins_with_the_default_and_grows() -> None:
    assert IDS[0] == DEFAULT_MODEL
    assert len(set(IDS)) == len(IDS)
    sizes = [known.parameters for known in known_models()]
    assert sizes == sorted(sizes)
    assert all(known.architecture in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES for known in known_models())


@pytest.mark.parametrize("known", known_models(), ids=lambda known: known.name)
def test_its_numbers_are_those_of_the_class_that_loads_it(known: KnownModel) -> None:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config_of(known))
    assert sum(weight.numel() for weight in model.parameters()) == known.parameters
    shape = known.shape
    assert shape.parameters == known.parameters
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    assert sum(each.weight.numel() for each in linear) == shape.body + shape.head
    if known.architecture != "phi3":  # which has query, key and value, gate and up in one matrix each
        assert sum(each.in_features for each in linear) - known.hidden == shape.inputs
        assert sum(each.out_features for each in linear) - known.vocabulary == shape.outputs


def test_parameters_that_do_not_follow_from_the_sizes_are_refused() -> None:
    values = known_models()[0].model_dump()
    with pytest.raises(RecipeError, match="135,000,000"):
        KnownModel.parse({**values, "parameters": 135_000_000}, "test")
    with pytest.raises(RecipeError, match="unknown key"):
        KnownModel.parse({**values, "depth": 3}, "test")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_weights_are_looked_for_on_this_machine_alone(
    offline: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    assert [find_weights(model) for model in IDS if model != DEFAULT_MODEL] == [None] * (len(IDS) - 1)


def test_weights_count_as_at_hand_where_they_are_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "Qwen" / "Qwen3-0.6B"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    assert find_weights("Qwen/Qwen3-0.6B") is None
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "one.safetensors").touch()
    assert find_weights("Qwen/Qwen3-0.6B") is None  # a shard is missing
    (directory / "two.safetensors").touch()
    assert find_weights("Qwen/Qwen3-0.6B") == "directory"
    monkeypatch.setattr(module, "smollm2_gguf", lambda: directory)
    assert find_weights(DEFAULT_MODEL) == "package"
