"""The files of one evaluation: what was asked and answered, what it cost, what it harmed, and how it was run.

results.jsonl    one line an answer (the contract of `lift evaluate`)
costs.jsonl      one line a document and method
harms.jsonl      one line a memory
run.json         what was run: suites, methods, model, machine, faults of the data
break_even.json  both ways run for the predicted number of questions, where that was asked for
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lift.errors import DataError

RESULTS_FILE = "results.jsonl"
COSTS_FILE = "costs.jsonl"
HARMS_FILE = "harms.jsonl"
RUN_FILE = "run.json"
BREAK_EVEN_FILE = "break_even.json"
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class RunData:
    """Everything that a report is made of. Row i of `results` is line i + 1 of results.jsonl."""

    directory: Path
    description: Mapping[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    harms: list[dict[str, Any]] = field(default_factory=list)
    break_even: Mapping[str, Any] | None = None


def load_run(directory: Path) -> RunData:
    """Read the files of an evaluation; raises DataError where there is none, or a file is damaged."""
    if not (directory / RESULTS_FILE).is_file():
        raise DataError(
            f"expected an evaluation in {directory}, found no {RESULTS_FILE} there; run lift evaluate first"
        )
    return RunData(
        directory,
        read_value(directory / RUN_FILE) or {},
        read_rows(directory / RESULTS_FILE),
        read_rows(directory / COSTS_FILE),
        read_rows(directory / HARMS_FILE),
        read_value(directory / BREAK_EVEN_FILE),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of `path`; a last line that was cut off by a crash is left out, any other damage raises DataError."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    whole = lines[:-1]  # what stands behind the last line's end is empty, or was being written
    rows = []
    for number, line in enumerate(whole, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number} is damaged ({error}); remove the line, then run again") from None
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put `rows` in the place of `path`, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_value(path: Path, value: Mapping[str, Any]) -> None:
    """Put one JSON object in the place of `path`, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to `path`, on the disk when this returns; a half line left by a crash is removed first."""
    with path.open("ab+") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())


def read_value(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, None where there is none; raises DataError for a damaged one."""
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove it, then run again") from None
    return value


def write_text(path: Path, text: str) -> None:
    """Put `text` in the place of `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
