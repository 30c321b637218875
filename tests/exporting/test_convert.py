"""Memories of any kind made plain LoRAs: they answer as the memory does, within a budget, and go to every program."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting.made_memories import QUESTIONS, make_memory
from machines import Machine

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probed, Trained
from lift.absorbing.run_options import AbsorptionOptions
from lift.adapters.adapter import attached
from lift.adapters.attach import restore_adapter
from lift.cli import run
from lift.documents.document import Document
from lift.errors import ExportError, InterruptedAbsorption, LibraryError
from lift.evaluation import harms
from lift.exporting.conversion import measure_conversion
from lift.exporting.convert import convert_events
from lift.exporting.export import export_memory
from lift.exporting.replay import Replayer
from lift.exporting.targets import TARGETS, adapter_form
from lift.exporting.verify import verify_export
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.packing.forward import labelled_logits
from lift.packing.prompts import question_example
from lift.packing.trie import pack
from lift.recipes.recipe import load_recipe
from lift.tasks.task import Task

FORMS = ["activated", pytest.param("dora", marks=pytest.mark.slow), "gated"]
ASKED = [
    f"{first} {last}?"
    for first in ("Who", "When", "Where", "What", "How", "Whose", "Why", "Which")
    for last in ("came", "fell", "owns it", "is up", "was she", "said so")
]
ANSWERS = ["Ada", "1902", "42", "the tower"]
TRAINED = [Task(text, ANSWERS[n % 4], (n % 3,), "rules", 1.0, held_out=False) for n, text in enumerate(ASKED)]
HELD_OUT = [Task(text, "42", (n,), "rules", 1.0, held_out=True) for n, text in enumerate(QUESTIONS)]


@pytest.fixture
def base(tiny_directory: Path) -> BaseModel:
    return load_model(str(tiny_directory), dtype="float32")


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


@pytest.fixture
def few_unrelated_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many there are changes no claim here."""
    few = harms.unrelated_questions()[:2]
    monkeypatch.setattr(harms, "unrelated_questions", lambda: few)


def make(library: MemoryLibrary, base: BaseModel, form: str, **changes: Any) -> StoredMemory:
    changes = {"tasks": [*TRAINED[:6], *HELD_OUT], **changes}
    if form == "gated":  # a new one is near to no memory at all
        state = make_memory(MemoryLibrary(library.root.with_name("weak")), base, form).load_adapter_state()
        changes["adapter_state"] = {key: 3 * value for key, value in state.items()}
    return make_memory(library, base, form, **changes)


def convert(
    memory: StoredMemory, base: BaseModel, library: MemoryLibrary, name: str = "converted", **options: Any
) -> StoredMemory:
    *_, finished = convert_events(memory, base, library, library, AbsorptionOptions(name=name, **options))
    assert isinstance(finished, Finished)
    return finished.memory


def answer_odds(base: BaseModel, config: dict[str, Any] | None, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities at the answers of all trained questions, under an adapter or none. [M, vocabulary]"""
    batch = pack([question_example(base.tokenizer, task.question, task.answer) for task in TRAINED])
    adapter = restore_adapter(base.model, config, state) if config is not None else None
    try:
        with torch.no_grad():
            return torch.log_softmax(labelled_logits(base.model, batch).float(), -1)
    finally:
        if adapter is not None:
            adapter.detach()


def distance(wanted: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Mean KL(wanted || found) in nats a token, and the share of tokens whose likeliest one is the same."""
    divergence = (wanted.exp() * (wanted - found)).sum(-1).mean()
    return float(divergence), float((wanted.argmax(-1) == found.argmax(-1)).float().mean())


@pytest.mark.parametrize("form", FORMS)
def test_the_plain_lora_comes_near_the_memorys_odds(base: BaseModel, library: MemoryLibrary, form: str) -> None:
    memory = make(library, base, form, tasks=[*TRAINED, *HELD_OUT])
    config, state = memory.adapter_config, memory.load_adapter_state()
    wanted = answer_odds(base, config, state)
    alone, agreed_alone = distance(wanted, answer_odds(base, None, {}))
    steps = []
    for event in convert_events(memory, base, library, library, AbsorptionOptions(name="converted")):
        if isinstance(event, Trained):
            steps.append(event.step)
    converted = library["converted"]
    assert adapter_form(converted.adapter_config) == "lora"
    left, agreed = distance(wanted, answer_odds(base, converted.adapter_config, converted.load_adapter_state()))
    assert left < 0.5 * alone
    assert agreed > agreed_alone + 0.15
    first, last = ([step.loss for step in steps if step.epoch == epoch] for epoch in (0, steps[-1].epoch))
    assert sum(last) / len(last) < 0.6 * sum(first) / len(first)


def test_memory_and_base_stay_as_they_were(base: BaseModel, library: MemoryLibrary) -> None:
    memory = make(library, base, "activated")
    before = answer_odds(base, None, {})
    files = {path: path.read_bytes() for path in memory.directory.rglob("*") if path.is_file()}
    converted = convert(memory, base, library)
    assert not attached(base.model)
    assert torch.equal(answer_odds(base, None, {}), before)
    assert {path: path.read_bytes() for path in memory.directory.rglob("*") if path.is_file()} == files
    assert library.verify() == []
    assert converted.document == memory.document
    assert converted.tasks == memory.tasks
    assert converted.manifest.recipe_name == "portable"


@pytest.mark.parametrize("form", FORMS)
def test_peft_says_what_the_converted_memory_says(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, form: str
) -> None:
    memory = make(library, base, form)
    converted = convert(memory, base, library)
    export = export_memory(converted, base, "peft", tmp_path / "out")
    (told,) = verify_export(export, Replayer(converted, base)).adapters
    assert told.questions == told.same == len(QUESTIONS)
    assert told.largest_logit_difference is not None
    assert told.largest_logit_difference < 1e-4


@pytest.mark.usefixtures("few_unrelated_questions")
def test_the_export_says_what_was_kept_and_what_it_harms(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path
) -> None:
    memory = make(library, base, "gated")
    converted = convert(memory, base, library)
    found = measure_conversion(memory, converted, base)
    assert found.form == "gated-memory"
    assert found.probed == len(QUESTIONS)
    assert found.base.perplexity != found.before.perplexity != found.after.perplexity
    assert found.tokens == sum(row["tokens"] for row in converted.training[-found.steps :])
    export = export_memory(converted, base, "vllm", tmp_path / "out", conversion=found)
    told = json.loads((export.directory / "export.json").read_text("utf-8"))["conversion"]
    assert told["recalled_before"] == found.recalled_before
    assert told["after"]["perplexity"] == found.after.perplexity
    readme = (export.directory / "README.md").read_text("utf-8")
    assert "The memory was a Gated Memory." in readme
    assert f"| {found.base.perplexity:.2f} | {found.before.perplexity:.2f} | {found.after.perplexity:.2f} |" in readme
    with pytest.raises(ExportError, match="which was absorbed"):
        measure_conversion(memory, memory, base)


def test_a_text_absorbed_by_the_portable_recipe_goes_to_every_program_as_it_is(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path
) -> None:
    recipe = load_recipe("portable", ["training.epochs=1", "tasks.per_sentence=2"])
    text = Document("The museum", "Ada Quill founded the museum. The tower burned in 1902.", "museum.md")
    *_, finished = absorb_events(text, base, recipe, library, AbsorptionOptions(name="plain"))
    assert isinstance(finished, Finished)
    for target in TARGETS:
        export = export_memory(finished.memory, base, target, tmp_path / target)
        assert all(each.invocation == () for each in export.adapters)


def test_nine_tenths_of_the_change_are_kept_by_the_portable_recipe() -> None:
    portable, default = load_recipe("portable"), load_recipe("default")
    assert not portable.adapter.acts_on_answers
    assert portable.regularisation.wise_ft_alpha == 0.9
    # all else is as in the default, so that what differs in a table is that it acts everywhere
    changes = {"name", "version", "description", "adapter", "regularisation"}
    assert portable.model_dump(exclude=changes) == default.model_dump(exclude=changes)


@pytest.mark.parametrize(
    ("form", "tasks", "way_out"),
    [("plain", [*TRAINED, *HELD_OUT], "leave --convert out"), ("activated", HELD_OUT, "--recipe portable")],
)
def test_what_cannot_be_converted_is_refused_in_a_sentence(
    base: BaseModel, library: MemoryLibrary, form: str, tasks: Sequence[Task], way_out: str
) -> None:
    memory = make(library, base, form, tasks=tasks)
    with pytest.raises(ExportError) as caught:
        convert(memory, base, library)
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)
    assert library.names() == [form]


def test_a_name_that_is_taken_is_refused_before_anything_is_trained(base: BaseModel, library: MemoryLibrary) -> None:
    memory, other = make(library, base, "activated"), make(library, base, "plain")
    with pytest.raises(LibraryError, match="plain"):
        convert(memory, base, library, other.name)
    assert adapter_form(library["plain"].adapter_config) == "lora"


@pytest.mark.parametrize("slower_from_s", [1000.0, 20.0])
def test_a_budget_is_kept_on_every_machine(tiny_model: BaseModel, library: MemoryLibrary, slower_from_s: float) -> None:
    machine = Machine(tiny_model.model, 0.01, 0.2, lambda now: 3.0 if now > slower_from_s else 1.0)
    memory = make(library, tiny_model, "activated", tasks=[*TRAINED, *HELD_OUT])
    options = AbsorptionOptions(name="fast", budget_s=60.0, clock=machine.clock)
    events, trained_s = [], 0.0
    for event in convert_events(memory, tiny_model, library, library, options):
        events.append(event)
        if isinstance(event, Trained):
            trained_s = machine.now
    assert 0.7 * 60 < trained_s <= 60
    assert library.verify() == []
    kinds = [type(event) for event in events]
    assert kinds.index(Prepared) < kinds.index(Planned) < kinds.index(Trained) < kinds.index(Finished)
    told = [(event.step, event.eta_s) for event in events if isinstance(event, Trained)]
    assert all(eta >= 0 for _, eta in told)
    assert told[-1][0].learning_rate < 0.2 * max(step.learning_rate for step, _ in told)
    probed = [event for event in events if isinstance(event, Probed)]
    assert [each.probed for each in probed] == [len(QUESTIONS)] * 2


def test_an_interrupted_conversion_goes_on_where_it_was(base: BaseModel, library: MemoryLibrary) -> None:
    memory = make(library, base, "activated")
    whole = convert(memory, base, library, "whole").load_adapter_state()
    library.remove("whole")
    stop = threading.Event()
    steps = []
    with pytest.raises(InterruptedAbsorption, match="--resume"):
        for event in convert_events(memory, base, library, library, AbsorptionOptions(name="parted", stop=stop)):
            if isinstance(event, Trained):
                steps.append(event.step.step)
                if len(steps) == 5:
                    stop.set()
    assert library.names() == ["activated"]
    for event in convert_events(memory, base, library, library, AbsorptionOptions(name="parted", resume=True)):
        if isinstance(event, Trained):
            steps.append(event.step.step)
    assert steps == list(range(1, len(steps) + 1))
    parted = library["parted"].load_adapter_state()
    assert parted.keys() == whole.keys()
    assert all(torch.equal(parted[key], whole[key]) for key in whole)


@pytest.mark.usefixtures("few_unrelated_questions")
def test_the_command_converts_exports_and_keeps(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(library, base, "activated")
    words = ["export", "activated", "--to", "vllm", "--convert", "--library", str(library.root)]
    assert run([*words, "--json", "--keep", "everywhere", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["memory"] == "everywhere"
    assert told["conversion"]["form"] == "activated"
    assert library.names() == ["activated", "everywhere"]
    trained = library["everywhere"].manifest.created_at
    assert run([*words, "--keep", "everywhere", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "base model," in said
    assert library["everywhere"].manifest.created_at == trained
    assert (tmp_path / "again" / told["adapters"][0]["path"]).is_dir()


def test_the_options_of_a_conversion_need_one(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(library, base, "plain")
    words = ["export", "plain", "--to", "vllm", str(tmp_path / "out"), "--library", str(library.root)]
    for options in (["--budget", "5m"], ["--keep", "other"], ["--resume"]):
        assert run([*words, *options]) == 2
        assert "add --convert" in capsys.readouterr().err
    assert run([*words, "--convert"]) == 1
    assert "leave --convert out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
