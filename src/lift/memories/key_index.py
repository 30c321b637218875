"""Which memories came of an absorption, without opening all of them: one small file a key, a name a line.

The index is only a cache. What it says is verified by the reader, and a key that it does not know counts as absent
only while the library's directory has not changed since the index was last whole (its modification time is kept);
so memories that somebody copied in, or a crash between two writes, cost one new scan and never a wrong answer.

A key names a file here and beside a checkpoint, and it may come from a manifest that a stranger wrote: nothing but a
plain key is ever made a path of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lift.errors import LibraryError

KEY_PATTERN = r"^[0-9A-Za-z_-]{8,128}$"
_KEY = re.compile(r"[0-9A-Za-z_-]{8,128}")
_DIRECTORY = ".by-key"
_WHOLE = ".whole"
# Names of at most 200 bytes; a file of more is not one of ours.
_MAX_ENTRY_BYTES = 1 << 20


def check_key(absorption_key: str) -> None:
    """Raise LibraryError unless `absorption_key` is a plain word, which can leave no directory."""
    if not _KEY.fullmatch(absorption_key):
        raise LibraryError(
            f"expected an absorption key of 8 to 128 letters, digits, '_' or '-', got {absorption_key[:200]!r}; "
            "use a hexadecimal hash"
        )


def is_key(text: str) -> bool:
    """Whether check_key takes it."""
    return bool(_KEY.fullmatch(text))


class KeyIndex:
    """The index of the library at `root`. Writing methods are for the holder of the library's lock.

    All methods raise LibraryError for what is no plain key; those that write raise OSError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / _DIRECTORY

    def get(self, key: str) -> tuple[str, ...]:
        """The names that are recorded under `key`, to be verified."""
        check_key(key)
        try:
            with (self._directory / key).open("rb") as stream:
                return tuple(stream.read(_MAX_ENTRY_BYTES).decode("utf-8").split("\n"))
        except (OSError, UnicodeDecodeError):
            return ()

    def is_whole(self) -> bool:
        """Whether a key that get does not know is known to be absent."""
        try:
            return int((self._directory / _WHOLE).read_bytes()) == self._root.stat().st_mtime_ns
        except (OSError, ValueError):
            return False

    def add(self, key: str, name: str) -> None:
        """Record that `name` came of `key`, behind those that did before."""
        known = self.get(key)
        self._directory.mkdir(exist_ok=True)
        if name not in known:
            self._write(key, [*known, name])

    def remove(self, key: str, name: str) -> None:
        """Record that `name` is not there any more, or came of another key; a key without a name goes as well."""
        known = self.get(key)
        rest = [other for other in known if other != name]
        if rest and len(rest) < len(known):
            self._write(key, rest)
        elif not rest:
            (self._directory / key).unlink(missing_ok=True)

    def remove_name(self, name: str) -> None:
        """Record that `name` is not there any more, whatever it came of."""
        for key in self._keys():
            if name in self.get(key):
                self.remove(key, name)

    def mark_whole(self) -> None:
        """State that every memory that the library's directory now holds is recorded."""
        with suppress(OSError):
            self._write(_WHOLE, [str(self._root.stat().st_mtime_ns)])

    def replace_all(self, names: Mapping[str, Sequence[str]]) -> None:
        """Make the index hold these keys and names, and no others."""
        for key in names:
            check_key(key)
        self._directory.mkdir(exist_ok=True)
        # what is being copied in just now changes the library's directory no more when it is whole
        (self._directory / _WHOLE).unlink(missing_ok=True)
        known = self._keys()
        for key in known - set(names):
            (self._directory / key).unlink()
        for key, came_of_it in names.items():
            if set(self.get(key)) != set(came_of_it):
                self._write(key, came_of_it)

    def _keys(self) -> set[str]:
        with suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self._directory) if is_key(entry.name)}
        return set()

    def _write(self, key: str, lines: Sequence[str]) -> None:
        fresh = self._directory / ".fresh"
        fresh.write_text("\n".join(lines), "utf-8")
        os.replace(fresh, self._directory / key)
