"""How the cost of absorbing grows with the text: seconds and peak memory of the same work on texts of given lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lift.adapters.attach import create_adapter
from lift.bench.arithmetic import log_log_slope
from lift.bench.machine import PeakMemory, describe_machine, stopwatch
from lift.bench.processes import Running, in_own_process
from lift.bench.texts import RULE, text_of_length
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.preparation import TaskWriter, outline, prepare
from lift.recipes.recipe import Recipe
from lift.training.loop import train
from lift.training.objective import Objective

GROWING = ("prepare_s", "train_s", "seconds", "peak_bytes")


@dataclass(frozen=True)
class Absorbed:
    """What absorbing one text took: its tokens and sentences, and the tasks that were written about it.

    `prepare_s`: sentences, tasks and curriculum; `train_s`: `trained_tokens`, as many a sentence for every text.
    `peak_bytes` is of both, the model included.
    """

    tokens: int
    sentences: int
    tasks: int
    trained_tokens: int
    prepare_s: float
    train_s: float
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return self.prepare_s + self.train_s

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def absorb_some(base: BaseModel, document: Document, recipe: Recipe, tokens_per_sentence: int) -> Absorbed:
    """Prepare the document and train a new adapter for a fixed number of tokens a sentence; nothing is kept.

    Raises DocumentError, GenerationError.
    """
    now, peak = stopwatch(base.device), PeakMemory(base.device)
    begun = now()
    made = outline(document, base, recipe)
    tasks = [task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks]
    curriculum = prepare(made, tasks, base, recipe).curriculum
    prepared = now()
    settings = recipe.training.model_copy(update={"max_tokens": tokens_per_sentence * len(made.sentences)})
    adapter = create_adapter(base.model, recipe.adapter, settings.seed)
    try:
        objective = Objective(base.model, adapter, recipe.objective)
        trained_tokens = sum(step.tokens for step in train(adapter, objective, curriculum, settings))
    finally:
        adapter.detach()
    return Absorbed(
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=sum(not task.held_back for task in tasks),
        trained_tokens=trained_tokens,
        prepare_s=prepared - begun,
        train_s=now() - prepared,
        peak_bytes=peak.bytes(),
    )


def bench_growth(
    base: BaseModel,
    document: Document,
    recipe: Recipe,
    lengths: Sequence[int],
    *,
    tokens_per_sentence: int,
    say: Callable[[str], None],
    run: Running = in_own_process,
) -> dict[str, Any]:
    """Absorb the text at each length in a process of its own; "slope" is k of the fit cost = c tokens^k.

    There is nothing that it is compared with, so "speedup" is null. Raises BenchError.
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
        }
        absorbed = Absorbed(**run(job))
        rows.append({"length": length, **absorbed.as_dict(), "seconds": absorbed.seconds})
    tokens = [row["tokens"] for row in rows]
    return {
        "machine": describe_machine(base.device),
        "rows": rows,
        "speedup": None,
        "slope": {key: log_log_slope(tokens, [row[key] for row in rows]) for key in GROWING},
        "settings": {"recipe": recipe.name, "tokens_per_sentence": tokens_per_sentence, "lengths": RULE},
    }
