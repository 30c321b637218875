"""An answer, and the sentence of the document that supports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lift.documents.document import Document, Place
from lift.errors import UsageError
from lift.retrieval import SentenceIndex

Context = Literal["auto", "none", "truncated", "full", "evidence"]
CONTEXTS: tuple[str, ...] = get_args(Context)
SUPPORTED_COVERAGE = 0.6


@dataclass(frozen=True)
class Evidence:
    """A sentence of the document that supports an answer, and where it stands."""

    sentence: int
    text: str
    place: Place | None


@dataclass(frozen=True)
class Answer:
    """What came back. `context` is what was used ("auto" never stands here); `truncated` says that text was cut.

    `supported` is False where no sentence of the document holds the answer: read it with doubt.
    """

    text: str
    context: str
    evidence: tuple[Evidence, ...]
    supported: bool
    truncated: bool
    prompt_tokens: int
    seconds: float


def check_questions(questions: Sequence[str], context: str) -> None:
    """Raise UsageError for an unknown context or an empty question, whoever is to answer."""
    if context not in CONTEXTS:
        raise UsageError(f"expected a context of {', '.join(CONTEXTS)}, got {context!r}")
    if any(not question.strip() for question in questions):
        raise UsageError("expected a question, got an empty one")


def supported_answer(
    index: SentenceIndex,
    document: Document,
    question: str,
    text: str,
    *,
    context: str,
    truncated: bool,
    prompt_tokens: int,
    seconds: float,
) -> Answer:
    """The answer `text` with the sentence of the document that supports it best, whoever gave it."""
    support = index.support(question, text)
    evidence = []
    if support is not None and support.coverage > 0:
        sentence = support.sentence
        evidence.append(Evidence(sentence.index, sentence.text, document.place_at(sentence.start)))
    supported = support is not None and support.coverage >= SUPPORTED_COVERAGE
    return Answer(text, context, tuple(evidence), supported, truncated, prompt_tokens, seconds)
