"""A stored plain LoRA without PEFT's layers: PEFT's own result, on every architecture, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import ARCHITECTURES, VOCABULARY, tiny

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.lora import LoraAdapter
from lift.adapters.row_assignment import activate, rows
from lift.adapters.stored_lora import StoredLoraAdapter
from lift.errors import AdapterError
from lift.recipes.recipe import AdapterSettings

IDS = torch.randint(3, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(0))
SHAPES: dict[str, dict[str, Any]] = {
    "all": {"rank": 4, "alpha": 12.0},
    "pissa": {"kind": "pissa", "rank": 2},
    "one layer": {"rank": 3, "layers": (1,)},
    "attention": {"rank": 5, "alpha": 3.0, "targets": "attention"},
}
Stored = tuple[dict[str, Any], dict[str, torch.Tensor]]


def stored(model: Any, **settings: Any) -> Stored:
    """What a memory keeps of an adapter, no number zero."""
    adapter = create_adapter(model, AdapterSettings(**settings), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    found = adapter.stored()
    adapter.detach()
    return found


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(IDS).logits  # [3, T, vocabulary]
    return result


def layers_of_peft(model: Any) -> int:
    return sum(isinstance(module, BaseTunerLayer) for module in model.modules())


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_gives_what_peft_gives(architecture: str, shape: str) -> None:
    model = tiny(architecture)
    base = logits(model)
    config, state = stored(model, **SHAPES[shape])
    by_peft = LoraAdapter.restore(model, config, state)
    expected = logits(model)
    by_peft.detach()
    assert not torch.allclose(expected, base, atol=1e-2)
    adapter = restore_adapter(model, config, state)
    assert isinstance(adapter, StoredLoraAdapter)
    assert layers_of_peft(model) == 0
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    for used in (["default"] * 3, [None, "default", None]):
        with rows(model, used):
            together = logits(model)
        for row, name in enumerate(used):
            torch.testing.assert_close(together[row], expected[row] if name else base[row], atol=1e-5, rtol=1e-5)
    again = adapter.stored()
    assert again[0] == config
    assert again[1].keys() == state.keys()
    assert all(torch.equal(again[1][key], tensor) for key, tensor in state.items())
    adapter.detach()
    assert torch.equal(logits(model), base)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "change",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4}, "r": 9},
        {"alpha_pattern": {"q_proj": 99}},
        {"target_modules": r".*\.(q|k|v|o|gate|up|down)_proj"},
    ],
)
def test_settings_that_change_what_the_factors_mean_are_left_to_peft(change: dict[str, Any]) -> None:
    model = tiny("llama")
    config, state = stored(model, rank=4)
    if "rank_pattern" in change:
        change = {**change, "rank_pattern": {name: 4 for name in config["target_modules"]}}
    expected = LoraAdapter.restore(model, {**config, **change}, state)
    found = logits(model)
    expected.detach()
    assert isinstance(restore_adapter(model, {**config, **change}, state), LoraAdapter)
    assert torch.equal(logits(model), found)


def test_gradients_are_those_of_peft_on_all_rows_and_on_some() -> None:
    model = tiny("qwen2")
    config, state = stored(model, rank=4)

    def gradients(adapter: Adapter, names: list[str | None] | None) -> dict[tuple[int, ...], list[torch.Tensor]]:
        adapter.set_trainable(True)
        if names is None:
            model(IDS).logits.square().mean().backward()
        else:
            with rows(model, names):
                model(IDS).logits.square().mean().backward()
        found: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            found.setdefault(tuple(parameter.shape), []).append(parameter.grad)
        adapter.detach()
        return found

    some: list[str | None] = ["default", None, "default"]
    for names in (None, some):
        expected = gradients(LoraAdapter.restore(model, config, state), names)
        found = gradients(restore_adapter(model, config, state), names)
        assert expected.keys() == found.keys()
        for shape, each in expected.items():
            torch.testing.assert_close(found[shape], each, atol=1e-4, rtol=1e-4)
    assert not [weight for weight in model.parameters() if weight.grad is not None or weight.requires_grad]


@pytest.mark.parametrize("first", ["dora", "plain"])
def test_it_may_stand_beside_layers_of_peft(first: str) -> None:
    model = tiny("llama")
    base = logits(model)
    kept = {"dora": stored(model, kind="dora", rank=3), "plain": stored(model, rank=4)}
    alone = {}
    for name, each in kept.items():
        adapter = restore_adapter(model, *each, name)
        alone[name] = logits(model)
        adapter.detach()
    for name in (first, *(set(kept) - {first})):
        restore_adapter(model, *kept[name], name)
    for name, expected in alone.items():
        activate(model, name)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    attached(model)["dora"].detach()
    assert layers_of_peft(model) == 0
    activate(model, "plain")
    torch.testing.assert_close(logits(model), alone["plain"], atol=1e-5, rtol=1e-5)
    attached(model)["plain"].detach()
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "other names"])
def test_one_that_does_not_fit_is_refused_and_the_base_left_clean(change: str) -> None:
    model = tiny("llama")
    base = logits(model)
    config, state = stored(model, rank=4)
    first = next(iter(state))
    if change == "missing":
        state = {key: tensor for key, tensor in state.items() if not key.startswith(first.partition(".lora_")[0])}
    elif change == "surplus":
        state = {**state, first.replace("layers.0", "layers.9"): state[first]}
    elif change == "shape":
        state = {**state, first: state[first][:1]}
    else:
        config = {**config, "target_modules": ["c_attn"]}
    with pytest.raises(AdapterError, match="base model that it was trained on"):
        restore_adapter(model, config, state)
    assert torch.equal(logits(model), base)
    assert attached(model) == {}


def test_its_state_may_be_replaced_and_is_no_view_of_what_it_was_made_of() -> None:
    model = tiny("llama")
    config, state = stored(model, rank=4)
    adapter = restore_adapter(model, config, state)
    expected = logits(model)
    with rows(model, ["default"] * 3):
        together = logits(model)
        for tensor in state.values():
            tensor.zero_()
        assert torch.equal(logits(model), together)
        adapter.load_state(state)
        assert not torch.allclose(logits(model), together, atol=1e-2), "expected the new state to count at once"
    assert not torch.allclose(logits(model), expected, atol=1e-2)
    with pytest.raises(AdapterError, match="tensors missing"):
        adapter.load_state({})
