"""The time of one training: how fast it goes now, which batch still fits, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from lift.packing.prompts import Example
from lift.packing.trie import Batch, pack
from lift.training.budget import Clock, SpeedMeter

# A batch that no longer fits is cut to what does, unless less of it than this share would be left.
_SMALLEST_PART = 0.25
# With a budget, batches that are gathered into one update take no more than this share of the training's time.
_LONGEST_UPDATE_SHARE = 1 / 3
# The share of an epoch from which on its own tokens say how long it is.
_TELLING_SHARE = 0.3


class Pace:
    """How a training goes by the clock.

    `ends_at`: the moment by which it must be over, asked anew before each batch, since what is reserved for the time
    after it depends on the speed; None: it has no bound. `meter` may know the speed from before.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        ends_at: Callable[[], float] | None = None,
        meter: SpeedMeter | None = None,
    ) -> None:
        self.clock = clock
        self.meter = meter or SpeedMeter()
        self.epochs_done = 0.0
        self.tokens = 0
        self._ends_at = ends_at
        self._started = clock()
        self._already_s = 0.0
        self._later_factor = 1.0
        self._first_stage_share: float | None = None
        self._epoch = -1
        self._epoch_tokens = 0  # of the epoch under way, so far
        self._epoch_before = 0.0  # tokens of the last whole epoch, or as many as are expected of one

    @classmethod
    def within(cls, seconds: float | None, clock: Clock = time.monotonic) -> Pace:
        """A training of so many seconds from now on; None: of as many as it takes."""
        ends_at = None if seconds is None else clock() + seconds
        return cls(clock, None if ends_at is None else lambda: ends_at)

    def begin(self, already_s: float, tokens: int = 0) -> None:
        """The training begins now; `already_s` of its time and `tokens` were used before an interruption."""
        self.tokens = tokens
        self._started = self.clock()
        self._already_s = already_s

    def expect(self, epoch_tokens: float, later_factor: float = 1.0) -> None:
        """So many tokens are an epoch's, as long as none has been seen.

        Those of epochs after the first take `later_factor` times as long: they find things computed.
        """
        self._epoch_before = epoch_tokens
        self._later_factor = later_factor

    def expect_stages(self, first_share: float) -> None:
        """Of the work of a training in two stages, the first one has that share, and so of its time."""
        self._first_stage_share = first_share

    def first_stage_share(self, first_epochs: int, epochs: int) -> float:
        """The share of its time that the first `first_epochs` of the epochs get; 1 where there is no second stage."""
        if not first_epochs or first_epochs >= epochs:
            return float(first_epochs > 0)
        return first_epochs / epochs if self._first_stage_share is None else self._first_stage_share

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self._already_s + self.clock() - self._started

    @property
    def is_bounded(self) -> bool:
        """Whether there is a moment by which it must be over."""
        return self._ends_at is not None

    @property
    def left_s(self) -> float:
        """Seconds of training that are left, not below 0; infinity where it has no bound."""
        return math.inf if self._ends_at is None else max(self._ends_at() - self._already_s - self.clock(), 0.0)

    def used_share(self, tokens: int = 0) -> float:
        """The share of its time that is used in the middle of a step of so many tokens; 0 where it has no bound."""
        if self._ends_at is None:
            return 0.0
        elapsed_s, left_s = self.elapsed_s, self.left_s
        if left_s <= 0:
            return 1.0
        return min((elapsed_s + min(tokens * self.meter.s_per_token, left_s) / 2) / (elapsed_s + left_s), 1.0)

    @property
    def longest_update_s(self) -> float:
        """Seconds after which no more batches are gathered into one update."""
        return _LONGEST_UPDATE_SHARE * (self.elapsed_s + self.left_s)

    def fit(self, examples: Sequence[Example], *, at_least_one: bool = False) -> Batch | None:
        """The batch of all `examples`, or of as many of the first as there is time for; None where that is too few.

        With `at_least_one`, the shortest example is what remains where there is no time.
        """
        batch = pack(examples)
        if self._ends_at is None:
            return batch
        shortest = min(examples, key=lambda example: len(example.ids))
        left_s, s_per_token = self.left_s, self.meter.cautious_s_per_token
        if not s_per_token:  # a batch of any size would be a leap in the dark
            return pack([shortest]) if left_s > 0 or at_least_one else None
        if left_s > 0 and batch.tokens * s_per_token <= left_s:
            return batch
        room_tokens = left_s / s_per_token
        if len(examples) > 1 and room_tokens >= _SMALLEST_PART * batch.tokens:
            part = pack(examples[: max(int(len(examples) * room_tokens / batch.tokens), 1)])
            if part.tokens <= room_tokens:
                return part
        return pack([shortest]) if at_least_one else None

    def record(self, epoch: int, progress: float, tokens: int, seconds: float) -> None:
        """A step of `epoch`, of which `progress` (0 to 1) was done before it, had so many tokens and took so long."""
        if epoch != self._epoch:
            if self._epoch_tokens and self._epoch >= 0:
                self._epoch_before = self._epoch_tokens
            self._epoch, self._epoch_tokens = epoch, 0
        if progress >= _TELLING_SHARE:
            self._epoch_before = self._epoch_tokens / progress
        self._epoch_tokens += tokens
        whole = max(self._epoch_before, self._epoch_tokens)
        self.epochs_done = epoch + max(progress, self._epoch_tokens / whole)
        self.tokens += tokens
        self.meter.record(tokens, seconds)

    @property
    def epoch_tokens(self) -> float:
        """Tokens of an epoch, as the last ones had them; 0 where nothing is known of that."""
        return self._epoch_before or float(self._epoch_tokens)

    def work_left_s(self, epochs: int) -> float:
        """Seconds that the rest of so many epochs takes at the recent speed."""
        left = max(epochs - self.epochs_done, 0.0)
        now = min(left, max(1 - self.epochs_done, 0.0)) if self._epoch <= 0 else left
        return (now + (left - now) * self._later_factor) * self.epoch_tokens * self.meter.s_per_token
