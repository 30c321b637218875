"""The side of Lift: its adapter, curriculum, objective and training loop, as an absorption uses them."""

from __future__ import annotations

from lift.adapters.attach import create_adapter
from lift.bench.examples import FixedCurriculum, TokenCounts
from lift.bench.race import Race
from lift.errors import cleaning_up
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.training.loop import Step, train
from lift.training.lower_layers import reusing_lower_layers
from lift.training.objective import Objective


def train_with_lift(base: BaseModel, curriculum: FixedCurriculum, recipe: Recipe, race: Race) -> TokenCounts:
    """Train until the race is over or the recipe's epochs are; the adapter is taken off again."""
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed)
    steps: list[Step] = []
    with cleaning_up(adapter.detach), reusing_lower_layers(base.model, adapter) as lower:
        objective = Objective(base.model, adapter, recipe.objective, lower)
        race.start()
        for step in train(adapter, objective, curriculum, recipe.training):
            steps.append(step)
            if race.step_done():
                break
        race.finish()
    computed = sum(step.tokens for step in steps)
    return TokenCounts(
        computed=computed,
        real=sum(step.example_tokens for step in steps),
        labelled=curriculum.labelled,
        head=curriculum.labelled,
        below=computed if lower is None else lower.computed_tokens,
    )
