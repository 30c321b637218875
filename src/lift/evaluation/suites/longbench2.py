"""LongBench v2 (Bai et al. 2024): questions on long texts with four options, official prompts without reasoning.

Prompts from https://github.com/THUDM/LongBench (MIT licence, commit 2e00731): prompts/0shot.txt with the text, and
prompts/0shot_no_context.txt closed book; answer length from pred.py. Fields are stripped as pred.py does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lift.documents.document import Document
from lift.errors import DataError
from lift.evaluation.data_files import BadData, Fault, FieldFault, read_lines, text_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.suite import Reading, Suite
from lift.packing.prompts import PromptForm

LETTERS = ("A", "B", "C", "D")
FORM = PromptForm(
    reading="Please read the following text and answer the question below.\n\n<text>\n{context}\n</text>\n\n"
    '{question}\n\nFormat your response as follows: "The correct answer is (insert answer here)".',
    closed_book="{question}\n\nWhat is the single, most likely answer choice? "
    'Format your response as follows: "The correct answer is (insert answer here)".',
)
ASKING = Asking(FORM, 128, ("choice",), judged=False)


def read(reading: Reading) -> Iterator[Record]:
    """One record for each question; a question's text holds its options, as both official prompts do.

    Raises DataError for a file that cannot be read; a bad line (in a file that is one JSON list: a bad item, counted
    from 1) is reported to `reading.bad`.
    """
    path = reading.settings.data or Path()
    known: set[str] = set()
    for number, line in _items(path, reading.bad):
        try:
            yield _record(path, number, line, known)
        except FieldFault as fault:
            reading.bad.report(Fault(path.name, number, fault.name, fault.what))


def _items(path: Path, bad: BadData) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list or of JSON lines, with their numbers from 1."""
    if not _is_list(path):
        yield from read_lines(path, bad)
        return
    try:
        items = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); the file may be truncated, fetch it again") from None
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            yield number, item
        else:
            bad.report(Fault(path.name, number, "", f"expected an object, got {type(item).__name__}"))


def _is_list(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(64).lstrip().startswith(b"[")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the file data.json by --data") from None


def _record(path: Path, number: int, line: Mapping[str, Any], known: set[str]) -> Record:
    own = text_field(line, "_id")
    if own in known:
        raise FieldFault("_id", f"expected an id of its own, got {own!r} again")
    known.add(own)
    options = "\n".join(f"({letter}) {text_field(line, f'choice_{letter}').strip()}" for letter in LETTERS)
    answer = text_field(line, "answer")
    if answer not in LETTERS:
        raise FieldFault("answer", f"expected one of {', '.join(LETTERS)}, got {answer!r}")
    question = Question(
        own,
        f"What is the correct answer to this question: {text_field(line, 'question').strip()}\nChoices:\n{options}",
        (answer,),
        kind="/".join(text_field(line, name) for name in ("domain", "difficulty", "length")),
        choices=LETTERS,
    )
    document = Document("", text_field(line, "context").strip(), f"{path.name}, item {number}")
    return Record(own, document, (question,), ASKING)


SUITE = Suite(
    name="longbench2",
    summary="LongBench v2: questions on long texts with four options",
    data="give data.json of THUDM/LongBench-v2 (Hugging Face), or the same as JSON lines",
    takes=frozenset({"data"}),
    read=read,
)
