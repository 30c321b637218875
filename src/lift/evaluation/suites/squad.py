"""SQuAD 1.1, SQuAD 2.0 and XQuAD: short answers that stand in Wikipedia paragraphs (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lift.answering.scoring import normalised_words
from lift.documents.document import Document
from lift.evaluation.data_files import FieldFault, text_field
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.record_format import (
    RecordDraft,
    RecordLine,
    add_questions,
    data_path,
    id_field,
    list_field,
    optional_text,
    parse_question,
    parse_record,
    read_objects,
    read_records,
    start_record,
)
from lift.evaluation.suites.suite import Reading, Suite

ASKING = Asking(metrics=("contained", "f1", "exact_match"))
_BREAK = "\n\n"
_BLANK_LINE = re.compile(r"\n\s*\n")


def read(reading: Reading) -> Iterator[Record]:
    """One record an article, its paragraphs joined by a blank line, or one a paragraph (setting `per`).

    Reads the official layout, {"data": [{"title", "paragraphs": [{"context", "qas": [..]}]}]}, and our record format,
    whose paragraphs are what blank lines part. The evidence of a question is its paragraph. A question that the
    paragraph does not answer (is_impossible, SQuAD 2.0) has no reference answer; plausible answers are none. Asked
    about an article, it is taken for unanswerable there too, though another paragraph may answer it. Raises DataError
    where the file cannot be read, or holds a fault that is not skipped.
    """
    objects = read_objects(data_path(reading), reading.bad)
    yield from read_records(objects, partial(_parse, per_paragraph=reading.settings.per == "paragraph"))


def _parse(values: dict[str, Any], line: RecordLine, per_paragraph: bool) -> Iterator[Record]:
    if "data" in values:
        for index, article in enumerate(list_field(values, "data", "", least=1)):
            try:
                yield from _official(article, f"data[{index}]", f"{line.path.stem}-{index}", line, per_paragraph)
            except FieldFault as fault:
                line.report(fault)
    elif per_paragraph:
        yield from _paragraphs(values, line)
    else:
        yield from parse_record(values, line, ASKING)


def _official(article: Any, place: str, article_id: str, line: RecordLine, per_paragraph: bool) -> Iterator[Record]:
    if not isinstance(article, dict):
        raise FieldFault(place, f"expected an object, got {type(article).__name__}")
    # the published files write the spaces of a title as underscores
    title = optional_text(article, "title", f"{place}.").replace("_", " ") or article_id
    whole = RecordDraft(article_id, Document(title, "", line.path.name))
    parts: list[RecordDraft] = []
    for index, paragraph in enumerate(list_field(article, "paragraphs", f"{place}.", least=1)):
        path = f"{place}.paragraphs[{index}]"
        try:
            if not isinstance(paragraph, dict):
                raise FieldFault(path, f"expected an object, got {type(paragraph).__name__}")
            text = text_field(paragraph, "context", f"{path}.")
            part = RecordDraft(f"{article_id}-{index}", Document(title, text, line.path.name))
            known = len(whole.questions)
            add_questions(whole, paragraph, "qas", partial(_question, part=part), line, f"{path}.")
        except FieldFault as fault:
            line.report(fault)
        else:
            part.questions.extend(whole.questions[known:])
            parts.append(part)
    if not per_paragraph:
        whole.document = Document(title, _BREAK.join(part.document.text for part in parts), line.path.name)
    yield from (draft.record(ASKING) for draft in (parts if per_paragraph else [whole]) if draft.questions)


def _question(values: Mapping[str, Any], path: str, index: int, part: RecordDraft) -> Question:
    impossible = values.get("is_impossible")
    if impossible is not None and not isinstance(impossible, bool):
        raise FieldFault(f"{path}is_impossible", f"expected true or false, got {type(impossible).__name__}")
    answers = []
    # what is given as the answer of an impossible question is a plausible one, which is wrong
    for number, answer in enumerate([] if impossible else list_field(values, "answers", path, least=1)):
        if not isinstance(answer, dict):
            raise FieldFault(f"{path}answers[{number}]", f"expected an object, got {type(answer).__name__}")
        answers.append(text_field(answer, "text", f"{path}answers[{number}]."))
    return Question(
        id_field(values, "id", path, f"{part.id}-{index}"),
        text_field(values, "question", path),
        tuple(dict.fromkeys(answers)),
        (part.document.text,),
    )


def _paragraphs(values: Mapping[str, Any], line: RecordLine) -> Iterator[Record]:
    """One record a paragraph of an article in our format."""
    whole = start_record(values, line)
    texts = [text.strip() for text in _BLANK_LINE.split(whole.document.text) if text.strip()]
    homes: dict[str, int] = {}

    def place(item: Mapping[str, Any], path: str, index: int) -> Question:
        question = parse_question(item, path, f"{whole.id}-{index}")
        home = _home(question, texts)
        if home is None:
            raise FieldFault(f"{path}evidence", "expected a passage of one paragraph of the context, got none such")
        homes.setdefault(question.id, home)
        return question

    add_questions(whole, values, "questions", place, line)
    for index, text in enumerate(texts):
        questions = [question for question in whole.questions if homes[question.id] == index]
        if questions:
            document = Document(whole.document.title, text, whole.document.source)
            yield RecordDraft(f"{whole.id}-{index}", document, questions).record(ASKING)


def _home(question: Question, texts: Sequence[str]) -> int | None:
    """The paragraph that is the question's evidence, else the first that holds all of it.

    A question without evidence has none, but for one that nothing answers: it is asked about what is most like it.
    """
    passages = [passage.strip() for passage in question.evidence]
    if not passages:
        return None if question.answers else _likest(question.text, texts)
    holding = [index for index, text in enumerate(texts) if all(passage in text for passage in passages)]
    return next((index for index in holding if texts[index] in passages), holding[0] if holding else None)


def _likest(text: str, texts: Sequence[str]) -> int:
    """The first of the texts that share most words with `text`."""
    words = set(normalised_words(text))
    return max(range(len(texts)), key=lambda index: (len(words.intersection(normalised_words(texts[index]))), -index))


SUITE = Suite(
    name="squad",
    summary="SQuAD, XQuAD: short answers from Wikipedia paragraphs; SQuAD 2.0's questions without an answer too",
    data=(
        "give dev-v1.1.json or dev-v2.0.json of SQuAD (rajpurkar/SQuAD-explorer), xquad.en.json of XQuAD "
        "(google-deepmind/xquad), or a JSONL file in the record format of the suite qa"
    ),
    takes=frozenset({"data", "per"}),
    read=read,
)
