"""The lease of queued absorptions by the one process that works on them.

Only the holder of the lock of the workers (worker.py) makes claims. The lock ends with its process, so a job that is
found running when a new holder claims has no living worker: nothing is guessed from times or process ids.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from typing import Any

from lift.errors import JobConflictError
from lift.jobs.database import Database, job_of, tell
from lift.jobs.job import Job, JobEventDraft

MOST_DEATHS = 5
# How far an attempt has come by the events that it has told; a step of the training counts as 1 + its progress.
_REACHED = {"prepared": 0.2, "planned": 0.4, "probing": 3.0}


class JobLease:
    """Leases jobs and records their events, under a mark of its own that is written into each job that it takes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker = f"{os.getpid()}-{secrets.token_hex(8)}"

    def is_work_waiting(self) -> bool:
        """Whether claim would find a job."""
        found = self._database.rows(
            "SELECT 1 FROM jobs WHERE status = 'queued' OR (status = 'running' AND worker IS NOT ?) LIMIT 1",
            (self._worker,),
        )
        return bool(found)

    def claim(self) -> Job | None:
        """Take a job that a dead worker has left, else the first of the queue; None where there is none.

        A job that was left while it was being cancelled is cancelled, and one whose workers died MOST_DEATHS times in
        a row without getting further than before has failed.
        """
        with self._database.writing() as rows:
            for row in rows.execute(
                "SELECT * FROM jobs WHERE status = 'running' AND worker IS NOT ?", (self._worker,)
            ).fetchall():
                if self._take_up(rows, row):
                    return self._begun(rows, row["id"])
            first = rows.execute(
                "SELECT * FROM jobs WHERE status = 'queued' ORDER BY priority DESC, queued_as LIMIT 1"
            ).fetchone()
            if first is None:
                return None
            attempt = first["attempt"] + 1
            tell(rows, first["id"], JobEventDraft("started", f"attempt {attempt} begins", {"attempt": attempt}))
            return self._begun(rows, first["id"])

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the job that runs is to end."""
        return bool(self._database.rows("SELECT 1 FROM jobs WHERE id = ? AND cancelling", (job_id,)))

    def record(
        self, job_id: str, draft: JobEventDraft, progress: float | None = None, eta_s: float | None = None
    ) -> None:
        """Tell of the job that runs; `progress`, where it is given, is where its training is now."""
        with self._database.writing() as rows:
            self._check_own(rows, job_id)
            tell(rows, job_id, draft)
            reached = _REACHED.get(draft.kind, 0.0) if progress is None else 1 + progress
            rows.execute(
                "UPDATE jobs SET furthest = max(furthest, ?), eta_s = ? WHERE id = ?", (reached, eta_s, job_id)
            )
            if progress is not None:
                rows.execute("UPDATE jobs SET progress = ? WHERE id = ?", (progress, job_id))

    def succeed(self, job_id: str, draft: JobEventDraft, memory: str, trained_tokens: int) -> None:
        """The job has given `memory`, as `draft` says."""
        with self._database.writing() as rows:
            self._check_own(rows, job_id)
            tell(rows, job_id, draft)
            tell(rows, job_id, JobEventDraft("succeeded", "the job is done", {"memory": memory}))
            _ended(rows, job_id, "succeeded", memory=memory, trained_tokens=trained_tokens, progress=1.0)

    def fail(self, job_id: str, draft: JobEventDraft) -> None:
        """The job cannot be done, for the reason in `draft`."""
        with self._database.writing() as rows:
            self._check_own(rows, job_id)
            tell(rows, job_id, draft)
            _ended(rows, job_id, "failed", error=draft.message)

    def give_back(self, job_id: str, draft: JobEventDraft) -> None:
        """The job was stopped: it is cancelled where that was asked for, and waits at its old place where it was not.

        `draft` is for the second case.
        """
        with self._database.writing() as rows:
            row = self._check_own(rows, job_id)
            if row["cancelling"]:
                end_as_cancelled(rows, job_id)
            else:
                tell(rows, job_id, draft)
                rows.execute("UPDATE jobs SET status = 'queued', worker = NULL, eta_s = NULL WHERE id = ?", (job_id,))

    def _take_up(self, rows: sqlite3.Connection, row: sqlite3.Row) -> bool:
        """Whether a job that a dead worker has left can be gone on with."""
        job_id = row["id"]
        if row["cancelling"]:
            end_as_cancelled(rows, job_id)
            return False
        deaths = 0 if row["furthest"] > row["furthest_before"] else row["deaths"] + 1
        if deaths >= MOST_DEATHS:
            reason = (
                f"the process that worked on this job died {deaths} times without getting further, perhaps for want of "
                "memory; try a shorter text, or a smaller model or recipe"
            )
            tell(rows, job_id, JobEventDraft("failed", reason, {"deaths": deaths}, "error"))
            _ended(rows, job_id, "failed", error=reason)
            return False
        attempt = row["attempt"] + 1
        draft = f"the process that worked on this job has died; attempt {attempt} goes on from what was saved"
        tell(rows, job_id, JobEventDraft("resumed", draft, {"attempt": attempt, "deaths": deaths}, "warn"))
        rows.execute("UPDATE jobs SET deaths = ?, furthest_before = furthest WHERE id = ?", (deaths, job_id))
        return True

    def _begun(self, rows: sqlite3.Connection, job_id: str) -> Job:
        rows.execute(
            "UPDATE jobs SET status = 'running', worker = ?, attempt = attempt + 1,"
            " started_at = coalesce(started_at, ?) WHERE id = ?",
            (self._worker, time.time(), job_id),
        )
        return job_of(rows.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())

    def _check_own(self, rows: sqlite3.Connection, job_id: str) -> sqlite3.Row:
        found = rows.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if found is None or found["status"] != "running" or found["worker"] != self._worker:
            raise JobConflictError(f"the job {job_id} is not this worker's any more; another one goes on with it")
        row: sqlite3.Row = found
        return row


def end_as_cancelled(rows: sqlite3.Connection, job_id: str) -> None:
    """A job that was to end has ended, within a transaction."""
    tell(rows, job_id, JobEventDraft("cancelled", "the job was cancelled", {}, "warn"))
    _ended(rows, job_id, "cancelled")


def _ended(rows: sqlite3.Connection, job_id: str, status: str, **values: Any) -> None:
    changes = {**values, "status": status, "finished_at": time.time(), "cancelling": 0, "worker": None, "eta_s": None}
    columns = ", ".join(f"{column} = ?" for column in changes)
    rows.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*changes.values(), job_id))
