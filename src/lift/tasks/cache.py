"""Replies that were paid for, kept in the cache directory (`LIFT_CACHE`): no request is paid for twice.

Every reply is committed by itself, so a run that was killed asks only for what is missing. SQLite in WAL mode: a
killed process loses nothing, and several processes read and write at once. Only replies that could be read are kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import filelock

from lift.errors import GenerationError
from lift.models.fingerprint import cache_directory

FORMAT_VERSION = 1
BUSY_TIMEOUT_S = 30.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, generator TEXT NOT NULL, requests INTEGER NOT NULL, "
    "complete INTEGER NOT NULL) WITHOUT ROWID",
)


def request_key(**determining: Any) -> str:
    """SHA-256 (hex) of everything that determines a reply."""
    return hashlib.sha256(json.dumps(determining, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def run_key(keys: Sequence[str]) -> str:
    """SHA-256 (hex) of the keys of all requests of a run, in their order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


class ReplyCache:
    """The cache, open; for the thread that opened it. Every method raises GenerationError where the file fails."""

    def __init__(self) -> None:
        self._directory = cache_directory() / "tasks"
        self._file = self._directory / f"replies-{FORMAT_VERSION}.sqlite3"
        with _failing(self._file):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._file, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            # SQLite does not wait for its turn where two processes make the file at once.
            with _failing(self._file), filelock.FileLock(self._directory / "opening.lock"):
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                for table in _TABLES:
                    self._connection.execute(table)
        except GenerationError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, key: str) -> str | None:
        """The reply to the request of that key, or None."""
        with _failing(self._file):
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, reply: str) -> None:
        """Keep a reply, at once."""
        with _failing(self._file):
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def begin_run(self, keys: Sequence[str], generator: str) -> None:
        """Record a run as not complete, unless it is known."""
        with _failing(self._file):
            self._connection.execute(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, 0)", (run_key(keys), generator, len(keys))
            )

    def finish_run(self, keys: Sequence[str]) -> None:
        """Record that every request of a run has its reply, if that is so."""
        if self.count(keys) == len(keys):
            with _failing(self._file):
                self._connection.execute("UPDATE runs SET complete = 1 WHERE key = ?", (run_key(keys),))

    def is_complete(self, keys: Sequence[str]) -> bool:
        """Whether the run of these requests was finished, and all its replies are still there."""
        with _failing(self._file):
            row = self._connection.execute("SELECT complete FROM runs WHERE key = ?", (run_key(keys),)).fetchone()
        return row is not None and bool(row[0]) and self.count(keys) == len(keys)

    def count(self, keys: Sequence[str]) -> int:
        """How many of the requests have a reply."""
        return sum(self.get(key) is not None for key in keys)

    def run_lock(self, keys: Sequence[str]) -> filelock.FileLock:
        """A lock for the run of these requests, so that two processes do not pay for the same ones at once."""
        return filelock.FileLock(self._directory / f"run-{run_key(keys)[:32]}.lock")


@contextmanager
def _failing(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise GenerationError(
            f"expected to keep replies in {file}, got {error}; free space there, remove the file if it is damaged, or "
            "set LIFT_CACHE to another directory"
        ) from None
