"""Low-rank updates of a model's matrices, and which of them are applied to all rows now.

Adapters tell of them here, for those that compute with the matrices themselves instead of the model's modules
(speculative.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.packing.alora import Invocation

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


def tell_applied(model: Any, name: str, updates: Mapping[Any, LowRank]) -> None:
    """The adapter `name` adds these updates, by linear layer, to all rows from now on; none of its others."""
    told = {**vars(model).get(_APPLIED, {}), name: updates}
    vars(model)[_APPLIED] = {key: value for key, value in told.items() if value}
    if not vars(model)[_APPLIED]:
        del vars(model)[_APPLIED]


def applied_to_all(model: Any) -> Mapping[Any, Sequence[LowRank]]:
    """The updates of each linear layer that adapters have told of."""
    found: defaultdict[Any, list[LowRank]] = defaultdict(list)
    for updates in vars(model).get(_APPLIED, {}).values():
        for layer, update in updates.items():
            found[layer].append(update)
    return found
