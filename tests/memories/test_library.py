"""The library as its users see it: put, open, list, find, rename, copy, remove, verify, and what they refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_drafts import make_draft, make_key, version_of

from lift.errors import BusyAbsorptionError, LibraryError, LiftError, UsageError
from lift.memories import library as library_module
from lift.memories.backup import restore_backup, write_backup
from lift.memories.library import MemoryLibrary, default_library_directory
from lift.memories.memory import StoredMemory


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of many writes that ask nothing about crashes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def visible(library: MemoryLibrary) -> list[str]:
    return sorted(entry.name for entry in library.root.iterdir() if not entry.name.startswith("."))


def temporaries(library: MemoryLibrary) -> list[str]:
    return [entry.name for entry in library.root.iterdir() if entry.name.startswith((".lift-tmp-", ".lift-old-"))]


def test_a_library_that_is_not_there_yet_is_empty(library: MemoryLibrary) -> None:
    assert library.names() == []
    assert library.summaries() == []
    assert library.verify() == []
    assert library.find(make_key("one")) is None
    assert "minutes" not in library
    assert not library.root.exists()
    with pytest.raises(LibraryError, match=r"'minutes'.* is empty; make one with `lift absorb`"):
        library["minutes"]


def test_where_the_library_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIFT_HOME", str(tmp_path / "mine"))
    assert MemoryLibrary().root == tmp_path / "mine"
    monkeypatch.setenv("LIFT_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_library_directory().name == "lift"
    assert MemoryLibrary(tmp_path / "explicit").root == tmp_path / "explicit"


def test_a_relative_library_stays_where_it_was_when_the_process_moves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    library = MemoryLibrary(Path("relative"))
    monkeypatch.chdir(tmp_path / "other")
    assert library.put(make_draft()).directory == tmp_path / "relative" / "minutes"


def test_put_and_open(library: MemoryLibrary) -> None:
    library.put(make_draft())
    library.put(make_draft("Annual report", "two"))
    assert library.names() == ["Annual report", "minutes"]
    assert "minutes" in library
    assert "Annual report" in library
    assert version_of(library["minutes"]) == "one"
    assert version_of(library["Annual report"]) == "two"
    assert temporaries(library) == []


def test_put_refuses_a_name_that_is_taken_whatever_its_case(library: MemoryLibrary) -> None:
    library.put(make_draft("Straße"))
    for name in ("Straße", "straße", "STRASSE"):
        with pytest.raises(LibraryError, match="'Straße' already; choose another name, for example"):
            library.put(make_draft(name, "two"))
    assert library.names() == ["Straße"]
    assert version_of(library["Straße"]) == "one"


def test_put_replaces_when_told_to(library: MemoryLibrary) -> None:
    library.put(make_draft())
    library.put(make_draft(version="two"), replace=True)
    library.put(make_draft("new", "three"), replace=True)
    assert library.names() == ["minutes", "new"]
    assert version_of(library["minutes"]) == "two"
    assert temporaries(library) == []
    with pytest.raises(LibraryError, match="already"):
        library.put(make_draft("MINUTES", "three"), replace=True)


def test_the_same_accents_typed_differently_are_the_same_name(library: MemoryLibrary) -> None:
    library.put(make_draft("cafe\u0301"))
    assert library.names() == ["caf\u00e9"]
    assert version_of(library["cafe\u0301"]) == "one"
    assert library["caf\u00e9"].manifest.name == "caf\u00e9"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(max_size=110) | st.sampled_from(["..", "../x", "/etc", "a/../..", ".lock", ".by-key", ".absorbing"])
)
def test_any_name_is_refused_or_stays_inside_the_library(tmp_path: Path, no_fsync: None, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    library = MemoryLibrary(outside / "library")
    try:
        memory = library.put(make_draft(name))
    except UsageError as error:
        assert "for example" in str(error)
        assert not library.root.exists()
        assert name not in library
        for use in (library.__getitem__, library.remove, library.verify):
            with pytest.raises(LibraryError):
                use(name)
    else:
        assert memory.directory.parent == library.root
        assert os.listdir(outside) == ["library"]
        assert visible(library) == library.names() == [memory.name]
        assert version_of(library[name]) == "one"
        library.remove(name)
        assert visible(library) == []


def test_an_unknown_name_is_answered_with_the_nearest(library: MemoryLibrary) -> None:
    for name in ("minutes-march", "minutes-may", "contract"):
        library.put(make_draft(name))
    with pytest.raises(LibraryError, match="nearest are 'minutes-march'"):
        library["Minutes-Marsh"]
    with pytest.raises(LibraryError, match="see `lift list`"):
        library["zzz"]


def test_a_damaged_memory_is_listed_as_damaged_and_harms_no_other(library: MemoryLibrary) -> None:
    library.put(make_draft("good"))
    library.put(make_draft("bad", "two"))
    (library.root / "bad" / "memory.json").write_text("{")
    good, bad = sorted(library.summaries(), key=lambda summary: summary.damage is not None)
    assert (good.name, good.damage) == ("good", None)
    assert good.manifest == library["good"].manifest
    assert (bad.name, bad.manifest) == ("bad", None)
    assert bad.damage is not None
    assert "memory.json" in bad.damage
    assert [(problem.memory, problem.file) for problem in library.verify()] == [("bad", "memory.json")]
    assert library.find(make_key("two")) is None
    library.remove("bad")
    assert library.names() == ["good"]


def test_verify_names_each_problem_of_one_memory_or_all(library: MemoryLibrary) -> None:
    library.put(make_draft("a"))
    library.put(make_draft("b", "two"))
    assert library.verify() == []
    (library.root / "a" / "document.txt").write_text("Version won")
    (library.root / "b" / "recall.jsonl").unlink()
    assert [(problem.memory, problem.file) for problem in library.verify()] == [
        ("a", "document.txt"),
        ("b", "recall.jsonl"),
    ]
    assert [str(problem) for problem in library.verify("b")] == ["b/recall.jsonl: missing"]
    with pytest.raises(LibraryError, match="no memory 'c'"):
        library.verify("c")


def test_rename(library: MemoryLibrary) -> None:
    library.put(make_draft())
    library.put(make_draft("taken", "two"))
    renamed = library.rename("minutes", "Protokoll")
    assert renamed.name == "Protokoll"
    assert json.loads((renamed.directory / "memory.json").read_text("utf-8"))["name"] == "Protokoll"
    assert library.names() == ["Protokoll", "taken"]
    assert version_of(library["Protokoll"]) == "one"
    found = library.find(make_key("one"))
    assert found is not None
    assert found.name == "Protokoll"
    assert library.rename("Protokoll", "protokoll").name == "protokoll"
    assert library.rename("protokoll", "protokoll").name == "protokoll"
    for new, error in (("Taken", LibraryError), ("../out", UsageError)):
        with pytest.raises(error):
            library.rename("protokoll", new)
    with pytest.raises(LibraryError, match="no memory 'gone'"):
        library.rename("gone", "x")
    assert library.names() == ["protokoll", "taken"]
    assert temporaries(library) == []


def test_copy(library: MemoryLibrary) -> None:
    library.put(make_draft())
    assert library.copy("minutes", "second").manifest.name == "second"
    assert version_of(library["second"]) == version_of(library["minutes"]) == "one"
    with pytest.raises(LibraryError, match="already"):
        library.copy("minutes", "Second")
    (library.root / "minutes" / "tasks.jsonl").write_text("{}")
    with pytest.raises(LibraryError, match=r"tasks\.jsonl"):
        library.copy("minutes", "third")
    assert library.names() == ["minutes", "second"]
    assert temporaries(library) == []


def test_remove(library: MemoryLibrary) -> None:
    library.put(make_draft())
    library.remove("minutes")
    assert visible(library) == temporaries(library) == []
    assert library.find(make_key("one")) is None
    with pytest.raises(LibraryError, match="no memory 'minutes'"):
        library.remove("minutes")


def test_a_directory_or_file_that_is_no_memory_is_never_deleted(library: MemoryLibrary) -> None:
    (library.root / "Photos" / "2024").mkdir(parents=True)
    (library.root / "notes").write_text("mine")
    with pytest.raises(LibraryError, match=r"expected a memory in .*Photos"):
        library.remove("Photos")
    with pytest.raises(LibraryError, match=r"expected a memory in .*Photos"):
        library.put(make_draft("Photos"), replace=True)
    with pytest.raises(LibraryError):
        library.put(make_draft("notes"), replace=True)
    assert (library.root / "Photos" / "2024").is_dir()
    assert (library.root / "notes").read_text() == "mine"
    assert temporaries(library) == []


def test_removing_a_linked_memory_leaves_what_it_points_to(library: MemoryLibrary, tmp_path: Path) -> None:
    elsewhere = MemoryLibrary(tmp_path / "elsewhere")
    elsewhere.put(make_draft())
    library.put(make_draft("own", "two"))
    (library.root / "linked").symlink_to(elsewhere.root / "minutes")
    assert version_of(library["linked"]) == "one"
    library.remove("linked")
    assert library.names() == ["own"]
    assert version_of(elsewhere["minutes"]) == "one"


def test_free_names(library: MemoryLibrary) -> None:
    assert library.free_name("Minutes, March") == "minutes-march"
    library.put(make_draft("Minutes-March"))
    assert library.free_name("Minutes, March") == "minutes-march-2"
    assert library.check_free("cafe\u0301") == "caf\u00e9"
    with pytest.raises(LibraryError, match="for example 'minutes-march-2'"):
        library.check_free("minutes-march")
    assert library.check_free("Minutes-March", make_key("one")) == "Minutes-March"
    with pytest.raises(LibraryError, match="already"):
        library.check_free("Minutes-March", make_key("two"))
    with pytest.raises(UsageError):
        library.check_free("a/b")


def test_find_by_key_survives_whatever_happens_to_the_index(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(make_draft("first"))
    library.put(make_draft("second", "two"))

    def found(version: str) -> str | None:
        memory = library.find(make_key(version))
        return None if memory is None else memory.name

    assert (found("one"), found("two"), found("three")) == ("first", "second", None)
    shutil.rmtree(library.root / ".by-key")
    assert (found("one"), found("two"), found("three")) == ("first", "second", None)
    (library.root / ".by-key" / make_key("one")).write_text("second")
    assert found("one") == "first"
    (library.root / ".by-key" / make_key("one")).write_text("../../etc")
    assert found("one") == "first"
    (library.root / ".by-key" / make_key("one")).write_bytes(b"")
    assert found("one") == "first"
    (library.root / "first").rename(library.root / "by hand")
    assert found("one") == "by hand"
    library.put(make_draft("second", "three"), replace=True)
    assert (found("two"), found("three")) == (None, "second")


def test_find_prefers_the_name_that_is_asked_for(library: MemoryLibrary) -> None:
    library.put(make_draft("first"))
    library.copy("first", "second")
    library.put(make_draft("third", "two"))
    for name, expected in (("first", "first"), ("second", "second"), ("third", "first"), ("../x", "first")):
        found = library.find(make_key("one"), name)
        assert found is not None
        assert found.name == expected
    library.remove("first")
    found = library.find(make_key("one"))
    assert found is not None
    assert found.name == "second"


def test_find_sees_a_memory_that_was_copied_in_by_hand(library: MemoryLibrary, tmp_path: Path) -> None:
    library.put(make_draft("first"))
    assert library.find(make_key("two")) is None
    other = MemoryLibrary(tmp_path / "other").put(make_draft("second", "two"))
    shutil.copytree(other.directory, library.root / "second")
    library.put(make_draft("third", "three"))
    found = library.find(make_key("two"))
    assert found is not None
    assert found.name == "second"


def test_find_opens_no_other_memory(library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch, no_fsync: None) -> None:
    for index in range(20):
        library.put(make_draft(f"memory {index}", absorption_key=make_key(index)))
    library.find(make_key("absent"))
    opened: list[Path] = []
    read = StoredMemory.open.__func__  # type: ignore[attr-defined]

    def counting_open(cls: type[StoredMemory], directory: Path, name: str | None = None) -> StoredMemory:
        opened.append(directory)
        memory: StoredMemory = read(cls, directory, name)
        return memory

    monkeypatch.setattr(StoredMemory, "open", classmethod(counting_open))
    assert library.find(make_key(7)) is not None
    assert library.find(make_key("absent")) is None
    library.names()
    assert [directory.name for directory in opened] == ["memory 7"]
    library.remove("memory 7")
    assert library.find(make_key(7)) is None
    opened.clear()
    assert library.find(make_key(7)) is None
    assert opened == []


@pytest.mark.parametrize("key", ["", "short", "../../../../etc/passwd", "a" * 129, "abc/defgh", "ключ-ключ-ключ"])
def test_keys_that_could_leave_the_library_are_refused(library: MemoryLibrary, key: str) -> None:
    for use in (library.find, library.unfinished.path, library.unfinished.clear):
        with pytest.raises(LibraryError, match="absorption key"):
            use(key)
    with pytest.raises(LibraryError, match="absorption key"):
        library.put(make_draft(absorption_key=key))


def test_checkpoints_have_a_place_of_their_own(library: MemoryLibrary) -> None:
    key, other = make_key("one"), make_key("two")
    path = library.unfinished.path(key)
    assert path == library.root / ".absorbing" / key
    assert not path.exists()
    library.unfinished.clear(key)
    for place in (path, path.with_name(key + ".new"), path.with_name(key + ".old"), library.unfinished.path(other)):
        place.mkdir(parents=True)
        (place / "tensors.safetensors").write_bytes(b"x")
    assert library.names() == []
    library.unfinished.clear(key)
    assert os.listdir(library.root / ".absorbing") == [other]


def test_a_library_path_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LibraryError, match=r"expected a directory for the library, got the file .*; choose another"):
        MemoryLibrary(tmp_path / "file")
    below = MemoryLibrary(tmp_path / "file" / "below")
    for use in (below.names, lambda: below.put(make_draft())):
        with pytest.raises(LibraryError, match="choose another library with --library or LIFT_HOME"):
            use()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "change its permissions"),
        (errno.EIO, "check its disk"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_and_changes_nothing(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    library.put(make_draft())

    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    for refused in ("mkdir", "write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, refused, refuse)
            for attempt in (make_draft(version="two"), make_draft("other", "two")):
                with pytest.raises(LibraryError, match=advice) as caught:
                    library.put(attempt, replace=True)
                assert "\n" not in str(caught.value)
                assert str(library.root) in str(caught.value)
        assert library.names() == ["minutes"]
        assert version_of(library["minutes"]) == "one"
        assert temporaries(library) == []


def test_a_library_without_write_permission_can_still_be_read(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(make_draft())
    (library.root / "minutes").rename(library.root / "moved")
    really_open = os.open

    def read_only_open(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only_open)
    assert library.names() == ["moved"]
    assert version_of(library["moved"]) == "one"
    found = library.find(make_key("one"))
    assert found is not None
    assert found.name == "moved"
    assert library.find(make_key("two")) is None
    refused: list[Callable[[], object]] = [
        lambda: library.put(make_draft("x")),
        lambda: library.remove("moved"),
        lambda: library.rename("moved", "y"),
    ]
    for use in refused:
        with pytest.raises(LibraryError, match="change its permissions, or choose another library"):
            use()


def test_a_library_in_use_is_waited_for_and_then_reported(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    library.put(make_draft())
    monkeypatch.setattr(library_module, "_LOCK_TIMEOUT_S", 0.05)
    with FileLock(library.root / ".lock"), pytest.raises(LibraryError, match="in use by another process"):
        library.remove("minutes")
    assert library.names() == ["minutes"]


def test_writers_at_once_lose_nothing(library: MemoryLibrary, no_fsync: None) -> None:
    names = [f"memory {index}" for index in range(24)]
    outcomes: list[str] = []

    def work(index: int) -> None:
        own = MemoryLibrary(library.root)
        own.put(make_draft(names[index], absorption_key=make_key(index)))
        try:
            own.put(make_draft("wanted by all", absorption_key=make_key("all")))
            outcomes.append("won")
        except LiftError:
            outcomes.append("refused")
        if index % 3 == 0:
            own.rename(names[index], f"renamed {index}")
        elif index % 3 == 1:
            own.remove(names[index])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert sorted(outcomes) == ["refused"] * 23 + ["won"]
    expected = {f"renamed {i}" for i in range(0, 24, 3)} | {f"memory {i}" for i in range(2, 24, 3)} | {"wanted by all"}
    assert set(library.names()) == expected
    assert library.verify() == []
    assert temporaries(library) == []
    for index in range(0, 24, 3):
        found = library.find(make_key(index))
        assert found is not None
        assert found.name == f"renamed {index}"


def test_readers_see_one_version_or_the_other_while_it_is_replaced(library: MemoryLibrary, no_fsync: None) -> None:
    library.put(make_draft())
    done = threading.Event()

    def replace_again_and_again() -> None:
        try:
            for index in range(60):
                MemoryLibrary(library.root).put(make_draft(version=("one", "two")[index % 2]), replace=True)
        finally:
            done.set()

    writer = threading.Thread(target=replace_again_and_again)
    writer.start()
    opened = 0
    while not done.is_set():
        assert library.names() == ["minutes"]
        assert [summary.damage for summary in library.summaries()] == [None]
        assert library["minutes"].manifest.title in ("Minutes one", "Minutes two")
        opened += 1
    writer.join()
    assert opened > 10


def test_a_memory_that_is_moved_between_the_look_and_the_opening_is_found_again(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(make_draft())
    place, aside = library.root / "minutes", library.root / ".lift-old-minutes"
    really_open = StoredMemory.open
    moved: list[Path] = []

    def open_while_it_is_replaced(directory: Path, name: str | None = None) -> StoredMemory:
        if not moved:
            moved.append(place.rename(aside))
            try:
                return really_open(directory, name)
            finally:
                aside.rename(place)
        return really_open(directory, name)

    monkeypatch.setattr(StoredMemory, "open", staticmethod(open_while_it_is_replaced))
    assert version_of(library["minutes"]) == "one"
    assert moved


def test_what_a_user_keeps_in_the_folder_of_the_library_is_left_alone(library: MemoryLibrary) -> None:
    library.put(make_draft())
    mine = [
        ".tmp-mine",
        ".old-photos",
        ".old-minutes",
        ".lift-tmp-mine",
        ".lift-old-photos",
        "photos",
        ".absorbing/mine",
    ]
    for name in mine:
        (library.root / name).mkdir(parents=True)
        (library.root / name / "keep").write_text("x")
        os.utime(library.root / name, (0, 0))
    library.put(make_draft("other", "two"))
    library.rename("other", "another")
    library.remove("another")
    assert all((library.root / name / "keep").read_text() == "x" for name in mine)
    assert version_of(library["minutes"]) == "one"


def entries_of_the_index(library: MemoryLibrary) -> dict[str, list[str]]:
    files = [file for file in (library.root / ".by-key").iterdir() if not file.name.startswith(".")]
    return {file.name: file.read_text("utf-8").split("\n") for file in files}


def test_the_entry_of_a_memory_in_the_index_goes_with_it(library: MemoryLibrary) -> None:
    library.put(make_draft("a", "one"))
    library.put(make_draft("b", "two"))
    library.copy("a", "c")
    assert entries_of_the_index(library) == {make_key("one"): ["a", "c"], make_key("two"): ["b"]}
    library.rename("a", "d")
    assert entries_of_the_index(library)[make_key("one")] == ["c", "d"]
    library.put(make_draft("b", "three"), replace=True)
    assert entries_of_the_index(library).keys() == {make_key("one"), make_key("three")}
    library.remove("c")
    assert entries_of_the_index(library)[make_key("one")] == ["d"]
    found = library.find(make_key("one"))
    assert found is not None
    assert found.name == "d"
    (library["b"].directory / "memory.json").write_text("{")
    library.remove("b")
    library.remove("d")
    assert entries_of_the_index(library) == {}
    assert library.find(make_key("one")) is None


def test_checkpoints_are_cleared_away_in_time_but_never_under_somebody_who_is_at_it(library: MemoryLibrary) -> None:
    now = 1_800_000_000.0
    ages_days = {"old": 31, "damaged": 40, "held": 90, "young": 29, "remote": 31, "saved just now": 31}
    for name, days in ages_days.items():
        path = library.unfinished.path(make_key(name))
        path = path.with_name(path.name + ".damaged-0123abcd") if name == "damaged" else path
        path.mkdir(parents=True)
        (path / "state").write_text("x")
        os.utime(path, (now - days * 86400, now - days * 86400))
    fresh = library.root / ".absorbing" / (make_key("saved just now") + ".new")
    fresh.mkdir()
    os.utime(fresh, (now, now))
    with library.unfinished.alone(make_key("held")):
        os.utime(library.root / ".absorbing" / (make_key("held") + ".lock"), (0, 0))
        cleared = library.unfinished.clear_expired(now)
    assert sorted(cleared) == sorted(make_key(name) for name in ("old", "damaged", "remote"))
    left = {entry.partition(".")[0] for entry in os.listdir(library.root / ".absorbing")}
    assert left == {make_key(name) for name in ("held", "young", "saved just now")}


def test_a_write_to_the_library_clears_expired_checkpoints(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = (library.unfinished.path(make_key(name)) for name in ("old", "young"))
    for path in (old, young):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    library.put(make_draft())
    assert old.exists()  # the clock may just have been set
    now = time.time() + 2 * 86400
    monkeypatch.setattr("lift.memories.clock_guard.time", SimpleNamespace(time=lambda: now))
    library.put(make_draft("other", "two"))
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("jump_days", [8, 40, 40_000, -1, -20_000])
def test_a_clock_that_jumps_deletes_no_work(
    library: MemoryLibrary, monkeypatch: pytest.MonkeyPatch, jump_days: int
) -> None:
    now = [1_800_000_000.0]
    for module in ("lift.memories.clock_guard", "lift.memories.unfinished"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=lambda: now[0]))
    work = library.unfinished.path(make_key("work"))
    work.mkdir(parents=True)
    os.utime(work, (now[0], now[0]))
    for hour in range(0, 72, 12):  # in use
        now[0] = 1_800_000_000.0 + 3600 * hour
        library.put(make_draft(), replace=True)
    now[0] += 86400 * jump_days
    for _ in range(3):
        library.put(make_draft(), replace=True)
        now[0] += 600
    assert work.exists()
    now[0] -= 86400 * jump_days  # and is set right
    library.put(make_draft(), replace=True)
    assert work.exists()
    for day in range(33):
        now[0] += 86400
        library.put(make_draft(), replace=True)
        assert work.exists() == (now[0] - 1_800_000_000.0 <= 30 * 86400), day
    assert (library.root / ".clock").is_file()


def test_verify_reports_nothing_while_memories_are_replaced_renamed_and_removed(
    library: MemoryLibrary, no_fsync: None
) -> None:
    library.put(make_draft("a", "one"))
    library.put(make_draft("b", "two"))
    stop = threading.Event()

    def write_for_ever() -> None:
        own = MemoryLibrary(library.root)
        while not stop.is_set():
            for version in ("three", "one"):
                own.put(make_draft("a", version), replace=True)
            own.rename("b", "c")
            own.copy("a", "d")
            own.remove("d")
            own.rename("c", "b")

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    try:
        for _ in range(150):
            assert library.verify() == []
    finally:
        stop.set()
        writer.join()
    (library.root / "a" / "tasks.jsonl").write_text("{}")
    assert [problem.file for problem in library.verify()] == ["tasks.jsonl"]


def test_a_library_that_is_replaced_under_an_open_reader_is_told_or_read_anew(
    library: MemoryLibrary, tmp_path: Path
) -> None:
    library.put(make_draft("a", "one"))
    opened = library["a"]
    other = MemoryLibrary(tmp_path / "other")
    other.put(make_draft("a", "three"))
    library.root.rename(tmp_path / "aside")
    with pytest.raises(LibraryError, match="was replaced, renamed or removed while it was open"):
        opened.document  # noqa: B018
    assert library.names() == []
    other.root.rename(library.root)
    with pytest.raises(LibraryError, match="was replaced, renamed or removed while it was open"):
        opened.tasks  # noqa: B018
    assert version_of(library["a"]) == "three"
    library.put(make_draft("b", "two"))
    assert library.verify() == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_library_on_another_file_system_than_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(tempfile.mkdtemp(prefix="lift-test-", dir="/dev/shm"))
    try:
        if place.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        library = MemoryLibrary(place / "library")
        library.put(make_draft("a", "one"))
        library.put(make_draft("a", "three"), replace=True)
        library.rename(library.copy("a", "b").name, "c")
        # a link to it from the other side, as where a home is mounted
        (tmp_path / "home").symlink_to(library.root)
        linked = MemoryLibrary(tmp_path / "home")
        linked.adopt(library["c"], "d")
        made = write_backup(linked, tmp_path / "b.tar")
        assert restore_backup(MemoryLibrary(tmp_path / "here"), made.file) == ["a", "c", "d"]
        assert restore_backup(MemoryLibrary(place / "there"), made.file) == ["a", "c", "d"]
        linked.remove("c")
        assert [version_of(linked[name]) for name in linked.names()] == ["three", "three"]
        assert linked.verify() == []
    finally:
        shutil.rmtree(place)


def test_only_one_absorbs_under_a_key_until_its_process_ends(library: MemoryLibrary, tmp_path: Path) -> None:
    key, held = make_key("one"), tmp_path / "held"
    code = (
        "import sys, time; from pathlib import Path; from lift.memories.library import MemoryLibrary\n"
        f"with MemoryLibrary(Path({str(library.root)!r})).unfinished.alone({key!r}):\n"
        f"    Path({str(held)!r}).write_text('x'); time.sleep(60)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        while not held.exists():
            assert process.poll() is None
            time.sleep(0.02)
        said = f"got the process {process.pid} of this machine at it; wait until that is done"
        with pytest.raises(BusyAbsorptionError, match=said), library.unfinished.alone(key):
            pass
        with library.unfinished.alone(make_key("two")):
            pass
    finally:
        process.kill()
        process.wait()
    with library.unfinished.alone(key):
        pass
    assert os.listdir(library.root / ".absorbing") == []
