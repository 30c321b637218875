"""Questions to many memories at once: answers are those of each memory alone, and what stays attached is bounded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from answering.test_answerer import saying
from conftest import logits
from memory_drafts import make_draft

import lift
from lift.adapters.adapter import attached
from lift.adapters.attach import create_adapter
from lift.adapters.resident import attach_stored, hold_stored, release
from lift.adapters.row_assignment import activate
from lift.answering.answer import Answer
from lift.answering.answerer import open_memory
from lift.answering.many_memories import ask_memories
from lift.documents.document import Document
from lift.errors import AdapterError, LibraryError, UsageError, WrongBaseModelError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import AdapterSettings

KINDS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 4},
    {"kind": "lora", "rank": 2, "layers": (1,), "targets": "mlp"},
    {"kind": "dora", "rank": 3},
    {"kind": "gated-memory"},
    {"kind": "pissa", "rank": 2},
    {"kind": "lora", "rank": 4, "targets": "attention"},
]
TOKENS = [1, 40, 50, 60]


@pytest.fixture
def memories(tiny_model: BaseModel, tmp_path: Path) -> list[StoredMemory]:
    """Six memories of all kinds, each with a document of its own."""
    library = MemoryLibrary(tmp_path / "library")
    found = []
    for seed, settings in enumerate(KINDS):
        adapter = create_adapter(tiny_model.model, AdapterSettings(**settings), seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapter.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        config, state = adapter.stored()
        adapter.detach()
        text = f"Ada Quill {seed} founded the museum. It owns {40 + seed} lenses. The tower {seed} burned in 190{seed}."
        draft = make_draft(
            f"memory {seed}",
            str(seed),
            base_id=tiny_model.id,
            base_fingerprint=tiny_model.fingerprint,
            adapter_config=config,
            adapter_state=state,
            document=Document(f"Document {seed}", text, "test"),
        )
        found.append(library.put(draft))
    return found


def asked(memories: Sequence[StoredMemory]) -> list[tuple[StoredMemory, str]]:
    questions = ["Who founded it?", "How many lenses does it own?", "When?", "What burned in that year?"]
    order = [3, 0, 5, 1, 0, 2, 4, 3, 0, 5, 4, 1]
    return [(memories[index], questions[place % len(questions)]) for place, index in enumerate(order)]


def without_time(answers: Sequence[Answer]) -> list[Answer]:
    return [dataclasses.replace(answer, seconds=0.0) for answer in answers]


def alone(base: BaseModel, questions: Sequence[tuple[StoredMemory, str]], context: str) -> list[Answer]:
    answers = [
        open_memory(memory, base).ask_many([question], context, max_new_tokens=8)[0] for memory, question in questions
    ]
    release(base.model)
    return without_time(answers)


@pytest.mark.parametrize("context", ["none", "evidence", "auto"])
def test_the_answers_are_those_of_each_memory_alone(
    tiny_model: BaseModel, memories: list[StoredMemory], context: str
) -> None:
    questions = asked(memories)
    before = logits(tiny_model.model, TOKENS)
    expected = alone(tiny_model, questions, context)
    assert len({answer.text for answer in expected}) > len(memories)
    for batch_size, resident in ((32, 32), (5, 3), (4, 1)):
        limits: dict[str, Any] = {"max_new_tokens": 8, "batch_size": batch_size, "resident": resident}
        for _ in range(2):  # again, where as many of them as may be stayed attached
            assert without_time(ask_memories(tiny_model, questions, context, **limits)) == expected
            assert len(attached(tiny_model.model)) == min(resident, len(memories))
            assert torch.equal(logits(tiny_model.model, TOKENS), before)
        release(tiny_model.model)
        assert attached(tiny_model.model) == {}
        assert torch.equal(logits(tiny_model.model, TOKENS), before)


def test_memories_are_asked_together_from_python(
    tiny_model: BaseModel, memories: list[StoredMemory], tmp_path: Path
) -> None:
    library = lift.Library(tmp_path / "library", tiny_model)
    questions = [(library[memory.name], question) for memory, question in asked(memories)[:6]]
    expected = without_time([memory.ask(question) for memory, question in questions])
    assert without_time(lift.ask_many(questions)) == expected
    closed_book = without_time([memory.ask(question, "none") for memory, question in questions])
    assert without_time(lift.ask_many(questions, "none", batch_size=4, resident=2)) == closed_book
    assert lift.ask_many([]) == []
    release(tiny_model.model)


def test_a_batch_mixes_memories_and_each_memory_is_loaded_once(
    tiny_model: BaseModel, memories: list[StoredMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = StoredMemory.load_adapter_state

    def counted(memory: StoredMemory) -> dict[str, torch.Tensor]:
        loads.append(memory.name)
        return load(memory)

    monkeypatch.setattr(StoredMemory, "load_adapter_state", counted)
    shapes: list[tuple[int, int]] = []
    tiny_model.model.register_forward_pre_hook(
        lambda _model, _args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    questions = asked(memories)
    ask_memories(tiny_model, questions, max_new_tokens=2, batch_size=8)
    assert shapes.count((8, 1)) == shapes.count((4, 1)) == 1 and shapes[-1] == (4, 1), "expected to decode together"
    assert sorted(loads) == sorted({memory.name for memory in memories})
    loads.clear()
    ask_memories(tiny_model, questions, max_new_tokens=1)
    assert loads == [], "expected the memories to be attached still"
    ask_memories(tiny_model, questions, max_new_tokens=1, resident=2)
    assert (len(loads), len(attached(tiny_model.model))) == (len(memories) - 2, 2)
    loads.clear()
    ask_memories(tiny_model, questions, max_new_tokens=1, resident=2)
    assert len(loads) == len(memories) - 2, "expected the two that stayed to be asked first"


def test_the_longest_unused_is_detached_for_another(tiny_model: BaseModel, memories: list[StoredMemory]) -> None:
    def names() -> list[StoredMemory]:
        states = {memory.manifest.adapter_id: memory for memory in memories}
        return [states[name] for name in attached(tiny_model.model)]

    def ask(*which: int) -> None:
        ask_memories(tiny_model, [(memories[index], "Who?") for index in which], max_new_tokens=1, resident=3)

    ask(0, 1, 2)
    ask(0)
    ask(3, 2)
    assert set(names()) == {memories[0], memories[2], memories[3]}
    ask(4)
    assert set(names()) == {memories[2], memories[3], memories[4]}
    open_memory(memories[3], tiny_model)
    assert names() == [memories[3]]


def test_what_was_applied_before_is_applied_again(tiny_model: BaseModel, memories: list[StoredMemory]) -> None:
    answerer = open_memory(memories[0], tiny_model)
    before = logits(tiny_model.model, TOKENS)
    ask_memories(tiny_model, asked(memories), max_new_tokens=2)
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    assert answerer.ask("Who?", "none").context == "none"
    release(tiny_model.model)
    other = create_adapter(tiny_model.model, AdapterSettings(kind="pissa", rank=2), 0, "in training")
    before = logits(tiny_model.model, TOKENS)
    ask_memories(tiny_model, asked(memories), max_new_tokens=2, resident=2)
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    assert len(attached(tiny_model.model)) == 3
    other.detach()


def test_each_answer_has_the_evidence_of_its_own_document(
    tiny_model: BaseModel, memories: list[StoredMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, tiny_model, "It owns 45 lenses")
    answers = ask_memories(tiny_model, [(memories[5], "How many?"), (memories[2], "How many?")])
    assert answers[0].evidence[0].text == "It owns 45 lenses."
    assert answers[0].supported
    assert answers[1].evidence[0].text == "It owns 42 lenses."
    assert answers[0].seconds == answers[1].seconds > 0


def test_what_cannot_be_asked_is_refused_before_anything_is_attached(
    tiny_model: BaseModel, memories: list[StoredMemory]
) -> None:
    good = (memories[0], "Who?")
    refused: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (UsageError, "empty", [good, (memories[1], " ")], {}),
        (UsageError, "context", [good], {"context": "guess"}),
        (UsageError, "at least 1, got 0", [good], {"resident": 0}),
        (UsageError, "at least 1, got 32 and 0", [good], {"batch_size": 0}),
    ]
    for kind, message, questions, options in refused:
        with pytest.raises(kind, match=message):
            ask_memories(tiny_model, questions, **options)
    other = BaseModel(tiny_model.model, tiny_model.tokenizer, "other", "1" * 64)
    with pytest.raises(WrongBaseModelError):
        ask_memories(other, [good])
    assert attached(tiny_model.model) == {}
    assert ask_memories(tiny_model, []) == []


def test_a_damaged_memory_leaves_the_base_as_it_was(tiny_model: BaseModel, memories: list[StoredMemory]) -> None:
    before = logits(tiny_model.model, TOKENS)
    path = memories[4].directory / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(LibraryError, match="lift verify"):
        ask_memories(tiny_model, asked(memories), max_new_tokens=2)
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    expected = alone(tiny_model, [(memories[0], "Who?")], "none")
    assert without_time(ask_memories(tiny_model, [(memories[0], "Who?")], max_new_tokens=8)) == expected


def test_more_adapters_than_the_bound_are_refused(tiny_model: BaseModel, memories: list[StoredMemory]) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)

    def load(index: int) -> Any:
        return lambda: (memories[index].adapter_config, memories[index].load_adapter_state())

    with pytest.raises(AdapterError, match="at most 1 stored adapters at a time, got 2"):
        hold_stored(model, {"0": load(0), "1": load(1)}, at_most=1)
    hold_stored(model, {str(index): load(index) for index in range(3)}, at_most=4)
    assert list(attached(model)) == ["0", "1", "2"]
    hold_stored(model, {"3": load(3), "0": lambda: pytest.fail("loaded although it was attached")}, at_most=3)
    assert set(attached(model)) == {"2", "0", "3"}
    attach_stored(model, "0", load(0))
    assert list(attached(model)) == ["0"]
    activate(model, None)
    assert torch.equal(logits(model, TOKENS), before)


def test_memories_of_the_same_weights_and_another_configuration_are_not_taken_for_one(
    tiny_model: BaseModel, tmp_path: Path
) -> None:
    library = MemoryLibrary(tmp_path / "library")
    adapter = create_adapter(tiny_model.model, AdapterSettings(rank=4), 0)
    for parameter in adapter.parameters():
        parameter.data.add_(0.2)
    config, state = adapter.stored()
    adapter.detach()
    names = dict(base_id=tiny_model.id, base_fingerprint=tiny_model.fingerprint, adapter_state=state)
    found = []
    for name, alpha in (("strong", 64), ("weak", 0.001)):
        memory = library.put(make_draft(name, name, adapter_config={**config, "lora_alpha": alpha}, **names))
        open_memory(memory, tiny_model)
        found.append(logits(tiny_model.model, [1, 70, 80]))
    release(tiny_model.model)
    base = logits(tiny_model.model, [1, 70, 80])
    strong, weak = ((each - base).abs().max().item() for each in found)
    assert weak < 0.1 * strong
