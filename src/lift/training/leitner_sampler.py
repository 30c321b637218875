"""Leitner sampler: a task that is known is skipped for some epochs, more each time that it is found known again.

Most of a training's time would go into tasks whose answers the model gives already. As with Leitner's boxes (So lernt
man lernen, 1972), a task that was correct b times in a row comes up again after min(2^b, max_skip_epochs) epochs; one
that was wrong comes up in the next.
"""

from __future__ import annotations

from array import array

import torch

_ROWS = 3


class LeitnerSampler:
    """When each task, by its number in the batch sampler, is due. A task that never came up is due.

    `max_skip_epochs` is in epochs; with 1 every task is due in every epoch. `tasks`: how many there are, 0 where that
    is not known at the start; by another number of them the same number may mean another task.
    """

    def __init__(self, max_skip_epochs: int, tasks: int = 0) -> None:
        self.max_skip_epochs = max_skip_epochs
        self.tasks = tasks
        self._streak = array("i")  # how often in a row it was correct
        self._due = array("i")  # the next epoch in which it is due
        self._shown = array("i")  # the last epoch in which it came up, -1 before the first

    def clear(self) -> None:
        """Nothing has come up yet."""
        self.load_state(torch.empty(_ROWS, 0))

    def due(self, task: int, epoch: int) -> bool:
        """Whether `task` belongs into `epoch`; the answer stays the same while the epoch goes on."""
        return task >= len(self._due) or self._due[task] <= epoch or self._shown[task] == epoch

    def record(self, task: int, epoch: int, correct: bool) -> None:
        """`task` came up in `epoch`, and its answer was greedy-correct or not."""
        missing = task + 1 - len(self._due)
        if missing > 0:
            self._streak.extend([0] * missing)
            self._due.extend([0] * missing)
            self._shown.extend([-1] * missing)
        self._streak[task] = self._streak[task] + 1 if correct else 0
        self._due[task] = epoch + min(2 ** min(self._streak[task], 30), self.max_skip_epochs)
        self._shown[task] = epoch

    @property
    def known_share(self) -> float:
        """Share of the tasks that came up whose answer was greedy-correct when they last did; 0 where none did."""
        came_up = sum(epoch >= 0 for epoch in self._shown)
        return sum(streak > 0 for streak in self._streak) / came_up if came_up else 0.0

    def state(self) -> torch.Tensor:
        """All of it, for a checkpoint. [3, tasks]"""
        return torch.tensor([list(self._streak), list(self._due), list(self._shown)], dtype=torch.int32)

    def load_state(self, state: torch.Tensor) -> None:
        """Go on from what `state` gave."""
        rows = state.reshape(_ROWS, -1).tolist()
        self._streak, self._due, self._shown = (array("i", row) for row in rows)
