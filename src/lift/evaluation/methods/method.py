"""A method: which part of the document a question is asked with, and on which memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import document_sentences
from lift.evaluation.embedding_index import EmbeddingIndex
from lift.evaluation.reader import Reader
from lift.evaluation.records import Question, Record

MemoryUse = Literal["none", "start", "own", "other"]


class Lookup:
    """The sentences of a document and what finds them, each index built when it is first used."""

    def __init__(self, document: Document) -> None:
        self.sentences = document_sentences(document)

    @cached_property
    def words(self) -> SentenceIndex:
        """BM25."""
        return SentenceIndex(self.sentences)

    @cached_property
    def meanings(self) -> EmbeddingIndex:
        """Embeddings; raises UsageError where their model is not installed."""
        return EmbeddingIndex([sentence.text for sentence in self.sentences])

    def in_order(self, indices: Sequence[int]) -> str:
        """These sentences as one text, in the order of the document."""
        return " ".join(self.sentences[index].text for index in sorted(indices))


@dataclass(frozen=True)
class AskedQuestion:
    """The view of a question that a method chooses by; `retrieved`: how many sentences retrieval brings."""

    record: Record
    reader: Reader
    lookup: Lookup
    retrieved: int


@dataclass(frozen=True)
class ShownPassage:
    """The part of the document that goes into a prompt (None: none). `refused`: why the question cannot be asked."""

    text: str | None
    cut: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Method:
    """One way of answering. `context` is the word for the part of the document that `choose` puts into the prompt.

    `memory`: none, the warm start that memories begin at, the document's own, or that of another document. With
    `recipe` it is absorbed by that one instead of the run's; `is_baseline`: by that one as it is, whatever settings the
    run changes. With `routed` the answer takes the memory's own
    route (strategies.py), and `choose` only says what it reads. With `needs_evidence` it is not asked a question that
    nothing answers and whose data gives no passage: there is nothing that it could read, and no answer that it misses.
    """

    name: str
    summary: str
    context: str
    choose: Callable[[Question, AskedQuestion], ShownPassage]
    memory: MemoryUse = "none"
    recipe: str = ""
    is_baseline: bool = False
    routed: bool = False
    needs_evidence: bool = False

    def asks(self, question: Question) -> bool:
        """Whether the question is put to this method."""
        return bool(question.answers or question.evidence) or not self.needs_evidence


def no_context(_question: Question, _asked: AskedQuestion) -> ShownPassage:
    """Closed book."""
    return ShownPassage(None)


def fitted(text: str, question: Question, asked: AskedQuestion) -> ShownPassage:
    """`text`, cut in its middle where the window is too small for it."""
    asking = asked.record.asking
    return ShownPassage(*asked.reader.fit(question.text, text, asking.form, asking.max_new_tokens))
