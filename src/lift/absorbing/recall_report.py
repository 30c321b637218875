"""The recall report: how much of the document a memory can be shown to know, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lift.answering.answer import Answer
from lift.answering.scoring import contained, f1
from lift.memories.memory import StoredMemory
from lift.tasks.rules.wellformed import is_plain_question
from lift.tasks.task import Task

PROBE_BATCH = 32
PROBE_TOKENS = 24
_RECALLED_F1 = 0.5


@dataclass(frozen=True)
class Probe:
    """A held-out question, asked closed book. `recalled`: the answer holds the expected one, or F1 >= 0.5."""

    sentence: int
    question: str
    expected: str
    answer: str
    recalled: bool


@dataclass(frozen=True)
class RecallReport:
    """All probes of a memory, in document order, and the sentences that none of its probes could show to be known."""

    probes: tuple[Probe, ...]
    sentences: int

    @property
    def probed(self) -> list[int]:
        """Sentences that were asked about."""
        return sorted({probe.sentence for probe in self.probes})

    @property
    def recalled(self) -> list[int]:
        """Sentences with at least one right answer."""
        return sorted({probe.sentence for probe in self.probes if probe.recalled})

    @property
    def forgotten(self) -> list[int]:
        """Sentences that were asked about in vain."""
        return sorted(set(self.probed) - set(self.recalled))

    @property
    def share(self) -> float:
        """Share of the probed sentences that were recalled, 0 to 1."""
        return len(self.recalled) / len(self.probed) if self.probed else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Lines of recall.jsonl."""
        return [asdict(probe) for probe in self.probes]


def recorded_report(memory: StoredMemory) -> RecallReport:
    """The recall report that was stored with a memory; raises LibraryError where its file is damaged."""
    return RecallReport(tuple(Probe(**row) for row in memory.recall), memory.manifest.recall.sentences)


class QuestionAnswerer(Protocol):
    """Whatever answers questions about a document: a memory here, or a model at an endpoint."""

    def ask_many(
        self, questions: Sequence[str], context: str = "auto", *, max_new_tokens: int = ..., batch_size: int = ...
    ) -> list[Answer]:
        """See answering.Answerer."""
        ...


def choose_probes(tasks: Sequence[Task], limit: int | None = None) -> list[Task]:
    """The held-out tasks, or `limit` of them spread evenly over the document."""
    held_out = [task for task in tasks if task.held_out]
    if limit is None or len(held_out) <= limit:
        return held_out
    return [held_out[index * len(held_out) // limit] for index in range(limit)]


def spread(probes: Sequence[Task]) -> list[Task]:
    """The probes in an order of which every beginning is spread over the document (van der Corput's sequence)."""
    bits = max(len(probes) - 1, 0).bit_length()
    order = (int(f"{number:0{bits}b}"[::-1], 2) if bits else 0 for number in range(1 << bits))
    return [probes[number] for number in order if number < len(probes)]


def left_out(probes: Sequence[Task], report: RecallReport, held_out: bool = True) -> tuple[str, ...]:
    """The remarks where a budget had no time for the questions of the recall report."""
    if probes and len(report.probes) == len(probes):
        return ()
    if not report.probes:
        return ("no held-out question was asked: the budget left no time for it",) if held_out else ()
    return (f"{len(report.probes)} of {len(probes)} held-out questions were asked: the budget left no more time",)


class TimeIsOver(Exception):
    """The moment until which questions may be asked has come."""


@contextmanager
def passes_until(model: Any, is_over: Callable[[int], bool]) -> Iterator[None]:
    """Within the block, raise TimeIsOver before the forward pass of `model` for which `is_over` says so.

    It is given the number of passes before that one. Answers that are under way are lost.
    """
    passes = 0

    def before(*_: Any) -> None:
        nonlocal passes
        if is_over(passes):
            raise TimeIsOver
        passes += 1

    handle = model.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def suggested_questions(probes: Iterable[Mapping[str, Any]], limit: int) -> list[str]:
    """At most `limit` questions of stored `probes` to offer to a reader: recalled, plain, one of each sentence."""
    chosen: dict[int, str] = {}
    for probe in probes:
        if probe["recalled"] and is_plain_question(probe["question"]):
            chosen.setdefault(probe["sentence"], probe["question"])
    return list(dict.fromkeys(chosen.values()))[:limit]


def probe_recall(answerer: QuestionAnswerer, sentences: int, probes: Sequence[Task]) -> RecallReport:
    """Ask `probes` (tasks that were never trained on) closed book; the document has `sentences` in all."""
    answers = answerer.ask_many(
        [task.question for task in probes], "none", max_new_tokens=PROBE_TOKENS, batch_size=PROBE_BATCH
    )
    results = []
    for task, answer in zip(probes, answers, strict=True):
        recalled = bool(contained(answer.text, [task.answer])) or f1(answer.text, [task.answer]) >= _RECALLED_F1
        results.append(Probe(task.evidence[0], task.question, task.answer, answer.text, recalled))
    return RecallReport(tuple(results), sentences)
