"""The speed of a base model on this machine: tokens trained and answer tokens a second, from a trial of seconds.

It is taught passages that its warm start was tuned on, as `lift plan` times a text; nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from lift.absorbing.planning import calibrate
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.resident import release
from lift.adapters.sharing import takes_one_turn
from lift.documents.document import Document
from lift.errors import cleaning_up
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.recipes.recipe import Recipe
from lift.tasks.task_file import TaskFile

_PASSAGES = 6
_PROMPT_TOKENS = 48
_ANSWER_TOKENS = 24
_NEVER = -1  # no token's id, so that as many tokens are generated as are asked for


@dataclass(frozen=True)
class BaseSpeed:
    """Timed tokens a second: of a training with the recipe, and of an answer closed book."""

    train_tokens_per_s: float
    answer_tokens_per_s: float


@takes_one_turn
def measure_base_speed(base: BaseModel, recipe: Recipe) -> BaseSpeed | None:
    """Time `base` with the recipe's adapter; None where it has no warm start, whose passages it would be taught."""
    resolved = resolve(recipe, base)
    found = resolved.warm_start
    if found is None or not found.passages:
        return None
    text = "\n\n".join(passage.text for passage in found.passages[:_PASSAGES])
    made = prepare_document(Document("", text, ""), base, recipe)
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    sampler = prepare(made, tasks, base, resolved).sampler
    release(base.model)
    adapter = resolved.create_adapter(base)
    with cleaning_up(adapter.detach):
        trained = calibrate(base, adapter, sampler, recipe)
        prompt = base.tokenizer(text, add_special_tokens=False)["input_ids"][:_PROMPT_TOKENS]
        now = stopwatch(base.device)
        shortest_s = float("inf")
        for _ in range(2):  # what is loaded once is loaded the first time
            begun = now()
            generate(base.model, [prompt], max_new_tokens=_ANSWER_TOKENS, end_ids=(_NEVER,))
            shortest_s = min(shortest_s, now() - begun)
    return BaseSpeed(trained.tokens_per_s, _ANSWER_TOKENS / shortest_s)
