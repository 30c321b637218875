"""The survey behind `lift models`: time this machine, estimate every known base model on it, and choose one.

Nothing is fetched: weights are looked for on this machine alone.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from lift.absorbing.base_model_choice import (
    ModelChoice,
    ModelEstimate,
    ReferenceSpeed,
    advise,
    choose_model,
    estimate_models,
)
from lift.absorbing.base_speed import measure_base_speed
from lift.adapters.warm_start import packaged_base_ids
from lift.models.known_models import KnownModel, find_weights, known_models
from lift.models.load import DEFAULT_MODEL, load_model
from lift.models.machine_speed import MachineSpeed, measure_machine_speed
from lift.recipes.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class ModelSurvey:
    """`estimates` in the order of the list, the smallest first; `reference`: the model that was timed, if any.

    `warm_start_command`: the command that tunes a warm start for a recommended model without one, "" for none.
    """

    machine: MachineSpeed
    reference: ReferenceSpeed | None
    estimates: tuple[ModelEstimate, ...]
    choice: ModelChoice
    advice: str
    warm_start_command: str


def survey_models() -> ModelSurvey:
    """Survey the known models on this machine, in some seconds; raises ModelError where the default one is damaged."""
    recipe = load_recipe()
    models = known_models()
    machine = measure_machine_speed()
    places = [find_weights(known.model) for known in models]
    default = next(known for known in models if known.model == DEFAULT_MODEL)
    reference = _measured(default, recipe) if places[models.index(default)] else None
    estimates = tuple(estimate_models(models, machine, recipe, reference, places, packaged_base_ids()))
    choice = choose_model(estimates)
    return ModelSurvey(machine, reference, estimates, choice, advise(choice, machine), warm_start_command(choice))


def warm_start_command(choice: ModelChoice) -> str:
    """The command that tunes a warm start for the model that is chosen, the better one where that has none yet."""
    for estimate in (choice.fetched, choice.here):
        if estimate is not None and not estimate.warm_start:
            model = estimate.known.model
            shown = model if model.startswith("~") else shlex.quote(model)  # the shell is to replace a ~
            return f"lift warm-start FILES --model {shown} --out DIR"
    return ""


def _measured(known: KnownModel, recipe: Recipe) -> ReferenceSpeed | None:
    speed = measure_base_speed(load_model(known.model), recipe)
    return None if speed is None else ReferenceSpeed(known, speed)
