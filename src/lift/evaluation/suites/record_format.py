"""Our record format, and what every suite of files shares: JSON -> records, each fault with its line and field.

One document a line:

    {"id", "source", "title", "context", "questions": [{"id", "question", "answers": [..], "evidence": [..], "type"}]}

In place of `context` there may be `file`: the path of a document beside the data file or below it, read as `lift
absorb` reads it.

`id`, `source`, `title`, `evidence` and `type` may be missing. `answers` is [] where the document does not answer the
question; its `evidence` is then the passage that it was asked about. A faulty question is reported and left out, and
the others of its document stay; a fault of the document itself leaves out the document. A document with no question
left is no record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lift.documents.document import Document
from lift.documents.read import read_document
from lift.errors import DataError, DocumentError, UsageError
from lift.evaluation import data_files
from lift.evaluation.data_files import BadData, Fault, FieldFault, read_lines, text_field, texts_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.suite import Reading


@dataclass(frozen=True)
class RecordLine:
    """Where an object of a data file stands, and where its faults go; `name` is its id where it has none."""

    path: Path
    number: int
    name: str
    bad: BadData

    def report(self, fault: FieldFault) -> None:
        """Report the fault of a field of this line; raises DataError unless bad data is skipped."""
        self.bad.report(Fault(self.path.name, self.number, fault.name, fault.what))


@dataclass
class RecordDraft:
    """A document whose questions come one by one."""

    id: str
    document: Document
    questions: list[Question] = field(default_factory=list)

    def add(self, question: Question, path: str = "") -> None:
        """Take one more question; raises FieldFault (named `path` + "id") for an id that another one has."""
        if any(question.id == other.id for other in self.questions):
            raise FieldFault(f"{path}id", f"expected an id of its own, got {question.id!r} again")
        self.questions.append(question)

    def record(self, asking: Asking) -> Record:
        return Record(self.id, self.document, tuple(self.questions), asking)


def data_path(reading: Reading) -> Path:
    """The file or directory given by --data; raises UsageError for none."""
    if reading.settings.data is None:
        raise UsageError("expected a file of data, got none; give it by --data")
    return reading.settings.data


def read_objects(path: Path, bad: BadData) -> Iterator[tuple[dict[str, Any], RecordLine]]:
    """The objects of a JSONL file, or the one of a JSON file that is written over several lines; see read_lines.

    Half of a surrogate pair, which no file can hold as text, is reported to `bad` too.
    """
    if _is_spread(path):
        yield from read_value(path, bad)
        return
    for number, values in read_lines(path, bad):
        line = RecordLine(path, number, f"{path.stem}-{number}", bad)
        if _is_writable(values, line):
            yield values, line


def read_value(path: Path, bad: BadData) -> Iterator[tuple[dict[str, Any], RecordLine]]:
    """The object that a whole file is; nothing where it had to be reported. Raises DataError for a missing file."""
    try:
        with path.open("rb") as stream:
            data = stream.read(data_files.LONGEST_LINE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path given by --data") from None
    fault = None
    if len(data) > data_files.LONGEST_LINE_BYTES:
        megabytes = data_files.LONGEST_LINE_BYTES // 1024**2
        fault = Fault(path.name, 1, "", f"expected a file of at most {megabytes} MB, got a longer one")
    else:
        try:
            value = json.loads(data.decode("utf-8"))
            if not isinstance(value, dict):
                fault = Fault(path.name, 1, "", f"expected an object, got {type(value).__name__}")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            fault = Fault(path.name, number, "", f"expected UTF-8, got byte {data[error.start]:#04x} at {error.start}")
        except json.JSONDecodeError as error:
            ended = "; the file may be truncated" if error.pos >= len(error.doc.rstrip()) else ""
            fault = Fault(path.name, error.lineno, "", f"expected JSON ({error.msg}){ended}")
        except RecursionError:
            fault = Fault(path.name, 1, "", "expected JSON (nested too deeply)")
    if fault:
        bad.report(fault)
        return
    line = RecordLine(path, 1, path.stem, bad)
    if _is_writable(value, line):
        yield value, line


def _is_spread(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.readline(64).strip() == b"{"
    except OSError:
        return False  # read_lines says what is wrong with the file


def _is_writable(values: Mapping[str, Any], line: RecordLine) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        line.report(FieldFault("", f"expected text, got half of a surrogate pair ({error.object[error.start]!a})"))
    except RecursionError:
        line.report(FieldFault("", "expected JSON (nested too deeply)"))
    else:
        return True
    return False


def read_records(
    objects: Iterable[tuple[dict[str, Any], RecordLine]],
    parse: Callable[[dict[str, Any], RecordLine], Iterable[Record]],
) -> Iterator[Record]:
    """The records that `parse` makes of each object; a FieldFault of it, and an id that comes again, is reported."""
    taken: set[str] = set()
    for values, line in objects:
        try:
            records = list(parse(values, line))
        except FieldFault as fault:
            line.report(fault)
            continue
        for record in records:
            if record.id in taken:
                line.report(FieldFault("id", f"expected an id of its own, got {record.id!r} again"))
            else:
                taken.add(record.id)
                yield record


def parse_record(values: Mapping[str, Any], line: RecordLine, asking: Asking) -> list[Record]:
    """One object of our format as a record, or none where no question is left.

    Raises FieldFault for a faulty document; a faulty question is reported by `line`.
    """
    draft = start_record(values, line)
    add_questions(
        draft, values, "questions", lambda item, path, index: parse_question(item, path, f"{draft.id}-{index}"), line
    )
    return [draft.record(asking)] if draft.questions else []


def start_record(values: Mapping[str, Any], line: RecordLine) -> RecordDraft:
    """The document of an object of our format; raises FieldFault."""
    record_id = id_field(values, "id", "", line.name)
    title = optional_text(values, "title", "")
    source = optional_text(values, "source", "") or line.path.name
    list_field(values, "questions", "", least=1)
    if "file" in values:
        return RecordDraft(record_id, _document_in_file(values, line, title))
    return RecordDraft(record_id, Document(title or record_id, text_field(values, "context"), source))


def _document_in_file(values: Mapping[str, Any], line: RecordLine, title: str) -> Document:
    """The document that `file` names; raises FieldFault, also where it is not below the data file's directory."""
    if "context" in values:
        raise FieldFault("file", "expected context or file, got both")
    directory = line.path.parent.resolve()
    path = (directory / text_field(values, "file")).resolve()
    if not path.is_relative_to(directory):
        raise FieldFault("file", f"expected a path below {directory.name}, where the data is, got one outside")
    try:
        return read_document(path, title=title or None)
    except DocumentError as error:
        raise FieldFault("file", str(error)) from None


def parse_question(values: Mapping[str, Any], path: str, name: str) -> Question:
    """One question of our format, with or without answers; `name` is its id where it has none. Raises FieldFault."""
    return Question(
        id_field(values, "id", path, name),
        text_field(values, "question", path),
        texts_field(values, "answers", path, least=0),
        passages_field(values, "evidence", path),
        optional_text(values, "type", path),
    )


def add_questions(
    draft: RecordDraft,
    values: Mapping[str, Any],
    name: str,
    parse: Callable[[dict[str, Any], str, int], Question | None],
    line: RecordLine,
    path: str = "",
) -> None:
    """Give `draft` the questions in the list `name`, but for those that `parse` makes None of.

    `parse` gets an item, the path of its fields ("questions[3].") and its place in the list. A faulty question is
    reported by `line` and left out. Raises FieldFault where there is no list.
    """
    for index, item in enumerate(list_field(values, name, path)):
        place = f"{path}{name}[{index}]"
        try:
            if not isinstance(item, dict):
                raise FieldFault(place, f"expected an object, got {type(item).__name__}")
            question = parse(item, f"{place}.", index)
            if question is not None:
                draft.add(question, f"{place}.")
        except FieldFault as fault:
            line.report(fault)


def list_field(values: Mapping[str, Any], name: str, path: str, least: int = 0) -> list[Any]:
    """The list in `name`, of at least `least` things of any kind; raises FieldFault."""
    if name not in values:
        raise FieldFault(path + name, "is missing")
    value = values[name]
    if not isinstance(value, list):
        raise FieldFault(path + name, f"expected a list, got {type(value).__name__}")
    if len(value) < least:
        raise FieldFault(path + name, f"expected at least {least} in the list, got {len(value)}")
    return value


def object_field(values: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    """The object in `name`; raises FieldFault."""
    if name not in values:
        raise FieldFault(path + name, "is missing")
    value = values[name]
    if not isinstance(value, dict):
        raise FieldFault(path + name, f"expected an object, got {type(value).__name__}")
    return value


def id_field(values: Mapping[str, Any], name: str, path: str, default: str) -> str:
    """The text or whole number in `name` as text; `default` where there is none. Raises FieldFault."""
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return optional_text(values, name, path).strip() or default


def optional_text(values: Mapping[str, Any], name: str, path: str) -> str:
    """The text in `name`, empty where there is none; raises FieldFault for anything but text."""
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldFault(path + name, f"expected text, got {type(value).__name__}")
    return value


def passages_field(values: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    """The passages in `name`, a text or a list of texts, blank ones left out; none where it is missing.

    Raises FieldFault for anything else.
    """
    value = values.get(name)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise FieldFault(path + name, f"expected a text or a list of texts, got {type(value).__name__}")
    return tuple(item for item in items if item.strip())
