"""The candidates of all sentences on disk, and which of them are worth keeping beside the others."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lift.tasks.selection import normalised, unambiguous
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile

# where as many sentences have the same answer to give, a question that people would seldom ask tells none of them apart
SHARING_SENTENCES = 4
SELDOM_ASKED_WEIGHT = 0.65


def text_key(text: str) -> int:
    """64 bits that stand for the normalised text: two of a million different ones share them once in 10^7 texts."""
    return int.from_bytes(hashlib.blake2b(normalised(text).encode(), digest_size=8).digest())


class CandidateFile:
    """The candidates of each sentence in turn; all of them are taken up, and kept on disk, before any is given out.

    Raises GenerationError where the disk refuses.
    """

    def __init__(self, groups: Iterable[Sequence[Task]]) -> None:
        self._tasks = TaskFile()
        self._keys = array("Q")
        self._seldom_asked = array("Q")  # their answers, 0 for those that people do ask
        self._ends = array("Q")
        self._sentences_by_answer: Counter[int] = Counter()
        for group in groups:
            self._tasks.extend(group)
            self._keys.extend(text_key(task.question) for task in group)
            answers = [text_key(task.answer) for task in group]
            self._sentences_by_answer.update(set(answers))
            self._seldom_asked.extend(
                answer if task.weight <= SELDOM_ASKED_WEIGHT else 0 for answer, task in zip(answers, group, strict=True)
            )
            self._ends.append(len(self._tasks))

    def worth_keeping(self) -> Iterator[list[Task]]:
        """The candidates of each sentence, each question once in all, and none that has contradicting answers.

        Nor one that few people would ask and whose answer many sentences share: "Which word of Cardiff is scarf?" is
        answered like the same question about every other city, by what they have in common.
        """
        left_out, first = self._ambiguous() | self._shared(), 0
        for end in self._ends:
            yield [self._tasks[number] for number in range(first, end) if number not in left_out]
            first = end

    def _shared(self) -> set[int]:
        many = {answer for answer, count in self._sentences_by_answer.items() if count >= SHARING_SENTENCES}
        return {number for number, answer in enumerate(self._seldom_asked) if answer in many}

    def _ambiguous(self) -> set[int]:
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
