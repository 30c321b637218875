"""Plain LoRA without PEFT's layers: PEFT's numbers on every architecture, one code for all, nothing left behind."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from tiny_models import ARCHITECTURES, VOCABULARY, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.peft_adapter import PeftAdapter
from lift.adapters.row_assignment import activate, rows
from lift.errors import AdapterError
from lift.packing.alora import PromptForward, forward_context
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
    by_peft = PeftAdapter.restore(model, config, state)
    expected = logits(model)
    by_peft.detach()
    assert not torch.allclose(expected, base, atol=1e-2)
    adapter = restore_adapter(model, config, state)
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
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


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
    expected = PeftAdapter.restore(model, {**config, **change}, state)
    found = logits(model)
    expected.detach()
    restore_adapter(model, {**config, **change}, state)
    assert layers_of_peft(model)
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
        expected = gradients(PeftAdapter.restore(model, config, state), names)
        found = gradients(restore_adapter(model, config, state), names)
        assert expected.keys() == found.keys()
        for shape, each in expected.items():
            torch.testing.assert_close(found[shape], each, atol=1e-4, rtol=1e-4)
    assert not [weight for weight in model.parameters() if weight.grad is not None or weight.requires_grad]


@pytest.mark.parametrize("kind", ["lora", "pissa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_start_loss_and_gradients_are_those_of_peft_with_the_same_seed(architecture: str, kind: Any) -> None:
    by_peft, model = tiny(architecture), tiny(architecture)
    adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4, alpha=6), seed=5)
    start = adapter.trained_state()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=adapter.stored()[0]["target_modules"],
        init_lora_weights="pissa" if kind == "pissa" else True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        inject_adapter_in_model(config, by_peft)
    expected = get_peft_model_state_dict(by_peft)
    assert start.keys() == expected.keys()
    assert all(torch.equal(start[key], tensor) for key, tensor in expected.items())
    theirs = [weight for path, weight in by_peft.named_parameters() if "lora_" in path]
    adapter.set_trainable(True)
    results = []
    for each, parameters in ((model, adapter.parameters()), (by_peft, theirs)):
        generator = torch.Generator().manual_seed(7)
        for parameter in parameters:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        loss = torch.nn.functional.cross_entropy(each(IDS[:, :-1]).logits.flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        results.append((loss.item(), [parameter.grad for parameter in parameters]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for mine, other in zip(results[0][1], results[1][1], strict=True):
        assert mine is not None
        assert other is not None
        assert (mine - other).norm() <= 1e-4 * other.norm()
    adapter.set_trainable(False)
    adapter.detach()
    assert not [module for module in model.modules() if "forward" in vars(module)]


class Recorded(TorchDispatchMode):
    """Every operation inside the block, with the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [(tuple(each.shape), each.dtype) for each in args if isinstance(each, torch.Tensor)]
        self.operations.append((func, shapes))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("acts", ["on all tokens", "from an invocation on", "on some rows"])
def test_a_stored_one_is_trained_on_by_the_operations_that_trained_the_new_one(acts: str, dtype: torch.dtype) -> None:
    model = tiny("llama").to(dtype)
    activated = acts == "from an invocation on"

    def step(adapter: Adapter) -> tuple[list[Any], dict[str, torch.Tensor]]:
        """The operations of one step on the batch, and the factors after it."""
        adapter.set_trainable(True)
        groups = [{"params": weights, "lr": 0.01 * factor} for weights, factor in adapter.parameter_groups(4.0)]
        optimizer = torch.optim.AdamW(groups, foreach=False)
        context = PromptForward([[1, 7, 8, 4], [7, 8], [1, 7, 8]], [6] * 3, 6) if activated else None
        with contextlib.ExitStack() as stack:
            if acts == "on some rows":
                stack.enter_context(rows(model, ["default", None, "default"]))
            stack.enter_context(forward_context(context))
            recorded = stack.enter_context(Recorded())
            model(IDS).logits.float().square().mean().backward()
            optimizer.step()
        adapter.set_trainable(False)
        return recorded.operations, adapter.trained_state()

    settings = AdapterSettings(rank=4, activated=activated)
    adapter = create_adapter(model, settings, 0, invocation=(7, 8))
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
    config, state = adapter.stored()
    first = step(adapter)
    adapter.detach()
    continued = step(restore_adapter(model, config, state))
    assert len(first[0]) > 100
    assert continued[0] == first[0]
    assert first[1].keys() == continued[1].keys() == state.keys()
    for key, tensor in first[1].items():
        assert torch.equal(tensor, continued[1][key]), key
        assert not torch.equal(tensor, state[key]), key


def test_a_second_one_that_is_applied_as_well_is_not_left_out() -> None:
    model = tiny("llama")
    first = create_adapter(model, AdapterSettings(rank=4), seed=0, name="first")
    second = create_adapter(model, AdapterSettings(rank=4), seed=1, name="second")
    for parameter in (*first.parameters(), *second.parameters()):
        parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    alone = logits(model)
    first.apply_to(None)
    both = logits(model)
    assert not torch.allclose(both, alone, atol=1e-2)
    first.set_trainable(True)
    torch.testing.assert_close(logits(model), both)


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
