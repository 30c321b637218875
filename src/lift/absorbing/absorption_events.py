"""Typed events of a memory that is made or changed: for progress bars, servers and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lift.absorbing.recall_report import RecallReport
from lift.memories.memory import StoredMemory
from lift.training.checkpoint import CheckpointDamaged, SavingFailed
from lift.training.training_loop import StepRecord


@dataclass(frozen=True)
class WaitingForOther:
    """Somebody else absorbs the same text in the same way, and the end of that is waited for; `why` says who."""

    why: str

    def __str__(self) -> str:
        return f"waiting: {self.why}"


@dataclass(frozen=True)
class Writing:
    """A language model is writing tasks: so many sentences are done, so many tasks are kept, these requests failed."""

    sentences_done: int
    sentences: int
    kept: int
    failed: int
    rejected: int
    eta_s: float | None


@dataclass(frozen=True)
class Prepared:
    """The document is split and its tasks are written. `generation`: what the task generator counted.

    While tasks are still being written (`streaming`), `tasks` and `held_out` are 0.
    """

    title: str
    tokens: int
    sentences: int
    tasks: int
    held_out: int
    language: str
    warnings: tuple[str, ...]
    generation: Mapping[str, object]
    streaming: bool = False


@dataclass(frozen=True)
class Fitting:
    """Gated Memory is being fitted to the attention of a reader: epoch by epoch, with its relative error."""

    epoch: int
    epochs: int
    error: float


@dataclass(frozen=True)
class Planned:
    """The plan is made, or made anew where the machine turned slower or quicker: what an epoch costs here, how many
    there are in all, and when all is expected to be done, in seconds from the start."""

    tokens_per_s: float
    epoch_tokens: int
    epochs: float
    predicted_s: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """One step is done; `eta_s` seconds are expected to remain until the memory is stored."""

    step: StepRecord
    eta_s: float


@dataclass(frozen=True)
class Probing:
    """The held-out tasks are being asked."""

    probes: int


@dataclass(frozen=True)
class Probed:
    """Recall of a part of the document at one moment; `what` says of which part, and when."""

    what: str
    seconds: float
    probed: int
    recalled: int


@dataclass(frozen=True)
class Finished:
    """The memory is in the library. `reused`: it was there already, and nothing was trained.

    `remarks`: sentences about what the budget left out at the end.
    """

    memory: StoredMemory
    report: RecallReport | None
    seconds: float
    predicted_s: float
    reused: bool
    remarks: tuple[str, ...] = ()


AbsorptionEvent = (
    WaitingForOther
    | Writing
    | Prepared
    | Fitting
    | Planned
    | CheckpointDamaged
    | Trained
    | SavingFailed
    | Probing
    | Probed
    | Finished
)
