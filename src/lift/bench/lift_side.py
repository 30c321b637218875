"""The side of Lift: its adapter, batch sampler, objective and training loop, as an absorption uses them."""

from __future__ import annotations

from lift.adapters.attach import create_adapter
from lift.bench.fixed_batches import FixedBatchSampler, TokenCounts
from lift.bench.race import Race
from lift.errors import cleaning_up
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective
from lift.training.training_loop import StepRecord, train


def train_with_lift(base: BaseModel, sampler: FixedBatchSampler, recipe: Recipe, race: Race) -> TokenCounts:
    """Train until the race is over or the recipe's epochs are; the adapter is taken off again."""
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed)
    steps: list[StepRecord] = []
    with cleaning_up(adapter.detach), caching_frozen_layers(base.model, adapter) as lower:
        objective = Objective(base.model, adapter, recipe.objective, lower)
        race.start()
        for step in train(adapter, objective, sampler, recipe.training):
            steps.append(step)
            if race.step_done():
                break
        race.finish()
    computed = sum(step.tokens for step in steps)
    return TokenCounts(
        computed=computed,
        real=sum(step.example_tokens for step in steps),
        labelled=sampler.labelled,
        head=sampler.labelled,
        below=computed if lower is None else lower.computed_tokens,
    )
