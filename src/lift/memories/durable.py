"""Writes that survive a crash: nothing counts as written until file and directory are on the disk itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


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
