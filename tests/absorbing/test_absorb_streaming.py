"""Training on the first tasks while later ones are still being written: the same result as after all of them."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_endpoint import Reply, ScriptedEndpoint, failure
from segment_settings import with_segments

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Prepared, Trained
from lift.absorbing.run_options import AbsorptionOptions
from lift.adapters.attach import create_adapter
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import BudgetError, DocumentError, InterruptedAbsorption
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import IGNORED
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks import endpoint_generator
from lift.tasks.endpoint_generator import THREAD_NAME
from lift.tasks.generation import Generated
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler, StreamedBatchSampler
from lift.training.checkpoint import Checkpoint
from lift.training.objective import Objective
from lift.training.training_loop import StepRecord, train

TEXT = "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907. Merrow lies in the north."
DOCUMENT = Document("Merrow", TEXT, "test")
SENTENCES = split_sentences(TEXT)
PIECES = [
    Generated(
        index + 1,
        tuple(
            Task(f"{word} {index}?", sentence.text[-9:], (index,), "test", held_out=word == "Held")
            for word in ("What", "Held", "Which", "When")
        ),
    )
    for index, sentence in enumerate(SENTENCES)
]
SEGMENTS = with_segments(length_tokens=32, step_tokens=12)
NAMES = ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir"]
HOUSES = " ".join(f"House {name}{number} of Port Merrow has {number + 100} rooms." for number, name in enumerate(NAMES))


def recipe(*overrides: str) -> Recipe:
    small = ["training.epochs=2", "adapter.rank=2", "training.batch_tokens=160", "context.share=0.5"]
    return load_recipe("default", [*small, *overrides])


def slowly(written: list[str], seed: int = 0) -> Generator[Generated]:
    """The pieces, each after a random time; `written` gets what has happened."""
    delays = random.Random(seed)
    try:
        for piece in PIECES:
            time.sleep(delays.random() * 0.02)
            written.append(f"written {piece.position}")
            yield piece
    finally:
        written.append("closed")


def at_once() -> Generator[Generated]:
    yield from PIECES


def streamed(base: BaseModel, chosen: Recipe, pieces: Generator[Generated]) -> StreamedBatchSampler:
    return StreamedBatchSampler(base.tokenizer, base.window_tokens, DOCUMENT, SENTENCES, pieces, chosen)


def start(base: BaseModel, sampler: BatchSampler, chosen: Recipe, **options: Any) -> tuple[Any, Iterator[StepRecord]]:
    adapter = create_adapter(base.model, chosen.adapter, chosen.training.seed)
    objective = Objective(base.model, adapter, chosen.objective)
    return adapter, train(adapter, objective, sampler, chosen.training, **options)


def run(
    base: BaseModel, sampler: BatchSampler, chosen: Recipe, **options: Any
) -> tuple[list[StepRecord], dict[str, Any]]:
    history: list[StepRecord] = []
    adapter, steps = start(base, sampler, chosen, history=history, **options)
    for _ in steps:
        pass
    state = adapter.trained_state()
    adapter.detach()
    return history, state


def assert_same(one: tuple[list[StepRecord], dict[str, Any]], other: tuple[list[StepRecord], dict[str, Any]]) -> None:
    assert [(step.step, step.epoch, step.tokens) for step in one[0]] == [
        (step.step, step.epoch, step.tokens) for step in other[0]
    ]
    assert [step.loss for step in one[0]] == pytest.approx([step.loss for step in other[0]], abs=1e-5)
    assert all(torch.allclose(one[1][key], other[1][key], atol=1e-5) for key in one[1])


@pytest.mark.parametrize(
    "overrides",
    [(), (*SEGMENTS, "training.segment_epochs=1"), ("context.tasks=truncated",), ("training.full_batch=true",)],
    ids=["tasks", "two stages", "truncated", "gathered"],
)
def test_when_the_tasks_come_changes_nothing(tiny_model: BaseModel, overrides: tuple[str, ...]) -> None:
    chosen = recipe(*overrides)
    slow, quick = streamed(tiny_model, chosen, slowly([])), streamed(tiny_model, chosen, at_once())
    for epoch in range(slow.epochs):
        optimizer_steps = list(slow.optimizer_steps(epoch))
        assert optimizer_steps
        assert optimizer_steps == list(quick.optimizer_steps(epoch))
        progress = [update.progress for update in optimizer_steps]
        assert progress == sorted(progress)
        assert 0 <= progress[0] <= progress[-1] < 1
    assert list(slow.written) == [task for piece in PIECES for task in piece.tasks]


def test_a_training_on_slow_tasks_ends_as_one_on_tasks_that_are_there(tiny_model: BaseModel) -> None:
    chosen = recipe()
    slow = run(tiny_model, streamed(tiny_model, chosen, slowly([])), chosen)
    assert_same(slow, run(tiny_model, streamed(tiny_model, chosen, at_once()), chosen))


def test_a_single_streamed_epoch_is_trained_to_its_last_batch(tiny_model: BaseModel) -> None:
    chosen = recipe("training.epochs=1", "training.batch_tokens=64", *SEGMENTS)
    optimizer_steps = list(streamed(tiny_model, chosen, at_once()).optimizer_steps(0))
    steps, _ = run(tiny_model, streamed(tiny_model, chosen, at_once()), chosen)
    assert len(steps) == len(optimizer_steps) > 4
    assert optimizer_steps[0].progress == 0
    assert optimizer_steps[-1].progress > 0.5
    assert sum(len(example.ids) for update in optimizer_steps for batch in update.batches for example in batch) == sum(
        step.example_tokens for step in steps
    )


def test_the_first_epoch_follows_the_document_and_begins_before_the_last_task(tiny_model: BaseModel) -> None:
    chosen = recipe(*SEGMENTS)
    happened: list[str] = []
    sampler = streamed(tiny_model, chosen, slowly(happened))
    texts = []
    for update in sampler.optimizer_steps(0):
        happened.append("trained")
        texts += [tiny_model.tokenizer.decode(list(example.ids)) for batch in update.batches for example in batch]
    assert happened.index("trained") < happened.index("written 4")
    assert happened[-1] == "trained"
    asked = [text.split("user\n")[1].split("<")[0] for text in texts if "user\n" in text]
    assert asked == [f"{word} {index}?" for index in range(4) for word in ("What", "Which", "When")]
    segments = [text for text in texts if "user\n" not in text]
    assert segments == sorted(segments, key=f"Merrow\n{TEXT}".index)
    assert len(segments) == len([group for group in sampler.groups(1) if IGNORED not in group[0].labels[1:]])
    assert any("user\n" in text for text in texts[texts.index(segments[1]) :])  # they are spread over the epoch


def test_later_epochs_are_those_of_a_curriculum_of_all_tasks(tiny_model: BaseModel) -> None:
    chosen = recipe("training.epochs=3")
    tasks = [task for piece in PIECES for task in piece.tasks]
    offline = BatchSampler(tiny_model.tokenizer, tiny_model.window_tokens, DOCUMENT, SENTENCES, tasks, chosen)
    followed = streamed(tiny_model, chosen, at_once())
    list(followed.optimizer_steps(0))
    for epoch in (1, 2):
        assert list(followed.optimizer_steps(epoch)) == list(offline.optimizer_steps(epoch))
    assert list(followed.optimizer_steps(1)) != list(followed.optimizer_steps(2))
    skipping = streamed(tiny_model, chosen, at_once())  # as after an interruption in the second epoch
    assert list(skipping.optimizer_steps(1)) == list(offline.optimizer_steps(1))


@pytest.mark.parametrize("stop_after", [2, 7])
def test_an_interrupted_stream_goes_on_to_the_same_result(
    tiny_model: BaseModel, tmp_path: Path, stop_after: int
) -> None:
    chosen = recipe(*SEGMENTS, "training.segment_epochs=0")
    whole = run(tiny_model, streamed(tiny_model, chosen, at_once()), chosen)
    assert len([step for step in whole[0] if step.epoch == 0]) > 2
    sampler = streamed(tiny_model, chosen, slowly([]))
    adapter, steps = start(tiny_model, sampler, chosen, checkpoint=Checkpoint(tmp_path / "c"))
    for _ in range(stop_after):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    sampler.close()
    adapter.detach()
    again = streamed(tiny_model, chosen, slowly([], seed=1))
    assert_same(run(tiny_model, again, chosen, checkpoint=Checkpoint(tmp_path / "c"), resume=True), whole)


def test_closing_early_ends_the_writing(tiny_model: BaseModel) -> None:
    happened: list[str] = []
    sampler = streamed(tiny_model, recipe("training.batch_tokens=16"), slowly(happened))
    optimizer_steps = sampler.optimizer_steps(0)
    next(optimizer_steps)
    optimizer_steps.close()  # type: ignore[attr-defined]
    sampler.close()
    assert happened[-1] == "closed"
    assert "written 4" not in happened
    assert len(sampler.written) < len(PIECES) * 4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_generator, "RETRY_POLICY", RetryPolicy(timeout_s=600.0, first_wait_s=0.01))
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def truthful(request: dict[str, Any]) -> Reply:
    """Questions about the sentence shown last, each answered by words of it."""
    found = re.search(r"Last part: (House (\w+) of Port Merrow has (\d+ rooms)\.)", request["messages"][-1]["content"])
    assert found
    house, rooms = found[2], found[3]
    if house == "Cedar2":
        return failure(400, "not today")
    asked = [
        (f"How many rooms has house {house}?", rooms),
        (f"How many rooms are there in house {house}?", rooms),
        (f"Where is house {house}?", "Port Merrow"),
        (f"In which port is house {house}?", "Port Merrow"),
        (f"Which colour has house {house}?", "red"),
    ]
    return json.dumps({"tasks": [{"question": question, "answer": answer} for question, answer in asked]})


def written_by(endpoint: ScriptedEndpoint, *overrides: str) -> Recipe:
    wanted = ["generator.kind=openai", "generator.model=m", f"generator.base_url={endpoint.base_url}"]
    return recipe(*wanted, "generator.retries=1", "generator.concurrency=2", *overrides)


def absorb(
    base: BaseModel, library: MemoryLibrary, chosen: Recipe, name: str = "houses"
) -> tuple[list[Any], StoredMemory]:
    events = list(
        absorb_events(Document("Houses", HOUSES, "houses.txt"), base, chosen, library, AbsorptionOptions(name=name))
    )
    return events, library[name]


def writing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@pytest.mark.usefixtures("quick")
def test_a_streamed_absorption_keeps_the_tasks_of_one_that_waits(tiny_model: BaseModel) -> None:
    arrived: list[float] = []

    def reply(request: dict[str, Any]) -> Reply:
        time.sleep(0.1)
        arrived.append(time.monotonic())
        return truthful(request)

    library = MemoryLibrary()
    with ScriptedEndpoint(reply) as endpoint:
        trained: list[float] = []
        events = []
        document = Document("Houses", HOUSES, "houses.txt")
        chosen = written_by(endpoint, "generator.stream=true")
        for event in absorb_events(document, tiny_model, chosen, library, AbsorptionOptions(name="houses")):
            events.append(event)
            if isinstance(event, Trained):
                trained.append(time.monotonic())
        assert trained[0] < arrived[-1]
        waiting, waited = absorb(tiny_model, library, written_by(endpoint), "waited")
    memory = library["houses"]
    counts = memory.manifest.generation
    assert (counts["requests"], counts["answered"], counts["failed"]) == (6, 5, {"HTTP 400": 1})
    assert (counts["kept"], counts["rejected"], counts["from_cache"]) == (20, {"unsupported": 5}, 0)
    assert len(memory.tasks) == 20
    assert any(task.held_out for task in memory.tasks)
    assert {task.evidence for task in memory.tasks} == {(index,) for index in (0, 1, 3, 4, 5)}
    assert memory.manifest.recall.probed == len({task.evidence for task in memory.tasks if task.held_out})
    assert waited.tasks == memory.tasks
    assert waited.manifest.generation == {**counts, "from_cache": 5}
    (first,) = [event for event in events if isinstance(event, Prepared)]
    assert (first.streaming, first.tasks, first.held_out) == (True, 0, 0)
    assert first.generation["requests"] == 6
    (later,) = [event for event in waiting if isinstance(event, Prepared)]
    assert not later.streaming
    assert later.generation == waited.manifest.generation
    assert later.tasks + later.held_out == 20
    assert not writing_threads()


@pytest.mark.usefixtures("quick")
def test_an_interrupted_streamed_absorption_stops_asking_and_goes_on(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    stop = threading.Event()
    document = Document("Houses", HOUSES, "houses.txt")
    with ScriptedEndpoint(truthful, answer_s=0.05) as endpoint:
        chosen = written_by(endpoint, "generator.stream=true", "generator.concurrency=1")
        with pytest.raises(InterruptedAbsorption, match="--resume"):
            for event in absorb_events(
                document, tiny_model, chosen, library, AbsorptionOptions(name="houses", stop=stop)
            ):
                if isinstance(event, Trained):
                    stop.set()
        assert not writing_threads()
        assert library.names() == []
        finished = list(
            absorb_events(document, tiny_model, chosen, library, AbsorptionOptions(name="houses", resume=True))
        )[-1]
    whole = MemoryLibrary(Path(f"{library.root}-2"))
    with ScriptedEndpoint(truthful) as endpoint:
        _, memory = absorb(tiny_model, whole, written_by(endpoint, "generator.stream=true"))
    assert finished.memory.tasks == memory.tasks
    losses = [[row["loss"] for row in each.training] for each in (finished.memory, memory)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.usefixtures("quick")
def test_a_stream_without_a_task_or_without_time_leaves_no_memory(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    document = Document("Two", "House Cedar2 of Port Merrow has 102 rooms.", "two.txt")
    with ScriptedEndpoint(truthful) as endpoint:
        chosen = written_by(endpoint, "generator.stream=true")
        with pytest.raises(DocumentError, match="at least one task"):
            list(absorb_events(document, tiny_model, chosen, library))
        with pytest.raises(BudgetError, match=r"0\.5 s"):
            list(absorb_events(document, tiny_model, chosen, library, AbsorptionOptions(budget_s=0.5)))
    assert library.names() == []
