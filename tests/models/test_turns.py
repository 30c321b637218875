"""Any number of threads on one base model: each gets the answers that it would get alone, and none waits for ever."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_drafts import make_draft, version_of

import lift
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished
from lift.absorbing.run_options import AbsorptionOptions
from lift.adapters.adapter import attached
from lift.adapters.attach import create_adapter
from lift.adapters.resident import release
from lift.answering.answer import Answer
from lift.answering.answerer import open_memory
from lift.documents.document import Document
from lift.errors import LiftError, UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.models.turns import loading, turn_of
from lift.recipes.recipe import AdapterSettings, Recipe, load_recipe
from lift.serving.engine import Engine
from lift.serving.request import Message, Request, Sampling

KINDS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 4},
    {"kind": "dora", "rank": 3},
    {"kind": "gated-memory"},
    {"kind": "pissa", "rank": 2},
    {"kind": "lora", "rank": 2, "layers": (1,), "targets": "mlp"},
]
QUESTIONS = ["Who founded it?", "How many lenses?", "When did the tower burn?"]
TEXT = "Ada Quill founded the museum of Port Merrow in 1911. It owns 42 lenses. A storm destroyed the tower in 1907."
WITHIN_S = 120.0
OTHER_KINDS = ("pissa", "gated-memory")


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads are interrupted a hundred times as often as usual, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def library(tiny_model: BaseModel) -> lift.Library:
    """Eight memories that answer differently."""
    library = MemoryLibrary()
    for seed in range(8):
        adapter = create_adapter(tiny_model.model, AdapterSettings(**KINDS[seed % len(KINDS)]), seed)
        for parameter in adapter.parameters():
            parameter.data.add_(0.4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        config, state = adapter.stored()
        adapter.detach()
        text = f"Ada Quill {seed} founded it. It owns {40 + seed} lenses. The tower {seed} burned in 190{seed}."
        library.put(
            make_draft(
                f"m{seed}",
                str(seed),
                base_id=tiny_model.id,
                base_fingerprint=tiny_model.fingerprint,
                adapter_config=config,
                adapter_state=state,
                document=Document(f"Document {seed}", text, "test"),
            )
        )
    return lift.Library(model=tiny_model)


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("default", ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=3", *overrides])


def document(seed: object = "") -> Document:
    return Document(f"Port Merrow {seed}".strip(), f"{TEXT} Its keeper is Tom Reed {seed}.", "test")


def together(*work: Callable[[], Any]) -> list[Any]:
    """What each returns, all of them at once, each in a thread of its own."""
    begin = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        begin.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(WITHIN_S) for future in [pool.submit(run, one) for one in work]]


def said(answers: Sequence[Answer]) -> list[tuple[str, str, bool]]:
    return [(answer.text, answer.context, answer.supported) for answer in answers]


def ask_all(memory: lift.Memory, context: str) -> list[tuple[str, str, bool]]:
    return said([memory.ask(question, context) for question in QUESTIONS])


@pytest.mark.parametrize("context", ["none", pytest.param("auto", marks=pytest.mark.slow)])
def test_eight_threads_with_eight_memories_get_the_answers_of_each_memory_alone(
    library: lift.Library, tiny_model: BaseModel, context: str
) -> None:
    memories = [library[name] for name in library]
    expected = [ask_all(memory, context) for memory in memories]
    assert len({str(answers) for answers in expected}) == len(memories)
    release(tiny_model.model)
    found = together(*(lambda memory=memory: ask_all(memory, context) for memory in memories))  # type: ignore[misc]
    assert found == expected


@pytest.mark.slow
def test_threads_that_share_memories_and_ask_in_batches_get_the_same_answers(library: lift.Library) -> None:
    memories = [library[name] for name in library]
    everything = [(memory, question) for memory in memories for question in QUESTIONS]
    expected = said(lift.ask_many(everything, "none"))
    one_by_one = [said(memory.ask_many(QUESTIONS, "none")) for memory in memories[:3]]

    def in_any_order(seed: int) -> list[tuple[str, str, bool]]:
        order = random.Random(seed).sample(range(len(everything)), len(everything))
        answers = said(lift.ask_many([everything[index] for index in order], "none", batch_size=5, resident=3))
        return [answer for _, answer in sorted(zip(order, answers, strict=True))]

    found = together(
        *(lambda seed=seed: in_any_order(seed) for seed in range(3)),  # type: ignore[misc]
        *(lambda memory=memory: said(memory.ask_many(QUESTIONS, "none")) for memory in memories[:3]),  # type: ignore[misc]
    )
    assert found == [expected] * 3 + one_by_one


@pytest.mark.parametrize(
    "kind",
    ["lora", pytest.param("pissa", marks=pytest.mark.slow), pytest.param("gated-memory", marks=pytest.mark.slow)],
)
def test_memories_answer_while_a_text_is_absorbed_and_neither_harms_the_other(
    library: lift.Library, tiny_model: BaseModel, tmp_path: Path, kind: str
) -> None:
    recipe = small_recipe(f"adapter.kind={kind}")
    memories = [library[name] for name in list(library)[:2]]
    steps = [lambda memory=memory: said([memory.ask(QUESTIONS[0], "none")]) for memory in memories]  # type: ignore[misc]
    expected = [step() for step in steps]
    elsewhere = lift.Library(tmp_path / "alone", tiny_model)
    alone = lift.absorb(document(), tiny_model, recipe, library=elsewhere, name="new")

    def keep_asking(step: Callable[[], Any]) -> list[Any]:
        found = [step()]
        while not absorbed.wait(0.1):  # a pause, so that most turns are the training's
            found.append(step())
        return found

    def absorb() -> lift.Memory:
        try:
            return lift.absorb(document(), tiny_model, recipe, library=library, name="new")
        finally:
            absorbed.set()

    absorbed = threading.Event()
    new, *found = together(absorb, *(lambda step=step: keep_asking(step) for step in steps))  # type: ignore[misc]
    for answers, wanted in zip(found, expected, strict=True):
        assert all(answer == wanted for answer in answers)
    trained, undisturbed = new.stored.load_adapter_state(), alone.stored.load_adapter_state()
    assert trained.keys() == undisturbed.keys()
    assert all(torch.equal(trained[key], undisturbed[key]) for key in trained)
    assert [row["loss"] for row in new.stored.training] == [row["loss"] for row in alone.stored.training]


def test_texts_that_are_absorbed_at_once_become_the_memories_of_each_alone(
    tiny_model: BaseModel, tmp_path: Path
) -> None:
    recipe = small_recipe()
    alone, at_once = (lift.Library(tmp_path / each, tiny_model) for each in ("alone", "at once"))
    for seed in range(3):
        lift.absorb(document(seed), tiny_model, recipe, library=alone, name=f"m{seed}")
    together(
        *(
            lambda seed=seed: lift.absorb(document(seed), tiny_model, recipe, library=at_once, name=f"m{seed}")  # type: ignore[misc]
            for seed in range(3)
        )
    )
    added = together(
        lambda: at_once["m0"].add(document("added")), lambda: at_once["m1"].ask("Who?"), lambda: at_once["m2"].ask("?")
    )[0]
    assert len(added.document.parts) == 2
    for name in ("m1", "m2"):
        states = [each[name].stored.load_adapter_state() for each in (alone, at_once)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert "default" not in attached(tiny_model.model)
    assert at_once.verify() == []


def test_a_second_training_of_the_same_thread_is_refused_and_a_memory_may_be_asked_between_two_events(
    library: lift.Library, tiny_model: BaseModel
) -> None:
    expected = said([library["m0"].ask(QUESTIONS[0], "none")])
    for event in absorb_events(document(), tiny_model, small_recipe(), library.stored, AbsorptionOptions(name="new")):
        if not isinstance(event, Finished):
            assert said([library["m0"].ask(QUESTIONS[0], "none")]) == expected
            with pytest.raises(UsageError, match="one training at a time"):
                next(absorb_events(document(1), tiny_model, small_recipe(), library.stored))
    events = absorb_events(document(2), tiny_model, small_recipe(), library.stored, AbsorptionOptions(name="left"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert lift.absorb(document(2), tiny_model, small_recipe(), library=library, name="whole").name == "whole"


def test_who_asks_from_within_an_answer_disturbs_neither(library: lift.Library, tiny_model: BaseModel) -> None:
    outer, inner = (open_memory(library[name].stored, tiny_model) for name in ("m0", "m3"))
    expected = [each.ask("Who?", "none").text for each in (outer, inner)]
    heard: list[str] = []

    def ask_within(_text: str) -> None:
        if len(heard) < 4:
            heard.append(inner.ask("Who?", "none").text)

    answer = outer.ask("Who?", "none", on_text=ask_within)
    assert answer.text == expected[0]
    assert heard
    assert set(heard) == {expected[1]}


def test_the_engine_and_the_python_interface_share_a_model(library: lift.Library, tiny_model: BaseModel) -> None:
    names = list(library)[:2]
    expected = {name: [answer.text for answer in library[name].ask_many(QUESTIONS, "none")] for name in names}
    release(tiny_model.model)
    engine = Engine(tiny_model, library.stored, rows=4)
    engine.start()

    def over_engine(name: str) -> list[str]:
        limits = Sampling(max_tokens=48)
        asked = [Request(name, (Message("user", each),), context="none", sampling=limits) for each in QUESTIONS]
        return [engine.submit(each).result(WITHIN_S).text for each in asked]

    def directly(name: str) -> list[str]:
        return [library[name].ask(question, "none").text for question in QUESTIONS]

    try:
        found = together(*(lambda name=name, way=way: way(name) for name in names for way in (over_engine, directly)))  # type: ignore[misc]
        new = together(
            lambda: lift.absorb(document(), tiny_model, small_recipe(), library=library, name="new").name,
            lambda: over_engine("m0"),
            lambda: directly("m1"),
        )
        assert over_engine("m0") == expected["m0"]
    finally:
        engine.close(5)
    assert found == [expected[name] for name in names for _ in range(2)]
    assert new == ["new", expected["m0"], expected["m1"]]


def test_models_are_loaded_from_several_threads_while_another_one_answers(
    library: lift.Library, tiny_directory: Path
) -> None:
    expected = ask_all(library["m0"], "none")
    loaded = threading.Event()

    def keep_asking() -> bool:
        same = True
        while not loaded.is_set():
            same = same and ask_all(library["m0"], "none") == expected
        return same

    def load() -> list[BaseModel]:
        try:
            return together(*(lambda: load_model(str(tiny_directory), dtype="bfloat16") for _ in range(4)))
        finally:
            loaded.set()

    same, models = together(keep_asking, load)
    assert same
    assert torch.get_default_dtype() == torch.float32
    first = models[0].model.state_dict()
    for each in models:
        assert each.fingerprint == models[0].fingerprint
        assert all(torch.equal(value, first[name]) for name, value in each.model.state_dict().items())


def test_a_base_model_that_many_threads_need_is_loaded_once(
    tiny_directory: Path, tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = load_model(str(tiny_directory)).fingerprint
    adapter = create_adapter(tiny_model.model, AdapterSettings(rank=2), 0)
    config, state = adapter.stored()
    adapter.detach()
    draft = make_draft(
        base_id=str(tiny_directory), base_fingerprint=fingerprint, adapter_config=config, adapter_state=state
    )
    MemoryLibrary().put(draft)
    loads: list[str] = []

    def counted(name: str, **options: Any) -> BaseModel:
        loads.append(name)
        return load_model(name, **options)

    monkeypatch.setattr("lift.api.load_own_model", counted)
    answers = together(*(lambda: lift.Library()["minutes"].ask("Which?", "none").text for _ in range(8)))
    assert loads == [str(tiny_directory)]
    assert len(set(answers)) == 1


def test_a_library_is_changed_by_many_threads_at_once(tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path / "shared")

    def work(number: int) -> None:
        for turn in range(4):
            name = f"m{number % 3}"
            try:
                library.put(make_draft(name, f"{number} {turn}"), replace=True)
                assert version_of(library[name])
                if number % 4 == 0:
                    library.rename(name, f"other {number}")
                elif number % 4 == 1:
                    library.remove(name)
            except LiftError:  # another thread has taken it away, or its new name is taken
                pass

    together(*(lambda number=number: work(number) for number in range(8)))  # type: ignore[misc]
    assert library.verify() == []
    assert all(version_of(library[name]) for name in library.names())


def test_a_turn_goes_to_those_who_wait_in_the_order_of_their_coming(tiny_model: BaseModel) -> None:
    turn, order, queued = turn_of(tiny_model.model), list[int](), threading.Semaphore(0)

    def wait(number: int) -> None:
        queued.release()
        with turn, turn:
            order.append(number)

    with turn:
        threads = []
        for number in range(6):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            queued.acquire()
            while not len(turn._waiting) > number:
                pass
        assert turn.is_wanted
        with turn.released():
            while len(order) < 6:
                pass
        assert turn.is_mine
    for thread in threads:
        thread.join(WITHIN_S)
    assert order == list(range(6))
    assert not turn.is_mine


def test_a_load_waits_for_turns_and_turns_for_a_load_and_nobody_for_ever() -> None:
    models = [torch.nn.Linear(1, 1) for _ in range(2)]
    computing: set[int] = set()
    seen: list[bool] = []

    def work(number: int) -> int:
        generator = random.Random(number)
        for _ in range(200):
            first = generator.choice(models)
            with turn_of(first):
                computing.add(number)
                if generator.random() < 0.3:
                    with turn_of(first):
                        pass
                if generator.random() < 0.2:
                    computing.discard(number)
                    with loading(), loading():
                        seen.append(bool(computing))
                    computing.add(number)
                computing.discard(number)
            if generator.random() < 0.2:
                with loading():
                    seen.append(bool(computing))
        return number

    assert together(*(lambda number=number: work(number) for number in range(8))) == list(range(8))  # type: ignore[misc]
    assert seen
    assert not any(seen)


def test_two_threads_that_load_while_they_hold_turns_do_not_wait_for_each_other() -> None:
    models = [torch.nn.Linear(1, 1) for _ in range(2)]
    first_holds, second_holds = threading.Event(), threading.Event()

    def load_first() -> str:
        with turn_of(models[0]):
            first_holds.set()
            second_holds.wait(WITHIN_S)
            with loading():  # the second one holds a turn and computes
                return "first"

    def load_second() -> str:
        with turn_of(models[1]):
            first_holds.wait(WITHIN_S)
            second_holds.set()
            while not turn_of(models[1]).is_wanted:  # until the first one waits for this one to compute no more
                pass
            with loading():
                return "second"

    assert together(load_first, load_second) == ["first", "second"]


@pytest.mark.slow
def test_three_threads_ask_three_memories_of_the_real_model(smollm2: BaseModel, tmp_path: Path) -> None:
    library = lift.Library(tmp_path / "library", smollm2)
    for seed in range(3):
        text = f"The mill of Hallby number {seed} was opened in {1700 + 31 * seed}. Its owner is Greta Moll {seed}."
        recipe = load_recipe("default", ["training.epochs=2", "tasks.per_sentence=4"])
        lift.absorb(Document(f"Mill {seed}", text, "test"), smollm2, recipe, library=library, name=f"mill{seed}")
    memories = [library[name] for name in library]

    def ask(memory: lift.Memory) -> list[str]:
        return [memory.ask(each, "none").text for each in ("When was the mill opened?", "Who is its owner?")]

    expected = [ask(memory) for memory in memories]
    assert len({str(answers) for answers in expected}) > 1
    assert together(*(lambda memory=memory: ask(memory) for memory in memories)) == expected  # type: ignore[misc]
    release(smollm2.model)
