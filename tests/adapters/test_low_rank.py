"""The low-rank update of a layer: its gradients are right, several add up, and the layer is itself again afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lift.adapters.low_rank import LowRank, applied_to_all, apply_to_all, updated


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans())
def test_the_function_agrees_with_numeric_gradients(
    tokens: int, rank: int, with_bias: bool, frozen_input: bool
) -> None:
    generator = torch.Generator().manual_seed(tokens * 10 + rank)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = draw(2, tokens, 3).requires_grad_(not frozen_input)  # [B, T, in]
    down, up = draw(rank, 3).requires_grad_(), draw(4, rank).requires_grad_()  # [r, in], [out, r]
    weight, bias = draw(4, 3), draw(4) if with_bias else None
    assert torch.autograd.gradcheck(
        lambda x, a, b: updated(x, weight, bias, a, b, 1.7), (inputs, down, up), check_batched_grad=False
    )
    expected = inputs @ (weight + 1.7 * up @ down).T + (bias if bias is not None else 0)
    torch.testing.assert_close(updated(inputs, weight, bias, down, up, 1.7), expected)


class Doubling(torch.nn.Linear):
    """A linear layer whose product is not that of its weight, as those of quantised bases are."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


def tripled(inputs: torch.Tensor) -> torch.Tensor:
    return 3 * inputs[..., :1].expand(*inputs.shape[:-1], 4)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("layer", ["plain", "with a product of its own", "with a forward put there by others"])
def test_updates_of_several_adapters_add_up_on_every_layer_and_go_without_a_trace(layer: str, trained: bool) -> None:
    kind = Doubling if layer == "with a product of its own" else torch.nn.Linear
    model = torch.nn.Sequential(kind(3, 4).requires_grad_(False))
    if layer == "with a forward put there by others":
        model[0].forward = tripled  # type: ignore[method-assign]
    own: Any = vars(model[0]).get("forward")
    inputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    base = model(inputs)
    updates = {
        name: LowRank(torch.full((2, 3), 0.1 * size), torch.full((4, 2), 0.3), 1.5)
        for name, size in (("first", 1), ("second", 2))
    }
    expected = base.clone()
    for name, update in updates.items():
        update.down.requires_grad_(trained)
        update.up.requires_grad_(trained)
        expected = expected + 1.5 * inputs @ (update.up @ update.down).T
        apply_to_all(model, name, {model[0]: update})
    assert [list(each) for each in applied_to_all(model).values()] == [list(updates.values())]
    torch.testing.assert_close(model(inputs), expected)
    wanted = [inputs, *(factor for each in updates.values() for factor in (each.down, each.up) if trained)]
    weights = torch.arange(4.0)
    found = torch.autograd.grad((model(inputs) * weights).sum(), wanted)
    for one, other in zip(found, torch.autograd.grad((expected * weights).sum(), wanted), strict=True):
        torch.testing.assert_close(one, other)
    apply_to_all(model, "first", {})
    assert [list(each) for each in applied_to_all(model).values()] == [[updates["second"]]]
    apply_to_all(model, "second", {})
    assert torch.equal(model(inputs), base)
    assert vars(model[0]).get("forward") is own
    assert not applied_to_all(model)
