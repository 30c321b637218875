"""One table of behaviours over all adapter kinds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, tiny_llama
from peft import PeftModel
from safetensors.torch import save_file

from lift.adapters.lora import LoraAdapter
from lift.adapters.resident import attach_stored, release
from lift.errors import AdapterError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import AdapterSettings

KINDS = ["lora", "pissa", "dora"]
TOKENS = [1, 40, 50, 60, 70]


def disturb(adapter: LoraAdapter, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=generator))


def trained(model: Any, kind: str) -> LoraAdapter:
    adapter = LoraAdapter.create(model, AdapterSettings(kind=kind, rank=4, alpha=8), seed=0)
    disturb(adapter)
    return adapter


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing(tiny_model: BaseModel, kind: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    LoraAdapter.create(tiny_model.model, AdapterSettings(kind=kind, rank=4), seed=0)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_detaching_restores_the_base_bit_for_bit(tiny_model: BaseModel, kind: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    names = [name for name, _ in tiny_model.model.named_parameters()]
    adapter = trained(tiny_model.model, kind)
    assert not torch.equal(logits(tiny_model.model, TOKENS), before)
    adapter.detach()
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    assert [name for name, _ in tiny_model.model.named_parameters()] == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_adapter_gives_the_same_logits_and_can_be_turned_off(tiny_model: BaseModel, kind: str) -> None:
    base = logits(tiny_model.model, TOKENS)
    adapter = trained(tiny_model.model, kind)
    with_memory = logits(tiny_model.model, TOKENS)
    config, state = adapter.stored()
    adapter.detach()
    restored = LoraAdapter.restore(tiny_model.model, config, state)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), with_memory, atol=1e-5, rtol=1e-4)
    with restored.disabled():
        assert torch.equal(logits(tiny_model.model, TOKENS), base)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), with_memory, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_itself_reads_what_is_stored(tiny_model: BaseModel, kind: str, tmp_path: Path) -> None:
    adapter = trained(tiny_model.model, kind)
    with_memory = logits(tiny_model.model, TOKENS)
    config, state = adapter.stored()
    import json

    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    peft_model = PeftModel.from_pretrained(tiny_llama(), str(tmp_path))
    torch.testing.assert_close(logits(peft_model.eval(), TOKENS), with_memory, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_adapter_alone(tiny_model: BaseModel, kind: str) -> None:
    adapter = trained(tiny_model.model, kind)
    adapter.set_trainable(True)
    tiny_model.model(torch.tensor([TOKENS])).logits.square().mean().backward()
    with_gradient = {name for name, weight in tiny_model.model.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, _ in tiny_model.model.named_parameters() if "lora_" in name}
    assert len(adapter.parameters()) == len(with_gradient)


def test_the_same_seed_makes_the_same_adapter(tiny_model: BaseModel) -> None:
    states = []
    for seed in (3, 3, 4):
        adapter = LoraAdapter.create(tiny_model.model, AdapterSettings(rank=4), seed)
        states.append(torch.cat([value.flatten() for value in adapter.trained_state().values()]))
        adapter.detach()
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_an_adapter_that_does_not_fit_is_refused_and_the_base_left_clean(tiny_model: BaseModel, change: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    adapter = trained(tiny_model.model, "lora")
    config, state = adapter.stored()
    adapter.detach()
    first = next(iter(state))
    if change == "missing":
        del state[first]
    elif change == "surplus":
        state["model.layers.9.lora_A.weight"] = torch.zeros(2)
    else:
        state[first] = state[first][:1]
    with pytest.raises(AdapterError):
        LoraAdapter.restore(tiny_model.model, config, state)
    assert torch.equal(logits(tiny_model.model, TOKENS), before)


def test_targets_that_match_nothing_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(AdapterError, match="expected matrices"):
        LoraAdapter.create(model, AdapterSettings(rank=2), seed=0)


def test_memories_switch_on_a_resident_base(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)
    stored = {}
    for index, kind in enumerate(("lora", "dora")):
        adapter = LoraAdapter.create(model, AdapterSettings(kind=kind, rank=2 + index), seed=index)
        disturb(adapter)
        stored[kind] = (adapter.stored(), logits(model, TOKENS))
        adapter.detach()
    for kind in ("lora", "dora", "lora"):
        attach_stored(model, kind, lambda kind=kind: stored[kind][0])  # type: ignore[misc]
        torch.testing.assert_close(logits(model, TOKENS), stored[kind][1], atol=1e-5, rtol=1e-4)
    again = attach_stored(model, "lora", lambda: pytest.fail("loaded although it was attached"))
    assert again.parameters()
    release(model)
    assert torch.equal(logits(model, TOKENS), before)
