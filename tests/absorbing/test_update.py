"""A text added to a memory, and forgotten sentences rehearsed: what is trained, what is asked, and what is kept."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from machines import Machine
from segment_settings import with_segments
from torch.utils._python_dispatch import TorchDispatchMode

from lift.absorbing import probing, rehearse
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probed, Probing, Trained
from lift.absorbing.add import add_events
from lift.absorbing.preparation import PreparedDocument
from lift.absorbing.recall_report import Probe, RecallReport
from lift.absorbing.run_options import AbsorptionOptions, RunOptions
from lift.absorbing.session import Session
from lift.adapters.adapter import attached
from lift.adapters.resident import release
from lift.answering.answerer import open_memory
from lift.documents.document import Document, join_documents
from lift.documents.sentences import split_sentences
from lift.errors import InterruptedAbsorption, UsageError, WrongBaseModelError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe
from lift.training.batch_sampler import BatchSampler, SegmentLM

OLD = Document(
    "Port Merrow",
    "Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses.\n\n"
    "A storm destroyed the old tower in 1907.",
    "merrow.txt",
)
NEW = Document(
    "Visitors", "The museum is closed on Mondays. Bram Holt has sold the tickets since 1950.", "visitors.txt"
)
QUICK = ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=12"]


@pytest.fixture
def library() -> MemoryLibrary:
    return MemoryLibrary()


def rehearse_memory(
    memory: StoredMemory, base: BaseModel, library: MemoryLibrary, until: float, **options: Any
) -> Iterator[Any]:
    run = RunOptions(**options)
    return rehearse.rehearse(run.begin(), memory, base, library, until, run.stop)


def absorb(base: BaseModel, library: MemoryLibrary, *overrides: str, document: Document = OLD) -> StoredMemory:
    list(
        absorb_events(
            document, base, load_recipe("default", [*QUICK, *overrides]), library, AbsorptionOptions(name="merrow")
        )
    )
    return library["merrow"]


@pytest.fixture(scope="module")
def absorbed(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the memory of OLD; tests copy it and leave it as it is."""
    library = MemoryLibrary(tmp_path_factory.mktemp("absorbed") / "library")
    absorb(BaseModel(tiny_llama(), tiny_tokenizer, "tiny", "0" * 64), library)
    return library.root


@pytest.fixture
def memory(library: MemoryLibrary, absorbed: Path) -> StoredMemory:
    """The memory of OLD, in a library of the test's own."""
    shutil.copytree(absorbed, library.root, dirs_exist_ok=True)
    return library["merrow"]


def with_recipe(memory: StoredMemory, section: str, **settings: Any) -> StoredMemory:
    """`memory` as if other settings of its recipe had been given."""
    recipe = memory.manifest.recipe
    changed = memory.manifest.model_copy(update={"recipe": recipe | {section: {**recipe[section], **settings}}})
    return StoredMemory(memory.name, memory.directory, changed)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every question that a batch sampler was made of."""
    seen: list[str] = []
    plan = BatchSampler.plan

    def watched(self: BatchSampler, epoch: int) -> Any:
        seen.extend(self._tasks[number].question for number in self._trained)
        return plan(self, epoch)

    monkeypatch.setattr(BatchSampler, "plan", watched)
    return seen


class Scripted:
    """Recall as a test wants it: so many of the probes are right each time that they are asked."""

    def __init__(self, *rights: int) -> None:
        self.rights: Iterator[int] = iter(rights)
        self.last = 0
        self.asked = 0

    def __call__(self, _answerer: Any, sentences: int, probes: Any) -> RecallReport:
        self.last = next(self.rights, self.last)
        self.asked += 1
        found = [
            Probe(task.evidence[0], task.question, task.answer, "", number < self.last)
            for number, task in enumerate(probes)
        ]
        return RecallReport(tuple(found), sentences)


@pytest.fixture
def recalled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scripts recall; the first of each session is the one that measures how long asking takes."""

    def script(*rights: int) -> Scripted:
        scripted = Scripted(*rights)
        monkeypatch.setattr(probing, "probe_recall", scripted)
        return scripted

    return script


def is_untouched(base: BaseModel) -> bool:
    changed = any(module._forward_hooks or "forward" in vars(module) for module in base.model.modules())
    named = any("lora" in name or "memory" in name for name, _ in base.model.named_parameters())
    return not attached(base.model) and not changed and not named


def test_a_text_is_added_and_what_was_there_stays(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory
) -> None:
    old_tasks, old_text = list(memory.tasks), memory.document.text
    old_sentences = split_sentences(old_text)
    events = list(add_events(NEW, memory, tiny_model, library))
    kinds = [type(event) for event in events if not isinstance(event, Trained)]
    assert kinds[:4] == [Probing, Probed, Prepared, Planned]
    assert kinds[4:] == [Probing, Probing, Probed, Probed, Finished]
    changed = library["merrow"]
    assert library.names() == ["merrow"]
    assert library.verify() == []
    assert changed.tasks[: len(old_tasks)] == old_tasks
    assert changed.document == join_documents([OLD, NEW], "Port Merrow")
    record = changed.manifest.document
    assert [(part.title, part.source) for part in record.parts] == [
        ("Port Merrow", "merrow.txt"),
        ("Visitors", "visitors.txt"),
    ]
    sentences = split_sentences(changed.document.text)
    assert [sentence.text for sentence in sentences[: len(old_sentences)]] == [each.text for each in old_sentences]
    fresh = changed.tasks[len(old_tasks) :]
    assert {sentences[task.evidence[0]].text for task in fresh} == {each.text for each in split_sentences(NEW.text)}
    assert any(task.held_out for task in fresh)
    (prepared,) = [event for event in events if isinstance(event, Prepared)]
    assert prepared.tasks + prepared.held_out == len(fresh)
    assert changed.manifest.generation["kept"] == len(changed.tasks)
    assert changed.manifest.cost.steps == len(changed.training) > memory.manifest.cost.steps
    assert changed.manifest.cost.seconds > memory.manifest.cost.seconds
    assert is_untouched(tiny_model)
    assert open_memory(changed, tiny_model).ask("When is the museum closed?", "none").context == "none"


class FactorOperations(TorchDispatchMode):
    """The operations on tensors that have a dimension of this `rank`."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(each, torch.Tensor) and self._rank in each.shape for each in args):
            self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activated", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_text_is_added_by_the_operations_that_absorb_the_first(
    tiny_model: BaseModel, library: MemoryLibrary, activated: str
) -> None:
    rank = 389  # no batch has as many tokens, and no other tensor has that dimension

    def operations(events: Iterator[Any]) -> set[str]:
        """Those of the steps of training."""
        found = set[str]()
        with FactorOperations(rank) as recorded:
            for event in events:
                if isinstance(event, Trained):
                    found |= recorded.seen
                recorded.seen.clear()
        return found

    recipe = load_recipe(
        "default", [*QUICK, "tasks.per_sentence=3", f"adapter.rank={rank}", f"adapter.activated={activated}"]
    )
    first = operations(absorb_events(OLD, tiny_model, recipe, library, AbsorptionOptions(name="merrow")))
    added = operations(add_events(NEW, library["merrow"], tiny_model, library))
    assert len(first) > 10
    assert added == first


def test_recall_of_the_old_is_asked_before_and_after_with_the_same_probes(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    probe = probing.probe_recall

    def watched(answerer: Any, sentences: int, probes: Any) -> RecallReport:
        asked.append([task.question for task in probes])
        return probe(answerer, sentences, probes)

    monkeypatch.setattr(probing, "probe_recall", watched)
    finished = list(add_events(NEW, memory, tiny_model, library))[-1]
    held_out = [task.question for task in memory.tasks if task.held_out]
    assert held_out
    assert asked.count(held_out) >= 2
    assert asked[-2] == held_out
    history = library["merrow"].manifest.recall_history
    assert [point.what for point in history] == ["absorbed", "known before adding", "known after adding", "added"]
    assert history[1].probed == history[2].probed == memory.manifest.recall.probed
    seconds = [point.seconds for point in history]
    assert seconds == sorted(seconds)
    assert finished.report is not None
    assert len(finished.report.probes) == len(asked[-2]) + len(asked[-1])
    assert library["merrow"].manifest.recall.sentences == 5


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_old_tasks_is_trained_again(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, trained: list[str], share: float
) -> None:
    known = [task.question for task in memory.tasks if not task.held_out]
    held_out = {task.question for task in memory.tasks if task.held_out}
    list(add_events(NEW, with_recipe(memory, "update", replay_share=share), tiny_model, library))
    fresh = {task.question for task in library["merrow"].tasks[len(memory.tasks) :] if not task.held_out}
    assert len(set(trained) & set(known)) == round(share * len(known))
    assert fresh <= set(trained) <= fresh | set(known)
    assert not held_out & set(trained)


def test_segments_of_the_old_text_are_not_trained_again(
    tiny_model: BaseModel, library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = absorb(tiny_model, library, *with_segments(length_tokens=64, step_tokens=32))
    seen: list[Any] = []
    recital = BatchSampler._recital

    def watched(self: BatchSampler, group: SegmentLM) -> Any:
        seen.append(found := recital(self, group))
        return found

    monkeypatch.setattr(BatchSampler, "_recital", watched)
    list(add_events(NEW, memory, tiny_model, library))
    texts = {tiny_model.tokenizer.decode(list(example.ids)) for example in seen}
    assert len(texts) > 1
    assert all(text in f"Visitors\n{NEW.text}" for text in texts)


def test_what_is_known_already_is_not_trained_again(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, trained: list[str]
) -> None:
    (again,) = add_events(Document("Another title", OLD.text, "copy.txt"), memory, tiny_model, library)
    assert isinstance(again, Finished)
    assert again.reused
    assert not trained
    list(add_events(join_documents([OLD, NEW]), memory, tiny_model, library))  # one of two is new
    changed = library["merrow"]
    assert [part.title for part in changed.document.parts] == ["Port Merrow", "Visitors"]
    (nothing,) = add_events(NEW, changed, tiny_model, library)
    assert nothing.reused


def test_a_second_text_is_added_after_the_first(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory
) -> None:
    list(add_events(NEW, memory, tiny_model, library))
    third = Document("Island", "Port Merrow lies in the north of the island.", "island.txt")
    list(add_events(third, library["merrow"], tiny_model, library))
    changed = library["merrow"]
    assert [part.title for part in changed.document.split()] == ["Port Merrow", "Visitors", "Island"]
    sentences = split_sentences(changed.document.text)
    for task in changed.tasks:
        if task.origin.startswith("rules") and task.answer in changed.document.text:
            assert task.answer in " ".join(sentences[task.evidence[0]].text.split())
    assert len(changed.manifest.recall_history) == 7


def test_another_base_is_refused_and_the_memory_stays(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory
) -> None:
    other = BaseModel(tiny_model.model, tiny_model.tokenizer, "other", "1" * 64)
    with pytest.raises(WrongBaseModelError, match="tiny"):
        list(add_events(NEW, memory, other, library))
    with pytest.raises(WrongBaseModelError, match="tiny"):
        list(rehearse_memory(memory, other, library, 0.9))
    assert library["merrow"].manifest == memory.manifest


@pytest.mark.parametrize("way", ["add", "rehearse"])
def test_a_crash_before_the_end_leaves_the_old_memory(
    tiny_model: BaseModel,
    library: MemoryLibrary,
    memory: StoredMemory,
    recalled: Any,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(MemoryLibrary, "put", crash)
    recalled(0, 0, 3)
    events = (
        add_events(NEW, memory, tiny_model, library)
        if way == "add"
        else rehearse_memory(memory, tiny_model, library, 1.0)
    )
    with pytest.raises(RuntimeError, match="power cut"):
        list(events)
    assert library["merrow"].manifest == memory.manifest
    assert library.verify() == []
    assert is_untouched(tiny_model)


def test_stopping_an_addition_leaves_the_old_memory_and_says_so(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory
) -> None:
    stop = threading.Event()
    with pytest.raises(InterruptedAbsorption, match="nothing was changed") as caught:
        for event in add_events(NEW, memory, tiny_model, library, RunOptions(stop=stop)):
            if isinstance(event, Trained):
                stop.set()
    assert "--resume" not in str(caught.value)
    assert library["merrow"].manifest == memory.manifest
    assert is_untouched(tiny_model)


@pytest.mark.slow
def test_a_budget_is_kept_by_an_addition(tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory) -> None:
    longer = with_recipe(memory, "training", epochs=100_000)
    machine = Machine(tiny_model.model)
    list(add_events(NEW, longer, tiny_model, library, RunOptions(budget_s=60.0, clock=machine.clock)))
    assert 50 < machine.now <= 63


@pytest.mark.parametrize(
    "overrides",
    [
        ("adapter.kind=pissa",),
        pytest.param(("adapter.kind=dora",), marks=pytest.mark.slow),
        ("adapter.kind=gated-memory", "adapter.width=2"),
        pytest.param(
            ("adapter.kind=gated-memory", "adapter.gate=exact", "adapter.layers=[1]", "adapter.start=published"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["pissa", "dora", "gated memory", "exact gate"],
)
def test_every_kind_of_adapter_can_be_gone_on_with(
    tiny_model: BaseModel, library: MemoryLibrary, recalled: Any, overrides: tuple[str, ...]
) -> None:
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    memory = absorb(tiny_model, library, *overrides)
    old = memory.load_adapter_state()
    for event in add_events(NEW, memory, tiny_model, library):
        if isinstance(event, Trained):
            assert torch.isfinite(torch.tensor(event.step.loss))
    changed = library["merrow"]
    new = changed.load_adapter_state()
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[key], new[key]) for key in old)
    recalled(0, 0, 1)  # one round is enough
    events = rehearsed(tiny_model, library, 0.1)
    assert rounds(events) == 1
    assert open_memory(library["merrow"], tiny_model).ask("When?", "none").context == "none"
    release(tiny_model.model)
    state = tiny_model.model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def rehearsed(base: BaseModel, library: MemoryLibrary, until: float, **options: Any) -> list[Any]:
    return list(rehearse_memory(library["merrow"], base, library, until, **options))


def rounds(events: list[Any]) -> int:
    return len([event for event in events if isinstance(event, Probed) and event.what == "rehearsed"])


def test_rehearsing_stops_at_the_target(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, recalled: Any, trained: list[str]
) -> None:
    probed = memory.manifest.recall.probed
    assert probed == 3
    recalled(0, 0, 1, 2, 2)
    events = rehearsed(tiny_model, library, 0.6)
    assert rounds(events) == 2
    changed = library["merrow"]
    assert changed.manifest.recall.recalled == 2
    history = [(point.what, point.recalled) for point in changed.manifest.recall_history]
    assert history[1:] == [("before rehearsing", 0), ("rehearsed", 1), ("rehearsed", 2)]
    assert changed.manifest.absorption_key == memory.manifest.absorption_key
    assert changed.tasks == memory.tasks
    assert len(changed.training) == changed.manifest.cost.steps > memory.manifest.cost.steps
    assert trained
    assert not {task.question for task in memory.tasks if task.held_out} & set(trained)
    seen = {task.evidence[0] for task in memory.tasks if not task.held_out and task.question in trained}
    assert {probe.sentence for probe in events[-1].report.probes if not probe.recalled} <= seen


def test_nothing_is_trained_where_enough_is_known(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, recalled: Any
) -> None:
    before = memory.load_adapter_state()
    recalled(3)
    events = rehearsed(tiny_model, library, 1.0)
    assert not any(isinstance(event, Trained) for event in events)
    state = library["merrow"].load_adapter_state()
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.slow
def test_three_rounds_in_vain_end_it_and_the_best_round_is_kept(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, recalled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    scripted = recalled(0, 1, 2, 1, 0, 1, 2)

    def watched(session: Session, made: PreparedDocument, probes: Any) -> Generator[Probing, None, RecallReport]:
        states.append({key: value.clone() for key, value in session.adapter.trained_state().items()})
        yield from ()
        return scripted(None, len(made.sentences), probes)

    monkeypatch.setattr(rehearse, "ask_probes", watched)
    events = rehearsed(tiny_model, library, 1.0)
    assert rounds(events) == 4
    assert [point.recalled for point in library["merrow"].manifest.recall_history[1:]] == [1, 2, 1, 0, 1]
    assert library["merrow"].manifest.recall.recalled == 2
    best, last = states[1], states[4]
    stored = library["merrow"].load_adapter_state()
    assert all(torch.allclose(stored[key].float(), best[key], rtol=1e-2, atol=1e-6) for key in best)
    assert any(not torch.allclose(stored[key].float(), last[key], rtol=1e-2, atol=1e-6) for key in best)


@pytest.mark.slow
def test_rehearsing_stops_at_the_budget(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearse, "_PATIENCE_ROUNDS", 10**9)
    machine = Machine(tiny_model.model)
    events = rehearsed(tiny_model, library, 1.0, budget_s=60.0, clock=machine.clock)
    assert 40 < machine.now < 63
    assert rounds(events) >= 1
    assert library.verify() == []
    assert memory.manifest.recall_history == library["merrow"].manifest.recall_history[:1]


def test_stopping_a_rehearsal_keeps_the_best_round(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, recalled: Any
) -> None:
    recalled(0, 0, 1)
    stop = threading.Event()
    with pytest.raises(InterruptedAbsorption, match="best round is kept"):
        for event in rehearse_memory(memory, tiny_model, library, 1.0, stop=stop):
            if isinstance(event, Trained):
                stop.set()
    changed = library["merrow"]
    assert changed.manifest.recall.recalled == 1
    assert changed.manifest.cost.steps == memory.manifest.cost.steps + 1
    assert is_untouched(tiny_model)


@pytest.mark.parametrize("until", [0.0, -0.1, 1.5])
def test_an_impossible_target_is_refused(
    tiny_model: BaseModel, library: MemoryLibrary, memory: StoredMemory, until: float
) -> None:
    with pytest.raises(UsageError, match=f"{100 * until:g} %"):
        AbsorptionOptions(until=until)


def test_a_recipe_without_tasks_can_be_rehearsed(
    tiny_model: BaseModel, library: MemoryLibrary, recalled: Any, trained: list[str]
) -> None:
    memory = absorb(tiny_model, library, "tasks.weight=0", *with_segments(length_tokens=64, step_tokens=64))
    assert any(task.held_out for task in memory.tasks)
    trained.clear()
    recalled(0, 0, 3)
    events = rehearsed(tiny_model, library, 1.0)
    assert any(isinstance(event, Trained) for event in events)
    assert trained


def test_absorbing_until_a_share_is_recalled_goes_on_from_the_stored_memory(
    tiny_model: BaseModel, library: MemoryLibrary, recalled: Any
) -> None:
    chosen = load_recipe("default", QUICK)

    def run(until: float) -> list[Any]:
        return list(absorb_events(OLD, tiny_model, chosen, library, AbsorptionOptions(until=until, name="merrow")))

    recalled(0, 0, 0, 0, 1, 1)  # timed, absorbed; timed, before, one round, stored
    first = run(0.3)
    assert isinstance(first[-1], Finished)
    assert len([event for event in first if isinstance(event, Finished)]) == 1
    assert rounds(first) == 1
    steps = len(library["merrow"].training)
    recalled(1, 1, 2, 2)
    second = run(0.6)
    assert not any(isinstance(event, Planned) for event in second)
    assert rounds(second) == 1
    assert len(library["merrow"].training) > steps
    (third,) = run(0.6)
    assert third.reused
    history = [point.what for point in library["merrow"].manifest.recall_history]
    assert history == ["absorbed", *["before rehearsing", "rehearsed"] * 2]
    assert library.names() == ["merrow"]
