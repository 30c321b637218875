"""The time that a run may take: its budget, the clock that it is measured by, and the recent speed of the work.

Every forecast is made from the recent speed, since the machine may be shared: what it did in the last seconds says more
about the next ones than a calibration at the start.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lift.errors import BudgetError

# Loading the model, a calibration, a few steps and saving fit into it on one thread of a core that is shared.
SMALLEST_BUDGET_S = 30.0
# How often the state of a training is saved.
CHECKPOINT_EVERY_S = 30.0
# How far back the recent speed reaches: long enough to be no accident, short enough to see that the machine changed.
_WINDOW_S = 10.0
# A batch may take so much longer than the recent speed says, and still be done in time.
_CAUTION = 1.3

Clock = Callable[[], float]
"""Seconds since an arbitrary moment; never goes back."""


def check_budget(budget_s: float | None) -> None:
    """Raise BudgetError for a budget below the smallest one that always ends in a memory; None is no budget."""
    if budget_s is not None and not SMALLEST_BUDGET_S <= budget_s < math.inf:
        raise BudgetError(
            f"expected a budget of {SMALLEST_BUDGET_S:g} s or more, which loading the model, training and saving take, "
            f"got {budget_s:g} s; give more time, or leave the budget out"
        )


def process_started() -> float:
    """When this process began, by time.monotonic; now, where the system does not tell."""
    now = time.monotonic()
    try:
        ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        return now - max(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return now


@dataclass(frozen=True)
class Budget:
    """A run has `seconds` from `started` on, by `clock`; None: as long as it takes."""

    seconds: float | None
    started: float
    clock: Clock = time.monotonic

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    @property
    def ends_at(self) -> float:
        """The moment by which all must be done; infinity without a budget."""
        return math.inf if self.seconds is None else self.started + self.seconds

    def left_s(self, reserved_s: float = 0.0) -> float:
        """Seconds that are left but for those reserved, not below 0; infinity without a budget."""
        return max(self.ends_at - reserved_s - self.clock(), 0.0)

    def share_of(self, share: float, at_most_s: float = math.inf) -> float:
        """Seconds of that share of the whole budget, and no more than `at_most_s`."""
        return at_most_s if self.seconds is None else min(share * self.seconds, at_most_s)


class SpeedMeter:
    """Seconds a token, as measured in the last `window_s` seconds of work: older measurements fade exponentially."""

    def __init__(self, window_s: float = _WINDOW_S) -> None:
        self._window_s = window_s
        self._tokens = self._seconds = 0.0
        self._last = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """So many tokens have just taken so long."""
        if tokens <= 0 or seconds < 0:
            return
        kept = math.exp(-seconds / self._window_s)
        self._tokens = kept * self._tokens + tokens
        self._seconds = kept * self._seconds + seconds
        self._last = seconds / tokens

    @property
    def s_per_token(self) -> float:
        """Of the recent work; 0 where nothing was measured yet."""
        return self._seconds / self._tokens if self._tokens else 0.0

    @property
    def cautious_s_per_token(self) -> float:
        """The longest that a token is expected to take next: the slower of the recent speed and the last, and more."""
        return _CAUTION * max(self.s_per_token, self._last)
