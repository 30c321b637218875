"""Loading base models: every source, every refusal, and the identity of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, refusal, tiny_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.errors import ModelError
from lift.models.base_model import BaseModel
from lift.models.fingerprint import weight_files, weights_fingerprint
from lift.models.load import load_model

# --- a base model


def test_base_model_is_frozen_and_in_evaluation_mode(tiny_tokenizer: Any) -> None:
    base = BaseModel(tiny_llama().train(), tiny_tokenizer, "tiny", "0" * 64)
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())


def test_properties_of_a_base_model(tiny_model: BaseModel) -> None:
    assert tiny_model.window_tokens == 1024
    assert tiny_model.device == torch.device("cpu")
    assert tiny_model.dtype == torch.float32
    assert tiny_model.has_chat_template
    assert tiny_model.end_token_ids == (2,)


def test_end_tokens_come_from_tokenizer_and_generation_settings(tiny_model: BaseModel) -> None:
    tiny_model.model.generation_config.eos_token_id = [0, 2]
    assert tiny_model.end_token_ids == (0, 2)


def test_window_of_a_nested_configuration(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Gemma3Config

    monkeypatch.setattr(tiny_model.model, "config", Gemma3Config(text_config={"max_position_embeddings": 77}))
    assert tiny_model.window_tokens == 77


def test_unstated_window_is_refused(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MambaConfig

    monkeypatch.setattr(tiny_model.model, "config", MambaConfig())
    with pytest.raises(ModelError, match="context window"):
        _ = tiny_model.window_tokens


@given(st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiny_tokenizer_gives_text_back(tiny_tokenizer: Any, text: str) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer(text)["input_ids"]) == text


# --- directories


def test_directory_loads_with_the_saved_weights(tiny_directory: Path) -> None:
    base = load_model(str(tiny_directory), dtype="float32")
    assert base.id == str(tiny_directory)
    assert torch.equal(logits(base.model, [5, 6, 7]), logits(tiny_llama().eval(), [5, 6, 7]))
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert base.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).startswith("<|im_")


def test_relative_directory_has_an_absolute_id(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_directory.parent)
    assert load_model(f"./{tiny_directory.name}").id == str(tiny_directory)


def test_loading_writes_nothing_to_the_terminal(tiny_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(tiny_directory))
    assert capfd.readouterr() == ("", "")


def test_changing_loaded_weights_leaves_the_file_alone(tiny_directory: Path) -> None:
    before = (tiny_directory / "model.safetensors").read_bytes()
    base = load_model(str(tiny_directory))
    with torch.no_grad():
        for weight in base.model.parameters():
            weight.add_(1.0)
    assert (tiny_directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_the_type_on_request(tiny_directory: Path, name: str) -> None:
    assert load_model(str(tiny_directory), dtype=name).dtype == getattr(torch, name)


@pytest.mark.parametrize(("units", "amx"), [(True, False), (False, True), (False, False)])
def test_without_a_request_a_processor_gets_the_type_that_it_multiplies_fastest(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch, units: bool, amx: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    wanted = torch.bfloat16 if units or amx else torch.float32
    assert load_model(str(tiny_directory), device="cpu").dtype == wanted


def test_missing_pad_token_becomes_the_end_token(tiny_directory: Path) -> None:
    path = tiny_directory / "tokenizer_config.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "pad_token"})
    )
    assert load_model(str(tiny_directory)).tokenizer.pad_token_id == 2


def test_cached_hub_model_loads_offline(tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "hub" / "models--some-org--tiny"
    shutil.copytree(tiny_directory, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    base = load_model("some-org/tiny")
    assert base.id == "some-org/tiny"
    assert base.fingerprint == load_model(str(tiny_directory)).fingerprint


# --- fingerprints


def test_fingerprint_is_of_the_content(tiny_directory: Path, tmp_path: Path) -> None:
    first = load_model(str(tiny_directory))
    elsewhere = shutil.copytree(tiny_directory, tmp_path / "elsewhere")
    assert load_model(str(elsewhere)).fingerprint == first.fingerprint
    assert load_model(str(elsewhere), dtype="bfloat16").fingerprint == first.fingerprint
    tiny_llama(seed=1).save_pretrained(elsewhere)
    assert load_model(str(elsewhere)).fingerprint != first.fingerprint


def test_fingerprint_does_not_depend_on_shards(tiny_directory: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    tiny_llama().save_pretrained(sharded, max_shard_size="8KB")
    files = weight_files(sharded)
    assert len(files) > 1
    assert weights_fingerprint(files) == weights_fingerprint(weight_files(tiny_directory))


@pytest.mark.parametrize("limit_bytes", [0, 1 << 40])
def test_fingerprint_sees_a_further_trained_weight(
    tiny_directory: Path, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift.models.fingerprint.WHOLE_UP_TO_BYTES", limit_bytes)
    monkeypatch.setattr("lift.models.fingerprint.SAMPLE_BYTES", 64)
    files = weight_files(tiny_directory)
    before = weights_fingerprint(files)
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    model.save_pretrained(tiny_directory)
    assert weights_fingerprint(files) != before


def test_lost_shard_is_named(tiny_directory: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    tiny_llama().save_pretrained(sharded, max_shard_size="8KB")
    lost = weight_files(sharded)[0]
    lost.unlink()
    with pytest.raises(ModelError, match=lost.name):
        load_model(str(sharded))


# --- refusals


@pytest.mark.parametrize(
    "name",
    [
        "./nowhere",
        "/no/such/place",
        "no/such/file.gguf",
        "file.gguf",
        "a b",
        "",
        "~/nowhere/x",
        "~nobody-here/x",
        "a\0b",
    ],
)
def test_missing_path_is_refused(name: str) -> None:
    assert repr(name) in refusal(name)


@pytest.mark.parametrize("name", ["some-org/some-model", "some-model"])
def test_uncached_hub_id_is_refused_offline(name: str) -> None:
    assert repr(name) in refusal(name)
    assert "network" in refusal(name)


def test_remote_model_is_refused() -> None:
    assert "behind an API" in refusal("openai:gpt-4o-mini")


def test_directory_without_configuration_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refusal(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "no-such-type"}'])
def test_bad_configuration_is_refused(tiny_directory: Path, content: str) -> None:
    (tiny_directory / "config.json").write_text(content)
    assert str(tiny_directory) in refusal(str(tiny_directory))


def test_directory_without_weights_is_refused(tiny_directory: Path) -> None:
    (tiny_directory / "model.safetensors").rename(tiny_directory / "pytorch_model.bin")
    assert "safetensors only" in refusal(str(tiny_directory))


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, 5000])
def test_cut_off_weights_are_refused(tiny_directory: Path, kept_bytes: int) -> None:
    file = tiny_directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    assert "damaged" in refusal(str(tiny_directory))


def test_missing_weight_is_refused_rather_than_drawn_at_random(tiny_directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tiny_directory / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(str(tiny_directory))


def test_directory_without_tokenizer_is_refused(tiny_directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tiny_directory / name).unlink()
    assert str(tiny_directory) in refusal(str(tiny_directory))


def test_encoder_is_refused(tiny_directory: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    size: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=259, **size)).save_pretrained(tiny_directory)
    assert "BertForMaskedLM" in refusal(str(tiny_directory))


def test_encoder_decoder_is_refused(tiny_directory: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=259, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tiny_directory)
    assert "T5ForConditionalGeneration" in refusal(str(tiny_directory))


def test_code_in_a_directory_is_not_run(tiny_directory: Path) -> None:
    config = json.loads((tiny_directory / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (tiny_directory / "config.json").write_text(json.dumps(config))
    (tiny_directory / "mine.py").write_text(f"open({str(tiny_directory / 'ran')!r}, 'w')")
    refusal(str(tiny_directory))
    assert not (tiny_directory / "ran").exists()


def test_unknown_dtype_device_and_quantization_are_refused(tiny_directory: Path) -> None:
    assert "float32, bfloat16, float16" in refusal(str(tiny_directory), dtype="float8")
    assert "'toaster'" in refusal(str(tiny_directory), device="toaster")
    assert "'meta'" in refusal(str(tiny_directory), device="meta")
    assert "'cuda:99'" in refusal(str(tiny_directory), device="cuda:99")
    assert "nf4, int8" in refusal(str(tiny_directory), quantization="q2")
    assert "cuda" in refusal(str(tiny_directory), quantization="nf4", device="cpu")
