"""A library's memories as one file, and back: a tar archive that any tar reads, with the hash of every byte.

    lift-backup.json                   format version, when it was made, how many memories
    memories/NAME/...                  each memory's files, memory.json first
    SHA256SUMS                         the hash of each of these, for `sha256sum --check`
    sha256:HASH                        behind the archive's end, where tar stops reading: of all bytes before it

A backup may come from a stranger: nothing but regular files of the names that a memory has is taken from it, and what
was taken is judged as any memory is. A memory that is replaced while it is read is read again, so that a backup needs
no lock, and each memory in it is one that was there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lift.errors import LibraryError
from lift.memories.durable import sync_directory, write_file
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, most_bytes
from lift.memories.memory_names import is_valid_name

BACKUP_VERSION = 1
_ABOUT = "lift-backup.json"
_SUMS = "SHA256SUMS"
_FOLDER = "memories"
_SEAL = re.compile(rb"sha256:([0-9a-f]{64})\n")
_SEAL_BYTES = len("sha256:") + 64 + len("\n")
_MAX_ABOUT_BYTES = 1 << 16
_MAX_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
# what a file system says that has no hard links
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Backup:
    """A backup that was written: the memories in it, and those left out, each with the reason."""

    file: Path
    memories: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    size_bytes: int


def write_backup(library: MemoryLibrary, file: Path) -> Backup:
    """Write all memories of `library` to the new `file`, on the disk when this returns; other processes may go on.

    Damaged memories are left out, and said so. Unfinished work and jobs are no part of it. Raises LibraryError where
    `file` is there already, where there is nothing to keep, or where the disk refuses; nothing is left then.
    """
    file = file.expanduser().absolute()
    if file.exists():
        raise LibraryError(f"expected a new file for the backup, got {file}, which is there already; choose another")
    names = library.names()
    if not names:
        raise LibraryError(f"expected a library with memories, got {library.root}, which has none; see --library")
    temporary = file.with_name(f".lift-backup-{secrets.token_hex(8)}")
    kept: list[str] = []
    left_out: list[tuple[str, str]] = []
    try:
        with _refusals(f"cannot write the backup {file}"):
            try:
                with temporary.open("xb") as stream:
                    _write_archive(stream, library, names, kept, left_out)
                    stream.flush()
                    os.fsync(stream.fileno())
                size_bytes = temporary.stat().st_size
                _put_in_place(temporary, file)
                sync_directory(file.parent)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
    except tarfile.TarError as error:
        raise LibraryError(f"cannot write the backup {file} ({error}); please report it") from error
    return Backup(file, tuple(kept), tuple(left_out), size_bytes)


def restore_backup(library: MemoryLibrary, file: Path) -> list[str]:
    """Put all memories of the backup `file` into `library`: all of them or none; returns their names.

    Raises LibraryError for a file that is damaged anywhere, that holds anything but memories, or that is a newer
    Lift's, and where a memory of one of its names is there already.
    """
    if file.exists() and not file.is_file():
        raise LibraryError(
            f"expected the file of a backup, got {file}, which is none; name what lift backup has written"
        )
    with _refusals(f"cannot read the backup {file}"), file.open("rb") as stream:
        end = _check_seal(stream, file)

        def fill(directory: Path) -> None:
            stream.seek(0)
            with _archive_errors(file), _opened(_Part(stream, end)) as archive:
                _extract(archive, directory, file)

        return library.put_all(fill)


class _Entry(tarfile.TarInfo):
    """An entry whose header names no more than is ever written: tarfile reads long names at once, of any size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if not entry.isreg() and entry.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {entry.size:,} bytes")
        return entry


def _opened(stream: _Part) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r:", tarinfo=_Entry)


def _write_archive(
    stream: IO[bytes], library: MemoryLibrary, names: list[str], kept: list[str], left_out: list[tuple[str, str]]
) -> None:
    digest = _Digest(stream)
    sums: list[str] = []

    def add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = len(content), 0o644, int(made_at.timestamp())
        archive.addfile(entry, io.BytesIO(content))
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {path}\n")

    made_at = datetime.now(UTC).replace(microsecond=0)
    about = {"format_version": BACKUP_VERSION, "made_at": made_at.isoformat(), "memories_at_most": len(names)}
    with tarfile.open(fileobj=digest, mode="w", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        add(archive, _ABOUT, (json.dumps(about, indent=2) + "\n").encode())
        for name in names:
            files = _whole_memory(library, name, left_out)
            if files:
                kept.append(name)
            for path, content in sorted(files.items(), key=lambda each: each[0] != MANIFEST_FILE):
                add(archive, f"{_FOLDER}/{name}/{path}", content)
        if not kept:
            raise LibraryError(f"expected a memory that is whole in {library.root}, found none; see lift verify")
        add(archive, _SUMS, "".join(sums).encode("utf-8"))
    stream.write(f"sha256:{digest.hexdigest()}\n".encode())


def _whole_memory(library: MemoryLibrary, name: str, left_out: list[tuple[str, str]]) -> dict[str, bytes]:
    """The files of the memory, all of one moment; empty where it was removed, or is damaged."""
    try:
        return library.read_whole(name)
    except LibraryError as error:
        left_out.append((name, str(error)))
        return {}


def _put_in_place(temporary: Path, file: Path) -> None:
    """Give the file its name, which nothing else has; raises FileExistsError."""
    try:
        os.link(temporary, file)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file)) from None
        os.rename(temporary, file)


def _check_seal(stream: IO[bytes], file: Path) -> int:
    """Where the archive ends; raises LibraryError unless the hash behind it is that of all its bytes."""
    end = stream.seek(0, os.SEEK_END) - _SEAL_BYTES
    sealed = None
    if end > 0:
        stream.seek(end)
        sealed = _SEAL.fullmatch(stream.read(_SEAL_BYTES))
    if sealed is None:
        raise LibraryError(
            f"expected a whole backup in {file}, got a file without a hash at its end; it was cut, or is none of Lift's"
        )
    stream.seek(0)
    digest, left = hashlib.sha256(), end
    while left and (block := stream.read(min(_BLOCK_BYTES, left))):
        digest.update(block)
        left -= len(block)
    if left or digest.hexdigest().encode() != sealed[1]:
        raise LibraryError(
            f"the backup {file} is damaged (it does not have the content that its hash states), and nothing was taken "
            "from it; use another copy"
        )
    return end


def _extract(archive: tarfile.TarFile, directory: Path, file: Path) -> None:
    about = False
    for entry in archive:
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.sparse is not None:
            raise _foreign(file, entry.name)
        if entry.name == _ABOUT and not about:
            _check_version(_content(archive, entry, _MAX_ABOUT_BYTES, file), file)
            about = True
        elif entry.name == _SUMS:
            continue  # for people: every byte is checked already
        elif about:
            folder, _, rest = entry.name.partition("/")
            name, _, path = rest.partition("/")
            most = MAX_MANIFEST_BYTES if path == MANIFEST_FILE else most_bytes(path)
            if folder != _FOLDER or not is_valid_name(name) or most is None:
                raise _foreign(file, entry.name)
            place = directory / name / path
            for parent in (directory / name, place.parent):
                if not parent.exists():
                    os.mkdir(parent)
            if place.exists():
                raise _foreign(file, entry.name)
            write_file(place, _content(archive, entry, most, file))
        else:
            raise _foreign(file, entry.name)
    if not about:
        raise _foreign(file, "nothing")
    for folders in [*directory.glob("*/*/"), *directory.glob("*/")]:
        sync_directory(folders)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo, most: int, file: Path) -> bytes:
    stream = archive.extractfile(entry) if entry.size <= most else None
    if stream is None:
        raise LibraryError(f"expected at most {most:,} bytes of {entry.name!r} in {file}, got {entry.size:,}")
    return stream.read()


def _check_version(content: bytes, file: Path) -> None:
    try:
        found = json.loads(content)["format_version"]
        if not isinstance(found, int) or found < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _foreign(file, _ABOUT) from None
    if found != BACKUP_VERSION:
        raise LibraryError(
            f"{file} has format version {found}, this Lift reads {BACKUP_VERSION}; use the Lift that wrote it"
        )


def _foreign(file: Path, entry: str) -> LibraryError:
    return LibraryError(
        f"expected nothing but memories in the backup {file}, got {entry[:200]!r}; nothing was taken from it"
    )


@contextlib.contextmanager
def _refusals(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise LibraryError(f"{action} ({said}); check the path, its disk and its permissions") from error


@contextlib.contextmanager
def _archive_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise LibraryError(f"expected a backup of Lift in {file}, got no tar archive ({error}); use another") from error


class _Digest:
    """A stream for tarfile that hashes what goes into it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.tell: Callable[[], int] = stream.tell

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return self._stream.write(content)

    def hexdigest(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


class _Part(io.RawIOBase):
    """The first `size` bytes of a stream, for tarfile."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            return self._stream.seek(self._size + offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(max(min(len(buffer), self._size - self._stream.tell()), 0))
        buffer[: len(content)] = content
        return len(content)
