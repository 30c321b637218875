"""Reading examples: documents with questions that people asked -> prompts and answers that a reader is tuned on.

A question comes up behind a text of its document: the passage that proves its answer, and the sentences that retrieval
brings, one to eight of them. Where that text does not tell, the answer says so: behind sentences of which those that
answer were withheld, behind another passage of the same document, and wherever people found that the document does not
answer. Most of these texts are made like those that answer, so that only what they say tells them apart. Yes/no
questions are made by rules of the document's own sentences (tasks/rules/polar_questions.py).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from typing import Any, Protocol

from pydantic import Field

from lift.answering.scoring import contained
from lift.config import Settings
from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, document_sentences, joined
from lift.models.control_tokens import content_ids
from lift.packing.prompts import MAX_ANSWER_TOKENS, TEXT_TELLS_NOTHING, Example, question_example
from lift.tasks.rules.polar_questions import polar_questions

_FEW = (1, 2, 3, 3, 3, 5, 8)
_CARRIED_COVERAGE = 0.75
_WITHHELD_COVERAGE = 0.5
_MISPLACED_SHARE = 0.2  # of the texts that do not tell
_LONGEST_PASSAGE_CHARS = 6000


class AnsweredQuestion(Protocol):
    """A question that people asked, its answers, the first of them the usual one, and passages that prove it."""

    @property
    def text(self) -> str:
        """The question."""
        ...

    @property
    def answers(self) -> Sequence[str]:
        """Other ways to say it, or with `kind` "multi-span" its parts; none where the document does not tell."""
        ...

    @property
    def evidence(self) -> Sequence[str]:
        """Passages of the document; none where it is not known."""
        ...

    @property
    def kind(self) -> str:
        """The source's own class of the question."""
        ...


class QuestionedDocument(Protocol):
    """A document and the questions about it, such as a record of an evaluation."""

    @property
    def document(self) -> Document:
        """The text."""
        ...

    @property
    def questions(self) -> Sequence[AnsweredQuestion]:
        """In any order."""
        ...


class ReadingSettings(Settings):
    """Settings of what is read."""

    questions_per_source: int = Field(1200, ge=1, description="questions of documents of one source, at most")
    absent_share: float = Field(0.25, ge=0, lt=1, description="share of questions behind a text that does not tell")
    polar_share: float = Field(0.03, ge=0, lt=1, description="share of yes/no questions")
    kept_passages: int = Field(400, ge=0, description="passages that the warm start keeps, for memories to go on with")
    seed: int = 0


def balanced(
    records: Sequence[QuestionedDocument], settings: ReadingSettings
) -> list[tuple[QuestionedDocument, list[AnsweredQuestion]]]:
    """The questions to tune on, by document: of each source at most so many, spread evenly over its documents."""
    generator = random.Random(settings.seed)
    by_source: dict[str, list[QuestionedDocument]] = defaultdict(list)
    for record in records:
        by_source[record.document.source].append(record)
    chosen: list[tuple[QuestionedDocument, list[AnsweredQuestion]]] = []
    for members in by_source.values():
        generator.shuffle(members)
        drawn = [generator.sample(list(record.questions), len(record.questions)) for record in members]
        taken: list[list[AnsweredQuestion]] = [[] for _ in members]
        # the first question of each document, then the second of each that has two
        in_turn = (
            pair for each in zip_longest(*drawn) for pair in zip(taken, each, strict=True) if pair[1] is not None
        )
        for own, question in islice(in_turn, settings.questions_per_source):
            own.append(question)
        chosen += [(record, own) for record, own in zip(members, taken, strict=True) if own]
    return chosen


class ReadingExamples:
    """The examples of each document, in groups whose prompts begin with the same text."""

    def __init__(self, tokenizer: Any, settings: ReadingSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings

    def groups(self, record: QuestionedDocument, questions: Sequence[AnsweredQuestion]) -> Iterator[list[Example]]:
        """Examples of these questions of the document."""
        settings = self._settings
        generator = random.Random(f"{settings.seed}/{record.document.sha256}")
        sentences = document_sentences(record.document)
        index = SentenceIndex(sentences)
        behind: dict[str, list[Example]] = defaultdict(list)
        unanswered: list[tuple[str, str]] = []
        absent: list[tuple[str, str]] = []
        for question in questions:
            said = _answer(question)
            if said is not None and len(content_ids(self._tokenizer, said)) > MAX_ANSWER_TOKENS:
                continue
            passage = "\n".join(question.evidence)[:_LONGEST_PASSAGE_CHARS]
            count = generator.choice(_FEW)
            shown = index.evidence(question.text, count)
            text = joined(shown)
            if not question.answers:
                unanswered.append((question.text, passage or text))
                continue
            if passage:
                behind[passage].append(self._example(question.text, said or "", passage))
            told = _told(question, text, passage, shown, index)
            if told is not None and text != passage:
                behind[text].append(self._example(question.text, told, text))
            if _is_literal(question, record.document.text):
                absent += [(question.text, text)] if told is None else self._withheld(question, index, count)
        answered = sum(map(len, behind.values()))
        generator.shuffle(absent)
        # all that people could not answer, and as many more as the share allows
        wanted = max(round(answered * settings.absent_share / (1 - settings.absent_share)) - len(unanswered), 0)
        misplaced = list(self._misplaced(questions, list(behind), generator))[: round(wanted * _MISPLACED_SHARE)]
        for text_asked, text in unanswered + misplaced + absent[: wanted - len(misplaced)]:
            behind[text].append(self._example(text_asked, TEXT_TELLS_NOTHING, text))
        for asked, text, yes in self._polar(record.document.title, sentences, index, answered, generator):
            behind[text].append(self._example(asked, "Yes" if yes else "No", text))
        yield from behind.values()

    def _withheld(self, question: AnsweredQuestion, index: SentenceIndex, count: int) -> Iterator[tuple[str, str]]:
        """The question behind the best sentences of those that do not answer it."""
        silent = [each for each in index.search(question.text, 6 * count) if not contained(each.text, question.answers)]
        text = joined(sorted(silent[:count], key=lambda each: each.index))
        if text and max(index.coverage(said, text) for said in question.answers) < _WITHHELD_COVERAGE:
            yield question.text, text

    def _misplaced(
        self, questions: Sequence[AnsweredQuestion], passages: Sequence[str], generator: random.Random
    ) -> Iterator[tuple[str, str]]:
        """Questions behind passages of the same document that prove something else."""
        for question in questions:
            others = [
                text for text in generator.sample(passages, min(3, len(passages))) if text not in question.evidence
            ]
            others = [text for text in others if question.answers and not contained(text, question.answers)]
            if others and len(question.text.split()) > 4:
                yield question.text, others[0]

    def _polar(
        self, title: str, sentences: Sequence[Sentence], index: SentenceIndex, answered: int, generator: random.Random
    ) -> Iterator[tuple[str, str, bool]]:
        share = self._settings.polar_share
        wanted = round(answered * share / (1 - share))
        if not wanted:
            return
        some = list(sentences)
        if len(some) > 12 * wanted:
            first = generator.randrange(len(some) - 12 * wanted)
            some = some[first : first + 12 * wanted]
        made = polar_questions(title, some, seed=generator.randrange(1 << 30))
        generator.shuffle(made)
        # as many of either answer
        by_answer = {yes: [each for each in made if each.yes == yes] for yes in (True, False)}
        for number in range(wanted):
            yes = bool(number % 2)
            if by_answer[yes]:
                each = by_answer[yes].pop()
                shown = index.evidence(each.question, generator.choice(_FEW))
                if each.sentence in [sentence.index for sentence in shown]:
                    yield each.question, joined(shown), each.yes

    def _example(self, question: str, answer: str, text: str) -> Example:
        return question_example(self._tokenizer, question, answer, text, reads_evidence=True)


def _answer(question: AnsweredQuestion) -> str | None:
    if not question.answers:
        return None
    return ", ".join(question.answers) if question.kind == "multi-span" else question.answers[0]


def _is_literal(question: AnsweredQuestion, text: str) -> bool:
    return bool(question.answers and contained(text, question.answers))


def _told(
    question: AnsweredQuestion, text: str, passage: str, shown: Sequence[Sentence], index: SentenceIndex
) -> str | None:
    """The answer that this text tells, None where it tells none."""
    if question.kind == "multi-span":
        return _answer(question) if all(contained(text, [part]) for part in question.answers) else None
    literal = next((said for said in question.answers if contained(text, [said])), None)
    if literal is not None:
        proven = not passage or any(sentence.text in passage or passage in sentence.text for sentence in shown)
        return literal if proven else None
    if question.answers and index.coverage(question.answers[0], text) >= _CARRIED_COVERAGE:
        return question.answers[0]
    return None
