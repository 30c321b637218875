"""The rows of a memory's files, judged once when they are read: types, ranges, and that they belong to its text.

They may come from a stranger, and everything behind this page takes them as they are: an index is used as an index, a
number as a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from lift.documents.document import Place
from lift.memories.manifest import Count, DocumentRecord, Sizes, first_problem
from lift.tasks.task import Task

_Text = Annotated[str, StringConstraints(max_length=1_000_000)]
_Key = Annotated[str, StringConstraints(max_length=200)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_MOST_DEPTH = 20


class _Row(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)


class _PlaceRow(_Row):
    start: Count
    page: Count | None = None
    heading: _Text | None = None


class _TaskRow(_Row):
    question: _Text
    answer: _Text
    evidence: Annotated[list[Count], Field(min_length=1, max_length=10_000)]
    origin: _Text
    weight: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 1.0
    held_out: bool = False


class _ProbeRow(_Row):
    sentence: Count
    question: _Text
    expected: _Text
    answer: _Text
    recalled: bool


# A step of a training here, or the numbers of one at an endpoint under the endpoint's own names.
_StepRow = Annotated[
    dict[_Key, bool | int | _Number | Annotated[str, StringConstraints(max_length=1_000)] | None], Field(max_length=100)
]
_steps: TypeAdapter[dict[str, Any]] = TypeAdapter(_StepRow)
_Read = TypeVar("_Read")


def read_text(content: bytes, record: DocumentRecord) -> str:
    """The text of a memory; raises ValueError where it is none, or ends before its parts begin."""
    text = content.decode("utf-8")
    if record.parts and record.parts[-1].start > len(text):
        raise ValueError("a part begins behind the end of the text")
    return text


def read_places(content: bytes, text_chars: int) -> tuple[Place, ...]:
    """The places of a text of so many characters; raises ValueError for a row that is none of it."""
    rows = list(_rows(content, _PlaceRow.model_validate_json))
    starts = [row.start for row in rows]
    if any(later < earlier for earlier, later in pairwise(starts)):
        raise ValueError("its rows are not in the order of the text")
    if starts and starts[-1] > text_chars:
        raise ValueError("a place begins behind the end of the text")
    return tuple(Place(row.start, row.page, row.heading) for row in rows)


def read_tasks(content: bytes, sizes: Sizes) -> list[Task]:
    """The tasks of a memory; raises ValueError for a row that is none, or a sentence that its text has not."""
    found = []
    for row in _rows(content, _TaskRow.model_validate_json):
        if max(row.evidence) >= sizes.sentences:
            raise ValueError(f"a task is about sentence {max(row.evidence)} of {sizes.sentences}")
        found.append(Task(row.question, row.answer, tuple(row.evidence), row.origin, row.weight, row.held_out))
    return found


def read_probes(content: bytes, sizes: Sizes) -> list[dict[str, Any]]:
    """The probes of a memory, one row each; raises as read_tasks."""
    found = []
    for row in _rows(content, _ProbeRow.model_validate_json):
        if row.sentence >= sizes.sentences:
            raise ValueError(f"a probe is about sentence {row.sentence} of {sizes.sentences}")
        found.append(row.model_dump())
    return found


def read_steps(content: bytes) -> list[dict[str, Any]]:
    """The steps of a training, one row each; raises ValueError for a row that is none."""
    return list(_rows(content, lambda line: _steps.validate_json(line, strict=True)))


def read_adapter_config(content: bytes) -> dict[str, Any]:
    """The content of adapter_config.json: JSON of plain values; raises ValueError for anything else."""
    try:
        config = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object")
    _check_plain(config, _MOST_DEPTH)
    return config


def _check_plain(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    inner: Iterable[Any] = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        _check_plain(each, depth - 1)


def _rows(content: bytes, read: Callable[[bytes], _Read]) -> Iterator[_Read]:
    for number, line in enumerate(_lines(content), 1):
        try:
            yield read(line)
        except ValidationError as error:
            raise ValueError(f"row {number}: {first_problem(error)}") from None


def _lines(content: bytes) -> Sequence[bytes]:
    # not splitlines: JSON leaves line separators such as U+2028 as they are
    return [line for line in content.split(b"\n") if line]
