"""The tables of jobs, events and files in one SQLite file, and transactions on them.

Plain sqlite3: there are three tables, and what matters is where a transaction begins and ends, which a layer on top
would hide. WAL lets readers go on while one writes, and synchronous=FULL has a commit on the disk when it returns.
Every writer begins with BEGIN IMMEDIATE, so writers follow each other: an event's number is given and made visible in
the same order, and whoever has seen a number has seen all below it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lift.errors import JobError
from lift.jobs.job import Job, JobEvent, JobEventDraft, StoredFile

_VERSION = 2
_BUSY_S = 60.0
_SCHEMA = """
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at REAL NOT NULL,
    owner TEXT
) STRICT;
CREATE TABLE jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    file_id TEXT NOT NULL,
    title TEXT,
    name TEXT,
    recipe TEXT NOT NULL,
    overrides TEXT NOT NULL,
    budget_s REAL,
    priority INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    queued_as INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    cancelling INTEGER NOT NULL DEFAULT 0,
    memory TEXT,
    error TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    trained_tokens INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    progress REAL NOT NULL DEFAULT 0,
    furthest REAL NOT NULL DEFAULT 0,
    furthest_before REAL NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    eta_s REAL,
    owner TEXT
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, priority DESC, queued_as);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    at REAL NOT NULL,
    level TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_job ON events (job, number);
"""


class Database:
    """The file `path`, made when it is missing. Raises JobError wherever the disk or another version refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        with self.writing() as rows:
            (version,) = rows.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    rows.execute(statement)
                rows.execute(f"PRAGMA user_version = {_VERSION}")
            elif version == 1:  # which knew no owners
                for table in ("files", "jobs"):
                    rows.execute(f"ALTER TABLE {table} ADD COLUMN owner TEXT")
                rows.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise JobError(
                    f"expected jobs of version {_VERSION} in {path}, got version {version}; use the version of Lift "
                    "that wrote them, or move that file away and start without jobs"
                )

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of this thread alone: on the disk when the block ends, undone where it raises."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself may have undone it, as on a full disk
                    with suppress(sqlite3.Error):  # what went wrong before is what is told; the next writer tries again
                        self._connection.execute("ROLLBACK")
                raise

    def rows(self, question: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows that one SELECT finds, all of the same moment."""
        with self._lock, self._errors():
            return self._connection.execute(question, values).fetchall()

    def compact(self) -> None:
        """Leave nothing of what was deleted, neither in free pages nor in the log of writes."""
        with self._lock, self._errors():
            self._connection.execute("VACUUM")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise JobError(
                f"the jobs in {self.path} were read for so long that what was deleted may still be in the file; stop "
                "lift serve, then try again"
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, self._errors():
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JobError(
                f"the jobs in {self.path} cannot be read or written ({error}); check the disk and its permissions, "
                "make room, then try again"
            ) from error


def tell(rows: sqlite3.Connection, job_id: str, draft: JobEventDraft) -> int:
    """Add an event within a transaction; returns its number."""
    data = json.dumps(dict(draft.data), allow_nan=False)
    values = (job_id, time.time(), draft.level, draft.kind, storable(draft.message), data)
    cursor = rows.execute("INSERT INTO events (job, at, level, kind, message, data) VALUES (?, ?, ?, ?, ?, ?)", values)
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def storable(text: str) -> str:
    """`text` without halves of characters, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode("utf-8")


def job_of(row: sqlite3.Row) -> Job:
    """A job from its row."""
    return Job(
        id=row["id"],
        file_id=row["file_id"],
        title=row["title"],
        name=row["name"],
        recipe=row["recipe"],
        overrides=tuple(json.loads(row["overrides"])),
        budget_s=row["budget_s"],
        priority=row["priority"],
        status=row["status"],
        memory=row["memory"],
        error=row["error"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        trained_tokens=row["trained_tokens"],
        attempt=row["attempt"],
        progress=row["progress"],
        eta_s=row["eta_s"],
        cancelling=bool(row["cancelling"]),
        owner=row["owner"],
    )


def event_of(row: sqlite3.Row) -> JobEvent:
    """An event from its row."""
    return JobEvent(
        number=row["number"],
        job=row["job"],
        at=row["at"],
        level=row["level"],
        kind=row["kind"],
        message=row["message"],
        data=json.loads(row["data"]),
    )


def file_of(row: sqlite3.Row) -> StoredFile:
    """An uploaded file from its row."""
    return StoredFile(
        id=row["id"],
        name=row["name"],
        bytes=row["bytes"],
        sha256=row["sha256"],
        purpose=row["purpose"],
        created_at=row["created_at"],
        owner=row["owner"],
    )
