"""The queue of absorptions as those see it who give orders and look on; worked on from lease.py."""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lift.errors import JobConflictError, RecipeError, UnknownJobError, UsageError
from lift.jobs.database import event_of, job_of, storable, tell
from lift.jobs.files import FileStore
from lift.jobs.job import Job, JobEvent, JobEventDraft
from lift.jobs.lease import JobLease, end_as_cancelled
from lift.memories.clock_guard import DAY_S, is_clock_settled
from lift.memories.memory_names import check_name, normal_name
from lift.recipes.recipe import load_recipe, recipe_names
from lift.training.budget import check_budget

MOST_PRIORITY = 1_000_000
# of the library
JOBS_DIRECTORY = ".serve"
# Cleared away when so much time has passed: the document of a job since that has ended (of the last one that was given
# it), a document that no job was ever given since it was uploaded, and a job with its events since it has ended. A
# checkpoint has a time of its own (memories/unfinished.py), and a memory needs none of these.
UPLOADS_KEPT_S = 7 * DAY_S
UNUSED_UPLOADS_KEPT_S = 30 * DAY_S
JOBS_KEPT_S = 30 * DAY_S
_TITLE_CHARS = 500
_EXPIRED_FILES = """
SELECT id FROM files WHERE
    CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE file_id = files.id) THEN
        NOT EXISTS (
            SELECT 1 FROM jobs WHERE file_id = files.id
            AND (status IN ('queued', 'running') OR finished_at IS NULL OR finished_at >= :used_until)
        )
    ELSE created_at < :made_until END
"""


class JobStore(FileStore):
    """The jobs, their events and their files in `directory`: LIBRARY/.serve, which is made.

    Any number of threads and processes may use it at once; what a method has returned is on the disk. All raise
    JobError where the disk refuses, and UnknownJobError for an id that there is not. What has ended long ago is cleared
    away when the store is opened, unless it is opened without that (`clears`), and when a job is created.
    """

    def __init__(self, directory: Path, *, clears: bool = True) -> None:
        super().__init__(directory)
        if clears:
            self._clear_where_due()

    def _clear_where_due(self) -> None:
        if is_clock_settled(self.directory / "clock"):
            self.clear_expired()

    def clear_expired(self, now_s: float | None = None) -> None:
        """Delete uploads, jobs and events whose time is over; `now_s`: seconds since 1970, default now."""
        now_s = time.time() if now_s is None else now_s
        with self._database.writing() as rows:
            limits = {"used_until": now_s - UPLOADS_KEPT_S, "made_until": now_s - UNUSED_UPLOADS_KEPT_S}
            files = [row["id"] for row in rows.execute(_EXPIRED_FILES, limits)]
            rows.executemany("DELETE FROM files WHERE id = ?", [(each,) for each in files])
            ended = "SELECT id FROM jobs WHERE finished_at < ? AND status NOT IN ('queued', 'running')"
            rows.execute(f"DELETE FROM events WHERE job IN ({ended})", (now_s - JOBS_KEPT_S,))
            rows.execute(f"DELETE FROM jobs WHERE id IN ({ended})", (now_s - JOBS_KEPT_S,))
        self._unlink(files)

    def create(
        self,
        file_id: str,
        *,
        title: str | None = None,
        name: str | None = None,
        recipe: str = "default",
        overrides: Sequence[str] = (),
        budget_s: float | None = None,
        priority: int = 0,
        owner: str | None = None,
    ) -> Job:
        """Put a job at the end of those of its priority; of two jobs the one of the higher `priority` comes first.

        `owner` is whose job it is; whether they may use the file is for the caller to judge.

        Raises UsageError for what no job can be done with: a bad name, recipe, override, budget or priority.
        """
        if name is not None:
            name = normal_name(name)
            check_name(name)
        if recipe not in recipe_names():
            # load_recipe would take a path, and whoever gives jobs may not name files of this machine
            raise RecipeError(f"expected one of the recipes {', '.join(recipe_names())}, got {recipe!r}")
        load_recipe(recipe, overrides)
        check_budget(budget_s)
        _check_priority(priority)
        title = storable(title).strip()[:_TITLE_CHARS] or None if title is not None else None
        job_id = f"ftjob-{secrets.token_hex(12)}"
        overrides_json = json.dumps(list(overrides))
        order = (job_id, file_id, title, name, recipe, overrides_json, budget_s, priority, time.time(), owner)
        with self._database.writing() as rows:
            if not rows.execute("SELECT 1 FROM files WHERE id = ?", (file_id,)).fetchone():
                raise UnknownJobError(
                    f"expected the id of an uploaded file, got {file_id!r}; upload the document first"
                )
            rows.execute(
                "INSERT INTO jobs (id, file_id, title, name, recipe, overrides, budget_s, priority, created_at, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                order,
            )
            number = tell(rows, job_id, JobEventDraft("queued", "the job waits for its turn", {"priority": priority}))
            rows.execute("UPDATE jobs SET queued_as = ? WHERE id = ?", (number, job_id))
            job = job_of(_row(rows, job_id))
        self._clear_where_due()  # its own file is in use by now
        return job

    def remove_jobs(self, job_ids: Sequence[str]) -> int:
        """Delete jobs that have ended, with their events, all or none; returns how many there were.

        Raises JobConflictError for one that waits or runs.
        """
        removed = 0
        with self._database.writing() as rows:
            for job_id in job_ids:
                found = rows.execute("SELECT status FROM jobs WHERE id = ?", (job_id,)).fetchone()
                if found and found["status"] in ("queued", "running"):
                    raise JobConflictError(
                        f"expected jobs that have ended, got {job_id}, which is {found['status']}; cancel it first"
                    )
                rows.execute("DELETE FROM events WHERE job = ?", (job_id,))
                removed += rows.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount
        return removed

    def jobs_that_tell(self, absorption_key: str) -> list[str]:
        """The ids of jobs that made, or found, the memory of that key, whatever it was called."""
        question = "SELECT DISTINCT job FROM events WHERE kind = 'finished' AND instr(data, ?)"
        return [row["job"] for row in self._database.rows(question, (absorption_key,))]

    def event_bytes(self, job_id: str) -> int:
        """About how much room the events of a job take."""
        question = "SELECT coalesce(sum(length(message) + length(data)), 0) AS size FROM events WHERE job = ?"
        return int(self._database.rows(question, (job_id,))[0]["size"])

    def compact(self) -> None:
        """Leave nothing in the database of what was deleted from it."""
        self._database.compact()

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """The job as it is now; where an `owner` is given, one of another's is unknown."""
        found = self._database.rows("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if not found or owner not in (None, found[0]["owner"]):
            raise _unknown(job_id)
        return job_of(found[0])

    def jobs(self, limit: int | None = None, after: str | None = None, owner: str | None = None) -> list[Job]:
        """The jobs, or those of one owner, the newest first: at most `limit`, those that come after the job `after`."""
        place = math.inf
        if after is not None:
            self.job(after, owner)
            place = self._database.rows("SELECT place FROM jobs WHERE id = ?", (after,))[0]["place"]
        question = "SELECT * FROM jobs WHERE place < ?1 AND (?3 IS NULL OR owner = ?3) ORDER BY place DESC LIMIT ?2"
        return [job_of(row) for row in self._database.rows(question, (place, _limit(limit), owner))]

    def events(self, job_id: str | None = None, after_number: int = 0, limit: int | None = None) -> list[JobEvent]:
        """The events of one job, or of all, behind the event `after_number`, in order; at most `limit` events.

        Who asks again behind the last number that it was given misses nothing.
        """
        if job_id is not None:
            self.job(job_id)
        which, values = ("job = ? AND ", [job_id]) if job_id is not None else ("", [])
        question = f"SELECT * FROM events WHERE {which}number > ? ORDER BY number LIMIT ?"
        return [event_of(row) for row in self._database.rows(question, [*values, after_number, _limit(limit)])]

    def last_number(self) -> int:
        """The number of the newest event, 0 where there is none."""
        # events are cleared away in the end, and their numbers never used again
        found = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(found[0]["seq"]) if found else 0

    def cancel(self, job_id: str) -> Job:
        """End a job that waits at once, and have one that runs end soon (`cancelling` until then).

        Nothing happens to one that is cancelled. Raises JobConflictError for one that has ended otherwise.
        """
        with self._database.writing() as rows:
            job = job_of(_row(rows, job_id))
            if job.status in ("succeeded", "failed"):
                raise JobConflictError(f"the job {job_id} has {job.status} already; there is nothing to cancel")
            if job.status == "queued":
                rows.execute(
                    "UPDATE jobs SET status = 'cancelled', finished_at = ? WHERE id = ?", (time.time(), job_id)
                )
                tell(rows, job_id, JobEventDraft("cancelled", "the job was cancelled before it ran", {}, "warn"))
            elif job.status == "running" and not job.cancelling:
                rows.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (job_id,))
                tell(rows, job_id, JobEventDraft("cancelling", "the job ends as soon as it is safe to", {}, "warn"))
            return job_of(_row(rows, job_id))

    def retry(self, job_id: str) -> Job:
        """Put a job that has failed or was cancelled back into the queue; its training goes on where it was.

        Raises JobConflictError for any other job, and UnknownJobError where its file was deleted.
        """
        with self._database.writing() as rows:
            job = job_of(_row(rows, job_id))
            if job.status not in ("failed", "cancelled"):
                raise JobConflictError(
                    f"expected a job that has failed or was cancelled, got {job_id}, which is {job.status}"
                )
            if not rows.execute("SELECT 1 FROM files WHERE id = ?", (job.file_id,)).fetchone():
                raise UnknownJobError(
                    f"the file {job.file_id} of the job {job_id} was deleted; upload it again and make a new job"
                )
            number = tell(rows, job_id, JobEventDraft("retried", "the job waits for its turn again", {}))
            rows.execute(
                "UPDATE jobs SET status = 'queued', queued_as = ?, error = NULL, finished_at = NULL, eta_s = NULL,"
                " cancelling = 0, deaths = 0 WHERE id = ?",
                (number, job_id),
            )
            return job_of(_row(rows, job_id))

    def prioritise(self, job_id: str, priority: int) -> Job:
        """Give a job that waits another priority; raises UsageError, and JobConflictError for one that does not."""
        _check_priority(priority)
        with self._database.writing() as rows:
            job = job_of(_row(rows, job_id))
            if job.status != "queued":
                raise JobConflictError(f"expected a job that waits, got {job_id}, which is {job.status}")
            if priority != job.priority:
                rows.execute("UPDATE jobs SET priority = ? WHERE id = ?", (priority, job_id))
                tell(
                    rows,
                    job_id,
                    JobEventDraft("prioritised", f"the job has priority {priority} now", {"priority": priority}),
                )
            return job_of(_row(rows, job_id))

    def is_cancelling(self, worker_pid: int) -> bool:
        """Whether the worker of that process id works on a job that was cancelled."""
        question = "SELECT 1 FROM jobs WHERE status = 'running' AND cancelling AND worker LIKE ? LIMIT 1"
        return bool(self._database.rows(question, (f"{worker_pid}-%",)))

    def end_cancelled(self, worker_pid: int) -> None:
        """The worker of that process id has ended: what it was cancelling is cancelled."""
        with self._database.writing() as rows:
            question = "SELECT id FROM jobs WHERE status = 'running' AND cancelling AND worker LIKE ?"
            for row in rows.execute(question, (f"{worker_pid}-%",)).fetchall():
                end_as_cancelled(rows, row["id"])

    def lease(self) -> JobLease:
        """The side of the queue that is worked on, for the process that holds the lock of the workers."""
        return JobLease(self._database)


def _row(rows: sqlite3.Connection, job_id: str) -> Any:
    row = rows.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise _unknown(job_id)
    return row


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(f"expected the id of a job, got {job_id!r}; see the list of jobs")


def _limit(limit: int | None) -> int:
    return -1 if limit is None else max(limit, 0)


def _check_priority(priority: int) -> None:
    if abs(priority) > MOST_PRIORITY:
        raise UsageError(f"expected a priority from -{MOST_PRIORITY} to {MOST_PRIORITY}, got {priority}")
