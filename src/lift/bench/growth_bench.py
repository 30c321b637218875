"""How the cost of absorbing grows with the text: the same work on each sentence, and the same time for each text."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lift.absorbing.preparation import nothing_to_train, prepare_document
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.attach import create_adapter
from lift.bench.arithmetic import log_log_slope
from lift.bench.machine import PeakMemory, describe_machine
from lift.bench.processes import JobRunner, in_own_process
from lift.bench.texts import RULE, text_of_length
from lift.documents.document import Document
from lift.errors import DocumentError, cleaning_up
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.packing.prompts import invocation_of
from lift.recipes.recipe import Recipe
from lift.tasks.task_file import TaskFile
from lift.training.batch_sampler import BatchSampler, OptimizerStep
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective
from lift.training.pace import Pace
from lift.training.training_loop import train

GROWING = ("prepare_s", "train_s", "seconds", "held_bytes")
_WARM_UP_CHARS = 600


@dataclass(frozen=True)
class Absorbed:
    """The measurements of absorbing one text: its tokens and sentences, and the tasks that were written about it.

    `prepare_s`: sentences, tasks and batch sampler; `train_s`: `trained_tokens`, as many a sentence for every text.
    `peak_bytes` is of both, the model included. `timed_epochs`: how many epochs another training reached in a time that
    is the same for every text, and `timed_peak_bytes` what it held; None where there was no such training.
    """

    tokens: int
    sentences: int
    tasks: int
    trained_tokens: int
    prepare_s: float
    train_s: float
    peak_bytes: int
    timed_epochs: float | None = None
    timed_peak_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """Of the same work on each sentence."""
        return self.prepare_s + self.train_s

    @property
    def held_bytes(self) -> int:
        """The most that either training held: a longer training meets larger batches, so the timed one is fairer."""
        return max(self.peak_bytes, self.timed_peak_bytes or 0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class TimedBatchSampler(BatchSampler):
    """A batch sampler that knows how many epochs of it have been trained, in `reached`."""

    reached = 0.0

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """As BatchSampler.updates; an update counts when the next one is asked for."""
        for update in super().optimizer_steps(epoch):
            self.reached = epoch + update.progress
            yield update
        self.reached = epoch + 1.0


def absorb_some(
    base: BaseModel, document: Document, recipe: Recipe, tokens_per_sentence: int, train_s: float = 0.0
) -> Absorbed:
    """Prepare the document and train a new adapter for a fixed number of tokens a sentence; nothing is kept.

    Then, with `train_s`, another one for so many seconds. The beginning of the text is absorbed beforehand, so that
    what is loaded once in a process counts for no text. Raises DocumentError, GenerationError.
    """
    beginning = Document(document.title, document.text[:_WARM_UP_CHARS], document.source)
    with contextlib.suppress(DocumentError):  # nothing to learn that early
        _absorb(base, beginning, recipe, 1, 0.0)
    return _absorb(base, document, recipe, tokens_per_sentence, train_s)


def _absorb(base: BaseModel, document: Document, recipe: Recipe, tokens_per_sentence: int, train_s: float) -> Absorbed:
    now, peak = stopwatch(base.device), PeakMemory(base.device)
    begun = now()
    made = prepare_document(document, base, recipe)
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    trained = sum(not task.held_out for task in tasks)
    if not trained and not recipe.segments.weight:
        raise DocumentError(nothing_to_train(made, recipe))
    sampler = TimedBatchSampler(base.tokenizer, base.window_tokens, document, made.sentences, tasks, recipe)
    prepared = now()
    limited = recipe.training.model_copy(update={"max_tokens": tokens_per_sentence * len(made.sentences)})
    trained_tokens = _train(base, sampler, recipe.model_copy(update={"training": limited}), None)
    absorbed = Absorbed(
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=trained,
        trained_tokens=trained_tokens,
        prepare_s=prepared - begun,
        train_s=now() - prepared,
        peak_bytes=peak.bytes(),
    )
    if not train_s:
        return absorbed
    peak.restart()
    _train(base, sampler, recipe, train_s)
    return dataclasses.replace(absorbed, timed_epochs=sampler.reached, timed_peak_bytes=peak.bytes())


def _train(base: BaseModel, sampler: TimedBatchSampler, recipe: Recipe, seconds: float | None) -> int:
    """Train a new adapter, which is taken off again; returns the tokens computed."""
    sampler.reached = 0.0
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed, invocation=invocation_of(base.tokenizer))
    with cleaning_up(adapter.detach), caching_frozen_layers(base.model, adapter) as lower:
        objective = Objective(base.model, adapter, recipe.objective, lower)
        steps = train(adapter, objective, sampler, recipe.training, pace=Pace.within(seconds))
        return sum(step.tokens for step in steps)


def bench_growth(
    base: BaseModel,
    document: Document,
    recipe: Recipe,
    lengths: Sequence[int],
    *,
    tokens_per_sentence: int,
    say: Callable[[str], None],
    train_s: float = 0.0,
    run: JobRunner = in_own_process,
) -> dict[str, Any]:
    """Absorb the text at each length in a process of its own; "slope" is k of the fit cost = c tokens^k.

    "peak_growth": how many times as much memory the longest text held as the shortest. "library" is left to
    library_growth. There is nothing that it is compared with, so "speedup" is null. Raises BenchError.
    """
    rows: list[dict[str, Any]] = []
    for length in sorted(lengths):
        say(f"{length:,} tokens")
        cut = dataclasses.replace(document, text=text_of_length(base.tokenizer, document.text, length))
        job = {
            "kind": "growth",
            "model": base.id,
            "recipe": recipe.model_dump(mode="json"),
            "document": {"title": cut.title, "text": cut.text},
            "tokens_per_sentence": tokens_per_sentence,
            "train_s": train_s,
        }
        absorbed = Absorbed(**run(job))
        measured = {"seconds": absorbed.seconds, "held_bytes": absorbed.held_bytes}
        rows.append({"length": length, **absorbed.as_dict(), **measured})
    tokens = [row["tokens"] for row in rows]
    settings = {
        "recipe": recipe.name,
        "tokens_per_sentence": tokens_per_sentence,
        "train_s": train_s,
        "lengths": RULE,
    }
    return {
        "machine": describe_machine(base.device),
        "rows": rows,
        "library": [],
        "speedup": None,
        "slope": {key: log_log_slope(tokens, [row[key] for row in rows]) for key in GROWING},
        "peak_growth": rows[-1]["held_bytes"] / rows[0]["held_bytes"],
        "settings": settings,
    }
