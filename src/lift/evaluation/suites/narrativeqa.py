"""NarrativeQA: questions about whole books and film scripts (Kočiský et al. 2018, arXiv 1712.07040)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lift.documents import document_from_text, read_document
from lift.documents.blocks import assemble
from lift.documents.document import Document
from lift.errors import DataError, DocumentError
from lift.evaluation.data_files import BadData, Fault, FieldFault, text_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.record_format import (
    RecordDraft,
    RecordLine,
    data_path,
    id_field,
    list_field,
    object_field,
    optional_text,
    read_objects,
)
from lift.evaluation.suites.suite import Reading, Suite

ASKING = Asking(max_new_tokens=32, metrics=("rougeL", "f1", "contained", "meteor"))
DOCUMENTS_FILE = "documents.csv"
QUESTIONS_FILE = "qaps.csv"
SUMMARIES_FILE = "third_party/wikipedia/summaries.csv"
_MARKUP_STARTS = ("<!doctype html", "<html", "<head", "<body")


def read(reading: Reading) -> Iterator[Record]:
    """One record a story, with its markup taken off; its summary where there is no text of it, as `source` then says.

    Reads a JSONL file with one question a line, {"document", "question", "answers"}, gathered by the document's id; or
    a directory with documents.csv, qaps.csv, the stories as tmp/ID.content and the summaries as
    third_party/wikipedia/summaries.csv. All sets are read, in the order of the file. Raises DataError where a file
    cannot be read, or holds a fault that is not skipped.
    """
    path = data_path(reading)
    if path.is_dir():
        yield from _read_directory(path, reading.bad)
        return
    gathered: dict[str, tuple[RecordDraft, RecordLine]] = {}
    for values, line in read_objects(path, reading.bad):
        try:
            _gather(values, line, gathered)
        except FieldFault as fault:
            line.report(fault)
    for draft, line in gathered.values():
        try:
            draft.document = _readable(draft.document)
        except DocumentError as error:
            line.report(FieldFault("document.text", f"expected a text ({error})"))
        else:
            yield draft.record(ASKING)


def _gather(values: Mapping[str, Any], line: RecordLine, gathered: dict[str, tuple[RecordDraft, RecordLine]]) -> None:
    story = object_field(values, "document", "")
    story_id = id_field(story, "id", "document.", "")
    if not story_id:
        raise FieldFault("document.id", "is missing")
    summary = object_field(story, "summary", "document.") if "summary" in story else {}
    text, source = optional_text(story, "text", "document."), line.path.name
    if not text.strip():
        text, source = optional_text(summary, "text", "document.summary."), f"{source}, summary"
    if not text.strip():
        raise FieldFault("document.text", "expected a text here or in document.summary.text, got none")
    title = optional_text(summary, "title", "document.summary.") or story_id
    draft, first = gathered.get(story_id) or (RecordDraft(story_id, Document(title, text, source)), line)
    if text != draft.document.text:
        raise FieldFault("document.text", f"expected the text that {story_id} has in line {first.number}, got another")
    question = text_field(object_field(values, "question", ""), "text", "question.")
    answers = []
    for index, answer in enumerate(list_field(values, "answers", "", least=1)):
        if not isinstance(answer, dict):
            raise FieldFault(f"answers[{index}]", f"expected an object, got {type(answer).__name__}")
        answers.append(text_field(answer, "text", f"answers[{index}]."))
    draft.add(_question(draft, question, answers, optional_text(story, "kind", "document.")))
    gathered[story_id] = draft, first


def _question(draft: RecordDraft, text: str, answers: list[str], kind: str) -> Question:
    return Question(f"{draft.id}-{len(draft.questions)}", text, tuple(dict.fromkeys(answers)), kind=kind)


def _readable(document: Document) -> Document:
    """The reading matter of a story as it was downloaded: film scripts are web pages."""
    if not document.text.lstrip().lower().startswith(_MARKUP_STARTS):
        return document_from_text(document.text, document.title, document.source)
    from lift.documents.html import read_html

    return assemble(document.title, document.source, read_html(document.text.encode("utf-8"), document.source).blocks)


def _read_directory(directory: Path, bad: BadData) -> Iterator[Record]:
    """The stories that have questions, from the published files; the text of one story is held at a time."""
    questions: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, row in _rows(directory / QUESTIONS_FILE, "document_id", "question", "answer1", "answer2"):
        questions.setdefault(row["document_id"], []).append((number, row))
    summaries: dict[str, str] = {}
    if (directory / SUMMARIES_FILE).is_file():
        rows = _rows(directory / SUMMARIES_FILE, "document_id", "summary")
        summaries = {row["document_id"]: row["summary"] for _, row in rows}
    for number, row in _rows(directory / DOCUMENTS_FILE, "document_id", "kind", "wiki_title"):
        story_id = row["document_id"]
        asked = questions.pop(story_id, [])
        if not asked:
            continue
        try:
            document = _story(directory, story_id, row["wiki_title"] or story_id, summaries.get(story_id, ""))
        except DocumentError as error:
            bad.report(Fault(DOCUMENTS_FILE, number, "document_id", f"expected a story ({error})"))
            continue
        draft = RecordDraft(story_id, document)
        for place, values in asked:
            if not values["question"].strip():
                bad.report(Fault(QUESTIONS_FILE, place, "question", "expected text, got none"))
            elif answers := [values[name] for name in ("answer1", "answer2") if values[name].strip()]:
                draft.add(_question(draft, values["question"], answers, row["kind"]))
            else:
                bad.report(Fault(QUESTIONS_FILE, place, "answer1", "expected text, got none"))
        if draft.questions:
            yield draft.record(ASKING)
    for story_id, asked in questions.items():
        what = f"expected a document of {DOCUMENTS_FILE}, got {story_id!r}"
        bad.report(Fault(QUESTIONS_FILE, asked[0][0], "document_id", what))


def _story(directory: Path, story_id: str, title: str, summary: str) -> Document:
    """The story as it was downloaded, else its summary; raises DocumentError where there is neither."""
    path = directory / "tmp" / f"{story_id}.content"
    if path.is_file():
        return replace(read_document(path, title=title), source=path.name)
    if not summary.strip():
        raise DocumentError(f"{path.name} is not in tmp, and {SUMMARIES_FILE} has no summary; run download_stories.sh")
    return document_from_text(summary, title, f"{SUMMARIES_FILE}, summary")


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with the line that each ends in; a column left out at a row's end is empty."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
                raise DataError(f"expected a column {missing[0]} in {path}, got {', '.join(reader.fieldnames or ())}")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the directory of NarrativeQA") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}); download it again") from None


SUITE = Suite(
    name="narrativeqa",
    summary="NarrativeQA: questions about whole books and film scripts",
    data=(
        "give the directory of NarrativeQA (google-deepmind/narrativeqa, stories by its download_stories.sh), "
        "or a JSONL file of it with one question a line"
    ),
    takes=frozenset({"data"}),
    read=read,
)
