"""The contract of task generators: pieces in document order, and an honest count of what became of every reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lift.tasks.task import Task


@dataclass(frozen=True)
class Generated:
    """One piece of a generator's work.

    `position` is the number of the document's sentences that are done once this piece is in; it never falls, and the
    last piece has them all. `tasks` may be empty: the piece still counts as progress.
    """

    position: int
    tasks: tuple[Task, ...]


@dataclass
class GenerationCounts:
    """Counts of requests and tasks so far; `answered` and all of `failed` add up to `requests` at the end.

    `answered`: requests with a reply that could be read, `from_cache` of them without asking anybody. `failed`:
    requests given up, by reason. `retried`: tries that had to be made again, by reason. `kept` and `rejected`: tasks,
    the latter by reason.
    """

    requests: int = 0
    answered: int = 0
    from_cache: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, other: GenerationCounts) -> None:
        """Count what `other` has counted as well."""
        self.requests += other.requests
        self.answered += other.answered
        self.from_cache += other.from_cache
        self.kept += other.kept
        for mine, theirs in (
            (self.failed, other.failed),
            (self.retried, other.retried),
            (self.rejected, other.rejected),
        ):
            mine.update(theirs)

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Plain numbers, for a memory's manifest and for JSON."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "from_cache": self.from_cache,
            "failed": dict(self.failed),
            "retried": dict(self.retried),
            "kept": self.kept,
            "rejected": dict(self.rejected),
        }


class TaskGenerator(Protocol):
    """Writes tasks about one document.

    `counts` is live while a stream runs, and begins anew with each. `cached_requests` of `counts.requests` were
    answered before the generator was opened.
    """

    counts: GenerationCounts
    cached_requests: int

    def stream(self) -> Iterator[Generated]:
        """Pieces in document order, each as soon as it and all before it are there.

        The same for the same answers. Closing the iterator ends all work under way. Raises GenerationError where
        nobody answers, or no answer can be read.
        """
        ...
