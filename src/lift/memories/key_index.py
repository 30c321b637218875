"""Which memory came of an absorption, without opening all of them: one small file a key.

The index is only a cache. What it says is verified by the reader, and a key that it does not know counts as absent
only while the library's directory has not changed since the index was last whole (its modification time is kept);
so memories that somebody copied in, or a crash between two writes, cost one new scan and never a wrong answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_DIRECTORY = ".by-key"
_WHOLE = ".whole"


class KeyIndex:
    """The index of the library at `root`. Writing methods are for the holder of the library's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / _DIRECTORY

    def get(self, key: str) -> str | None:
        """The name that was last recorded under `key`, to be verified, or None."""
        try:
            return (self._directory / key).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def is_whole(self) -> bool:
        """Whether a key that get does not know is known to be absent."""
        try:
            return int((self._directory / _WHOLE).read_bytes()) == self._root.stat().st_mtime_ns
        except (OSError, ValueError):
            return False

    def add(self, key: str, name: str) -> None:
        """Record that `name` came of `key`; raises OSError."""
        self._directory.mkdir(exist_ok=True)
        self._write(key, name)

    def mark_whole(self) -> None:
        """State that every memory that the library's directory now holds is recorded."""
        with suppress(OSError):
            self._write(_WHOLE, str(self._root.stat().st_mtime_ns))

    def replace_all(self, names: Mapping[str, str]) -> None:
        """Make the index hold these keys and names, and no others; raises OSError."""
        self._directory.mkdir(exist_ok=True)
        known = {entry.name for entry in os.scandir(self._directory)}
        for key in known - set(names):
            (self._directory / key).unlink()
        for key, name in names.items():
            if key not in known or self.get(key) != name:
                self._write(key, name)

    def _write(self, key: str, content: str) -> None:
        fresh = self._directory / ".fresh"
        fresh.write_text(content, "utf-8")
        os.replace(fresh, self._directory / key)
