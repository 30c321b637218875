"""Break-even, run in earnest: a memory is absorbed anew and asked, and the rival reads, question after question."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift.errors import DataError
from lift.evaluation.costs import break_even_questions
from lift.evaluation.memory_store import MemoryStore
from lift.evaluation.methods.method import Asked, Lookup
from lift.evaluation.methods.registry import find_methods
from lift.evaluation.plan import RunPlan
from lift.evaluation.reader import ModelReader, token_offsets
from lift.evaluation.run_files import RunData
from lift.evaluation.suite_reading import read_suite
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe

MEMORY_METHOD = "lift:none"
_POINTS = 12


@dataclass(frozen=True)
class Candidate:
    """A document whose break-even was predicted: seconds to absorb it, and of one question in both ways."""

    suite: str
    document: str
    absorb_s: float
    other_s: float
    memory_s: float
    questions: int


@dataclass(frozen=True)
class Asking:
    """How far the check is: `way` has asked `done` of `total` questions in `seconds`."""

    way: str
    done: int
    total: int
    seconds: float


def find_candidate(run: RunData, other: str, document: str | None = None) -> Candidate:
    """The document that should pay after the fewest questions against the method `other`, or the one of that id.

    Raises DataError where none does, or its costs were not measured.
    """
    costs = {(row["suite"], row["document"], row["method"]): row for row in run.costs}
    found = []
    for (suite, name, method), row in costs.items():
        rival = costs.get((suite, name, other))
        if method != MEMORY_METHOD or rival is None or not row["ask_s"] or not rival["ask_s"]:
            continue
        questions = break_even_questions(row["absorb_s"], rival["ask_s"], row["ask_s"])
        if questions and document in (None, name):
            found.append(Candidate(suite, name, row["absorb_s"], rival["ask_s"], row["ask_s"], questions))
    if not found:
        raise DataError(
            f"expected a document whose memory pays against {other!r}, found none in {run.directory}; "
            f"evaluate {MEMORY_METHOD} and {other} on it first, with questions timed alone"
        )
    return min(found, key=lambda each: each.questions)


def check_break_even(
    candidate: Candidate, plan: RunPlan, base: BaseModel, other: str
) -> Iterator[Asking | dict[str, Any]]:
    """Run both ways for the predicted number of questions and a quarter more; the last item is break_even.json.

    `plan` is that of the run. The memory is absorbed anew, in a directory that is removed; every question is asked
    alone and nothing is taken from a cache. The questions of the document are asked round and round.
    """
    suite = next(suite for suite in plan.suite if suite.title == candidate.suite)
    read = read_suite(suite, lambda text: token_offsets(base, text), skip_bad=True)
    record = next(record for record in read.records if record.id == candidate.document)
    recipe = load_recipe(plan.recipe, plan.overrides)
    total = candidate.questions + max(1, candidate.questions // 4)
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.monotonic()
        store = MemoryStore(Path(scratch) / "memories", base)
        making = store.memory(record.document, recipe, suite.budget_s, suite.title)
        while True:
            try:
                next(making)
            except StopIteration as finished:
                memory = finished.value
                break
        absorb_s = time.monotonic() - begun
        yield Asking("absorbing", 0, total, absorb_s)
        lookup = Lookup(record.document)
        readers = {MEMORY_METHOD: memory, other: None}
        times: dict[str, list[float]] = {}
        for name, stored in readers.items():
            method = find_methods([name])[0]
            reader = ModelReader(base, stored)
            times[name] = []
            begun = time.monotonic()
            for number in range(total):
                question = record.questions[number % len(record.questions)]
                passage = method.choose(question, Asked(record, reader, lookup, plan.retrieved_sentences))
                asking = record.asking
                reader.read([question.text], [passage.text], asking.form, asking.max_new_tokens, one_by_one=True)
                times[name].append(time.monotonic() - begun)
                yield Asking(name, number + 1, total, times[name][-1])
    crossing = next(
        (n for n in range(1, total + 1) if absorb_s + times[MEMORY_METHOD][n - 1] <= times[other][n - 1]), None
    )
    counted = sorted({1, candidate.questions, total, *range(1, total + 1, max(1, total // _POINTS))})
    yield {
        "suite": candidate.suite,
        "document": candidate.document,
        "method_a": other,
        "method_b": MEMORY_METHOD,
        "absorb_s": absorb_s,
        "predicted_absorb_s": candidate.absorb_s,
        "ask_s_a": candidate.other_s,
        "ask_s_b": candidate.memory_s,
        "predicted_questions": candidate.questions,
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
