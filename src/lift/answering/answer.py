"""An answer, and the sentence of the document that supports it, or in which its words stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lift.answering.attribution.attribute import attribute
from lift.documents.document import Document, Place
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence
from lift.errors import UsageError

Context = Literal["auto", "none", "truncated", "full", "evidence"]
CONTEXTS: tuple[str, ...] = get_args(Context)
Relation = Literal["supports", "found", "related"]


@dataclass(frozen=True)
class Evidence:
    """A sentence of the document, where it stands, and what it has to do with an answer.

    `relation`: it "supports" the answer to the question; the answer's words are "found" in it, which answers nothing;
    or it is "related" to the question alone.
    """

    sentence: int
    text: str
    place: Place | None
    relation: Relation = "supports"

    @classmethod
    def of(cls, document: Document, sentence: Sentence, relation: Relation) -> Evidence:
        """That sentence of the document."""
        return cls(sentence.index, sentence.text, document.place_at(sentence.start), relation)


@dataclass(frozen=True)
class Answer:
    """The answer to a question. `context` is what was used ("auto" never stands here); `truncated`: text was cut.

    `supported` is False where no sentence of the document answers the question so: read it with doubt. Its evidence is
    then where the answer's words stand, if anywhere.
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
    """The answer `text` with the sentence that answers the question so, else the one where its words stand.

    Beside the row of a table stand the sentences of its header and unit.
    """
    found = attribute(index, document, question, text)
    evidence: tuple[Evidence, ...] = ()
    if found is not None:
        evidence = (
            Evidence.of(document, found.sentence, "supports" if found.supports else "found"),
            *(Evidence.of(document, each, "related") for each in index.beside(found.sentence)),
        )
    supported = found is not None and found.supports
    return Answer(text, context, evidence, supported, truncated, prompt_tokens, seconds)
