"""The options of a run: its time, its end, and the memory that it puts into the library."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event as StopFlag

from lift.errors import UsageError
from lift.training.budget import CHECKPOINT_EVERY_S, Budget, Clock, check_budget


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Those of every run that trains a memory.

    `budget_s` bounds the whole run, from `started` (by `clock`, default when it begins) to the stored memory. When
    `stop` is set, it ends after the current step. Raises BudgetError for a budget below the smallest.
    """

    budget_s: float | None = None
    started: float | None = None
    clock: Clock = time.monotonic
    stop: StopFlag | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget_s)

    def begin(self) -> Budget:
        """The budget of a run that begins now, if it has not begun before."""
        return Budget(self.budget_s, self.clock() if self.started is None else self.started, self.clock)


@dataclass(frozen=True, kw_only=True)
class AbsorptionOptions(RunOptions):
    """Those of an absorption.

    With `replace` the memory takes the place of another one called `name`, which stands until then. `resume` goes on
    from what an interrupted run of the same absorption has saved, or a killed one about every `checkpoint_every_s`
    seconds. With `until` (above 0, at most 1), what is forgotten is rehearsed until that share of the probed sentences
    is recalled. With `wait_for_others` the end of the same absorption by somebody else is waited for. Raises UsageError
    for another share, too.
    """

    name: str | None = None
    replace: bool = False
    resume: bool = False
    until: float | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    wait_for_others: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until is not None and not 0 < self.until <= 1:
            raise UsageError(f"expected a recall to reach between 0 and 100 %, got {100 * self.until:g} %")
