"""A job, its events, and a file that was given to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Level = Literal["info", "warn", "error"]


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file that is wholly there. `name` is what its owner calls it, and never a path.

    `owner`: the name of the key that it was uploaded with, None without keys.
    """

    id: str
    name: str
    bytes: int
    sha256: str
    purpose: str
    created_at: float
    owner: str | None = None


@dataclass(frozen=True)
class Job:
    """A document that is to be absorbed, as an order and as far as it is done; times are in seconds since 1970.

    `name` is the memory's wanted name (None: made of the title), `memory` the one that it got. `attempt` counts how
    often it was begun. `progress` is the share of the training that is done, 0 to 1, and `eta_s` what is left of it.
    `trained_tokens` are those that were trained for the memory, 0 where it was there already. While `cancelling`, a
    running job has been asked to stop. `owner` as for StoredFile.
    """

    id: str
    file_id: str
    title: str | None
    name: str | None
    recipe: str
    overrides: tuple[str, ...]
    budget_s: float | None
    priority: int
    status: Status
    memory: str | None
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    trained_tokens: int | None
    attempt: int
    progress: float
    eta_s: float | None
    cancelling: bool
    owner: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it unless it is tried again."""
        return self.status not in ("queued", "running")


@dataclass(frozen=True)
class JobEventDraft:
    """The draft of an event of a job.

    `kind` is a class of lift.absorbing.absorption_events in lower case, or what became of the job: queued, started,
    resumed (after its worker has died), interrupted (it waits again), cancelling, retried, prioritised; and as the last
    one before it has ended, succeeded, failed or cancelled.
    """

    kind: str
    message: str
    data: Mapping[str, Any]
    level: Level = "info"


@dataclass(frozen=True)
class JobEvent:
    """An event of the job `job`; `number` rises by one from event to event over all jobs of the store."""

    number: int
    job: str
    at: float
    level: Level
    kind: str
    message: str
    data: Mapping[str, Any]
