"""LongBench (Bai et al. 2024): sixteen tasks in English and five in Chinese, with their official prompts and metrics.

LongBench-E is read likewise: its files are called NAME_e.jsonl. The published way to generate stops samsum at a line
break; here its first line is scored, which is the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lift.documents.document import Document
from lift.errors import DataError, UsageError, nearest_hint
from lift.evaluation.data_files import Fault, FieldFault, read_lines, text_field, texts_field
from lift.evaluation.records import Question, Record
from lift.evaluation.suites.longbench_tasks import LABEL_METRIC, LONGBENCH_TASKS, LongBenchTask
from lift.evaluation.suites.suite import Reading, Suite

TASKS = {task.name: task for task in LONGBENCH_TASKS}
_EVEN_MARK = "_e"
_EVEN_LENGTHS = ((4000, "0-4k"), (8000, "4-8k"))
_LONGEST = "8k+"


def read(reading: Reading) -> Iterator[Record]:
    """One record a line, of the tasks that were asked for; in a directory the files of other tasks are not opened.

    Raises UsageError for an unknown task, DataError for data that cannot be read or has none of a task asked for; a bad
    line is reported to `reading.bad`. A line's field "dataset" says which task it is.
    """
    for name in reading.settings.tasks:
        if name not in TASKS:
            raise UsageError(
                f"expected tasks of longbench ({', '.join(TASKS)}), got {name!r}{nearest_hint(name, TASKS)}"
            )
    wanted = list(dict.fromkeys(reading.settings.tasks or TASKS))
    found = set()
    data = reading.settings.data or Path()
    for path in _files(data, wanted):
        known: set[str] = set()
        for number, line in read_lines(path, reading.bad):
            try:
                task, even = _task(line)
                if task.name in wanted:
                    found.add(task.name)
                    yield _record(path, number, line, task, even, known)
            except FieldFault as fault:
                reading.bad.report(Fault(path.name, number, fault.name, fault.what))
    if missing := [name for name in reading.settings.tasks if name not in found]:
        raise DataError(
            f"expected lines of the tasks {', '.join(missing)} in {data}, found none; "
            "leave these tasks out, or add their files NAME.jsonl"
        )


def _files(data: Path, wanted: Sequence[str]) -> list[Path]:
    if not data.is_dir():
        return [data]
    paths = [data / f"{name}{mark}.jsonl" for name in wanted for mark in ("", _EVEN_MARK)]
    if present := [path for path in paths if path.is_file()]:
        return present
    raise DataError(
        f"expected files NAME.jsonl of LongBench in {data} (NAME: {', '.join(wanted)}), found none of them; "
        "give the directory that holds them by --data"
    )


def _task(line: Mapping[str, Any]) -> tuple[LongBenchTask, bool]:
    """The task of a line, and whether it is one of LongBench-E."""
    dataset = text_field(line, "dataset")
    name = dataset.removesuffix(_EVEN_MARK)
    if name not in TASKS:
        raise FieldFault("dataset", f"expected a task of LongBench ({', '.join(TASKS)}), got {dataset!r}")
    return TASKS[name], name != dataset


def _record(
    path: Path, number: int, line: Mapping[str, Any], task: LongBenchTask, even: bool, known: set[str]
) -> Record:
    own = f"{path.stem}-{text_field(line, '_id')}"
    if own in known:
        raise FieldFault("_id", f"expected an id of its own, got {line['_id']!r} again")
    known.add(own)
    question = Question(
        own,
        _input(line, task),
        texts_field(line, "answers"),
        kind=f"{task.name}/{_length_class(line)}" if even or path.stem.endswith(_EVEN_MARK) else task.name,
        choices=_classes(line, task),
    )
    document = Document("", text_field(line, "context"), f"{path.name}, line {number}")  # the data has no titles
    return Record(own, document, (question,), task.asking)


def _input(line: Mapping[str, Any], task: LongBenchTask) -> str:
    """The text in "input"; the task's instruction where the task has none."""
    given = line.get("input")
    if task.instruction and isinstance(given, str) and not given.strip():
        return task.instruction
    return text_field(line, "input")


def _classes(line: Mapping[str, Any], task: LongBenchTask) -> tuple[str, ...]:
    if task.metric != LABEL_METRIC and line.get("all_classes") is None:
        return ()
    return texts_field(line, "all_classes")


def _length_class(line: Mapping[str, Any]) -> str:
    """The class of length in words that LongBench-E reports by."""
    length = line.get("length")
    if not isinstance(length, int):
        found = "is missing" if "length" not in line else f"expected a whole number, got {length!r}"
        raise FieldFault("length", found)
    return next((name for bound, name in _EVEN_LENGTHS if length < bound), _LONGEST)


SUITE = Suite(
    name="longbench",
    summary="LongBench, sixteen tasks in English and five in Chinese, with their own prompts and metrics",
    data="unpack data.zip of THUDM/LongBench (Hugging Face) and give its directory of NAME.jsonl files, or one file",
    takes=frozenset({"data", "tasks"}),
    read=read,
)
