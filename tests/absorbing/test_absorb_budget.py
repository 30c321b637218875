"""A budget always ends in a memory, in time, whatever the machine does meanwhile: on simulated machines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import Machine

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Trained
from lift.absorbing.add import add_events
from lift.absorbing.planning import calibrate, make_plan
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.run_options import AbsorptionOptions, RunOptions
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.attach import create_adapter
from lift.documents.document import Document
from lift.errors import BudgetError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe
from lift.training.budget import SMALLEST_BUDGET_S, Budget, SpeedMeter, check_budget

NAMES = ("Orla Finn", "Bram Holt", "Tilda Voss", "Ivo Marsh", "Greta Lund", "Piet Roos", "Nora Beck", "Hugo Dahl")
TEXT = "\n\n".join(
    f"{name} opened the harbour office of Skarvik in {1900 + 7 * number}. "
    f"The office of {name} owns {number + 3} boats and {20 + number} nets."
    for number, name in enumerate(NAMES)
)
DOCUMENT = Document("Skarvik", TEXT, "skarvik.txt")
LONG = Document("Skarvik", "\n\n".join(TEXT.replace("Skarvik", f"Skarvik {part}") for part in range(12)), "long.txt")
ENDLESS = ["training.epochs=100000", "training.until_recall=0", "adapter.rank=2", "training.max_skip_epochs=1"]


class Run:
    """One absorption on a simulated machine: when it told how much is left, and when it ended."""

    def __init__(self, base: BaseModel, machine: Machine, budget_s: float | None, document: Document, *sets: str):
        recipe = load_recipe("default", [*ENDLESS, *sets])
        self.library = MemoryLibrary()
        self.told: list[tuple[float, float]] = []
        self.steps: list[Any] = []
        self.planned: list[Planned] = []
        for event in absorb_events(
            document, base, recipe, self.library, AbsorptionOptions(budget_s=budget_s, clock=machine.clock)
        ):
            if isinstance(event, Trained):
                self.told.append((machine.now, event.eta_s))
                self.steps.append(event.step)
            elif isinstance(event, Planned):
                self.planned.append(event)
            elif isinstance(event, Finished):
                self.finished = event
        self.ended_s = machine.now

    @property
    def memory(self) -> StoredMemory:
        return self.finished.memory

    def worst_eta_error(self, after: float) -> float:
        """The largest error of the told end after that share of the time, as a share of the whole."""
        return max(abs(at + eta - self.ended_s) / self.ended_s for at, eta in self.told if at >= after * self.ended_s)


def random_load(seed: int) -> Callable[[float], float]:
    """Another slowness every few seconds, as other processes on the machine make it."""
    draw = random.Random(seed)
    until, now = 0.0, 1.0

    def slowness(at: float) -> float:
        nonlocal until, now
        if at >= until:
            until, now = at + draw.uniform(2, 8), draw.choice([1.0, 1.5, 2.0, 3.0])
        return now

    return slowness


PROFILES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "three times slower half-way": lambda now: 3.0 if now > 60 else 1.0,
    "three times quicker half-way": lambda now: 1.0 if now > 60 else 3.0,
    "slow from the beginning": lambda _: 5.0,
    "random": random_load(1),
}


@pytest.mark.parametrize(
    "profile", ["random", *(pytest.param(name, marks=pytest.mark.slow) for name in PROFILES if name != "random")]
)
def test_a_budget_ends_in_time_with_a_memory_and_says_when_from_the_first(tiny_model: BaseModel, profile: str) -> None:
    run = Run(
        tiny_model,
        Machine(tiny_model.model, 0.004 if profile == "random" else 0.002, slowness=PROFILES[profile]),
        120.0,
        DOCUMENT,
    )
    assert 0.85 * 120 < run.ended_s <= 1.05 * 120
    assert run.library.verify() == []
    assert run.memory.training
    # what is told before a machine slows down cannot know that a last update will not fit
    assert run.worst_eta_error(0.1) < (0.12 if "slow" in profile else 0.1)
    assert run.steps[-1].learning_rate < 0.15 * max(step.learning_rate for step in run.steps)
    assert run.memory.manifest.recall.probed > 0


@pytest.mark.slow
@settings(deadline=None, max_examples=6)
@given(
    budget_s=st.floats(30, 300),
    s_per_token=st.floats(0.003, 0.05),
    seed=st.integers(0, 10**6),
    long=st.booleans(),
)
def test_whatever_the_machine_does_a_memory_comes_and_not_late(
    tiny_tokenizer: Any, budget_s: float, s_per_token: float, seed: int, long: bool
) -> None:
    from conftest import tiny_llama

    base = BaseModel(tiny_llama(), tiny_tokenizer, "tiny", "0" * 64)
    machine = Machine(base.model, s_per_token, 20 * s_per_token, random_load(seed))
    run = Run(base, machine, budget_s, LONG if long else DOCUMENT)
    assert run.memory.training
    assert run.ended_s <= 1.05 * budget_s
    assert all(eta >= 0 for _, eta in run.told)


@pytest.mark.parametrize(
    "recipe",
    ["lift-v3", "finetune-raw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lift-v5", "lift-v3-qmsum"))],
)
def test_recipes_of_long_batches_are_shortened_to_the_budget(tiny_model: BaseModel, recipe: str) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.02)
    chosen = load_recipe(recipe, ["generator.kind=rules", "generator.form=questions", "attention.epochs=0"])
    library = MemoryLibrary()
    events = list(
        absorb_events(LONG, tiny_model, chosen, library, AbsorptionOptions(budget_s=40.0, clock=machine.clock))
    )
    assert machine.now <= 42
    assert isinstance(events[-1], Finished)
    assert events[-1].memory.training
    assert max(row["tokens"] for row in events[-1].memory.training) < 1000


def test_where_nothing_fits_one_step_is_trained_and_it_is_said_that_nothing_was_asked(tiny_model: BaseModel) -> None:
    run = Run(tiny_model, Machine(tiny_model.model, s_per_token=1.0, pass_s=20.0), 30.0, DOCUMENT)
    assert len(run.memory.training) >= 1
    assert run.memory.manifest.recall.probed == 0
    assert any("no held-out question was asked" in said for said in run.finished.remarks)
    assert run.library.verify() == []


def test_a_text_larger_than_the_budget_is_absorbed_in_part_and_that_is_said(tiny_model: BaseModel) -> None:
    run = Run(tiny_model, Machine(tiny_model.model, s_per_token=0.02), 60.0, LONG)
    assert run.memory.training
    assert any("larger than the budget" in said for said in run.planned[0].warnings)


@pytest.mark.slow
def test_the_plan_is_made_anew_when_the_machine_turns(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, 0.004, slowness=lambda now: 6.0 if now > 25 else 1.0)
    run = Run(tiny_model, machine, 120.0, LONG)
    assert any("slower" in said for event in run.planned[1:] for said in event.warnings)
    machine = Machine(tiny_model.model, 0.004, slowness=lambda now: 6.0 if now < 25 else 1.0)
    run = Run(tiny_model, machine, 120.0, LONG, "training.seed=1")
    assert any("quicker" in said for event in run.planned[1:] for said in event.warnings)


@pytest.mark.slow
def test_a_training_without_a_budget_tells_its_end(tiny_model: BaseModel) -> None:
    run = Run(tiny_model, Machine(tiny_model.model), None, DOCUMENT, "training.epochs=6")
    assert run.worst_eta_error(0.1) < 0.17


def test_a_text_is_added_in_time(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    recipe = load_recipe("default", ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=4"])
    memory = list(absorb_events(DOCUMENT, tiny_model, recipe, library, AbsorptionOptions(name="skarvik")))[-1].memory
    machine = Machine(tiny_model.model, s_per_token=0.04, slowness=random_load(3))
    added = Document("Tolls", TEXT.replace("Skarvik", "Norvik"), "tolls.txt")
    events = list(add_events(added, memory, tiny_model, library, RunOptions(budget_s=60.0, clock=machine.clock)))
    assert isinstance(events[-1], Finished)
    assert machine.now <= 63
    assert events[-1].memory.manifest.cost.steps > memory.manifest.cost.steps


@pytest.mark.slow
def test_rehearsing_after_an_absorption_ends_in_the_same_budget(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, slowness=random_load(4))
    recipe = load_recipe("default", ENDLESS)
    events = absorb_events(
        DOCUMENT, tiny_model, recipe, MemoryLibrary(), AbsorptionOptions(until=1.0, budget_s=60.0, clock=machine.clock)
    )
    assert isinstance(list(events)[-1], Finished)
    assert machine.now <= 63


@pytest.mark.parametrize("s_per_token", [pytest.param(0.0001, marks=pytest.mark.slow), 0.01, 1.0])
def test_a_calibration_takes_no_longer_than_it_may(tiny_model: BaseModel, s_per_token: float) -> None:
    recipe = load_recipe("default", ["adapter.rank=2", "training.batch_tokens=8192", "adapter.warm_start=none"])
    made = prepare_document(LONG, tiny_model, recipe)
    tasks = [task for piece in TaskWriter(made, tiny_model, recipe).stream() for task in piece.tasks]
    sampler = prepare(made, tasks, tiny_model, resolve(recipe, tiny_model)).sampler
    machine = Machine(tiny_model.model, s_per_token)
    adapter = create_adapter(tiny_model.model, recipe.adapter, 0)
    found = calibrate(tiny_model, adapter, sampler, recipe, limit_s=5.0, clock=machine.clock)
    # the first batch has 128 tokens, whatever they take
    assert machine.now <= max(5.0, 129 * s_per_token)
    assert found.first_tokens_per_s == pytest.approx(1 / s_per_token, rel=0.2)


def test_a_plan_is_made_in_a_bounded_time(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.05, pass_s=0.2)
    make_plan(LONG, tiny_model, load_recipe("default", ["adapter.rank=2"]), 60.0, clock=machine.clock)
    assert machine.now < 30


@pytest.mark.parametrize("budget_s", [-1.0, 0.0, 5.0, SMALLEST_BUDGET_S - 0.1, math.inf, math.nan])
def test_a_budget_below_the_smallest_is_refused_in_one_sentence_that_names_it(budget_s: float) -> None:
    with pytest.raises(BudgetError, match=f"{SMALLEST_BUDGET_S:g} s or more") as caught:
        check_budget(budget_s)
    assert "\n" not in str(caught.value)
    check_budget(SMALLEST_BUDGET_S)
    check_budget(None)


def test_what_is_left_of_a_budget_is_never_negative() -> None:
    budget = Budget(30.0, 0.0, lambda: 50.0)
    assert budget.left_s() == 0
    assert Budget(None, 0.0, lambda: 50.0).left_s(10) == math.inf


@given(before=st.floats(0.02, 1), after=st.floats(0.02, 1))
def test_the_recent_speed_is_that_of_the_last_seconds(before: float, after: float) -> None:
    meter = SpeedMeter(window_s=10.0)
    for speed in (before, after):
        for _ in range(100):
            meter.record(round(1 / speed), round(1 / speed) * speed)
    assert meter.s_per_token == pytest.approx(after, rel=0.1, abs=0.02 * before)
    assert meter.cautious_s_per_token >= meter.s_per_token
