"""Hours and gigabytes of a whole published table on one 80-GB GPU, by arithmetic. Pure but for reading the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lift.bench.limits_bench import DEVICES, GB, shape_of
from lift.bench.recipe_limits import QUANTIZATIONS, Workload, limit_of_recipe
from lift.evaluation.methods.method_registry import find_methods
from lift.evaluation.suite_plan import RunPlan, SuitePlan
from lift.evaluation.suite_reading import read_suite
from lift.recipes.recipe import load_recipe

_SHAPE = "llama-8b"
_CLOSED_BOOK_TOKENS = 64
_GENERATED = frozenset({"niah", "ruler"})

Offsets = Callable[[str], list[tuple[int, int]]]


@dataclass(frozen=True)
class SuiteSize:
    """The size of a suite's data: documents, their mean tokens, questions about each, and their longest answer."""

    documents: int
    document_tokens: int
    questions: float
    answer_tokens: int


@dataclass(frozen=True)
class PaperCost:
    """The cost of a run over all data of a table: seconds, and the most bytes that a training holds.

    `held_as`: how the base's weights are held there, bfloat16 where they are not quantised.
    """

    device: str
    held_as: str
    documents: int
    questions: int
    train_s: float
    ask_s: float
    train_bytes: float
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        fits = "" if self.fits else ", which does not fit"
        return (
            f"By arithmetic, all {self.documents:,} documents and {self.questions:,} questions of each method on an 8B "
            f"base ({self.held_as}) take one {self.device} of 80 GB {self.train_s / 3600:.2f} h of absorbing and "
            f"{self.ask_s / 3600:.2f} h of asking; a training holds up to {self.train_bytes / GB:.0f} GB{fits}. "
            "Writing tasks and judging at endpoints is not counted."
        )


def size_of(suite: SuitePlan, offsets: Offsets) -> SuiteSize:
    """The size of the whole suite, whatever limits its plan has; a long text's tokens are told from its characters."""
    answer_tokens = suite.answer_tokens or 64
    if suite.name in _GENERATED:  # their grid says it, and writing them takes long
        lengths = suite.lengths
        count = len(lengths) * len(suite.depths) * suite.samples
        return SuiteSize(count, round(sum(lengths) / len(lengths)), 1.0, answer_tokens)
    whole = suite.model_copy(update={"limit": None, "questions_limit": None})
    read = read_suite(whole, offsets, skip_bad=True)
    first = read.records[0].document.text
    chars_per_token = len(first) / max(len(offsets(first)), 1)
    chars = sum(len(record.document.text) for record in read.records)
    count = len(read.records)
    if not suite.answer_tokens:
        answer_tokens = read.records[0].asking.max_new_tokens
    return SuiteSize(count, max(round(chars / chars_per_token / count), 1), read.questions / count, answer_tokens)


def cost_of_table(plan: RunPlan, offsets: Offsets, quantization: str | None = None) -> PaperCost:
    """The cost of all data of `plan` on the first of DEVICES; raises what reading the data raises, and UsageError.

    `quantization` is that of the model which is run, not of the published one. A model without one, or with one that is
    not reckoned with, counts as bfloat16, which is how such a GPU holds it.
    """
    reckoned = quantization if quantization in QUANTIZATIONS else "none"
    shape, device = shape_of(_SHAPE), DEVICES[0]
    train_s = ask_s = most_bytes = 0.0
    documents = questions = 0
    for suite in plan.suite:
        size = size_of(suite, offsets)
        documents += size.documents
        questions += round(size.documents * size.questions)
        for method in find_methods(suite.methods or plan.methods):
            reads = method.context in ("truncated", "full")
            window = size.document_tokens if method.context == "full" else plan.window_tokens or size.document_tokens
            prompt_tokens = min(size.document_tokens, window) if reads else _CLOSED_BOOK_TOKENS
            work = Workload(size.document_tokens, 1, prompt_tokens, size.answer_tokens)
            # a method without a memory trains nothing, and only its asking counts
            recipe = plan.load_recipe(method) if method.memory != "none" else load_recipe("default")
            row = limit_of_recipe(shape, device, recipe, work, reckoned)
            ask_s += size.documents * size.questions * row.ask_s
            if method.memory == "own":
                train_s += size.documents * (row.train_s + row.write_s)
                most_bytes = max(most_bytes, row.train_bytes)
    return PaperCost(
        device=device.name,
        held_as="bfloat16" if reckoned == "none" else reckoned,
        documents=documents,
        questions=questions,
        train_s=train_s,
        ask_s=ask_s,
        train_bytes=most_bytes,
        fits=most_bytes <= device.memory_bytes,
    )
