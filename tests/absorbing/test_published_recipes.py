"""Published recipes as they run: to their end with rules and with an endpoint, in a budget or without."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
from machines import Machine
from scripted_endpoint import ScriptedEndpoint

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probing, Trained, Writing
from lift.absorbing.run_options import AbsorptionOptions
from lift.absorbing.warm_start_tuning import warm_start_of
from lift.adapters.warm_start import read_warm_start
from lift.documents.document import Document
from lift.errors import AdapterError, GenerationError, UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, load_recipe, recipe_names

HERE = [name for name in recipe_names() if not load_recipe(name).remote.only]
# In a budget, recipes of single tasks of LongBench differ from lift-v3 in what whole runs show too; with an endpoint,
# others than the three of ENDPOINT differ in what runs with rules show.
TASKS_ALONE = ("lift-v3-musique", "lift-v3-qmsum", "lift-v3-govreport", "lift-v3-passage-retrieval")
ENDPOINT = ("default", "lift-v3", "lift-v3-narrativeqa")


def runs(slow_in_a_budget: Collection[str]) -> list[Any]:
    """Each recipe, whole and in a budget."""
    whole = [pytest.param(name, None, id=f"{name}-whole") for name in HERE]
    marks = {name: [pytest.mark.slow] if name in slow_in_a_budget else [] for name in HERE}
    return [*whole, *(pytest.param(name, 40.0, id=f"{name}-in a budget", marks=marks[name]) for name in HERE)]


NUMBERS = itertools.count(1)
NAMES = ("Orla Finn", "Bram Holt")
TEXT = "\n\n".join(
    f"{name} opened the harbour office of Skarvik in {1900 + 7 * number}. The office of {name} owns {number + 3} boats "
    f"and {20 + number} nets. Visitors of {name} come by ferry every summer."
    for number, name in enumerate(NAMES)
)
DOCUMENT = Document("Skarvik", TEXT, "skarvik.txt")
TWO_STAGES = ["generator.kind=rules", "training.segment_epochs=30", "training.epochs=50", "adapter.width=1"]


def reply(request: dict[str, Any]) -> str:
    """A usable reply to a request of any form, each with a task of its own."""
    said = request["messages"][-1]["content"]
    name, number = next(name for name in NAMES if name in said), next(NUMBERS)
    if "4 to 6 sentences" in json.dumps(request["messages"]):
        summary = f"{name} opened the office. It owns boats. It owns nets. Visitors come by ferry, {number} in all."
        return json.dumps({"summary": summary})
    task: dict[str, Any] = {"question": f"Who in Skarvik owns boats, number {number}?", "answer": name}
    if "Last part: " not in said:
        passage = said.partition("Passage: ")[2]
        task["evidence"] = [next(each for each in re.findall(r"[A-Z][^.\n]*\.", passage) if name in each)]
    return json.dumps({"tasks": [task]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with ScriptedEndpoint(reply) as running:
        yield running


def small(name: str, *overrides: str) -> Recipe:
    quick = ["adapter.rank=2"] if load_recipe(name).adapter.kind != "gated-memory" else []
    training, tasks = load_recipe(name).training, load_recipe(name).tasks
    if tasks.per_document:
        quick.append(f"tasks.per_document={min(tasks.per_document, 10)}")
    quick += [f"training.{stage}=1" for stage in ("segment_epochs", "epochs") if getattr(training, stage)]
    return load_recipe(name, [*quick, "tasks.per_sentence=2", *overrides])


def by_rules() -> list[str]:
    return ["generator.kind=rules", "generator.form=questions", "generator.stream=false"]


def by_endpoint(endpoint: ScriptedEndpoint) -> list[str]:
    return ["generator.kind=openai", "generator.model=m", f"generator.base_url={endpoint.base_url}"]


def check_end(base: BaseModel, recipe: Recipe, budget_s: float | None, document: Document = DOCUMENT) -> list[Any]:
    """All events, none of which tells of a time below zero; the last is the memory."""
    options = AbsorptionOptions(budget_s=budget_s)
    if budget_s:
        options = replace(options, clock=Machine(base.model).clock)
    events = list(absorb_events(document, base, recipe, MemoryLibrary(), options))
    for event in events:
        told = [getattr(event, name, None) for name in ("eta_s", "predicted_s", "seconds", "tokens_per_s", "epochs")]
        assert all(value is None or value >= 0 for value in told), event
    assert isinstance(events[-1], Finished)
    if budget_s:
        assert events[-1].seconds <= budget_s
    return events


@pytest.mark.parametrize(("name", "budget_s"), runs(TASKS_ALONE))
def test_a_recipe_runs_to_its_end_with_rules(name: str, budget_s: float | None, tiny_model: BaseModel) -> None:
    check_end(tiny_model, small(name, *by_rules()), budget_s)


@pytest.mark.parametrize(("name", "budget_s"), runs({*HERE} - {*ENDPOINT}))
def test_a_recipe_runs_to_its_end_with_an_endpoint(
    name: str, budget_s: float | None, tiny_model: BaseModel, endpoint: ScriptedEndpoint
) -> None:
    check_end(tiny_model, small(name, *by_endpoint(endpoint)), budget_s)


@pytest.mark.recipes
@pytest.mark.parametrize("budget_s", [None, 40.0], ids=["whole", "in a budget"])
@pytest.mark.parametrize("name", HERE)
def test_a_recipe_runs_to_its_end_on_the_default_model(
    name: str, budget_s: float | None, smollm2: BaseModel, endpoint: ScriptedEndpoint
) -> None:
    document = Document("Skarvik", TEXT.split("\n\n")[0], "skarvik.txt")
    for overrides in (by_rules(), by_endpoint(endpoint)):
        recipe = load_recipe(name, [*overrides, "tasks.per_sentence=2"])
        options = AbsorptionOptions(budget_s=budget_s)
        *_, finished = absorb_events(document, smollm2, recipe, MemoryLibrary(), options)
        assert isinstance(finished, Finished)


def test_a_recipe_for_endpoints_is_refused_on_a_model_here(tiny_model: BaseModel) -> None:
    with pytest.raises(UsageError, match="'openai-finetune', which fine-tunes a model at an endpoint") as caught:
        list(absorb_events(DOCUMENT, tiny_model, load_recipe("openai-finetune"), MemoryLibrary()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("full_batch", [False, True], ids=["an update a batch", "an update an epoch"])
def test_a_budget_shortens_both_stages_in_proportion(full_batch: bool, tiny_model: BaseModel) -> None:
    recipe = small(
        "lift-v3", *TWO_STAGES, f"training.full_batch={str(full_batch).lower()}", "training.batch_tokens=400"
    )
    events = check_end(tiny_model, recipe, 40.0)
    steps = [event.step for event in events if isinstance(event, Trained)]
    first = sum(step.seconds for step in steps if step.epoch < 30)
    second = sum(step.seconds for step in steps if step.epoch >= 30)
    # the tokens of both stages, as a whole training has them: 30 epochs of segments, 50 of these and the tasks
    whole = list(absorb_events(DOCUMENT, tiny_model, small("lift-v3", *TWO_STAGES[:1]), MemoryLibrary()))
    tokens = {event.step.epoch: event.step.tokens for event in whole if isinstance(event, Trained)}
    share = 30 * tokens[0] / (30 * tokens[0] + 50 * tokens[1])
    assert second > 0
    assert first / (first + second) == pytest.approx(share, abs=0.15)


def test_calibrating_a_long_text_takes_its_part_of_the_budget(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.004)
    long = Document("Skarvik", "\n\n".join(TEXT.replace("Skarvik", f"Skarvik {part}") for part in range(5)), "long")
    options = AbsorptionOptions(budget_s=60.0, clock=machine.clock)
    at: dict[type, float] = {}
    for event in absorb_events(long, tiny_model, small("lift-v3", *TWO_STAGES), MemoryLibrary(), options):
        at.setdefault(type(event), machine.now)
    assert at[Planned] - at[Prepared] < 0.2 * 60.0
    assert machine.now <= 60.0


def test_tasks_that_fail_are_replaced_until_all_are_there(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    asked: list[str] = []

    def every_other(request: dict[str, Any]) -> str:
        asked.append(request["messages"][-1]["content"])
        return reply(request) if len(asked) % 2 else '{"tasks": []}'

    with ScriptedEndpoint(every_other) as endpoint:
        overrides = [*by_endpoint(endpoint), "generator.window_sentences=2", "generator.concurrency=1"]
        events = check_end(tiny_model, small("lift-v3", *overrides), None)
    (prepared,) = [event for event in events if isinstance(event, Prepared)]
    assert prepared.tasks == 10
    assert not [said for said in prepared.warnings if "could be written" in said]
    assert prepared.generation["requests"] > 10
    assert len(set(asked)) == len(asked)  # a passage that is asked about again is asked in other words


def test_fewer_tasks_than_the_recipe_states_are_told_and_none_are_an_error(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    replies: list[str] = []

    def first_alone(request: dict[str, Any]) -> str:
        replies.append(reply(request) if not replies else '{"tasks": []}')
        return replies[-1]

    def asked(answer: Any) -> list[Any]:
        with ScriptedEndpoint(answer) as endpoint:
            overrides = [*by_endpoint(endpoint), "generator.concurrency=1"]
            return list(absorb_events(DOCUMENT, tiny_model, small("lift-v3", *overrides), MemoryLibrary()))

    (prepared,) = [event for event in asked(first_alone) if isinstance(event, Prepared)]
    assert "1 of 10 tasks could be written" in " ".join(prepared.warnings)
    monkeypatch.setenv("LIFT_CACHE", f"{MemoryLibrary().root}-other")
    with pytest.raises(GenerationError, match="expected 10 tasks, got none") as caught:
        asked(lambda _request: '{"tasks": []}')
    assert "\n" not in str(caught.value)


def test_pre_lift_sft_gives_a_warm_start_that_memories_begin_at(tiny_model: BaseModel, tmp_path: Any) -> None:
    library = MemoryLibrary()
    recipe = small("lift-v0-sft", "generator.kind=rules", "training.epochs=1")
    *_, finished = absorb_events(DOCUMENT, tiny_model, recipe, library, AbsorptionOptions(name="sft"))
    assert isinstance(finished, Finished)
    warm_start_of(finished.memory, "CC0").write(tmp_path / "start")
    start = read_warm_start(tmp_path / "start")
    assert start.about.documents == ("Skarvik (skarvik.txt)",)
    assert start.passages and start.state.keys() == finished.memory.load_adapter_state().keys()
    begun = load_recipe("default", [f"adapter.warm_start={tmp_path / 'start'}", "training.epochs=1", "adapter.rank=2"])
    *_, memory = absorb_events(Document("Merrow", "Ada Quill built the tower.", "m"), tiny_model, begun, library)
    assert isinstance(memory, Finished)
    gated = small("lift-v3", "generator.kind=rules", "training.epochs=1", "training.segment_epochs=1")
    *_, other = absorb_events(DOCUMENT, tiny_model, gated, library)
    with pytest.raises(AdapterError, match="a memory that is a LoRA, got gated-memory"):
        warm_start_of(other.memory, "CC0")


def test_no_time_that_is_told_lies_below_zero_when_writing_took_it_all(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.02, pass_s=2.0)
    options = AbsorptionOptions(budget_s=30.0, clock=machine.clock)
    for event in absorb_events(DOCUMENT, tiny_model, small("lift-v3", *TWO_STAGES), MemoryLibrary(), options):
        if isinstance(event, Writing | Trained | Probing):
            assert event.eta_s is None or event.eta_s >= 0
