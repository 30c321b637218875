"""A question to the whole library: asked of the right document, and of nearly as good ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lift.absorbing.absorb import absorb_events
from lift.absorbing.run_options import AbsorptionOptions
from lift.answering.answer import Answer
from lift.answering.library_question import ask_found, memory_gains, near_documents
from lift.api import Library
from lift.cli import run
from lift.documents.document import Document
from lift.errors import LibraryError, UsageError
from lift.memories.document_search import FoundDocument
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import load_recipe

TEXTS = {
    "museum": "Ada Quill founded the lighthouse museum of Port Merrow in 1903. The museum owns 40 lenses.",
    "harbour": "Ben Tarr founded the harbour museum of Port Merrow in 1911. The harbour owns two cranes.",
    "school": "The school of Lorne was closed in 1950. Its bell hangs in the church.",
}
SMALL = ("adapter.rank=2", "tasks.per_sentence=4", "training.batch_tokens=200", "training.epochs=1")


@pytest.fixture
def library(tmp_path: Path, tiny_model: BaseModel) -> Library:
    library = Library(tmp_path / "library", tiny_model)
    for name, text in TEXTS.items():
        document = Document(name.title(), text, f"{name}.txt")
        options = AbsorptionOptions(name=name)
        for _ in absorb_events(document, tiny_model, load_recipe("default", SMALL), library.stored, options):
            pass
    return library


def test_the_right_document_answers_with_its_sentence(library: Library) -> None:
    found = library.ask("When was the school of Lorne closed?", "evidence")
    assert (found.memory, found.title) == ("school", "School")
    alone = library["school"].ask("When was the school of Lorne closed?", "evidence")
    assert (found.answer.text, found.answer.evidence) == (alone.text, alone.evidence)
    assert [each.name for each in found.found] == ["school"]


def test_nearly_as_good_documents_are_asked_too(library: Library, tiny_model: BaseModel) -> None:
    question = "Who founded the museum of Port Merrow?"
    found = library.ask(question)
    assert {each.name for each in near_documents(found.found)} == {"museum", "harbour"}
    assert found.memory in ("museum", "harbour")
    assert found.answer.text == library[found.memory].ask(question).text


def test_a_supported_answer_goes_before_one_that_is_not(
    library: Library, tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lift.answering.library_question as module

    def answers(_base: object, asked: list[tuple[StoredMemory, str]], _context: str) -> list[Answer]:
        return [Answer("x", "none", (), memory.name == "school", False, 1, 0.0) for memory, _ in asked]

    monkeypatch.setattr(module, "ask_memories", answers)
    memories = [library.stored[name] for name in ("museum", "harbour", "school")]
    found = [FoundDocument(name, name, score) for name, score in (("museum", 9.0), ("harbour", 8.9), ("school", 8.8))]
    assert ask_found(tiny_model, memories, found, "Which?").memory == "school"
    # where both or none are supported, the one that was found by far better
    assert (
        ask_found(tiny_model, memories[:2], [found[0], FoundDocument("harbour", "h", 2.0)], "Which?").memory == "museum"
    )


def test_a_memory_finds_what_it_was_trained_on_likelier_than_the_base(library: Library, tiny_model: BaseModel) -> None:
    memory = library.stored["museum"]
    told = Answer("1903", "none", (), True, False, 1, 0.0)
    (gain,) = memory_gains(tiny_model, [memory], "When did Ada Quill found the lighthouse museum?", [told])
    again, other = memory_gains(
        tiny_model,
        [memory, library.stored["school"]],
        "When did Ada Quill found the lighthouse museum?",
        [told, told],
    )
    assert again == pytest.approx(gain, abs=1e-3) and other != pytest.approx(gain, abs=1e-6)


def test_what_no_document_has_a_word_of_is_said(library: Library) -> None:
    with pytest.raises(LibraryError, match="shares a word"):
        library.ask("Which zebra?")
    with pytest.raises(UsageError):
        library.ask("  ")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_names_the_document(
    tiny_directory: Path, tmp_path: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    library = MemoryLibrary(tmp_path / "library")
    document, options = Document("School", TEXTS["school"], "school.txt"), AbsorptionOptions(name="school")
    for _ in absorb_events(document, load_model(str(tiny_directory)), load_recipe("default", SMALL), library, options):
        pass
    asked = ["ask", "--all", "When was", "the school closed?", "--library", str(library.root)]
    assert run([*asked, *["--json"] * as_json]) == 0
    said = capsys.readouterr().out
    if as_json:
        record = json.loads(said)
        assert (record["memory"], record["title"]) == ("school", "School")
        assert record["question"] == "When was the school closed?"
        assert [each["memory"] for each in record["documents"]] == ["school"]
    else:
        assert "in “School” (lift ask school)" in said
    assert run([*asked, "--questions", "x.jsonl"]) == 2
    assert run(["ask", "--all", "zebra", "--library", str(library.root)]) == 1
