"""A low-rank update in training: one function of autograd for W x and B A x together.

    y = W x + b + s B h,   h = A x                                          (LoRA, arXiv 2106.09685, section 4.1)
    dh = s B^T dy,   dx = W^T dy + A^T dh,   dA = dh x^T,   dB = s dy h^T

W is frozen, so nothing is kept for it; y and dx are added up in place, so that the update costs no pass over memory of
its own. It is computed in the type of x, as torch's autocast would; the factors stay float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lift.adapters.batched_lora import add_low_rank
from lift.adapters.low_rank import LowRank
from lift.packing.alora import Invocation, add_where_active, is_masked


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


def train_in_one(layers: Sequence[Any], name: str, invocation: Invocation = ()) -> None:
    """Let these layers of PEFT compute the update of its adapter `name` with `updated` wherever it alone is active.

    Only those whose matrix is a plain one: others (of a quantised base) go on as PEFT has them, where it acts on all.
    """
    for layer in layers:
        if invocation or type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = partial(_forward, layer, name, invocation)


def train_as_peft(layers: Sequence[Any], name: str) -> None:
    """End what train_in_one began for that adapter; layers that it shares with another in training stay as they are."""
    for layer in layers:
        forward = vars(layer).get("forward")
        if isinstance(forward, partial) and forward.func is _forward and forward.args[1] == name:
            del layer.forward


def _forward(layer: Any, name: str, invocation: Invocation, inputs: torch.Tensor) -> torch.Tensor:
    base = layer.get_base_layer()
    alone = not layer.disable_adapters and layer.active_adapters == [name]
    partly = alone and is_masked(invocation)
    if not partly and not (alone and type(base) is torch.nn.Linear):
        output: torch.Tensor = type(layer).forward(layer, inputs)
        return output
    update = LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], invocation)
    if partly:
        return add_where_active(base(inputs), inputs, invocation, partial(add_low_rank, update=update))
    return updated(inputs, base.weight, base.bias, update.down, update.up, update.scaling)
