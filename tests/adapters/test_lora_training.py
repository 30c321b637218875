"""A low-rank adapter in training: its own function of autograd gives what PEFT gives, and is gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, tiny

from lift.adapters.attach import create_adapter
from lift.adapters.lora_training import train_as_peft, updated
from lift.recipes.recipe import AdapterSettings

TOKENS = torch.tensor([[1, 40, 50, 60, 30, 5, 17, 33, 8, 21], [1, 21, 9, 44, 12, 5, 17, 3, 2, 6]])  # [B, T]


def gradients(model: Any, parameters: list[torch.nn.Parameter]) -> tuple[float, list[torch.Tensor]]:
    loss = torch.nn.functional.cross_entropy(model(TOKENS[:, :-1]).logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    return loss.item(), found


@pytest.mark.parametrize("kind", ["lora", "pissa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_peft_on_every_architecture(architecture: str, kind: Any) -> None:
    model = tiny(architecture)
    adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4, alpha=6), seed=0)
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapter.set_trainable(True)
    layers = [module for module in model.modules() if "forward" in vars(module)]
    assert layers
    ours = gradients(model, adapter.parameters())
    train_as_peft(layers, next(iter(layers[0].lora_A)))
    theirs = gradients(model, adapter.parameters())
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert len(ours[1]) == len(theirs[1]) == len(adapter.parameters())
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()
    adapter.set_trainable(False)
    adapter.detach()
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_a_second_adapter_that_is_applied_as_well_is_not_left_out() -> None:
    model = tiny(ARCHITECTURES[0])
    first = create_adapter(model, AdapterSettings(rank=4), seed=0, name="first")
    second = create_adapter(model, AdapterSettings(rank=4), seed=1, name="second")
    for parameter in (*first.parameters(), *second.parameters()):
        parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    first.apply_to(None)
    with torch.no_grad():
        both = model(TOKENS).logits
        first.set_trainable(True)
        torch.testing.assert_close(model(TOKENS).logits, both)


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
