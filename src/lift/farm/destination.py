"""Where the memories of a farm are put: a library in a directory that all machines see, or one on an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lift.errors import LibraryError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import Problem, StoredMemory
from lift.memories.object_library import ObjectLibrary, is_store_url


class Destination(Protocol):
    """The library as a farm needs it; see MemoryLibrary for what each method does and raises."""

    def names(self) -> list[str]:
        """The names of all memories."""

    def __contains__(self, name: object) -> bool:
        """Whether there is a memory of that name."""

    def __getitem__(self, name: str) -> StoredMemory:
        """The memory of that name."""

    def find(self, absorption_key: str, name: str | None = None) -> StoredMemory | None:
        """The memory that came of that absorption."""

    def adopt(self, memory: StoredMemory, name: str, *, replace: bool = False) -> StoredMemory:
        """Put a copy of a memory."""

    def verify(self, name: str | None = None) -> list[Problem]:
        """Problems of the files of one memory, or of all."""


def open_destination(place: str) -> Destination:
    """The library at a path or URL; raises UsageError for a URL that nothing opens, LibraryError for a file."""
    if is_store_url(place):
        return ObjectLibrary(place)
    return MemoryLibrary(Path(place.partition("://")[2] if "://" in place else place))


def check_place(destination: Destination, name: str, source: str, *, replace: bool) -> bool:
    """Whether a memory has that name already, which the new one of the same source is then to replace.

    Raises LibraryError where it is of another source, and, unless `replace`, of an earlier state of this one.
    """
    if name not in destination:
        return False
    made_of = destination[name].manifest.document.source
    if made_of != source:
        raise LibraryError(
            f"there is a memory named {name!r} already, of {made_of!r} and not of {source!r}; rename that memory"
        )
    if not replace:
        raise LibraryError(
            f"there is a memory named {name!r} already, of another state of {source!r} or made in another way; give "
            "--resume to put the new one in its place"
        )
    return True
