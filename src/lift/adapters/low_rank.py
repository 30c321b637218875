"""The low-rank update of a linear layer, its gradients, and those that are applied to all rows of a batch.

    y = W x + b + s B h,   h = A x                                          (LoRA, arXiv 2106.09685, section 4.1)
    dh = s B^T dy,   dx = W^T dy + A^T dh,   dA = dh x^T,   dB = s dy h^T

In training all of it is one function of autograd: W is frozen, so nothing is kept for it; y and dx are added up in
place, so that the update costs no pass over memory of its own. It is computed in the type of x, as torch's autocast
would; the factors stay float32. Layers keep their weights: an update changes the forward pass of the layer itself, and
is gone without a trace when it is not applied any more. Those that compute with the matrices instead of the model's
modules (speculative.py) ask here for what is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lift.packing.alora import Invocation, add_where_active, invocations_by_row, is_masked

_APPLIED = "lift_low_rank"  # kept on the model itself, as what is attached is


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update s B A of one matrix: `down`, A [r, in]; `up`, B [out, r]; `scaling`, s; and where it acts from."""

    down: torch.Tensor
    up: torch.Tensor
    scaling: float
    invocation: Invocation = ()


def nearest_product(down: torch.Tensor, up: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank] of the nearest product of that rank to up @ down (Eckart and Young 1936)."""
    basis_up, mixed_up = torch.linalg.qr(up)  # [out, r], [r, r]
    basis_down, mixed_down = torch.linalg.qr(down.T)  # [in, r], [r, r]
    left, values, right = torch.linalg.svd(mixed_up @ mixed_down.T)
    roots = values[:rank].sqrt()
    return roots[:, None] * (right[:rank] @ basis_down.T), basis_up @ left[:, :rank] * roots


def updated(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """W x + b + s B A x, with gradients for x, A and B.

    `inputs`: [..., in]; `weight`, W: [out, in]; `bias`: [out]; `down`, A: [r, in]; `up`, B: [out, r]. [..., out]
    """
    output: torch.Tensor = _Updated.apply(inputs, weight, bias, down, up, scaling)  # type: ignore[no-untyped-call]
    return output


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])  # [T, in]
        down_cast, up_cast = down.to(flat.dtype), up.to(flat.dtype)  # [r, in], [out, r]
        hidden = flat @ down_cast.t()  # [T, r]
        output = F.linear(flat, weight, bias).addmm_(hidden, up_cast.t(), alpha=scaling)  # [T, out]
        context.save_for_backward(flat, hidden, weight, down_cast, up_cast)
        context.scaling, context.shape, context.dtypes = scaling, inputs.shape, (down.dtype, up.dtype)
        return output.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, hidden, weight, down, up = context.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])  # [T, out]
        of_hidden = (gradient @ up).mul_(context.scaling)  # [T, r]
        of_down = of_hidden.t() @ flat  # [r, in]
        of_up = (gradient.t() @ hidden).mul_(context.scaling)  # [out, r]
        of_inputs = None
        if context.needs_input_grad[0]:
            of_inputs = (gradient @ weight).addmm_(of_hidden, down).view(context.shape)
        return of_inputs, None, None, of_down.to(context.dtypes[0]), of_up.to(context.dtypes[1]), None


def add_low_rank(output: torch.Tensor, inputs: torch.Tensor, update: LowRank) -> torch.Tensor:
    """W x + s B A x of one memory: `output`, W x [..., out]; `inputs`, x [..., in]. `output` itself is not changed."""
    hidden = F.linear(inputs.to(update.down.dtype), update.down)  # [..., r]
    if output.dtype != update.up.dtype:
        return (output + F.linear(hidden, update.up) * update.scaling).to(output.dtype)
    flat = output.reshape(-1, output.shape[-1])  # [N, out]
    added = torch.addmm(flat, hidden.reshape(-1, hidden.shape[-1]), update.up.t(), alpha=update.scaling)
    return added.view(output.shape)


def apply_to_all(model: Any, name: str, updates: Mapping[Any, LowRank]) -> None:
    """The adapter `name` adds these updates, by linear layer, to all rows from now on; none of its others.

    Of several adapters that are applied to a layer each adds its own.
    """
    applied: dict[Any, _UpdatedForward] = vars(model).setdefault(_APPLIED, {})
    for layer, forward in list(applied.items()):
        forward.updates.pop(name, None)
        if not forward.updates and layer not in updates:
            forward.put_back()
            del applied[layer]
    for layer, update in updates.items():
        if layer not in applied:
            applied[layer] = _UpdatedForward(layer)
        applied[layer].updates[name] = update
    if not applied:
        del vars(model)[_APPLIED]


def applied_to_all(model: Any) -> Mapping[Any, Sequence[LowRank]]:
    """The updates of each linear layer that are applied to all rows now."""
    return {layer: list(forward.updates.values()) for layer, forward in vars(model).get(_APPLIED, {}).items()}


class _UpdatedForward:
    """The forward pass of a linear layer with `updates`, by the adapter's name, in place of the layer's own."""

    def __init__(self, layer: Any) -> None:
        self.updates: dict[str, LowRank] = {}
        self._layer = layer
        self._forward = layer.forward
        # accelerate puts a forward of its own there, quantised layers have another product
        self._is_own = "forward" not in vars(layer)
        self._is_plain = type(layer) is torch.nn.Linear and self._is_own
        layer.forward = self

    def put_back(self) -> None:
        if self._is_own:
            del self._layer.forward
        else:
            self._layer.forward = self._forward

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        first, *others = self.updates.values()
        if self._is_plain and first.down.requires_grad and not is_masked(first.invocation):
            weight, bias = self._layer.weight, self._layer.bias
            output = updated(inputs, weight, bias, first.down, first.up, first.scaling)
        else:
            output, others = self._forward(inputs), [first, *others]
        for update in others:
            invocations = [update.invocation] * len(output)
            output = add_where_active(output, inputs, invocations, partial(add_low_rank, update=update))
        return output


Change = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def change_rows(
    layers: Iterable[Any], rows: Sequence[int], invocation: Invocation, device: torch.device, change: Change
) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks that put `change(layer, output, inputs)`, of these rows of a batch alone, in place of their output.

    It is linear in the inputs, and acts from the invocation on. Other rows keep their output, bit for bit.
    """
    if not rows:
        return []
    invocations = invocations_by_row(dict.fromkeys(rows, invocation))
    with torch.inference_mode(False):
        indices = torch.tensor(rows, device=device)

    def hook(layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        own = indices.to(output.device)

        def add(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            return output.index_copy(0, own, change(layer, output[own], inputs[own]).to(output.dtype))

        return add_where_active(output, args[0], invocations, add)

    return [layer.register_forward_hook(hook) for layer in layers]
