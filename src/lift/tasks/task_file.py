"""All tasks of a document, on disk: a long text has tens of thousands, and few of them are needed at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import overload

from lift.tasks.line_file import LineFile
from lift.tasks.task import Task


class TaskFile(Sequence[Task]):
    """A sequence of tasks that only grows; each is read anew whenever it is asked for.

    Raises GenerationError where the disk refuses.
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._lines = LineFile()
        self.extend(tasks)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        question, answer, evidence, origin, weight, held_out = json.loads(
            self._lines[index + len(self) if index < 0 else index]
        )
        return Task(question, answer, tuple(evidence), origin, weight, held_out)

    def extend(self, tasks: Iterable[Task]) -> None:
        """Put `tasks` behind the last one."""
        for task in tasks:
            row = (task.question, task.answer, task.evidence, task.origin, task.weight, task.held_out)
            self._lines.append(json.dumps(row).encode())
