"""LooGLE: questions about long articles, with evidence in one place or in many (Li et al. 2023, arXiv 2311.04939)."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lift.documents.document import Document
from lift.evaluation.data_files import FieldFault, text_field, texts_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.record_format import (
    RecordDraft,
    RecordLine,
    add_questions,
    data_path,
    id_field,
    optional_text,
    parse_record,
    passages_field,
    read_objects,
    read_records,
)
from lift.evaluation.suites.suite import Reading, Suite

# The published 300 (short) and 500 (long dependency) leave room for explanations that a judge reads past; the reference
# answers are at most some 90 tokens long, nine in ten of the long dependency at most 64, and n-gram metrics count the
# rest of a long answer as wrong.
MAX_NEW_TOKENS = 64
ASKING = Asking(max_new_tokens=MAX_NEW_TOKENS, metrics=("f1", "contained", "rouge1", "rougeL", "meteor", "bleu"))


def read(reading: Reading) -> Iterator[Record]:
    """One record a document of the question tasks, shortdep_qa and longdep_qa.

    Reads all layouts that LooGLE was published in, line by line: one document a line with `qa_pairs`, as a list or as
    the text of one; one question a line with its document, gathered by text, which are yielded last; and our record
    format. Summaries and clozes are reported as faults. Raises DataError where the file cannot be read, or holds a
    fault that is not skipped.
    """
    gathered: dict[str, RecordDraft] = {}
    objects = read_objects(data_path(reading), reading.bad)
    yield from read_records(objects, partial(_parse, gathered=gathered))
    yield from (draft.record(ASKING) for draft in gathered.values())


def _parse(values: dict[str, Any], line: RecordLine, gathered: dict[str, RecordDraft]) -> list[Record]:
    if "questions" in values:
        return parse_record(values, line, ASKING)
    if "qa_pairs" in values:
        return _with_pairs(values, line)
    if "question" in values:
        _gather(values, line, gathered)
        return []
    raise FieldFault("qa_pairs", "is missing, and so are question and questions; expected a line of LooGLE")


def _with_pairs(values: Mapping[str, Any], line: RecordLine) -> list[Record]:
    record_id = id_field(values, "id", "", line.name)
    title = optional_text(values, "title", "") or record_id
    draft = RecordDraft(record_id, Document(title, _text(values), line.path.name))
    pairs = _pairs(values["qa_pairs"])
    add_questions(draft, {"qa_pairs": pairs}, "qa_pairs", partial(_question, record_id=record_id), line)
    return [draft.record(ASKING)] if draft.questions else []


def _pairs(value: Any) -> list[Any]:
    """The list of questions that `qa_pairs` is, or is the text of; the text is data and is never run."""
    if isinstance(value, str):
        if value.strip().lower() == "none":
            raise FieldFault(
                "qa_pairs", "expected questions and answers, got 'none'; the summaries of LooGLE have none"
            )
        value = _value_of(value)
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else "what is no list"
        raise FieldFault("qa_pairs", f"expected a list of at least one question with its answer, got {what}")
    return value


def _value_of(text: str) -> Any:
    """The JSON value or the Python literal that a text spells, None for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # the published files have Python's spelling
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unknown escapes within the texts
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def _question(values: Mapping[str, Any], path: str, index: int, record_id: str) -> Question:
    return Question(
        id_field(values, "id", path, f"{record_id}-{index}"),
        text_field(values, "Q", path),
        texts_field(values, "A", path),
        _evidence(values, "S", path),
        optional_text(values, "type", path),
    )


def _gather(values: Mapping[str, Any], line: RecordLine, gathered: dict[str, RecordDraft]) -> None:
    text = _text(values)
    draft = gathered.get(text)
    if draft is None:
        record_id = id_field(values, "doc_id", "", line.name)
        if any(record_id == other.id for other in gathered.values()):
            record_id = line.name  # each task counts its documents from 0
        draft = RecordDraft(record_id, Document(optional_text(values, "title", "") or record_id, text, line.path.name))
    question = Question(
        id_field(values, "id", "", f"{draft.id}-{len(draft.questions)}"),
        text_field(values, "question"),
        texts_field(values, "answer"),
        _evidence(values, "evidence", ""),
        optional_text(values, "type", "") or optional_text(values, "task", ""),
    )
    draft.add(question)
    gathered[text] = draft


def _text(values: Mapping[str, Any]) -> str:
    return text_field(values, "input" if "input" in values else "context")


def _evidence(values: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    """The passages of a list, of the text of a list, or of a plain text."""
    value = values.get(name)
    if isinstance(value, str) and value.strip().startswith("[") and isinstance(spelt := _value_of(value), list):
        return passages_field({name: spelt}, name, path)
    return passages_field(values, name, path)


SUITE = Suite(
    name="loogle",
    summary="LooGLE: questions about long articles, with short or long dependency",
    data=(
        "give shortdep_qa.jsonl or longdep_qa.jsonl of LooGLE (bigai-nlco/LooGLE), "
        "or a JSONL file in the record format of the suite qa"
    ),
    takes=frozenset({"data"}),
    read=read,
)
