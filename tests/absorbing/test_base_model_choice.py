"""The choice of a base model on invented machines: small, slow, and with a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.absorbing.base_model_choice import (
    LONGEST_ABSORPTION_S,
    ModelEstimate,
    ReferenceSpeed,
    absorbing_bytes,
    advise,
    choose_model,
    estimate_models,
)
from lift.absorbing.base_model_survey import warm_start_command
from lift.absorbing.base_speed import BaseSpeed
from lift.models.known_models import KnownModel, WeightsPlace, known_models
from lift.models.machine_speed import MachineSpeed
from lift.recipes.recipe import load_recipe

RECIPE = load_recipe()
MODELS = known_models()
LAPTOP = MachineSpeed("cpu", "float32", 4, 12_000_000_000, 2e10, {512: 1e12, 4096: 1.5e12})
SLOW = replace(LAPTOP, flops_per_s={1024: 2e9}, bytes_per_s=2e9)
GPU = MachineSpeed("cuda", "bfloat16", 2, 80_000_000_000, 2e12, {512: 1e14, 4096: 5e14})
SMALL = replace(GPU, memory_bytes=6_000_000_000)


def estimates(
    machine: MachineSpeed, *, at_hand: tuple[str, ...] = ("smollm2",), reference: ReferenceSpeed | None = None
) -> list[ModelEstimate]:
    places: list[WeightsPlace | None] = ["hub cache" if known.model in at_hand else None for known in MODELS]
    return estimate_models(MODELS, machine, RECIPE, reference, places, frozenset({"smollm2"}))


def by_name(found: list[ModelEstimate], name: str) -> ModelEstimate:
    return next(each for each in found if each.known.name == name)


def test_on_a_laptop_the_one_that_comes_with_lift() -> None:
    choice = choose_model(estimates(LAPTOP))
    assert choice.here and choice.fetched
    assert choice.here.known.model == "smollm2"
    assert choice.fetched.is_quick
    assert choice.fetched.known.parameters >= choice.here.known.parameters


def test_where_there_is_a_gpu_a_model_of_billions() -> None:
    everything = tuple(known.model for known in MODELS)
    choice = choose_model(estimates(GPU, at_hand=everything))
    assert choice.here and choice.here.known.parameters > 1e9
    assert choice.fetched is choice.here
    small = choose_model(estimates(SMALL, at_hand=everything))
    assert small.here and 1e9 < small.here.known.parameters < 3e9
    assert small.here.memory_bytes <= SMALL.memory_bytes


def test_a_better_one_that_has_to_be_fetched_is_named_and_how_its_warm_start_is_made() -> None:
    choice = choose_model(estimates(GPU))
    assert choice.here and choice.fetched
    assert choice.here.known.model == "smollm2"
    assert choice.fetched.known.parameters > 1e9
    said = advise(choice, GPU)
    assert "smollm2" in said and choice.fetched.known.model in said
    assert warm_start_command(choice) == f"lift warm-start FILES --model {choice.fetched.known.model} --out DIR"


def test_a_slow_machine_is_told_that_it_takes_long() -> None:
    choice = choose_model(estimates(SLOW))
    assert choice.here and choice.here.known.model == "smollm2"
    assert choice.here.absorb_s > LONGEST_ABSORPTION_S
    assert "more than the 5 minutes" in advise(choice, SLOW)
    assert choice.fetched is choice.here  # a larger one is slower still
    assert warm_start_command(choice) == ""


def test_where_nothing_fits_nothing_is_advised() -> None:
    machine = replace(LAPTOP, memory_bytes=500_000_000)
    choice = choose_model(estimates(machine))
    assert choice.here is None and choice.fetched is None
    assert "None of these models fits into the 0.5 GB" in advise(choice, machine)


def test_where_nothing_is_at_hand_one_to_fetch() -> None:
    choice = choose_model(estimates(LAPTOP, at_hand=()))
    assert choice.here is None and choice.fetched
    assert choice.fetched.known.model in advise(choice, LAPTOP)


def test_one_that_is_not_tuned_on_instructions_comes_after_smaller_ones_that_are() -> None:
    plain = next(known for known in MODELS if not known.instruct)
    assert plain.parameters > MODELS[0].parameters
    choice = choose_model(estimates(GPU, at_hand=("smollm2", plain.model)))
    assert choice.here and choice.here.known.model == "smollm2"
    alone = choose_model(estimates(GPU, at_hand=(plain.model,)))
    assert alone.here and alone.here.known.model == plain.model


def test_the_reference_is_estimated_at_the_speed_that_was_timed() -> None:
    for speed in (BaseSpeed(400.0, 25.0), BaseSpeed(1e7, 1e6)):
        smollm2 = estimates(LAPTOP, reference=ReferenceSpeed(MODELS[0], speed))[0]
        assert smollm2.train_tokens_per_s == pytest.approx(speed.train_tokens_per_s)
        assert smollm2.answer_tokens_per_s == pytest.approx(speed.answer_tokens_per_s)


@given(
    st.sampled_from([LAPTOP, SLOW, GPU, SMALL]),
    st.sampled_from(MODELS),
    st.sampled_from([None, BaseSpeed(400.0, 25.0), BaseSpeed(1e6, 1e5)]),
)
def test_more_layers_need_more_memory_and_time(
    machine: MachineSpeed, known: KnownModel, speed: BaseSpeed | None
) -> None:
    body = known.shape.body
    deeper = known.model_copy(update={"layers": 2 * known.layers, "parameters": known.parameters + body})
    reference = ReferenceSpeed(MODELS[0], speed) if speed else None
    first, second = estimate_models([known, deeper], machine, RECIPE, reference, [None, None], frozenset())
    assert second.memory_bytes > first.memory_bytes
    assert second.train_tokens_per_s < first.train_tokens_per_s
    assert second.answer_tokens_per_s < first.answer_tokens_per_s
    assert second.absorb_s > first.absorb_s and second.warm_start_s > first.warm_start_s


def test_memory_by_hand() -> None:
    shape = MODELS[0].shape
    # bfloat16 weights; a LoRA of rank 16 on 15 layers, four numbers of 4 bytes a parameter of it
    layer = 5 * 576 + 576 + 1536 + 2 * 576 + 576 + 2 * 192 + 2 * 1536
    least = 2 * 134_515_008 + 16 * 16 * 15 * layer
    held = absorbing_bytes(shape, RECIPE, 2)
    assert least < held < least + 1.5e9
    assert absorbing_bytes(shape, RECIPE, 4) > held


def test_speed_between_two_sizes_that_were_timed() -> None:
    assert LAPTOP.flops_at(512) == 1e12 and LAPTOP.flops_at(100) == 1e12 and LAPTOP.flops_at(9999) == 1.5e12
    assert 1e12 < LAPTOP.flops_at(1024) < LAPTOP.flops_at(2048) < 1.5e12
