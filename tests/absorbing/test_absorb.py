"""From a file to a memory and back, with a tiny random model: what happens, not how well it answers."""

import errno
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, tiny_llama
from machines import Machine

import lift
import lift.absorbing.session
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probed, Probing, Trained, WaitingForOther
from lift.absorbing.planning import make_plan
from lift.absorbing.recall_report import Probe, RecallReport
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorption_identity
from lift.absorbing.run_options import AbsorptionOptions
from lift.answering.answerer import open_memory
from lift.documents.document import Document
from lift.errors import (
    BudgetError,
    BusyAbsorptionError,
    DocumentError,
    InterruptedAbsorption,
    LibraryError,
    TrainingError,
    UsageError,
    WrongBaseModelError,
)
from lift.jobs.job_events import job_event_of
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe
from lift.training.checkpoint import CheckpointDamaged, SavingFailed
from lift.training.leitner_sampler import LeitnerSampler

TEXT = (
    "Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses. "
    "A storm destroyed the old tower in 1907.\n\nPort Merrow lies in the north of the island."
)
SMALL = ["training.epochs=2", "adapter.rank=2", "tasks.per_sentence=4"]


def document(text: str = TEXT) -> Document:
    return Document("Port Merrow", text, "test")


def absorb(base: BaseModel, library: MemoryLibrary, *overrides: str, text: str = TEXT, **options: Any) -> list[Any]:
    recipe = load_recipe("default", [*SMALL, *overrides])
    return list(absorb_events(document(text), base, recipe, library, AbsorptionOptions(**options)))


def test_events_come_in_order_and_the_memory_holds_everything(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    events = absorb(tiny_model, library, name="merrow")
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Prepared, Planned]
    assert kinds[-2:] == [Probing, Finished]
    assert set(kinds[2:-2]) == {Trained}
    memory = library["merrow"]
    assert memory.document.text == TEXT
    assert len(memory.training) == len(kinds) - 4
    assert memory.manifest.base.id == "tiny"
    assert memory.manifest.recipe["adapter"]["rank"] == 2
    assert {row["sentence"] for row in memory.recall} <= set(range(4))
    assert any(task.held_out for task in memory.tasks)
    assert library.verify() == []
    assert events[-2].probes == len(memory.recall)


def test_a_memory_answers_after_it_was_opened_again_and_the_base_is_untouched(tiny_model: BaseModel) -> None:
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    library = MemoryLibrary()
    absorb(tiny_model, library, "training.learning_rate=0.05", "training.epochs=4", name="merrow")
    state = tiny_model.model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    first = open_memory(library["merrow"], tiny_model).ask("When?", "none").text
    assert open_memory(MemoryLibrary()["merrow"], tiny_model).ask("When?", "none").text == first


def test_a_share_of_what_the_training_has_changed_is_kept(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    for share in ("1", "0.5"):
        settings = ["training.learning_rate=0.02", f"regularisation.wise_ft_alpha={share}", "adapter.warm_start=none"]
        absorb(tiny_model, library, *settings, name=f"kept {share}")
    whole, half = (library[f"kept {share}"].load_adapter_state() for share in ("1", "0.5"))
    ups = [key for key in whole if "lora_B" in key]  # they begin at zero
    assert any(whole[key].any() for key in ups)
    for key in ups:
        torch.testing.assert_close(half[key].float(), 0.5 * whole[key].float(), rtol=0.01, atol=1e-5)
    assert all(not torch.equal(half[key], whole[key]) for key in whole)


def test_the_same_document_is_not_trained_twice(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    first = absorb(tiny_model, library, name="one")[-1]
    again = absorb(tiny_model, library)
    assert [type(event) for event in again] == [Finished]
    assert again[0].reused
    assert again[0].memory.name == "one"
    copied = absorb(tiny_model, library, name="two")
    assert [type(event) for event in copied] == [Finished]
    assert sorted(library.names()) == ["one", "two"]
    assert not absorb(tiny_model, library, "training.seed=1", name="three")[-1].reused
    assert not first.reused


def test_an_interrupted_absorption_goes_on_to_the_same_memory(tiny_model: BaseModel) -> None:
    whole, parts = MemoryLibrary(), MemoryLibrary(Path(str(MemoryLibrary().root) + "-2"))
    overrides = ["training.batch_tokens=200"]
    absorb(tiny_model, whole, *overrides, name="m")
    stop = threading.Event()
    events = absorb_events(
        document(),
        tiny_model,
        load_recipe("default", [*SMALL, *overrides]),
        parts,
        AbsorptionOptions(name="m", stop=stop),
    )
    seen = 0
    with pytest.raises(InterruptedAbsorption, match="--resume"):
        for event in events:
            seen += isinstance(event, Trained)
            if seen == 3:
                stop.set()
    assert parts.names() == []
    absorb(tiny_model, parts, *overrides, name="m", resume=True)
    losses = [[row["loss"] for row in library["m"].training] for library in (whole, parts)]
    assert losses[0] == losses[1]
    states = [library["m"].load_adapter_state() for library in (whole, parts)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not list((parts.root / ".absorbing").glob("*"))


def test_the_cost_of_an_interrupted_absorption_is_that_of_all_its_parts(tiny_model: BaseModel) -> None:
    library, stop = MemoryLibrary(), threading.Event()
    recipe = load_recipe("default", [*SMALL, "training.batch_tokens=200"])

    def follow(events: Any, until: int) -> list[Trained]:
        steps: list[Trained] = []
        for event in events:
            if isinstance(event, Trained):
                steps.append(event)
                if event.step.step == until:
                    stop.set()
        return steps

    with pytest.raises(InterruptedAbsorption):
        follow(absorb_events(document(), tiny_model, recipe, library, AbsorptionOptions(name="m", stop=stop)), 3)
    (history,) = (library.root / ".absorbing").glob("*/training.jsonl")
    rows = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    # as if those three steps had taken an hour
    longer = "".join(json.dumps({**row, "seconds": 1200.0}) + "\n" for row in rows).encode()
    history.write_bytes(longer)
    checksums = json.loads((history.parent / "checksums.json").read_text("utf-8"))
    checksums["training.jsonl"] = {"sha256": hashlib.sha256(longer).hexdigest(), "size_bytes": len(longer)}
    (history.parent / "checksums.json").write_text(json.dumps(checksums), "utf-8")
    steps = follow(absorb_events(document(), tiny_model, recipe, library, AbsorptionOptions(name="m", resume=True)), 0)
    assert 3600 < library["m"].manifest.cost.seconds < 3660
    assert steps[0].step.step == 4
    assert steps[0].eta_s < 60  # what is left takes as long as the machine takes now


def test_a_checkpoint_that_a_crash_left_beside_its_memory_is_cleared_away(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    finished = absorb(tiny_model, library, name="m")[-1]
    left = library.unfinished.path(finished.memory.manifest.absorption_key)
    left.mkdir(parents=True)
    assert absorb(tiny_model, library, resume=True)[-1].reused
    assert not left.exists()


def test_a_memory_is_refused_on_another_base(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    absorb(tiny_model, library, name="m")
    other = BaseModel(tiny_model.model, tiny_model.tokenizer, "other", "1" * 64)
    with pytest.raises(WrongBaseModelError, match="tiny"):
        open_memory(library["m"], other)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"text": "... --- ..."}, DocumentError, "letter"),
        ({"budget_s": 29.9}, BudgetError, r"30 s or more.*29\.9 s"),
        ({"budget_s": -123.0}, BudgetError, "30 s or more"),
        ({"name": "../x"}, UsageError, "name"),
    ],
)
def test_what_cannot_be_absorbed_is_refused_and_leaves_no_trace(
    tiny_model: BaseModel, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    library = MemoryLibrary()
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    with pytest.raises(error, match=message):
        absorb(tiny_model, library, **options)
    assert library.names() == []
    assert tiny_model.model.state_dict().keys() == before.keys()


def test_a_document_of_one_sentence_is_absorbed(tiny_model: BaseModel) -> None:
    finished = absorb(tiny_model, MemoryLibrary(), text="The museum owns 42 lenses.", name="m")[-1]
    assert finished.memory.manifest.sizes.sentences == 1


def test_a_plan_predicts_without_leaving_anything(tiny_model: BaseModel) -> None:
    names = [name for name, _ in tiny_model.model.named_parameters()]
    plan = make_plan(document(), tiny_model, load_recipe("default", SMALL))
    assert (plan.sentences, plan.epochs) == (4, pytest.approx(2.0, rel=0.01))
    assert plan.seconds > 0
    assert plan.adapter_bytes > 0
    assert [name for name, _ in tiny_model.model.named_parameters()] == names
    machine = Machine(tiny_model.model, s_per_token=0.1)
    limited = make_plan(document(), tiny_model, load_recipe("default", ["adapter.rank=2"]), 30.0, clock=machine.clock)
    assert limited.seconds <= 30
    assert limited.train_tokens <= 300


def test_from_python_as_the_readme_shows_it(tiny_model: BaseModel, tmp_path: Path) -> None:
    path = tmp_path / "merrow.txt"
    path.write_text(TEXT)
    memory = lift.absorb(path, tiny_model, "default", title="Port Merrow", name="merrow", overrides=SMALL)
    assert memory.ask("When?", "none").context == "none"
    library = lift.Library(model=tiny_model)
    assert list(library) == ["merrow"]
    assert "merrow" in library
    answers = library["merrow"].ask_many(["When?", "Who?"], "evidence")
    assert [answer.context for answer in answers] == ["evidence", "evidence"]
    assert library.rename("merrow", "port").name == "port"
    assert library.verify() == []
    library.remove("port")
    assert library.names() == []


def test_what_is_stored_holds_no_pickle(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    absorb(tiny_model, library, name="m")
    names = {path.relative_to(library.root / "m").as_posix() for path in (library.root / "m").rglob("*.*")}
    assert {"memory.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".jsonl", ".safetensors", ".txt"}
    config = json.loads((library.root / "m" / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


@pytest.fixture
def asked_in_training(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """All tasks are known in training; the held-out questions are answered as the list says, then rightly."""
    answers: list[bool] = []

    def probe(_asked: Any, sentences: int, probes: Any) -> RecallReport:
        right = answers.pop(0) if answers else True
        return RecallReport(
            tuple(Probe(task.evidence[0], task.question, task.answer, "", right) for task in probes), sentences
        )

    monkeypatch.setattr("lift.absorbing.probing.probe_recall", probe)
    monkeypatch.setattr(LeitnerSampler, "known_share", property(lambda _: 1.0))
    return answers


GOAL = ("training.until_recall=0.8", "training.epochs=12", "training.max_skip_epochs=1")


@pytest.mark.parametrize(
    ("in_training", "epochs"),
    # after epochs 1, 2 and 4, each time in vain doubles the wait
    [([True], 1), ([False, True], 2), ([False, False, True], 4), ([False] * 4, 12)],
)
def test_a_training_ends_when_the_recall_of_its_recipe_is_reached(
    tiny_model: BaseModel, asked_in_training: list[bool], in_training: list[bool], epochs: int
) -> None:
    asked_in_training[:] = [False, *in_training]  # the first is asked to see how long asking takes
    events = absorb(tiny_model, MemoryLibrary(), *GOAL, name="merrow")
    trained = [event.step.epoch for event in events if isinstance(event, Trained)]
    assert max(trained) + 1 == epochs
    points = [event for event in events if isinstance(event, Probed)]
    assert [point.what for point in points] == (["reached in training"] if epochs < 12 else [])


def test_a_recall_that_tasks_in_training_do_not_have_is_not_asked_for(
    tiny_model: BaseModel, asked_in_training: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeitnerSampler, "known_share", property(lambda _: 0.79))
    events = absorb(tiny_model, MemoryLibrary(), *GOAL, "training.epochs=4", name="merrow")
    assert max(event.step.epoch for event in events if isinstance(event, Trained)) == 3


def key_of(base: BaseModel, *overrides: str) -> str:
    return absorption_identity(document(), base, resolve(load_recipe("default", [*SMALL, *overrides]), base), None).key


def test_an_absorption_that_somebody_else_is_at_is_refused_at_once(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    with library.unfinished.alone(key_of(tiny_model)):
        with pytest.raises(BusyAbsorptionError, match=f"the process {os.getpid()} of this machine"):
            absorb(tiny_model, library, name="m")
        # another recipe is another absorption
        assert not absorb(tiny_model, library, "training.epochs=1", name="other")[-1].reused
    assert not absorb(tiny_model, library, name="m")[-1].reused


def test_of_two_at_the_same_absorption_one_trains_and_the_other_finds_its_memory(
    tiny_model: BaseModel, tiny_tokenizer: Any
) -> None:
    library = MemoryLibrary()
    bases = [tiny_model, BaseModel(tiny_llama(), tiny_tokenizer, "tiny", "0" * 64)]
    begun = threading.Barrier(2)

    def one(base: BaseModel) -> list[Any]:
        begun.wait()
        return absorb(base, library, name="m", wait_for_others=True, checkpoint_every_s=0.0)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(one, bases))
    assert sorted(run[-1].reused for run in runs) == [False, True]
    trained = [sum(isinstance(event, Trained) for event in run) for run in runs]
    assert min(trained) == 0 < max(trained)
    assert library.names() == ["m"]
    assert library.verify() == []
    assert os.listdir(library.root / ".absorbing") == []


def test_who_waits_says_so_once_and_can_be_stopped(tiny_model: BaseModel) -> None:
    library, stop = MemoryLibrary(), threading.Event()
    said = []
    with library.unfinished.alone(key_of(tiny_model)), pytest.raises(InterruptedAbsorption, match="nothing was begun"):
        recipe = load_recipe("default", SMALL)
        for event in absorb_events(
            document(), tiny_model, recipe, library, AbsorptionOptions(stop=stop, wait_for_others=True)
        ):
            said.append(event)
            threading.Timer(0.6, stop.set).start()
    assert [type(event) for event in said] == [WaitingForOther]
    assert "wait until that is done" in str(said[0])


def refuse_checkpoints(library: MemoryLibrary, base: BaseModel) -> Path:
    """Have the disk refuse every checkpoint of the absorption: a file lies where they are written."""
    blocked = library.unfinished.path(key_of(base)).with_suffix(".new")
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    return blocked


def test_a_disk_that_refuses_checkpoints_is_told_of_once_and_the_memory_is_made(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    refuse_checkpoints(library, tiny_model)
    events = absorb(tiny_model, library, name="m", checkpoint_every_s=0.0)
    (told,) = [event for event in events if isinstance(event, SavingFailed)]
    assert "make room" in job_event_of(told).message
    assert job_event_of(told).level == "warn"
    assert not events[-1].reused
    assert library.verify() == []


def test_an_interruption_says_when_its_state_could_not_be_saved(tiny_model: BaseModel) -> None:
    library, stop = MemoryLibrary(), threading.Event()
    refuse_checkpoints(library, tiny_model)
    recipe = load_recipe("default", SMALL)
    with pytest.raises(InterruptedAbsorption, match=r"could not be saved \(file exists\)"):
        for event in absorb_events(document(), tiny_model, recipe, library, AbsorptionOptions(name="m", stop=stop)):
            if isinstance(event, Trained):
                stop.set()


def test_a_damaged_checkpoint_is_told_of_and_the_text_absorbed_anew(tiny_model: BaseModel) -> None:
    library, stop = MemoryLibrary(), threading.Event()
    recipe = load_recipe("default", SMALL)
    with pytest.raises(InterruptedAbsorption):
        for event in absorb_events(document(), tiny_model, recipe, library, AbsorptionOptions(name="m", stop=stop)):
            if isinstance(event, Trained):
                stop.set()
    (library.unfinished.path(key_of(tiny_model)) / "position.json").write_text('{"epoch": 1}')
    events = absorb(tiny_model, library, name="m", resume=True)
    (told,) = [event for event in events if isinstance(event, CheckpointDamaged)]
    assert "starts anew" in str(told)
    assert next(event.step.step for event in events if isinstance(event, Trained)) == 1
    assert library.names() == ["m"]
    assert os.listdir(library.root / ".absorbing") == []


@pytest.mark.parametrize("kind", ["lora", "dora", "gated-memory"])
def test_running_out_of_memory_is_what_is_raised_whenever_it_happens(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = logits(tiny_model.model, [1, 70, 80])
    quick = [f"adapter.kind={kind}", "training.epochs=1"]

    def no_room(*_arguments: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("no room for the stored adapter")

    with monkeypatch.context() as patch:
        patch.setattr(lift.absorbing.session, "restore_adapter", no_room)
        with pytest.raises(torch.OutOfMemoryError, match="no room for the stored adapter"):
            absorb(tiny_model, MemoryLibrary(), *quick, name="m")
    assert torch.equal(logits(tiny_model.model, [1, 70, 80]), before)
    assert not absorb(tiny_model, MemoryLibrary(), *quick, name="m", resume=True)[-1].reused


@pytest.mark.parametrize("rate", ["1e20", "1e30"])
def test_a_training_that_diverges_gives_no_memory_and_one_sentence(tiny_model: BaseModel, rate: str) -> None:
    library = MemoryLibrary()
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate") as caught:
        absorb(tiny_model, library, f"training.learning_rate={rate}", "training.epochs=20", name="m")
    assert "\n" not in str(caught.value)
    assert library.names() == []


def test_a_full_disk_at_the_end_is_one_sentence_and_leaves_nothing_half_written(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = MemoryLibrary()

    def full(directory: Path, _files: Any) -> None:
        directory.mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lift.memories.library.write_directory", full)
        with pytest.raises(LibraryError, match="make room on its disk, then try again"):
            absorb(tiny_model, library, name="m", checkpoint_every_s=0.0)
    assert library.names() == []
    assert not [entry for entry in os.listdir(library.root) if entry.startswith(".lift-")]
    assert library.unfinished.path(key_of(tiny_model)).is_dir()
    assert not absorb(tiny_model, library, name="m", resume=True)[-1].reused
