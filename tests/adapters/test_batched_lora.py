"""Many memories in one batch: the grouped update of plain LoRA, and what it leaves behind."""

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from conftest import logits
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.batched_lora import GroupedRows, add_updates, keeping_room
from lift.adapters.row_assignment import activate, rows
from lift.recipes.recipe import AdapterSettings

TOKENS = [1, 40, 50, 60, 7]
# every kind, and low ranks, high ranks, few layers and few matrices of LoRA
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"kind": "lora", "rank": 4},
    "high rank": {"kind": "lora", "rank": 7, "alpha": 3, "targets": "mlp"},
    "one layer": {"kind": "lora", "rank": 1, "alpha": 2, "layers": (1,)},
    "attention": {"kind": "lora", "rank": 2, "alpha": 16, "targets": "attention", "layers": (0,)},
    "pissa": {"kind": "pissa", "rank": 2},
    "dora": {"kind": "dora", "rank": 3},
    "gated": {"kind": "gated-memory", "layers": (1,)},
    "exact": {"kind": "gated-memory", "gate": "exact"},
}
LORA = ["all", "high rank", "one layer", "attention", "pissa"]
LAYERS = 2
MATRICES = 7 * LAYERS


def disturbed(model: Any, name: str, seed: int, **changes: Any) -> Adapter:
    """A memory as it is attached from its files, no parameter zero."""
    adapter = create_adapter(model, AdapterSettings(**{**SETTINGS.get(name, {}), **changes}), seed, name)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    config, state = adapter.stored()
    adapter.detach()
    return restore_adapter(model, config, state, name)


def memories(model: Any, names: Sequence[str]) -> dict[str | None, torch.Tensor]:
    """Attach memories; returns the logits of TOKENS with each of them alone, and with none."""
    alone: dict[str | None, torch.Tensor] = {None: logits(model, TOKENS)}
    for seed, name in enumerate(names):
        disturbed(model, name, seed)
        alone[name] = logits(model, TOKENS)
    activate(model, None)
    return alone


def batch(model: Any, size: int) -> torch.Tensor:
    """Logits of `size` rows of TOKENS. [B, T, vocabulary]"""
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([TOKENS] * size)).logits
    return result


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def stacked() -> int:
    """How many stacks of the factors of 5 memories of rank 11 there are in the process."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.dim() == 3]
    return len({each.data_ptr() for each in found if each.shape[0] == 5 and 11 in each.shape})


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts matrix products by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function.overloadpacket).removeprefix("aten.")
        self.counts[name] = self.counts.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def batched(counts: Mapping[str, int]) -> int:
    """How many of the products are batched ones, whether they are added to something or not."""
    return counts.get("bmm", 0) + counts.get("baddbmm", 0)


@st.composite
def assignments(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """The rows of each of up to 4 memories, and the size of a batch that has other rows too."""
    owners = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=12).filter(lambda owners: max(owners) >= 0))
    used = [[row for row, owner in enumerate(owners) if owner == memory] for memory in range(4)]
    return draw(st.permutations([each for each in used if each])), len(owners)


@settings(max_examples=20, deadline=None)
@given(assignments(), st.sampled_from([(), (1,), (3,), (70,)]), st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_every_row_gets_the_update_of_its_own_memory(
    assigned: tuple[list[list[int]], int], tokens: tuple[int, ...], ranks: list[int]
) -> None:
    used, size = assigned
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, output = numbers(size, *tokens, 5), numbers(size, *tokens, 6)
    down, up = numbers(len(used), 3, 5), numbers(len(used), 6, 3)
    expected = output.clone()
    for slot, each in enumerate(used):
        down[slot, ranks[slot] :] = 0  # a lower rank, filled up
        for row in each:
            expected[row] += inputs[row] @ down[slot, : ranks[slot]].T @ up[slot, :, : ranks[slot]].T
    before = output.clone()
    result = add_updates(output, inputs, down, up, GroupedRows.of(used, output.device))
    torch.testing.assert_close(result, expected)
    untouched = [row for row in range(size) if all(row not in each for each in used)]
    assert torch.equal(result[untouched], before[untouched])
    assert torch.equal(output, before)


KEEPING = [list(range(12)), [11, 9, 8, 7, 5, 4, 3, 1], [7, 5, 3, 2, 0], [3, 1], [1]]


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_all_kinds_share_a_batch_while_rows_end(architecture: str) -> None:
    model = tiny(architecture)
    names: list[str | None] = ["gated", "all", None, "pissa", "dora", "all", "high rank", "attention", "exact"]
    names += ["one layer", "all", None]
    untouched = logits(model, TOKENS)
    alone = memories(model, list(SETTINGS))
    quiet = hooks(model), set(vars(model))
    assert len({round(float(each.sum()), 3) for each in alone.values()}) == len(alone), "expected different memories"
    with rows(model, names) as assignment:
        left = names
        for kept in KEEPING:
            if kept != KEEPING[0]:
                assignment.assign([assignment.names[row] for row in kept])
            left = [left[index] for index in kept]
            found = batch(model, len(left))
            for name, row in zip(left, found, strict=True):
                torch.testing.assert_close(row, alone[name], atol=1e-5, rtol=1e-5)
    assert (hooks(model), set(vars(model))) == quiet
    for adapter in list(attached(model).values()):
        adapter.detach()
    assert torch.equal(logits(model, TOKENS), untouched)


def test_the_number_of_products_does_not_grow_with_the_number_of_memories() -> None:
    model = tiny("llama")
    names = [f"memory {index}" for index in range(6)]
    for seed, name in enumerate(names):
        disturbed(model, name, seed, rank=1 + seed % 3)
    counts = []
    for used in (names[:1] * 6, names[:2] * 3, names):
        with rows(model, used), torch.inference_mode(), Products() as products:
            model(torch.tensor([TOKENS[:1]] * 6))
        counts.append(products.counts)
    assert len({batched(each) for each in counts}) == 1
    assert [each["linear"] for each in counts] == [MATRICES + 1] * 3, "expected those of the base alone"
    with rows(model, [None] * 6), torch.inference_mode(), Products() as base:
        model(torch.tensor([TOKENS[:1]] * 6))
    assert batched(counts[0]) == batched(base.counts) + 2 * MATRICES


def test_factors_are_read_once_a_block_and_not_again_when_rows_end() -> None:
    model = tiny("llama")
    alone = memories(model, LORA)
    adapters = attached(model)
    with rows(model, LORA) as assignment:
        batch(model, 5)
        changed = adapters["all"].parameters()[1]
        before = changed.clone()
        changed.data.add_(1.0)
        for kept in ([0, 1, 2, 3, 4], [0, 1, 3], [1, 0]):
            assignment.assign([assignment.names[row] for row in kept])
            found = batch(model, len(kept))
        torch.testing.assert_close(found[1], alone["all"], atol=1e-5, rtol=1e-5)
    with rows(model, ["all"]):
        assert not torch.allclose(batch(model, 1)[0], alone["all"], atol=1e-3), "expected a new block to read anew"
    changed.data.copy_(before)


def test_stacks_are_freed_when_the_block_ends() -> None:
    model = tiny("llama")
    names = [f"memory {index}" for index in range(5)]
    for seed, name in enumerate(names):
        disturbed(model, name, seed, rank=11)
    activate(model, None)
    assert stacked() == 0
    with rows(model, names) as assignment:
        batch(model, 5)
        assert stacked() == 2 * MATRICES
        assignment.assign([assignment.names[row] for row in [0]])
        batch(model, 1)
        assert stacked() == 2 * MATRICES, "expected the room to stay, with other contents"
    assert stacked() == 0
    with pytest.raises(ZeroDivisionError), rows(model, names):
        batch(model, 5)
        raise ZeroDivisionError
    assert stacked() == 0


def test_room_that_is_kept_serves_batches_of_other_memories_and_ranks() -> None:
    model = tiny("llama")
    names = [f"memory {index}" for index in range(7)]
    alone: dict[str | None, torch.Tensor] = {None: logits(model, TOKENS)}
    for seed, memory in enumerate(names):
        disturbed(model, memory, seed, rank=(11, 2, 11, 1, 3, 5, 11)[seed], alpha=4)
        alone[memory] = logits(model, TOKENS)
    activate(model, None)
    order: list[list[str | None]] = [[*names[:5]], [names[4], names[3]], [names[5], None, names[1], names[5]]]
    order += [[*names[2:]], [names[1], names[3]]]
    with keeping_room(model):
        for used in order:
            with rows(model, used):
                for name, row in zip(used, batch(model, len(used)), strict=True):
                    torch.testing.assert_close(row, alone[name], atol=1e-5, rtol=1e-5)
            assert stacked() == 2 * MATRICES, "expected the same room for all batches"
            assert torch.equal(logits(model, TOKENS), alone[None])
    assert stacked() == 0
    assert hooks(model) == 0


def test_a_memory_that_is_not_finite_harms_its_own_rows_alone() -> None:
    model = tiny("llama")
    alone = memories(model, ["all", "one layer", "high rank"])
    broken = disturbed(model, "broken", 9, rank=11)
    for parameter in broken.parameters():
        parameter.data.fill_(torch.inf)
    with keeping_room(model):
        with rows(model, ["all", "broken", "broken", "one layer"]):
            found = batch(model, 4)
            assert not found[1:3].isfinite().any()
            torch.testing.assert_close(found[0], alone["all"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[3], alone["one layer"], atol=1e-5, rtol=1e-5)
        with rows(model, ["high rank", "all", "one layer"]):  # in the room where it was
            for name, row in zip(("high rank", "all", "one layer"), batch(model, 3), strict=True):
                torch.testing.assert_close(row, alone[name], atol=1e-5, rtol=1e-5)


def test_what_changes_inside_a_block_counts_at_once() -> None:
    model = tiny("llama")
    alone = memories(model, ["all", "attention", "dora"])
    other = disturbed(model, "other", 9, rank=4)
    state = other.trained_state()
    alone["other"] = logits(model, TOKENS)
    other.detach()
    first = attached(model)["all"]
    with rows(model, ["all", "attention", "all", "dora"]):

        def check(*expected: str | None) -> None:
            for row, name in zip(batch(model, 4), expected, strict=True):
                torch.testing.assert_close(row, alone[name], atol=1e-5, rtol=1e-5)

        check("all", "attention", "all", "dora")
        with first.disabled():
            check(None, "attention", None, "dora")
        check("all", "attention", "all", "dora")
        first.load_state(state)
        check("other", "attention", "other", "dora")
        with rows(model, ["dora", None, "attention", "attention"]):
            check("dora", None, "attention", "attention")
        check("other", "attention", "other", "dora")
        first.detach()
        check(None, "attention", None, "dora")


def test_an_adapter_in_training_gets_its_own_gradients_beside_frozen_ones() -> None:
    model = tiny("llama")
    memories(model, ["all", "attention"])
    first, second = attached(model)["all"], attached(model)["attention"]
    ids = torch.randint(3, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor]:
        found = [parameter.grad for parameter in first.parameters()]
        first.set_trainable(False)
        assert all(parameter.grad is None for parameter in second.parameters())
        return [each.clone() for each in found if each is not None]

    activate(model, "all")
    first.set_trainable(True)
    model(ids[[0, 2]]).logits.square().sum().backward()
    alone = gradients()
    for parameter in first.parameters():
        parameter.grad = None
    with rows(model, ["all", "attention", "all"]):
        batched = model(ids).logits
        assert not batched.requires_grad
        first.set_trainable(True)
        model(ids)[0][[0, 2]].square().sum().backward()
    together = gradients()
    assert len(together) == len(alone) == len(first.parameters())
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    assert any(each.abs().max() > 0.1 for each in alone)


def test_a_block_opened_in_inference_mode_may_be_used_out_of_it_and_the_reverse() -> None:
    model = tiny("llama")
    alone = memories(model, LORA)
    with rows(model, LORA) as assignment:
        with torch.inference_mode():
            model(torch.tensor([TOKENS] * 5))
            assignment.assign([assignment.names[row] for row in [0, 3]])
            model(torch.tensor([TOKENS] * 2))
        embedded = model.get_input_embeddings()(torch.tensor([TOKENS] * 2)).detach().requires_grad_(True)
        outside = model(inputs_embeds=embedded).logits
        outside.sum().backward()
        assert embedded.grad is not None
        torch.testing.assert_close(outside[1].detach(), alone["attention"], atol=1e-5, rtol=1e-5)
        assignment.assign([assignment.names[row] for row in [1]])
        torch.testing.assert_close(batch(model, 1)[0], alone["attention"], atol=1e-5, rtol=1e-5)


def test_a_base_in_bfloat16_takes_float32_updates() -> None:
    model = tiny("llama").to(torch.bfloat16)
    alone = memories(model, ["all", "attention"])
    with rows(model, ["attention", None, "all"]):
        found = batch(model, 3)
    assert found.dtype == torch.bfloat16
    for row, name in zip(found, ("attention", None, "all"), strict=True):
        torch.testing.assert_close(row, alone[name], atol=0.1, rtol=0.05)


@pytest.mark.filterwarnings("ignore:`lora_bias=True`", "ignore:.*invalid shape")
def test_a_matrix_with_a_bias_in_its_adapter_keeps_it() -> None:
    model = tiny("llama")
    config, state = disturbed(model, "all", 0).stored()
    attached(model)["all"].detach()
    biases = {key.replace("weight", "bias"): torch.ones(len(value)) for key, value in state.items() if "_B" in key}
    adapter = restore_adapter(model, {**config, "lora_bias": True}, {**state, **biases}, "all")
    expected = logits(model, TOKENS)
    base = disturbed(model, "attention", 1)
    with rows(model, ["attention", "all"]):
        torch.testing.assert_close(batch(model, 2)[1], expected, atol=1e-5, rtol=1e-5)
    adapter.detach()
    base.detach()
