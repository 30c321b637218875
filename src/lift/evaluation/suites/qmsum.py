"""QMSum: summaries of meetings as a question asks for them (Zhong et al. 2021, arXiv 2104.05938)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from lift.documents.document import Document
from lift.errors import DataError
from lift.evaluation.data_files import FieldFault, text_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.record_format import (
    RecordDraft,
    RecordLine,
    add_questions,
    data_path,
    list_field,
    optional_text,
    parse_record,
    read_objects,
    read_records,
    read_value,
)
from lift.evaluation.suites.suite import Reading, Suite

ASKING = Asking(max_new_tokens=128, metrics=("rouge1", "rouge2", "rougeL", "f1"))
_LISTS = {"general": "general_query_list", "specific": "specific_query_list"}


def read(reading: Reading) -> Iterator[Record]:
    """One record a meeting: "speaker: content", one turn a line.

    Reads the official layout, a JSONL file of meetings or a directory with one .json file a meeting, and our record
    format. The evidence of a specific question is its turns, one passage a span; a general question, about the whole
    meeting, has none. Raises DataError where nothing can be read, or for a fault that is not skipped.
    """
    path = data_path(reading)
    objects = read_objects(path, reading.bad)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise DataError(
                f"expected .json files, one a meeting, in {path}, found none; check the path given by --data"
            )
        objects = chain.from_iterable(read_value(file, reading.bad) for file in files)
    yield from read_records(objects, _parse)


def _parse(values: dict[str, Any], line: RecordLine) -> list[Record]:
    if "meeting_transcripts" not in values:
        if "context" in values:
            return parse_record(values, line, ASKING)
        raise FieldFault("meeting_transcripts", "is missing, and so is context; expected a meeting of QMSum")
    turns = [_turn(turn, index) for index, turn in enumerate(list_field(values, "meeting_transcripts", "", least=1))]
    draft = RecordDraft(line.name, Document(line.name, "\n".join(turns), line.path.name))
    if not any(values.get(name) for name in _LISTS.values()):
        raise FieldFault(
            "specific_query_list", "expected at least one question here or in general_query_list, got none"
        )
    for kind, name in _LISTS.items():
        if name in values:
            add_questions(draft, values, name, partial(_question, record_id=draft.id, kind=kind, turns=turns), line)
    return [draft.record(ASKING)] if draft.questions else []


def _turn(turn: Any, index: int) -> str:
    place = f"meeting_transcripts[{index}]"
    if not isinstance(turn, dict):
        raise FieldFault(place, f"expected an object, got {type(turn).__name__}")
    if "content" not in turn:
        raise FieldFault(f"{place}.content", "is missing")
    # a turn is one line, and may be empty: the published meetings have such turns
    content = " ".join(optional_text(turn, "content", f"{place}.").splitlines())
    return f"{text_field(turn, 'speaker', f'{place}.')}: {content}"


def _question(
    values: Mapping[str, Any], path: str, index: int, record_id: str, kind: str, turns: Sequence[str]
) -> Question:
    return Question(
        f"{record_id}-{kind}{index}",
        text_field(values, "query", path),
        (text_field(values, "answer", path),),
        tuple(_passages(values, path, turns)),
        kind,
    )


def _passages(values: Mapping[str, Any], path: str, turns: Sequence[str]) -> Iterator[str]:
    """The turns of each span [first, last], both within it."""
    spans = list_field(values, "relevant_text_span", path) if "relevant_text_span" in values else []
    for index, span in enumerate(spans):
        try:
            first, last = (int(turn) for turn in span)
        except (TypeError, ValueError):
            first, last = 1, 0
        if not 0 <= first <= last < len(turns):
            what = (
                f"expected two numbers of turns, 0 to {len(turns) - 1}, the first not behind the second, got {span!r}"
            )
            raise FieldFault(f"{path}relevant_text_span[{index}]", what)
        yield "\n".join(turns[first : last + 1])


SUITE = Suite(
    name="qmsum",
    summary="QMSum: summaries of meetings, of all or of what a question asks for",
    data=(
        "give data/ALL/jsonl/test.jsonl or the directory data/ALL/test of QMSum (Yale-LILY/QMSum), "
        "or a JSONL file in the record format of the suite qa"
    ),
    takes=frozenset({"data"}),
    read=read,
)
