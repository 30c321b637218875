"""Records of an evaluation: a document, the questions about it, and how they are put and scored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from lift.documents.document import Document
from lift.packing.prompts import MAX_ANSWER_TOKENS, PLAIN_FORM, PromptForm

ANSWER_METRICS = ("contained", "f1", "exact_match")


@dataclass(frozen=True)
class Question:
    """One question and its reference answers; an answer is scored by the best of them.

    Without any the document does not answer the question, and an answer is right that says so. `evidence`: passages
    that prove the answer, as the source gives them (not always literally in the document), or, without answers, that
    the question was asked about.
    `kind`: the source's own class of the question. `choices`: the options of a choice, or all classes of a label.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    kind: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asking:
    """How the questions of a record are put and scored, the same for every method.

    `metrics` are names of metrics.METRICS, the first of them is the one that methods are compared by. `first_line`:
    only the first line of an answer is scored, as some benchmarks do. `judged`: whether a judge may be asked too.
    """

    form: PromptForm = PLAIN_FORM
    max_new_tokens: int = MAX_ANSWER_TOKENS
    metrics: tuple[str, ...] = ANSWER_METRICS
    first_line: bool = False
    judged: bool = True


@dataclass(frozen=True)
class Record:
    """One document, which becomes one memory, and the questions that are asked about it.

    `cells` holds the coordinates of generated questions in their grid, by id, for example {"length": 4096, "depth":
    0.5}.
    """

    id: str
    document: Document
    questions: tuple[Question, ...]
    asking: Asking = Asking()
    cells: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The document's name in tables: its title, or where the data gives none the record's id."""
        return self.document.title or self.id

    @property
    def digest(self) -> str:
        """Hash of everything that an answer depends on but for model and method."""
        parts = [self.document.title, self.document.sha256, [asdict(each) for each in self.questions]]
        return hashlib.sha256(json.dumps([*parts, asdict(self.asking)]).encode("utf-8")).hexdigest()
