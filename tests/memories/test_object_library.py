"""A library on a store: a reader finds a memory whole or not at all, whenever the writer dies and requests fail."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from memory_drafts import make_draft, make_key, version_of

from lift.errors import LibraryError, UsageError
from lift.memories import object_library
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.memories.object_library import ObjectLibrary


class Died(BaseException):
    """The process of the writer has ended."""


class Store:
    """fsspec's store in memory, which can fail requests or end its user."""

    def __init__(self) -> None:
        self.files = fsspec.filesystem("memory")
        self.files.store.clear()
        self.failing = 0.0
        self.writes_left: int | None = None
        self.random = random.Random(0)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.files, name)

        def request(*arguments: Any, **options: Any) -> Any:
            if self.random.random() < self.failing:
                raise ConnectionResetError("the connection was closed")
            if name in ("pipe_file", "rm", "rm_file") and self.writes_left is not None:
                if self.writes_left == 0:
                    raise Died
                self.writes_left -= 1
            if name == "cat_file" and options.get("start", -1) >= self.files.size(arguments[0]):
                raise OSError("416 Range Not Satisfiable")  # as S3 answers
            return method(*arguments, **options)

        return request


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(object_library, "_LONGEST_WAIT_S", 0.0)
    yield Store()
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def library(store: Store) -> ObjectLibrary:
    return ObjectLibrary("memory://bucket/library", store)


def stored(tmp_path: Path, version: str = "one") -> StoredMemory:
    return MemoryLibrary(tmp_path / version).put(make_draft(version=version), replace=True)


def test_a_memory_comes_back_as_it_went(library: ObjectLibrary, tmp_path: Path) -> None:
    library.adopt(stored(tmp_path), "minutes")
    assert library.names() == ["minutes"] and "minutes" in library
    assert version_of(library["minutes"]) == "one"
    assert library.verify() == []
    found = library.find(make_key("one"))
    assert found is not None and found.name == "minutes"
    assert library.find(make_key("two")) is None
    local = MemoryLibrary(tmp_path / "local").adopt(library["minutes"], "copied")
    assert version_of(local) == "one"


def test_a_file_may_be_empty(library: ObjectLibrary, store: Store, tmp_path: Path) -> None:
    document = dataclasses.replace(make_draft().document, places=())
    memory = MemoryLibrary(tmp_path / "local").put(make_draft(document=document, recall=[]))
    library.adopt(memory, "minutes")
    assert library["minutes"].document.places == () and library["minutes"].recall == []
    assert library.verify() == []
    path = next(path for path in store.files.find("/bucket/library/files") if path.endswith("places.jsonl"))
    store.files.pipe_file(path, b"x")
    assert [problem.file for problem in library.verify()] == ["places.jsonl"]


def test_names_are_not_taken_twice_unless_replaced(library: ObjectLibrary, tmp_path: Path) -> None:
    library.adopt(stored(tmp_path), "minutes")
    with pytest.raises(LibraryError, match="already"):
        library.adopt(stored(tmp_path, "two"), "minutes")
    before = library["minutes"]
    library.adopt(stored(tmp_path, "two"), "minutes", replace=True)
    assert version_of(library["minutes"]) == "two"
    assert version_of(before) == "one"  # whoever has the old one open reads on
    assert library.find(make_key("one")) is None
    with pytest.raises(UsageError):
        library.adopt(stored(tmp_path), "a/b")
    with pytest.raises(LibraryError, match="the nearest are 'minutes'"):
        library["minute"]
    library.remove("minutes")
    assert library.names() == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_writer_that_dies_leaves_the_old_or_the_new(
    library: ObjectLibrary, store: Store, tmp_path: Path, replace: bool
) -> None:
    first, second = stored(tmp_path), stored(tmp_path, "two")
    died = 0
    for writes in range(40):
        store.files.store.clear()
        if replace:
            library.adopt(first, "minutes")
        store.writes_left = writes
        try:
            library.adopt(second, "minutes", replace=replace)
        except Died:
            died += 1
            assert library.names() == (["minutes"] if replace else [])
            if replace:
                assert version_of(library["minutes"]) == "one"
            assert library.verify() == [] and library.find(make_key("two")) is None
        store.writes_left = None
        library.adopt(second, "minutes", replace=True)
        assert version_of(library["minutes"]) == "two"
        if not died or writes > died:
            break
    assert died >= 8  # seven files, the hint and the manifest


def test_requests_that_fail_are_tried_again(library: ObjectLibrary, store: Store, tmp_path: Path) -> None:
    store.failing = 0.1
    for number in range(10):
        library.adopt(stored(tmp_path, f"v{number}"), f"minutes-{number}")
    assert len(library.names()) == 10
    assert [version_of(library[f"minutes-{number}"]) for number in range(10)] == [f"v{number}" for number in range(10)]


def test_a_store_that_refuses_is_told_in_a_sentence(library: ObjectLibrary, store: Store, tmp_path: Path) -> None:
    store.failing = 1.0
    with pytest.raises(LibraryError, match=r"cannot read the library memory://bucket/library \(ConnectionResetError"):
        library.adopt(stored(tmp_path), "minutes")
    with pytest.raises(UsageError, match=r"lift-memory\[s3\]"):
        ObjectLibrary("nosuch://bucket/library")


def test_damage_is_found(library: ObjectLibrary, store: Store, tmp_path: Path) -> None:
    library.adopt(stored(tmp_path), "minutes")
    path = next(path for path in store.files.find("/bucket/library/files/minutes") if path.endswith("document.txt"))
    store.files.pipe_file(path, b"x" + store.files.cat_file(path)[1:])
    assert [problem.file for problem in library.verify()] == ["document.txt"]
    with pytest.raises(LibraryError, match=r"document.txt of the memory 'minutes' does not have the content"):
        _ = library["minutes"].document
    store.files.rm_file(path)
    assert "is missing" in str(library.verify()[0])
    store.files.pipe_file("/bucket/library/manifests/minutes.json", b"{}")
    with pytest.raises(LibraryError, match="is damaged"):
        library["minutes"]
