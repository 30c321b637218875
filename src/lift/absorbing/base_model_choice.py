"""The base model that a machine should use: memory, speed and time of each known one there, and the choice among them.

Pure arithmetic over what was timed (models/machine_speed.py, base_speed.py): an estimate, not a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lift.absorbing.base_speed import BaseSpeed
from lift.models.decoder_arithmetic import (
    Shape,
    activation_bytes,
    adapter_training_bytes,
    forward_flops,
    lora_parameters,
    training_flops_per_token,
)
from lift.models.known_models import KnownModel, WeightsPlace
from lift.models.machine_speed import MachineSpeed
from lift.recipes.recipe import Recipe

ABSORBED_WORDS = 1000
# Tokens of a model that an English word makes, and tokens that a training computes for each until people's questions
# are answered: 50 give two fifths of them closed book (docs/results.md).
TOKENS_PER_WORD = 1.35
TRAINED_TOKENS_A_TOKEN = 50
# A model that takes longer for ABSORBED_WORDS is not advised.
LONGEST_ABSORPTION_S = 300.0
# Tokens that the tuning of a warm start is taken to train; it has no set length, it goes with the documents.
WARM_START_TOKENS = 1_500_000
# Of a training with a rule-made recipe: the share of tokens with labels, the tokens before one in its example, and the
# share of tokens that the frozen lower layers compute, since later epochs find what the first has computed.
_LABELLED = 0.2
_BEFORE_TOKENS = 32.0
_FIRST_EPOCH_SHARE = 0.25
# Passes over the float32 logits of a label and back, counted in numbers of half that size; a large vocabulary is slow.
_LOGIT_PASSES = 6
# Python, torch and the rules for questions, on the safe side; on a GPU its context and workspaces.
_PROCESS_BYTES = 1_200_000_000
# Where no model could be timed: how many times as long as its products a training takes, and as its reading of weights
# an answer. Measured with smollm2 on two cores; a larger model loses less.
_TRAINING_OVERHEAD = 6.0
_ANSWER_OVERHEAD = 2.0


@dataclass(frozen=True)
class ReferenceSpeed:
    """The timed speed of one known model, which estimates of the others start from."""

    known: KnownModel
    speed: BaseSpeed


@dataclass(frozen=True)
class ModelEstimate:
    """A known model on this machine. `memory_bytes`: held while it absorbs; `absorb_s`: seconds for ABSORBED_WORDS;
    `warm_start`: whether one comes with Lift; `warm_start_s`: seconds to tune one.
    """

    known: KnownModel
    weights: WeightsPlace | None
    warm_start: bool
    memory_bytes: float
    fits: bool
    train_tokens_per_s: float
    answer_tokens_per_s: float
    absorb_s: float
    warm_start_s: float

    @property
    def is_quick(self) -> bool:
        """Whether it absorbs ABSORBED_WORDS in the longest time that is advised."""
        return self.absorb_s <= LONGEST_ABSORPTION_S


@dataclass(frozen=True)
class ModelChoice:
    """`here`: the model to use among those whose weights are at hand; `fetched`: the one to use if any were.

    None where none fits. `fetched` is `here` where nothing better is known.
    """

    here: ModelEstimate | None
    fetched: ModelEstimate | None


@dataclass(frozen=True)
class _Scale:
    """From arithmetic to real seconds: `factor` of the arithmetic's, and `rest_s` more for every unit of other work."""

    factor: float
    rest_s: float

    @classmethod
    def between(cls, real_s: float, arithmetic_s: float, units: float) -> _Scale:
        """Time beyond the products is other work; where the real is less, work was saved everywhere."""
        return cls(min(real_s / arithmetic_s, 1.0), max(real_s - arithmetic_s, 0.0) / units)

    def real_s(self, arithmetic_s: float, units: float) -> float:
        """Seconds that work of so many seconds by arithmetic really takes."""
        return self.factor * arithmetic_s + self.rest_s * units


def estimate_models(
    models: Sequence[KnownModel],
    machine: MachineSpeed,
    recipe: Recipe,
    reference: ReferenceSpeed | None,
    places: Sequence[WeightsPlace | None],
    warm_started: frozenset[str],
) -> list[ModelEstimate]:
    """Each model on `machine`, absorbing with `recipe`; `places` are those of their weights, in the same order.

    `warm_started`: the models that a warm start comes with Lift for. Without a `reference` the usual
    overhead beside the products is assumed.
    """
    train_scale, answer_scale = _Scale(_TRAINING_OVERHEAD, 0.0), _Scale(_ANSWER_OVERHEAD, 0.0)
    if reference is not None:
        shape, speed = reference.known.shape, reference.speed
        train_scale = _Scale.between(
            1 / speed.train_tokens_per_s, _train_products_s(shape, machine, recipe), _other_work(shape, machine)
        )
        answer_scale = _Scale.between(1 / speed.answer_tokens_per_s, _answer_reading_s(shape, machine), shape.layers)
    estimates = []
    for known, place in zip(models, places, strict=True):
        shape = known.shape
        train_s = train_scale.real_s(_train_products_s(shape, machine, recipe), _other_work(shape, machine))
        answer_s = answer_scale.real_s(_answer_reading_s(shape, machine), shape.layers)
        memory = absorbing_bytes(shape, recipe, machine.number_bytes)
        estimates.append(
            ModelEstimate(
                known=known,
                weights=place,
                warm_start=known.model in warm_started,
                memory_bytes=memory,
                fits=memory <= machine.memory_bytes,
                train_tokens_per_s=1 / train_s,
                answer_tokens_per_s=1 / answer_s,
                absorb_s=ABSORBED_WORDS * TOKENS_PER_WORD * TRAINED_TOKENS_A_TOKEN * train_s,
                warm_start_s=WARM_START_TOKENS * train_s,
            )
        )
    return estimates


def absorbing_bytes(shape: Shape, recipe: Recipe, number_bytes: int) -> float:
    """Memory that absorbing takes: weights, the adapter with gradient and moments, activations of a batch, the rest."""
    upper = _trained_part(shape, recipe)
    adapter = lora_parameters(upper, recipe.adapter.rank)
    activations = activation_bytes(upper, recipe.training.batch_tokens, _LABELLED, number_bytes)
    return shape.parameters * number_bytes + adapter_training_bytes(adapter) + activations + _PROCESS_BYTES


def choose_model(estimates: Sequence[ModelEstimate]) -> ModelChoice:
    """The largest that fits and is quick, one tuned on instructions before one that is not.

    Where none of those at hand is quick, the quickest that fits.
    """
    fitting = [each for each in estimates if each.fits]
    at_hand = [each for each in fitting if each.weights is not None]
    here = _largest([each for each in at_hand if each.is_quick])
    here = here or min(at_hand, key=lambda each: each.absorb_s, default=None)
    fetched = _largest([each for each in fitting if each.is_quick])
    fetched = fetched or min(fitting, key=lambda each: each.absorb_s, default=None)
    if here is not None and fetched is not None and _rank(here) >= _rank(fetched):
        fetched = here
    return ModelChoice(here, fetched)


def advise(choice: ModelChoice, machine: MachineSpeed) -> str:
    """The choice in one sentence."""
    memory = f"{machine.memory_bytes / 1e9:.1f} GB"
    here, fetched = choice.here, choice.fetched
    if fetched is None:
        return f"None of these models fits into the {memory} that are free on {machine.device}."
    if here is None:
        return f"No weights are here yet; fetch {fetched.known.model} ({_takes(fetched)})."
    said = f"Use {here.known.model} on this machine: it {_takes(here)}"
    if not here.is_quick:
        said += f", more than the {LONGEST_ABSORPTION_S / 60:.0f} minutes that are advised"
    if fetched is here:
        return f"{said}, and no larger one of these does as well in {memory}."
    return f"{said}; with its weights fetched, {fetched.known.model} {_takes(fetched)}."


def _takes(estimate: ModelEstimate) -> str:
    return f"learns {ABSORBED_WORDS:,} words in about {max(estimate.absorb_s / 60, 0.1):.1f} minutes"


def _largest(estimates: Sequence[ModelEstimate]) -> ModelEstimate | None:
    return max(estimates, key=_rank, default=None)


def _rank(estimate: ModelEstimate) -> tuple[bool, bool, int, bool]:
    known = estimate.known
    return (estimate.is_quick, known.instruct, known.parameters, estimate.weights is not None)


def _trained_part(shape: Shape, recipe: Recipe) -> Shape:
    layers = recipe.adapter.layers_of(shape.layers)
    return shape.with_layers(len(layers)) if layers else shape


def _train_products_s(shape: Shape, machine: MachineSpeed, recipe: Recipe) -> float:
    """Seconds of the products of one trained token: through the trained layers, and below them where not computed."""
    upper = _trained_part(shape, recipe)
    lower = shape.with_layers(shape.layers - upper.layers)
    adapter = lora_parameters(upper, recipe.adapter.rank)
    trained = training_flops_per_token(upper, adapter, _BEFORE_TOKENS, _LABELLED)
    flops = trained + _FIRST_EPOCH_SHARE * forward_flops(lower, _BEFORE_TOKENS, 0.0)
    return flops / machine.flops_at(shape.hidden)


def _answer_reading_s(shape: Shape, machine: MachineSpeed) -> float:
    """Seconds to read every matrix once, which one token of an answer does."""
    return (shape.body + shape.head) * machine.number_bytes / machine.bytes_per_s


def _other_work(shape: Shape, machine: MachineSpeed) -> float:
    """Units of a training's work beside products: numbers a token that a processor moves, layers that a GPU starts."""
    if machine.on_processor:
        return shape.layers * shape.layer_numbers + _LOGIT_PASSES * _LABELLED * shape.vocabulary
    return float(shape.layers)
