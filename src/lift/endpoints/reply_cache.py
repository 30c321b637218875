"""Replies that were paid for, kept on disk by the hash of their request: no request is paid for twice.

Every reply is committed by itself, so a run that was killed asks only for what is missing. SQLite in WAL mode: several
threads and processes read and write at once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import filelock

from lift.errors import ReplyCacheError

# part of the file's name, since another layout would need another file
REPLIES_FILE = "replies-1.sqlite3"
BUSY_TIMEOUT_S = 30.0
_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"


def request_key(**determining: Any) -> str:
    """SHA-256 (hex) of everything that determines a reply."""
    return hashlib.sha256(json.dumps(determining, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class ReplyCache:
    """The replies in REPLIES_FILE of `directory`, which is made. Every method raises ReplyCacheError where it fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / REPLIES_FILE
        self._lock = threading.Lock()
        with self._failing():
            directory.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self._file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._close = weakref.finalize(self, self._connection.close)
            # SQLite does not wait for its turn where two processes make the file at once.
            with filelock.FileLock(directory / "opening.lock"):
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(_TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def get(self, key: str) -> str | None:
        """The reply to the request of that key, or None."""
        with self._failing(), self._lock:
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; it is on the disk when this returns."""
        with self._failing(), self._lock:
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def clear(self) -> int:
        """Forget all replies, in the file's free pages too; returns how many there were."""
        with self._failing(), self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM replies").fetchone()
            self._connection.execute("DELETE FROM replies")
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(count)

    def count(self, keys: Sequence[str]) -> int:
        """How many of the requests have a reply."""
        return sum(self.get(key) is not None for key in keys)

    def run_lock(self, keys: Sequence[str]) -> filelock.FileLock:
        """A lock for a run of these requests, so that two processes do not pay for the same ones at once."""
        return filelock.FileLock(self._directory / f"run-{request_key(keys=list(keys))[:32]}.lock")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ReplyCacheError(
                f"expected to keep replies in {self._file}, got {error}; free space there, remove the file if it is "
                "damaged, or choose another directory (LIFT_CACHE for tasks, --out of an evaluation)"
            ) from None
