"""Lines kept on disk and read back by their number: what is too much for memory, 8 bytes of it each."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from array import array
from collections.abc import Iterator

from lift.errors import GenerationError


class LineFile:
    """A temporary file of lines that goes away with this object; not for more than one thread at a time.

    Raises GenerationError where the disk refuses.
    """

    def __init__(self) -> None:
        self._ends = array("Q")
        with _disk_errors():
            self._file = tempfile.TemporaryFile(prefix="lift-")  # noqa: SIM115 - open as long as this object lives
        self._at_end = True
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:
        """Raises IndexError for a number that is not one of 0..len-1."""
        if not 0 <= number < len(self._ends):
            raise IndexError(f"expected a line of 0 to {len(self._ends) - 1}, got {number}")
        start = self._ends[number - 1] if number else 0
        with _disk_errors():
            self._at_end = False
            self._file.seek(start)
            return self._file.read(self._ends[number] - start)

    def __iter__(self) -> Iterator[bytes]:
        for number in range(len(self)):
            yield self[number]

    def append(self, line: bytes) -> None:
        """Put any bytes behind the last line."""
        with _disk_errors():
            if not self._at_end:
                self._file.seek(0, 2)
                self._at_end = True
            self._file.write(line)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GenerationError(
            f"expected room for the tasks of the document in {tempfile.gettempdir()}, got {error.strerror or error}; "
            "make room there, or set TMPDIR to another directory"
        ) from error
