"""A training against the clock: how long until a recall is reached, the time of the probing not counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from lift.bench.arithmetic import first_reaching

_SPACING = 1.1


@dataclass(frozen=True)
class Goal:
    """Train until `recall` (0 to 1) is probed, for `limit_s` seconds at most; a probe every `every_s`.

    Once a tenth of what was trained is more than that, it stands in its place: a slow side is seen as sharply as a
    quick one, and not asked more often. Without a recall nothing is probed: a trial of the speed.
    """

    recall: float | None
    every_s: float
    limit_s: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Goal:
        """From an object of JSON with these keys among others."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


class Peak(Protocol):
    """A mark of the most memory held; see machine.PeakMemory."""

    def restart(self) -> None:
        """Forget what was held before."""
        ...

    def bytes(self) -> int:
        """The most bytes held so far."""
        ...


class Race:
    """The clock of one training. `probe` gives the recall as it is now, `now` seconds from any start.

    `curve`: (seconds trained, recall) of every probe. `trained_s`: seconds of all steps so far. `peak_bytes`: the most
    memory held in them.
    """

    def __init__(self, goal: Goal, probe: Callable[[], float], now: Callable[[], float], peak: Peak) -> None:
        self.goal = goal
        self.curve: list[tuple[float, float]] = []
        self.trained_s = 0.0
        self.peak_bytes = 0
        self._probe = probe
        self._now = now
        self._peak = peak
        self._since = 0.0
        self._due_s = goal.every_s
        self._asked = False

    @property
    def reached_s(self) -> float | None:
        """Seconds of training until the first probe that had the recall of the goal; None where none had it."""
        return None if self.goal.recall is None else first_reaching(self.curve, self.goal.recall)

    def start(self) -> None:
        """Training begins here."""
        self._peak.restart()
        self._since = self._now()

    def step_done(self) -> bool:
        """To be called after every step of the training; True says that it is to stop."""
        self.trained_s += self._now() - self._since
        self.peak_bytes = max(self.peak_bytes, self._peak.bytes())
        over = self.trained_s >= self.goal.limit_s
        self._asked = self.goal.recall is not None and (over or self.trained_s >= self._due_s)
        if self._asked:
            self._ask()
            over = over or self.reached_s is not None
        self._since = self._now()
        return over

    def finish(self) -> None:
        """The training has ended, whoever ended it: a last probe where its last step had none."""
        if self.goal.recall is not None and not self._asked:
            self._ask()

    def _ask(self) -> None:
        self.curve.append((self.trained_s, self._probe()))
        self._due_s = max(self.trained_s + self.goal.every_s, _SPACING * self.trained_s)
        self._peak.restart()
