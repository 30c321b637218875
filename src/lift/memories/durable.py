"""Writes that survive a crash, reads that follow no link, and what a disk that refuses is called in a sentence.

Nothing counts as written until file and directory are on the disk itself. What is read may lie in a directory that a
stranger has made: a link in it, a pipe, or a file of another size than stated is never read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from lift.errors import LibraryError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


class ForeignFileError(OSError):
    """A file is a link, a pipe or a device, or has more bytes than are read."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def write_file(path: Path, content: bytes) -> None:
    """Create `path` with `content`, on the disk when this returns; raises OSError, FileExistsError among others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_directory(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Create the directory `path` with `files` (relative path, content), all on the disk when this returns."""
    os.mkdir(path)
    directories = [path]
    for relative, content in files:
        parent = (path / relative).parent
        if parent not in directories:
            os.mkdir(parent)
            directories.append(parent)
        write_file(path / relative, content)
    for directory in reversed(directories):
        sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Put the names in the directory `path` on the disk: without it a rename can be undone by a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_inside(directory: Path, relative: str, most_bytes: int) -> bytes:
    """The bytes of the file `relative` in `directory`, of which nothing below `directory` is a link.

    Raises ForeignFileError where it is none to be read, or has more than `most_bytes`, and OSError.
    """
    with open_inside(directory, relative) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes > most_bytes:
            raise ForeignFileError(directory / relative, f"{size_bytes:,} bytes, more than {most_bytes:,}")
        # what grows while it is read is cut, and its hash then tells
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(size_bytes)


@contextlib.contextmanager
def open_inside(directory: Path, relative: str) -> Iterator[int]:
    """A descriptor of the regular file `relative` in `directory`, for reading; raises as read_inside."""
    *folders, name = Path(relative).parts
    descriptors = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for folder in folders:
            descriptors.append(_open_below(descriptors[-1], folder, directory / relative, os.O_DIRECTORY))
        # a pipe would be waited for, perhaps for ever
        descriptors.append(_open_below(descriptors[-1], name, directory / relative, os.O_NONBLOCK))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            raise ForeignFileError(directory / relative, "no regular file")
        yield descriptors[-1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _open_below(parent: int, name: str, path: Path, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP or (
            error.errno == errno.ENOTDIR and stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode)
        ):
            raise ForeignFileError(path, "a symbolic link") from None
        raise


@contextlib.contextmanager
def disk_errors(action: str, root: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one sentence: a LibraryError that `action` cannot be done."""
    try:
        yield
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        if error.errno in _DISK_FULL:
            advice = "make room on its disk, then try again"
        elif error.errno in _NO_ACCESS:
            advice = "change its permissions, or choose another library with --library or LIFT_HOME"
        elif error.errno == errno.ENOTDIR:
            advice = "a part of its path is a file; choose another library with --library or LIFT_HOME"
        else:
            advice = "check its disk, then try again"
        raise LibraryError(f"cannot {action} the library {root} ({said}): {advice}") from error
