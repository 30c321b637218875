"""The files given to jobs: each whole under an id that was drawn for it, or not there at all.

    DIRECTORY/files/ID           the bytes; the name that its owner gave it is only a label in the database
                    .tmp-...     being written, held locked by its writer
    DIRECTORY/jobs.sqlite        a file is there as soon as its row is

Writing goes: a temporary file, onto the disk, then the rename and the row in one transaction. What a crash leaves is
cleared away by whoever opens the store next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lift.errors import FileTooLargeError, JobConflictError, JobError, UnknownJobError
from lift.jobs.database import Database, file_of, storable
from lift.jobs.job import StoredFile
from lift.memories.durable import sync_directory

_TEMPORARY = ".tmp-"
_OWN_TEMPORARY = re.compile(re.escape(_TEMPORARY) + "[0-9a-f]{16}")
_ID = re.compile(r"file-[0-9a-f]{24}")
_NAME_CHARS = 200


class FileStore:
    """The files in `directory`, which is made. Safe across threads and processes; all methods raise JobError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = directory / "files"
        try:
            for each in (directory, self._files):  # what is uploaded is its owner's business
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(f"expected a directory for jobs in {directory}, got {error}; check the library") from error
        self._database = Database(directory / "jobs.sqlite")
        self._clear_leftovers()

    def add_file(
        self,
        name: str,
        purpose: str,
        content: bytes | Iterable[bytes],
        max_bytes: int,
        max_stored_bytes: int | None = None,
        *,
        owner: str | None = None,
    ) -> StoredFile:
        """Keep a file, on the disk when this returns.

        Raises FileTooLargeError behind `max_bytes`, and where all files would have more than `max_stored_bytes`.
        What is left of a `name` with directories, control characters or too many letters is its end.
        """
        temporary = self._files / (_TEMPORARY + secrets.token_hex(8))
        with self._database.writing():  # so that nobody clears it away between the next two lines
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            size, digest = _write(descriptor, [content] if isinstance(content, bytes) else content, max_bytes)
            file = StoredFile(
                f"file-{secrets.token_hex(12)}", _label(name), size, digest, storable(purpose), time.time(), owner
            )
            with self._database.writing() as rows:
                if max_stored_bytes is not None:
                    _check_room(rows, size, max_stored_bytes)
                os.rename(temporary, self._files / file.id)
                sync_directory(self._files)
                rows.execute(
                    "INSERT INTO files (id, name, bytes, sha256, purpose, created_at, owner)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (file.id, file.name, file.bytes, file.sha256, file.purpose, file.created_at, file.owner),
                )
        except OSError as error:
            raise JobError(f"the file {name!r} cannot be kept ({error}); make room, then try again") from error
        finally:
            with suppress(OSError):  # the next who opens the store clears it away
                temporary.unlink(missing_ok=True)
            os.close(descriptor)
        return file

    def file(self, file_id: str, owner: str | None = None) -> StoredFile:
        """The file of that id; raises UnknownJobError, also where it is not that `owner`'s, if one is given."""
        found = self._database.rows("SELECT * FROM files WHERE id = ?", (file_id,))
        if not found or owner not in (None, found[0]["owner"]):
            raise UnknownJobError(f"expected the id of an uploaded file, got {file_id!r}; see the list of files")
        return file_of(found[0])

    def files(self, owner: str | None = None) -> list[StoredFile]:
        """All files, or those of one owner, the newest first."""
        question = "SELECT * FROM files WHERE ?1 IS NULL OR owner = ?1 ORDER BY rowid DESC"
        return [file_of(row) for row in self._database.rows(question, (owner,))]

    def file_path(self, file_id: str) -> Path:
        """Where its bytes are, to be read only; raises UnknownJobError."""
        return self._files / self.file(file_id).id

    def remove_file(self, file_id: str) -> None:
        """Delete a file; raises UnknownJobError, and JobConflictError while a job needs it."""
        self.file(file_id)
        with self._database.writing() as rows:
            needed = rows.execute(
                "SELECT id FROM jobs WHERE file_id = ? AND status IN ('queued', 'running')", (file_id,)
            ).fetchone()
            if needed:
                raise _needed(file_id, needed["id"])
            rows.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self._unlink([file_id])

    def remove_files(self, file_ids: Iterable[str]) -> int:
        """Delete files as remove_file, all or none; returns how many there were. Those that are gone are no error."""
        removed = []
        with self._database.writing() as rows:
            for file_id in file_ids:
                needed = rows.execute(
                    "SELECT id FROM jobs WHERE file_id = ? AND status IN ('queued', 'running')", (file_id,)
                ).fetchone()
                if needed:
                    raise _needed(file_id, needed["id"])
                if rows.execute("DELETE FROM files WHERE id = ?", (file_id,)).rowcount:
                    removed.append(file_id)
        self._unlink(removed)
        for file_id in removed:
            if (self._files / file_id).exists():
                raise JobError(f"the file {self._files / file_id} cannot be deleted; mend its permissions, delete it")
        return len(removed)

    def _unlink(self, file_ids: Iterable[str]) -> None:
        """Delete the bytes of files that have no row any more; what stays is cleared away by the next who opens."""
        for file_id in file_ids:
            with suppress(OSError):
                (self._files / file_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _clear_leftovers(self) -> None:
        with self._database.writing() as rows:
            known = {row["id"] for row in rows.execute("SELECT id FROM files")}
            for entry in os.scandir(self._files):
                orphaned = _ID.fullmatch(entry.name) and entry.name not in known
                if orphaned or (_OWN_TEMPORARY.fullmatch(entry.name) and not _is_held(entry.path)):
                    os.unlink(entry.path)


def _needed(file_id: str, job_id: str) -> JobConflictError:
    return JobConflictError(f"the file {file_id} is needed by the job {job_id}; cancel it, or wait until it has ended")


def _write(descriptor: int, chunks: Iterable[bytes], max_bytes: int) -> tuple[int, str]:
    """Size and hash of what was written, on the disk when this returns."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise FileTooLargeError(f"expected a file of at most {max_bytes:,} bytes, got more; split it")
        digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)
    return size, digest.hexdigest()


def _check_room(rows: sqlite3.Connection, size_bytes: int, max_stored_bytes: int) -> None:
    """Raise FileTooLargeError where a file of that size finds no room beside those that are kept."""
    kept_bytes = rows.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]
    if kept_bytes + size_bytes > max_stored_bytes:
        raise FileTooLargeError(
            f"expected files of at most {max_stored_bytes:,} bytes together, got {kept_bytes:,} that are kept and "
            f"{size_bytes:,} more; delete those that no job needs any longer"
        )


def _is_held(path: str) -> bool:
    """Whether the process that writes the file is alive: its lock ends with it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _label(name: str) -> str:
    """The part of `name` that is shown: no directories, nothing that cannot be printed, not too long, never empty."""
    last = re.split(r"[/\\]", storable(name))[-1]
    return "".join(char for char in last if char.isprintable()).strip()[-_NAME_CHARS:] or "file"
