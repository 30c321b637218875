"""Arithmetic of measurements: operations needed, when a recall was reached, how costs grow, how much faster. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Matrices:
    """Parameters that are multiplied with: frozen ones beside the adapter and above it, the output head, the adapter's,
    and frozen ones in layers below the adapter.
    """

    body: int
    head: int
    adapter: int
    below: int = 0


def training_flops(matrices: Matrices, tokens: int, head_tokens: int, below_tokens: int | None = None) -> int:
    """Floating-point operations of forward and backward over `tokens`, with logits at `head_tokens` of them.

    A matrix of n parameters takes 2 n a token forward, 2 n for the gradient of its input, and 2 n for its own. A frozen
    one has no gradient of its own: 4 n; the adapter's take 6 n; those below the adapter need no gradient at all: 2 n,
    for `below_tokens` (default `tokens`). Attention scores, norms and activations are left out, so a share of a bound
    that is computed from this is never too high.
    """
    below_tokens = tokens if below_tokens is None else below_tokens
    through = tokens * (4 * matrices.body + 6 * matrices.adapter)
    return through + below_tokens * 2 * matrices.below + head_tokens * 4 * matrices.head


def first_reaching(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Seconds of the first probe at or above `target` in a curve of (seconds, recall); None where none is.

    Nothing is interpolated: between two probes is not known.
    """
    return next((seconds for seconds, recall in curve if recall >= target), None)


def log_log_slope(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """k of the fit cost = c size^k by least squares of the logarithms; None for fewer than two different sizes.

    Raises ValueError for a size or cost that is not above zero.
    """
    if any(value <= 0 for value in [*sizes, *costs]):
        raise ValueError("expected sizes and costs above zero")
    if len(set(sizes)) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` (0 to 1) of all do not exceed; raises ValueError where there is none."""
    if not values:
        raise ValueError("expected at least one measurement")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class Spread:
    """Middle, least and most of a few measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError where there is no value."""
        if not values:
            raise ValueError("expected at least one measurement")
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Ratio:
    """How many times longer the other side took; `at_least`: the other side had not finished when it was stopped."""

    times: float
    at_least: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def speedup(ours: Sequence[float | None], others: Sequence[float | None], stopped: Sequence[float]) -> Ratio | None:
    """Ratio of the medians of seconds over seeds; None stands for a run that was stopped before it was there.

    `stopped`: seconds that each of the other side's runs trained; a run that was not there counts with these, and the
    ratio is then a lower bound. None where a run of ours did not get there.
    """
    reached = [seconds for seconds in ours if seconds is not None]
    if not reached or len(reached) < len(ours):
        return None
    known = [spent if seconds is None else seconds for seconds, spent in zip(others, stopped, strict=True)]
    return Ratio(median(known) / median(reached), any(seconds is None for seconds in others))
