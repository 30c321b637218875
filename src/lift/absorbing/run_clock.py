"""The time of a run: training, the questions after it and saving share it, at the recent speed of the machine."""

from __future__ import annotations

from lift.absorbing.planning import Calibration
from lift.training.budget import Budget, SpeedMeter
from lift.training.pace import Pace

# Writing the memory, the end of the process, and a little: on a machine as quick as when it was calibrated.
SAVING_S = 1.5
_LONGEST_SAVING_SHARE = 0.25
# Of a budget, what asking the held-out questions may take where the machine is slower than when that was planned.
LONGEST_PROBE_SHARE = 0.15


class RunClock:
    """The clock of a run within `budget`.

    `probing_s`: seconds of the questions that are asked after the training, `batch_s`: of one batch of them, both at
    the speed of the calibration. `slowness`: how many times slower the machine is now.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.probing_s = self.batch_s = 0.0
        self.slowness = 1.0
        self.meter = SpeedMeter()
        self._calibration: Calibration | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether there is a budget."""
        return self.budget.seconds is not None

    @property
    def saving_s(self) -> float:
        """Seconds that saving takes at the recent speed of the machine."""
        return min(SAVING_S * max(self.slowness, 1.0), self.budget.share_of(_LONGEST_SAVING_SHARE))

    @property
    def reserve_s(self) -> float:
        """Seconds that are kept for what comes after the training, at the recent speed of the machine."""
        return min(self.probing_s * self.slowness, self.budget.share_of(LONGEST_PROBE_SHARE)) + self.saving_s

    @property
    def has_time_to_probe(self) -> bool:
        """Whether a batch of questions can be asked now and enough is left for asking all at the end."""
        return self.budget.left_s(self.reserve_s) > 3 * self.batch_s * self.slowness

    def calibrated(self, calibration: Calibration) -> None:
        """The speed was measured just now."""
        self._calibration = calibration
        self.meter = SpeedMeter()
        self.meter.record(1000, 1000 / calibration.first_tokens_per_s)

    def watch_speed(self, pace: Pace) -> None:
        """Take how many times slower the machine is now than when it was calibrated."""
        if self._calibration is not None:
            first = pace.epochs_done <= 1
            then = self._calibration.first_tokens_per_s if first else self._calibration.later_tokens_per_s
            self.slowness = pace.meter.s_per_token * then
