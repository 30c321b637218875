"""Recipe + base model -> what is really trained: resolved once at the start of a run, and handed on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lift.adapters.adapter import Adapter
from lift.adapters.warm_start import WarmStart, find_warm_start, start_adapter
from lift.config import Settings
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe


@dataclass(frozen=True)
class ResolvedRecipe:
    """`given`: the recipe that was asked for, which a memory keeps; `recipe`: the same as it is followed on the base.

    `warm_start`: where the adapter begins, None at zero. `base_window_tokens`: the longest prompt that the base takes.
    """

    given: Recipe
    recipe: Recipe
    warm_start: WarmStart | None
    base_window_tokens: int

    @property
    def window_tokens(self) -> int:
        """The longest prompt that is trained."""
        return min(self.base_window_tokens, self.recipe.context.window_tokens or self.base_window_tokens)

    def create_adapter(self, base: BaseModel) -> Adapter:
        """A new adapter on the base, at the warm start."""
        return start_adapter(base, self.recipe.adapter, self.recipe.training.seed, self.warm_start)

    def change(self, **sections: Settings) -> ResolvedRecipe:
        """The same, but for these sections of the recipe that is followed."""
        return replace(self, recipe=self.recipe.model_copy(update=sections))


def check_local(recipe: Recipe) -> None:
    """Raise UsageError for a recipe that is for models at an endpoint alone."""
    if recipe.remote.only:
        raise UsageError(
            f"expected a recipe for a model on this machine, got {recipe.name!r}, which fine-tunes a model at an "
            "endpoint; choose another --recipe, or --model openai:NAME"
        )


def resolve(recipe: Recipe, base: BaseModel) -> ResolvedRecipe:
    """Find the warm start, and the recipe as it is followed from there, or from none.

    Raises as find_warm_start, and UsageError for a recipe that is for models at an endpoint alone.

    What reads for a memory need not be trained to read; and a LoRA from zero, which nothing ties to other texts, is not
    hurried where the recipe says so.
    """
    check_local(recipe)
    start = find_warm_start(base, recipe.adapter)
    followed = recipe
    if start is None and not recipe.training.lora_plus_from_zero:
        training = recipe.training.model_copy(update={"lora_plus_ratio": 1.0})
        followed = recipe.model_copy(update={"training": training})
    elif start is not None and not recipe.context.beside_warm_start:
        context = recipe.context.model_copy(update={"share": 0.0})
        followed = recipe.model_copy(update={"context": context})
    return ResolvedRecipe(recipe, followed, start, base.window_tokens)
