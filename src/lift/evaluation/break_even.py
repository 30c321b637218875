"""Break-even, run in earnest: a memory is absorbed anew and asked, and the rival reads, question after question."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from lift.absorbing.absorption_events import Trained
from lift.errors import DataError
from lift.evaluation.evaluation_events import Absorbing
from lift.evaluation.memory_store import MemoryStore
from lift.evaluation.method_costs import break_even_questions
from lift.evaluation.methods.method import AskedQuestion, Lookup, Method
from lift.evaluation.methods.method_registry import find_methods
from lift.evaluation.reader import ModelReader, QuestionBatch, token_offsets
from lift.evaluation.records import Record
from lift.evaluation.run_files import RunData
from lift.evaluation.suite_plan import RunPlan
from lift.evaluation.suite_reading import read_suite
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe

MEMORY_METHOD = "lift:none"
TIMED_QUESTIONS = 6
MOST_QUESTIONS = 500
_POINTS = 12


@dataclass(frozen=True)
class BreakEvenCandidate:
    """A document whose break-even was predicted: seconds to absorb it, and of one question in both ways."""

    suite: str
    document: str
    absorb_s: float
    other_s: float
    memory_s: float
    questions: int


@dataclass(frozen=True)
class BreakEvenProgress:
    """How far the check is: `way` has asked `done` of `total` questions in `seconds`.

    While it is "absorbing", `seconds` are those left; once "absorbed", those it took.
    """

    way: str
    done: int
    total: int
    seconds: float


def find_candidate(run: RunData, other: str, document: str | None = None) -> BreakEvenCandidate:
    """The document in the middle of those that pay against the method `other`, by questions, or the one of that id.

    Not the one that pays first: that is the one whose times were measured with the most luck. Raises DataError where
    none does, or its costs were not measured.
    """
    costs = {(row["suite"], row["document"], row["method"]): row for row in run.costs}
    found = []
    for (suite, name, method), row in costs.items():
        rival = costs.get((suite, name, other))
        if method != MEMORY_METHOD or rival is None or not row["ask_s"] or not rival["ask_s"]:
            continue
        questions = break_even_questions(row["absorb_s"], rival["ask_s"], row["ask_s"])
        if questions and document in (None, name):
            found.append(BreakEvenCandidate(suite, name, row["absorb_s"], rival["ask_s"], row["ask_s"], questions))
    if not found:
        raise DataError(
            f"expected a document whose memory pays against {other!r}, found none in {run.directory}; "
            f"evaluate {MEMORY_METHOD} and {other} on it first, with questions timed alone"
        )
    return sorted(found, key=lambda each: each.questions)[len(found) // 2]


def check_break_even(
    candidate: BreakEvenCandidate,
    plan: RunPlan,
    base: BaseModel,
    other: str,
    most_questions: int = MOST_QUESTIONS,
    *,
    keeps_text: bool = False,
) -> Iterator[BreakEvenProgress | dict[str, Any]]:
    """Run both ways for as many questions as should pay, and half as many more; the last item is break_even.json.

    `plan` is that of the run. The memory is absorbed anew, in a directory that is removed; every question is asked
    alone, and no answer is taken from a cache. Each reads its whole prompt; with `keeps_text` both ways keep the keys
    and values of what they have read, as a server does that holds the text ready. The questions of the document are
    asked round and round. What should pay is reckoned from the first TIMED_QUESTIONS of both ways, since the machine
    may be busier or idler than in the run, and stands beside what the run said; at most `most_questions` are asked in
    each way.
    """
    suite = next(suite for suite in plan.suite if suite.title == candidate.suite)
    read = read_suite(suite, lambda text: token_offsets(base, text), skip_bad=True)
    record = next(record for record in read.records if record.id == candidate.document)
    recipe = load_recipe(plan.recipe, plan.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.monotonic()
        making = MemoryStore(Path(scratch) / "memories", base).memory(
            record.document, recipe, suite.budget_s, suite.title
        )
        memory = yield from _told(making)
        absorb_s = time.monotonic() - begun
        yield BreakEvenProgress("absorbed", 0, 0, absorb_s)
        asked = {
            name: _Way(
                find_methods([name])[0],
                ModelReader(base, stored, keeps_text=keeps_text),
                record,
                plan.retrieved_sentences,
            )
            for name, stored in ((MEMORY_METHOD, memory), (other, None))
        }
        for _ in range(TIMED_QUESTIONS):
            for way in asked.values():
                way.ask()
        predicted = break_even_questions(absorb_s, *(fmean(asked[name].each_s) for name in (other, MEMORY_METHOD)))
        total = min((predicted or candidate.questions) * 3 // 2 + 1, max(most_questions, TIMED_QUESTIONS))
        while len(asked[other].each_s) < total:
            # in turn, so that a machine that grows busier slows both
            for name, way in asked.items():
                way.ask()
                yield BreakEvenProgress(name, len(way.each_s), total, sum(way.each_s))
    times = {name: list(accumulate(way.each_s)) for name, way in asked.items()}
    crossing = next(
        (n for n in range(1, total + 1) if absorb_s + times[MEMORY_METHOD][n - 1] <= times[other][n - 1]), None
    )
    counted = sorted({1, min(predicted or total, total), total, *range(1, total + 1, max(1, total // _POINTS))})
    yield {
        "suite": candidate.suite,
        "document": candidate.document,
        "method_a": other,
        "method_b": MEMORY_METHOD,
        "text_kept": keeps_text,
        "absorb_s": absorb_s,
        "ask_s_a": fmean(asked[other].each_s),
        "ask_s_b": fmean(asked[MEMORY_METHOD].each_s),
        "predicted_questions": predicted,
        "run_said_questions": candidate.questions,
        "measured_questions": crossing,
        "measured": [
            {
                "questions": n,
                "seconds_a": times[other][n - 1],
                "seconds_b": absorb_s + times[MEMORY_METHOD][n - 1],
            }
            for n in counted
        ],
    }


class _Way:
    """One way of answering, question after question, and the seconds that each took."""

    def __init__(self, method: Method, reader: ModelReader, record: Record, retrieved: int) -> None:
        self.each_s: list[float] = []
        self._method = method
        self._record = record
        self._asked = AskedQuestion(record, reader, Lookup(record.document), retrieved)

    def ask(self) -> None:
        """Ask the next question of the document alone."""
        question = self._record.questions[len(self.each_s) % len(self._record.questions)]
        asking = self._record.asking
        begun = time.monotonic()
        passage = self._method.choose(question, self._asked)
        alone = QuestionBatch([question.text], [passage.text], asking.form, asking.max_new_tokens, one_by_one=True)
        self._asked.reader.read(alone)
        self.each_s.append(time.monotonic() - begun)


def _told(making: Generator[Absorbing, None, StoredMemory]) -> Generator[BreakEvenProgress, None, StoredMemory]:
    """The memory that is being made, telling of every tenth of its training."""
    told = 0.0
    try:
        while True:
            event = next(making).event
            if isinstance(event, Trained) and event.step.progress >= told:
                told += 0.1
                yield BreakEvenProgress("absorbing", 0, 0, event.eta_s)
    except StopIteration as finished:
        memory: StoredMemory = finished.value
        return memory
