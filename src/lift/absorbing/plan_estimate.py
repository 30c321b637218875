"""A plan without a trial training: from a speed that is known already, for a machine that is busy with a training.

A trial beside a training takes long, slows the training down, and tells how fast a busy machine is. Where no speed is
known, a piece of the text is read once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from lift.absorbing.plan import Plan
from lift.absorbing.planning import FEWEST_EPOCHS, sample_epochs
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.resident import release
from lift.answering.answerer import Answerer
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.models.device import peak_memory_bytes
from lift.packing.prompts import MAX_ANSWER_TOKENS
from lift.recipes.recipe import GeneratorSettings, Recipe
from lift.tasks.task_file import TaskFile

# A step goes forward and, through frozen weights, backward, which costs about twice as much as to read its tokens.
_READINGS_A_STEP = 2.0
_READ_TOKENS = 256
_READ_CHARS = 16 * _READ_TOKENS


@dataclass(frozen=True)
class KnownSpeed:
    """Speeds that were timed earlier, None where it was not.

    Tokens trained a second, the seconds of a question closed book, and tokens of a prompt read a second.
    """

    tokens_per_s: float | None = None
    ask_s: float | None = None
    read_tokens_per_s: float | None = None

    @classmethod
    def of_plan(cls, plan: Plan) -> KnownSpeed:
        """The speeds that a plan with a trial has timed."""
        read_s = (plan.full_read_s or 0.0) - plan.ask_s
        return cls(plan.tokens_per_s, plan.ask_s, plan.tokens / read_s if read_s > 0 else None)


def estimate_plan(
    document: Document, base: BaseModel, recipe: Recipe, speed: KnownSpeed, budget_s: float | None = None
) -> Plan:
    """The cost of absorbing `document` at that speed; nothing is trained. Raises what prepare raises."""
    made = prepare_document(document, base, recipe)
    tokens_per_s = speed.tokens_per_s or _reading_speed(base, document) / _READINGS_A_STEP
    requests, cached_requests = TaskWriter(made, base, recipe).requests
    resolved = resolve(recipe, base).change(generator=GeneratorSettings())
    recipe = resolved.recipe
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    sampler = prepare(made, tasks, base, resolved).sampler
    _, epoch_tokens, total_tokens, _ = sample_epochs(sampler, recipe)
    seconds = total_tokens / tokens_per_s
    trained = sum(not task.held_out for task in tasks)
    if budget_s is not None and budget_s < seconds:
        seconds = budget_s
        share = budget_s * tokens_per_s / (FEWEST_EPOCHS * epoch_tokens)
        if share < 1:
            kept_share = max(1, round(share * recipe.tasks.per_sentence)) / max(recipe.tasks.per_sentence, 1)
            trained, epoch_tokens = round(trained * kept_share), max(round(epoch_tokens * kept_share), 1)
    release(base.model)
    adapter = resolved.create_adapter(base)
    try:
        adapter_bytes = sum(parameter.numel() for parameter in adapter.parameters()) * 2
        ask_s = speed.ask_s
        if ask_s is None:
            ask_s = Answerer.of(base, adapter, document, made.sentences).ask(document.title or "?", "none").seconds
    finally:
        adapter.detach()
    fits = made.tokens + MAX_ANSWER_TOKENS + 128 < base.window_tokens
    read_s = made.tokens / (speed.read_tokens_per_s or _READINGS_A_STEP * tokens_per_s)
    train_tokens = round(seconds * tokens_per_s)
    return Plan(
        title=document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=trained,
        epochs=train_tokens / epoch_tokens,
        train_tokens=train_tokens,
        tokens_per_s=tokens_per_s,
        seconds=seconds,
        peak_bytes=peak_memory_bytes(),
        adapter_bytes=adapter_bytes,
        full_read_s=ask_s + read_s if fits else None,
        ask_s=ask_s,
        break_even_questions=-int(-seconds // read_s) if fits else None,
        requests=requests,
        cached_requests=cached_requests,
        warnings=made.warnings,
    )


@torch.inference_mode()
def _reading_speed(base: BaseModel, document: Document) -> float:
    """Tokens a second that the base model reads, timed on the beginning of the text."""
    tokens = base.tokenizer(document.text[:_READ_CHARS], add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokens[: min(_READ_TOKENS, base.window_tokens)]], device=base.device)  # [1, T]
    seconds = 0.0
    for _ in range(2):  # what is loaded once is loaded the first time
        started = time.perf_counter()
        float(base.model(input_ids=ids, logits_to_keep=1).logits[0, -1, 0])  # a device is done when a number is read
        seconds = time.perf_counter() - started
    return float(ids.shape[1] / max(seconds, 1e-9))
