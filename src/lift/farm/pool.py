"""The workers of a farm as the driver sees them: started, given documents, heard of; what runs them is behind this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lift.farm.document_absorber import Outcome
from lift.farm.sources import FarmDocument


@dataclass(frozen=True)
class WorkerReady:
    """That worker has its model loaded and can be given documents."""

    worker: str


@dataclass(frozen=True)
class WorkerDied:
    """That worker is gone; nothing more comes from it. `why`: as far as it is known; `at_start`: it was never ready."""

    worker: str
    why: str
    at_start: bool = False


@dataclass(frozen=True)
class DocumentEnded:
    """That worker is through with a document."""

    worker: str
    outcome: Outcome


PoolEvent = WorkerReady | WorkerDied | DocumentEnded


class Pool(Protocol):
    """Workers, each absorbing what it is given, in order."""

    def start(self) -> str:
        """Begin to start a worker; returns its name, at once. WorkerReady or WorkerDied tells what became of it."""

    def submit(self, worker: str, documents: Sequence[FarmDocument]) -> None:
        """Give documents to a worker that is ready."""

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Events, in order; empty after so many seconds without anything."""

    def interrupt(self) -> None:
        """Ask all workers to stop where it is safe; each of their documents still ends, interrupted."""

    def close(self) -> None:
        """End all workers."""
