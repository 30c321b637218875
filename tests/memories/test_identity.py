"""What identifies an absorption: memories made otherwise are not the same, and it is said in what they differ."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from chat_templates import build_tokenizer
from conftest import CHATML, tiny_llama
from memory_drafts import manifest_values

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Prepared
from lift.absorbing.add import add_events
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorption_identity
from lift.absorbing.run_options import AbsorptionOptions
from lift.answering.answerer import open_memory
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.errors import LibraryError, WrongBaseModelError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import read_manifest, seal_manifest
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import RECIPE_VERSION, load_recipe
from lift.server.model_names import is_servable
from lift.tasks.rules.rule_generator import RULES_VERSION, generate_tasks
from lift.tasks.task import Task
from lift.training.batch_sampler import TRAINING_VERSION, BatchSampler

TEXT = (
    "Orla Finch repaired the tide clock of Saltmere in 1926. The clock has 31 wheels. "
    "Its bell rings twice a day.\n\nThe harbour office keeps the key."
)
DOCUMENT = Document("Saltmere", TEXT, "test")
SETTINGS = ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=3", "adapter.warm_start=none"]
OTHER_TEMPLATE = CHATML.replace("assistant\n", "assistant\n\n")


def absorb(base: BaseModel, library: MemoryLibrary, *overrides: str, **options: Any) -> list[Any]:
    recipe = load_recipe("default", [*SETTINGS, *overrides])
    return list(absorb_events(options.pop("document", DOCUMENT), base, recipe, library, AbsorptionOptions(**options)))


def finished(events: list[Any]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def with_template(base: BaseModel, template: str) -> BaseModel:
    import copy

    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    return replace(base, tokenizer=tokenizer)


def key(base: BaseModel, *overrides: str, document: Document = DOCUMENT, budget_s: float | None = None) -> str:
    resolved = resolve(load_recipe("default", [*SETTINGS, *overrides]), base)
    return absorption_identity(document, base, resolved, budget_s).key


def test_whole_and_fractional_seconds_are_the_same_budget(tiny_model: BaseModel) -> None:
    assert key(tiny_model, budget_s=180) == key(tiny_model, budget_s=180.0) != key(tiny_model, budget_s=180.5)
    assert key(tiny_model) != key(tiny_model, budget_s=180)


def test_every_part_counts(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(tiny_model), key(tiny_model, "training.seed=7"), key(tiny_model, "tasks.per_sentence=4")]
    keys.append(key(tiny_model, document=replace(DOCUMENT, title="Another")))
    keys.append(key(tiny_model, document=replace(DOCUMENT, text=TEXT + " It is blue.")))
    keys.append(key(with_template(tiny_model, OTHER_TEMPLATE)))
    keys.append(key(replace(tiny_model, tokenizer=build_tokenizer("llama3"))))
    keys.append(key(replace(tiny_model, fingerprint="1" * 64)))
    keys.append(key(replace(tiny_model, model=tiny_llama().bfloat16())))
    for quantized in ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}):
        model = tiny_llama()
        model.config.quantization_config = quantized
        keys.append(key(replace(tiny_model, model=model)))
    for version in ("RULES_VERSION", "TRAINING_VERSION", "RECIPE_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(f"lift.absorbing.reuse.{version}", 99)
            keys.append(key(tiny_model))
    assert len(set(keys)) == len(keys)
    assert key(tiny_model) == keys[0]


def test_the_recipe_counts_as_it_is_followed(tiny_model: BaseModel) -> None:
    # without a warm start the LoRA is not hurried, whatever the ratio would be
    alike = [key(tiny_model, "training.lora_plus_from_zero=false", f"training.lora_plus_ratio={n}") for n in (4, 8)]
    assert alike[0] == alike[1]


def test_the_rules_count_where_they_write_the_tasks(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(tiny_model, "generator.kind=self")
    monkeypatch.setattr("lift.absorbing.reuse.RULES_VERSION", 99)
    assert key(tiny_model, "generator.kind=self") == before


def test_padding_or_cutting_a_batch_changes_no_tokenizer() -> None:
    tokenizer, fresh = build_tokenizer("gemma"), build_tokenizer("gemma")
    tokenizer(["a", "the ferry"], padding=True, truncation=True, max_length=3)
    bases = [
        BaseModel(model=tiny_llama(), tokenizer=each, id="tiny", fingerprint="0" * 64) for each in (tokenizer, fresh)
    ]
    assert bases[0].identity == bases[1].identity


def test_the_same_weights_behind_another_template_are_trained_anew(tiny_directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_directory, other)
    (other / "chat_template.jinja").write_text(OTHER_TEMPLATE, "utf-8")
    library = MemoryLibrary()
    first, second = load_model(str(tiny_directory)), load_model(str(other))
    assert first.fingerprint == second.fingerprint
    made = finished(absorb(first, library)).memory
    events = absorb(second, library)
    anew = finished(events)
    assert not anew.reused and anew.memory.name != made.name
    assert anew.memory.manifest.base.id == str(other)
    (told,) = [event for event in events if isinstance(event, Prepared)]
    assert told.warnings == (
        f"the memory {made.name!r} of the same text is not used again: it was made with another chat template",
    )
    assert finished(absorb(first, library)).memory.name == made.name
    assert finished(absorb(second, library)).reused
    with pytest.raises(WrongBaseModelError, match=f"another chat template than {other} has.*--model {tiny_directory}"):
        open_memory(made, second)
    assert is_servable(made.manifest, first) and not is_servable(made.manifest, second)


def test_a_memory_of_another_tokenizer_is_refused(tiny_model: BaseModel) -> None:
    memory = finished(absorb(tiny_model, MemoryLibrary())).memory
    tokenizer = build_tokenizer("llama3")
    tokenizer.chat_template = tiny_model.tokenizer.chat_template
    with pytest.raises(WrongBaseModelError, match="another tokenizer"):
        open_memory(memory, replace(tiny_model, tokenizer=tokenizer))


def test_a_memory_answers_on_another_number_type_but_is_another_one(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    memory = finished(absorb(tiny_model, library, name="clock")).memory
    halved = replace(tiny_model, model=tiny_llama().bfloat16())
    assert open_memory(memory, halved).ask("Who?", "none").context == "none"
    events = absorb(halved, library)
    assert not finished(events).reused
    (told,) = [event for event in events if isinstance(event, Prepared)]
    assert "it was made in float32, and this base computes in bfloat16" in told.warnings[0]


def test_a_memory_made_by_earlier_rules_is_made_anew_and_that_is_said(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = MemoryLibrary()
    absorb(tiny_model, library, name="clock")
    monkeypatch.setattr("lift.absorbing.reuse.RULES_VERSION", RULES_VERSION + 1)
    why = f"it was made with rules {RULES_VERSION}, and these are rules {RULES_VERSION + 1}"
    with pytest.raises(LibraryError, match=rf"'clock' already.*{why}"):
        absorb(tiny_model, library, name="clock")
    events = absorb(tiny_model, library, name="clock again")
    (told,) = [event for event in events if isinstance(event, Prepared)]
    assert told.warnings == (f"the memory 'clock' of the same text is not used again: {why}",)
    assert not finished(events).reused
    assert finished(absorb(tiny_model, library)).memory.name == "clock again"


def test_nothing_is_said_of_memories_of_other_texts(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    absorb(tiny_model, library, document=Document("Saltmere", "The mill has two wheels of oak.", "test"))
    events = absorb(tiny_model, library)
    assert [event.warnings for event in events if isinstance(event, Prepared)] == [()]


def test_the_manifest_tells_what_a_memory_was_made_of(tiny_model: BaseModel) -> None:
    library = MemoryLibrary()
    memory = finished(absorb(tiny_model, library, name="clock")).memory
    recipe = load_recipe("default", SETTINGS)
    made = read_manifest(memory.directory).identity
    assert made == absorption_identity(DOCUMENT, tiny_model, resolve(recipe, tiny_model), None)
    assert made.key == memory.manifest.absorption_key
    assert (made.rules_version, made.training_version, made.recipe_version) == (
        RULES_VERSION,
        TRAINING_VERSION,
        RECIPE_VERSION,
    )
    more = Document("Mill", "The mill has two wheels of oak. It stands at the weir.", "test")
    changed = finished(list(add_events(more, memory, tiny_model, library))).memory
    added = changed.manifest.identity
    assert added is not None and added.text == changed.document.sha256 != made.text
    assert added.base == tiny_model.identity


@pytest.mark.parametrize(
    "values",
    [
        {"text": "../x"},
        {"rules_version": -1},
        {"budget_s": "1e999"},
        {"base": {"dtype": "a\nb", "quantization": None, "tokenizer": "0" * 64, "chat_template": "0" * 64}},
        {"more": 1},
    ],
)
def test_an_identity_that_is_none_is_refused(tiny_model: BaseModel, values: dict[str, Any]) -> None:
    memory = finished(absorb(tiny_model, MemoryLibrary(), name="clock")).memory
    path = memory.directory / "memory.json"
    manifest = manifest_values(path.read_bytes())
    manifest["identity"].update(values)
    path.write_bytes(seal_manifest(manifest))
    with pytest.raises(LibraryError, match="damaged"):
        read_manifest(memory.directory)


# --- versions are raised by hand: what they stand for is held by digests


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


RULES_TEXT = (
    "The reading room of Saltmere opens at 9:15 on weekdays. It was founded by Orla Finch in 1926. "
    "Members pay 12 crowns a year; children pay nothing. The keeper, who lives next door, lends the key. "
    "No member may lend a book to a stranger. There are 31 chairs in the hall, because the society grew.\n\n"
    "If the lamp is broken, tell the keeper. Mr Penn said that the roof had been mended twice."
)


def test_rules_that_write_other_tasks_have_another_version() -> None:
    tasks = generate_tasks("The reading room", split_sentences(RULES_TEXT), per_sentence=12)
    found = digest([asdict(task) for task in tasks])
    assert {RULES_VERSION: found} == {3: "4993b4ea1f2d595b"}, (
        f"the rules write other tasks than those of version {RULES_VERSION}: raise RULES_VERSION in "
        f"lift/tasks/rules/rule_generator.py, and put {found!r} here"
    )


def test_training_on_other_examples_has_another_version(tiny_model: BaseModel) -> None:
    sentences = split_sentences(TEXT)
    tasks = [
        Task("Who repaired the tide clock?", "Orla Finch", (0,), "rules:subject", 1.0),
        Task("How many wheels has the clock?", "31 wheels", (1,), "rules:number", 0.5),
        Task("How often does its bell ring?", "twice a day", (2,), "rules:adverb", 1.0),
        Task("Who keeps the key?", "The harbour office", (3,), "rules:subject", 1.0, held_out=True),
    ]
    found = []
    for name in ("default", "lift-v3", "lift-v5"):
        # the published recipes' own words and batches are settings, and no matter of the version
        same = ["tasks.prompt=plain", "training.batch_examples=0"]
        recipe = load_recipe(name, ["segments.length_tokens=64", "segments.step_tokens=24", *same])
        sampler = BatchSampler(tiny_model.tokenizer, 1024, DOCUMENT, sentences, tasks, recipe)
        optimizer_steps = [update for epoch in (0, 1) for update in sampler.optimizer_steps(epoch)]
        found.append([[asdict(example) for batch in update.batches for example in batch] for update in optimizer_steps])
    assert {TRAINING_VERSION: digest(found)} == {3: "3448be15b16d0c7c"}, (
        f"the same tasks give other examples than those of version {TRAINING_VERSION}: raise TRAINING_VERSION in "
        f"lift/training/batch_sampler.py, and put {digest(found)!r} here"
    )
