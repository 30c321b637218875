"""Learning-rate schedule: the multiplier of the peak rate, as a pure function of the progress made."""

from __future__ import annotations

import math


def learning_rate_multiplier(progress: float, schedule: str, warmup_share: float) -> float:
    """Share of the peak learning rate at `progress` (0 at the start, 1 at the end).

    Linear rise over the first `warmup_share`, then "constant", "linear" to 0, or "cosine" to 0.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup_share:
        return progress / warmup_share
    rest = (progress - warmup_share) / (1 - warmup_share)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - rest
    return 0.5 * (1 + math.cos(math.pi * rest))
