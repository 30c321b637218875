"""A stored memory is opened again, to be trained further: by its own recipe, from its adapter, at a lower rate.

The new memory takes the place of the old one with a single rename: whatever happens before leaves the old one as it
was.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event as StopFlag

from lift.absorbing.preparation import PreparedDocument
from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.absorbing.session import Session
from lift.adapters.attach import restore_adapter
from lift.adapters.resident import release
from lift.config import apply_overrides
from lift.errors import LibraryError
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, TrainingSettings
from lift.training.budget import Budget


def recipe_of(memory: StoredMemory, overrides: Sequence[str] = ()) -> Recipe:
    """The memory's own recipe, with `overrides`; raises RecipeError."""
    return Recipe.parse(apply_overrides(memory.manifest.recipe, overrides), f"the recipe of the memory {memory.name!r}")


def check_sentences(memory: StoredMemory, made: PreparedDocument) -> None:
    """Raise LibraryError where tasks are about sentences that the text does not have, as it is split now."""
    last = max((max(task.evidence) for task in memory.tasks), default=-1)
    if last >= len(made.sentences):
        raise LibraryError(
            f"the memory {memory.name!r} has questions about sentence {last + 1:,} of a text of "
            f"{len(made.sentences):,}; absorb the text again"
        )


def reopen(
    memory: StoredMemory, base: BaseModel, resolved: ResolvedRecipe, budget: Budget, stop: StopFlag | None
) -> Session:
    """A session that goes on from the stored adapter, in full precision."""
    release(base.model)
    state = {key: value.float() for key, value in memory.load_adapter_state().items()}
    adapter = restore_adapter(base.model, memory.adapter_config, state)
    return Session(base, adapter, resolved, budget, stop, before=memory)


def gentler(recipe: Recipe) -> TrainingSettings:
    """The recipe's training at a lower rate: an adapter that knows something has it to lose."""
    rate = recipe.training.learning_rate * recipe.update.learning_rate_multiplier
    return recipe.training.model_copy(update={"learning_rate": rate})
