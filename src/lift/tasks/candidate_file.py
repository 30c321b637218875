"""The candidates of all sentences on disk, and which of them no other contradicts."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lift.tasks.selection import normalised, unambiguous
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile


def question_key(question: str) -> int:
    """64 bits that stand for the normalised question: two of a million different ones share them once in 10^7 texts."""
    return int.from_bytes(hashlib.blake2b(normalised(question).encode(), digest_size=8).digest())


class CandidateFile:
    """The candidates of each sentence in turn; all of them are taken up, and kept on disk, before any is given out.

    Raises GenerationError where the disk refuses.
    """

    def __init__(self, groups: Iterable[Sequence[Task]]) -> None:
        self._tasks = TaskFile()
        self._keys = array("Q")
        self._ends = array("Q")
        for group in groups:
            self._tasks.extend(group)
            self._keys.extend(question_key(task.question) for task in group)
            self._ends.append(len(self._tasks))

    def unambiguous(self) -> Iterator[list[Task]]:
        """The candidates of each sentence, each question once in all, and none that has contradicting answers."""
        left_out, first = self._left_out(), 0
        for end in self._ends:
            yield [self._tasks[number] for number in range(first, end) if number not in left_out]
            first = end

    def _left_out(self) -> set[int]:
        keys, counts = np.unique(np.asarray(self._keys, dtype=np.uint64), return_counts=True)
        repeated = set(keys[counts > 1].tolist())
        same: dict[int, list[int]] = defaultdict(list)
        for number, key in enumerate(self._keys):
            if key in repeated:
                same[key].append(number)
        left_out: set[int] = set()
        for numbers in same.values():
            best = unambiguous([self._tasks[number] for number in numbers])
            left_out.update(number for place, number in enumerate(numbers) if place != best)
        return left_out
