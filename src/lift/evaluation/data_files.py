"""JSON data that others wrote: read a line at a time, and every fault named with its file, line and field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lift.errors import DataError

LONGEST_LINE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one line (or, in a file that is one JSON value, one place) of a data file."""

    file: str
    line: int
    field: str
    what: str

    def __str__(self) -> str:
        named = f", field {self.field!r}" if self.field else ""
        return f"{self.file}, line {self.line}{named}: {self.what}"


@dataclass
class BadData:
    """Where faults are reported: the first one raises DataError, unless `skip` is set; then all are kept."""

    skip: bool = False
    faults: list[Fault] = field(default_factory=list)

    def report(self, fault: Fault) -> None:
        """Keep the fault, or raise DataError."""
        self.faults.append(fault)
        if not self.skip:
            raise DataError(f"{fault}; mend it, or go on without it by --skip-bad")


class FieldFault(Exception):
    """A field that is missing or not what it should be; whoever reads the line turns it into a Fault."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name
        self.what = what


def read_lines(path: Path, bad: BadData) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers, from 1; empty lines are passed over.

    A line that is too long, not UTF-8, not JSON or no object is reported to `bad`. Raises DataError where the file
    cannot be read, or holds no line at all.
    """
    number = 0
    try:
        with path.open("rb") as stream:
            while line := stream.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(LONGEST_LINE_BYTES)
                    what = f"expected a line of at most {LONGEST_LINE_BYTES // 1024**2} MB, got a longer one"
                    bad.report(Fault(path.name, number, "", what))
                elif line.strip():
                    value = _parse(line, path.name, number, bad)
                    if value is not None:
                        yield number, value
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path given by --data") from None
    if number == 0:
        raise DataError(f"{path} is empty; expected one JSON object a line")


def _parse(line: bytes, name: str, number: int, bad: BadData) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad.report(Fault(name, number, "", f"expected UTF-8, got byte {line[error.start]:#04x} at {error.start}"))
    except (json.JSONDecodeError, RecursionError) as error:
        ended = "" if line.endswith(b"\n") else "; the line has no end, so the file may be truncated"
        bad.report(Fault(name, number, "", f"expected JSON ({getattr(error, 'msg', 'nested too deeply')}){ended}"))
    else:
        if isinstance(value, dict):
            return value
        bad.report(Fault(name, number, "", f"expected an object, got {type(value).__name__}"))
    return None


def text_field(values: Mapping[str, Any], name: str, path: str = "") -> str:
    """The text in `name`, not blank; raises FieldFault (named `path` + `name`)."""
    value = _present(values, name, path)
    if not isinstance(value, str):
        raise FieldFault(path + name, f"expected text, got {type(value).__name__}")
    if not value.strip():
        raise FieldFault(path + name, "expected text, got none")
    return value


def texts_field(values: Mapping[str, Any], name: str, path: str = "", least: int = 1) -> tuple[str, ...]:
    """The texts in `name`, at least `least` and none blank; a lone text counts as a list of one. Raises FieldFault."""
    value = _present(values, name, path)
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise FieldFault(path + name, f"expected a list of texts, got {type(value).__name__}")
    if len(items) < least or not all(item.strip() for item in items):
        wanted = "at least one text and none blank" if least else "texts, none of them blank"
        raise FieldFault(path + name, f"expected {wanted}, got an empty one")
    return tuple(items)


def _present(values: Mapping[str, Any], name: str, path: str) -> Any:
    if name not in values:
        raise FieldFault(path + name, "is missing")
    return values[name]
