"""A plan without a trial: from a speed that is known already, for a machine that is busy with a training.

A trial beside a training takes long, slows the training down, and tells how fast a busy machine is.
"""

from __future__ import annotations

from dataclasses import dataclass

from lift.adapters.resident import release
from lift.adapters.starting_point import start_adapter
from lift.answering import Answerer
from lift.batches import pack
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.planning import FEWEST_EPOCHS, SAMPLED_BATCHES, Plan, peak_memory_bytes
from lift.preparation import TaskWriter, outline, prepare
from lift.prompts import MAX_ANSWER_TOKENS
from lift.recipes.recipe import GeneratorSettings, Recipe
from lift.tasks.task_file import TaskFile
from lift.training.curriculum import Curriculum

# A step reads its tokens forward and backward, which costs about three times as much as to read them.
_READINGS_A_STEP = 3.0


@dataclass(frozen=True)
class KnownSpeed:
    """Tokens trained a second, and the seconds of a question closed book (None: to be timed), as timed earlier.

    `read_tokens_per_s`: of a prompt; None where that was not timed.
    """

    tokens_per_s: float
    ask_s: float | None = None
    read_tokens_per_s: float | None = None

    @classmethod
    def of_plan(cls, plan: Plan) -> KnownSpeed:
        """What a plan with a trial has timed."""
        read_s = (plan.full_read_s or 0.0) - plan.ask_s
        return cls(plan.tokens_per_s, plan.ask_s, plan.tokens / read_s if read_s > 0 else None)


def estimate_plan(
    document: Document, base: BaseModel, recipe: Recipe, speed: KnownSpeed, budget_s: float | None = None
) -> Plan:
    """The cost of absorbing `document` at that speed; nothing is trained. Raises what prepare raises."""
    made = outline(document, base, recipe)
    requests, cached_requests = TaskWriter(made, base, recipe).requests
    recipe = recipe.model_copy(update={"generator": GeneratorSettings()})
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    curriculum = prepare(made, tasks, base, recipe).curriculum
    epoch_tokens, total_tokens = _training_tokens(curriculum, recipe)
    seconds = total_tokens / speed.tokens_per_s
    trained = sum(not task.held_back for task in tasks)
    if budget_s is not None and budget_s < seconds:
        seconds = budget_s
        share = budget_s * speed.tokens_per_s / (FEWEST_EPOCHS * epoch_tokens)
        if share < 1:
            kept_share = max(1, round(share * recipe.tasks.per_sentence)) / max(recipe.tasks.per_sentence, 1)
            trained, epoch_tokens = round(trained * kept_share), max(round(epoch_tokens * kept_share), 1)
    release(base.model)
    adapter = start_adapter(base, recipe.adapter, recipe.training.seed)
    try:
        adapter_bytes = sum(parameter.numel() for parameter in adapter.parameters()) * 2
        ask_s = speed.ask_s
        if ask_s is None:
            ask_s = Answerer.of(base, adapter, document, made.sentences).ask(document.title or "?", "none").seconds
    finally:
        adapter.detach()
    fits = made.tokens + MAX_ANSWER_TOKENS + 128 < base.window_tokens
    read_s = made.tokens / (speed.read_tokens_per_s or _READINGS_A_STEP * speed.tokens_per_s)
    train_tokens = round(seconds * speed.tokens_per_s)
    return Plan(
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=trained,
        epochs=train_tokens / epoch_tokens,
        train_tokens=train_tokens,
        tokens_per_s=speed.tokens_per_s,
        seconds=seconds,
        peak_bytes=peak_memory_bytes(),
        adapter_bytes=adapter_bytes,
        full_read_s=ask_s + read_s if fits else None,
        ask_s=ask_s,
        break_even_questions=-int(-seconds // read_s) if fits else None,
        requests=requests,
        cached_requests=cached_requests,
    )


def _training_tokens(curriculum: Curriculum, recipe: Recipe) -> tuple[int, int]:
    """Tokens of an epoch over all that is trained on, and of the whole training."""
    settings = recipe.training
    epoch_tokens = total_tokens = 0
    for first, epochs in ((0, settings.segment_epochs), (settings.segment_epochs, settings.epochs)):
        if epochs:
            epoch_tokens = _epoch_tokens(curriculum, first)
            total_tokens += epochs * epoch_tokens
    return max(epoch_tokens, 1), max(min(total_tokens, settings.max_tokens or total_tokens), 1)


def _epoch_tokens(curriculum: Curriculum, epoch: int) -> int:
    """Counted where the epoch is short, else extrapolated from its first batches, a random sample of it."""
    tokens = batches = 0
    for update in curriculum.updates(epoch):
        if batches >= SAMPLED_BATCHES:
            return round(tokens / update.progress)
        tokens += sum(pack(batch).tokens for batch in update.batches)
        batches += len(update.batches)
    return tokens
