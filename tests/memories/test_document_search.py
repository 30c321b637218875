"""The documents of a library that a question is about are found, as the library is now."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from memory_drafts import make_draft, make_key

from lift.documents.document import Document
from lift.memories.document_search import DocumentSearch
from lift.memories.library import MemoryLibrary

TEXTS = {
    "mill": "The mill at Orle ground rye until 1912. Its wheel was made of oak by Tobias Renn.",
    "weir": "The weir above Orle was built of stone. Floods broke it twice.",
    "choir": "The choir sang on Sundays. Its leader was Hanne Brix, who also kept bees.",
}


def put(library: MemoryLibrary, name: str, text: str, replace: bool = False) -> None:
    document = Document(name.title(), text, f"{name}.txt")
    library.put(make_draft(name, document=document, absorption_key=make_key(text)), replace=replace)


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    library = MemoryLibrary(tmp_path / "library")
    for name, text in TEXTS.items():
        put(library, name, text)
    return library


def names(library: MemoryLibrary, question: str, count: int = 5) -> list[str]:
    return [found.name for found in DocumentSearch(library).search(question, count)]


def test_the_document_that_tells_it_comes_first(library: MemoryLibrary) -> None:
    assert names(library, "Who made the wheel of the mill?")[0] == "mill"
    assert names(library, "Which floods were there at Orle?") == ["weir", "mill"]
    assert names(library, "Who kept a bee?") == ["choir"]  # by its stem
    assert names(library, "What is the price of gold?") == []
    assert names(library, "Who?") == []
    assert len(names(library, "Orle", 1)) == 1


def test_what_is_asked_is_no_query(library: MemoryLibrary) -> None:
    for question in ('"', "mill AND NOT weir", 'NEAR("mill" "oak")', "words:mill*", "'; DROP TABLE documents; --"):
        names(library, question)
    assert names(library, 'the "mill" (oak)')[0] == "mill"


def test_a_long_document_is_found_by_one_place_of_it(library: MemoryLibrary) -> None:
    put(
        library,
        "long",
        " ".join(f"Filler {word} about nothing." for word in ["rain", "snow", "hail"] * 400) + " A lynx.",
    )
    put(library, "short", "The lynx and the hare, the fox, the owl and the boar.")
    assert set(names(library, "Where is a lynx?")) == {"long", "short"}


def test_the_index_follows_the_library(library: MemoryLibrary) -> None:
    assert names(library, "mill oak")[0] == "mill"
    put(library, "mill", "The mill was sold for its copper.", replace=True)
    assert names(library, "oak") == [] and names(library, "copper") == ["mill"]
    library.rename("mill", "old-mill")
    assert names(library, "copper") == ["old-mill"]
    library.remove("old-mill")
    assert names(library, "copper") == []
    shutil.copytree(library.root / "weir", library.root / "by-hand")
    assert set(names(library, "floods")) == {"weir", "by-hand"}


def test_what_has_not_changed_is_not_read_again(library: MemoryLibrary) -> None:
    names(library, "mill")
    for name in TEXTS:
        os.unlink(library.root / name / "document.txt")
    put(library, "bridge", "The bridge was let down at dusk.")
    assert names(library, "bridge") == ["bridge"]
    assert names(library, "oak") == ["mill"]


def test_a_damaged_memory_is_told_and_hides_no_other(library: MemoryLibrary) -> None:
    (library.root / "weir" / "document.txt").write_text("changed")
    (library.root / "choir" / "memory.json").write_text("{}")
    assert names(library, "Orle wheel weir choir") == ["mill"]
    assert set(DocumentSearch(library).search_telling("weir", 1)[1]) == {"weir", "choir"}


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b""])
def test_a_damaged_index_is_made_anew(library: MemoryLibrary, damage: bytes) -> None:
    names(library, "mill")
    for leftover in (library.root / ".search").iterdir():
        leftover.unlink()
    (library.root / ".search" / "passages.sqlite").write_bytes(damage)
    assert names(library, "oak") == ["mill"]


def test_an_index_of_another_version_is_made_anew(library: MemoryLibrary) -> None:
    names(library, "mill")
    with sqlite3.connect(library.root / ".search" / "passages.sqlite") as index:
        index.execute("DELETE FROM documents")
        index.execute("PRAGMA user_version = 99")
    assert names(library, "oak") == ["mill"]


def test_where_no_index_can_be_written_all_is_found_as_well(library: MemoryLibrary) -> None:
    (library.root / ".search").write_text("a file in the way")
    assert names(library, "oak") == ["mill"]


def test_many_may_search_at_once(library: MemoryLibrary) -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(names(library, "oak"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["mill"]] * 6


def test_scripts_without_spaces_are_found(library: MemoryLibrary) -> None:
    put(library, "tower", "灯台は一九〇三年に建てられた。")
    assert names(library, "灯台はいつ建てられましたか")[0] == "tower"


def test_an_empty_library_has_nothing(tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path / "none")
    assert names(library, "mill") == [] and not library.root.exists()
