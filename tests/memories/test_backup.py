"""A backup is the library, byte by byte, or is refused whole; others may write meanwhile, and nothing is half done."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memories.test_library_crash import OLD, fill_disk, interfere, kill_self, make_library, run_in_child, state_of
from memory_drafts import make_draft

from lift.cli import run
from lift.errors import LibraryError
from lift.memories.backup import restore_backup, write_backup
from lift.memories.library import MemoryLibrary


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return make_library(tmp_path / "library")


def files_of(library: MemoryLibrary) -> dict[str, bytes]:
    found = {}
    for name in library.names():
        for path in (library.root / name).rglob("*"):
            if path.is_file():
                found[path.relative_to(library.root).as_posix()] = path.read_bytes()
    return found


def test_what_is_backed_up_is_restored_byte_by_byte(library: MemoryLibrary, tmp_path: Path) -> None:
    made = write_backup(library, tmp_path / "b.tar")
    assert (made.memories, made.left_out) == (("a", "b"), ())
    assert made.size_bytes == (tmp_path / "b.tar").stat().st_size
    other = MemoryLibrary(tmp_path / "other")
    other.put(make_draft("c", "three"))
    assert restore_backup(other, tmp_path / "b.tar") == ["a", "b"]
    assert state_of(other) == {**OLD, "c": "three"}
    assert {path: content for path, content in files_of(other).items() if path[0] != "c"} == files_of(library)
    assert other.find(other["a"].manifest.absorption_key) is not None
    assert sorted(os.listdir(tmp_path)) == ["b.tar", "library", "other"]
    assert not [name for name in os.listdir(other.root) if name.startswith(".lift-")]


def test_tar_and_sha256sum_read_it_without_lift(library: MemoryLibrary, tmp_path: Path) -> None:
    write_backup(library, tmp_path / "b.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", "../b.tar"], cwd=tmp_path / "out", check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    assert sorted(path.name for path in (tmp_path / "out" / "memories").iterdir()) == ["a", "b"]


def test_a_flipped_bit_or_a_cut_anywhere_is_refused_whole(library: MemoryLibrary, tmp_path: Path) -> None:
    file, other = tmp_path / "b.tar", MemoryLibrary(tmp_path / "other")
    write_backup(library, file)
    whole = file.read_bytes()
    pick = random.Random(0)
    offsets = [*(pick.randrange(len(whole)) for _ in range(60)), *range(len(whole) - 72, len(whole))]
    for offset in offsets:
        changed = bytearray(whole)
        changed[offset] ^= 1 << pick.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(LibraryError) as caught:
            restore_backup(other, file)
        assert "\n" not in str(caught.value)
    for content in (b"", b"x", whole[:-1], whole[: len(whole) // 2], whole + b"\n", whole[512:]):
        file.write_bytes(content)
        with pytest.raises(LibraryError):
            restore_backup(other, file)
    assert other.names() == []
    file.write_bytes(whole)
    assert restore_backup(other, file) == ["a", "b"]


def test_nothing_is_overwritten(library: MemoryLibrary, tmp_path: Path) -> None:
    file, other = tmp_path / "b.tar", MemoryLibrary(tmp_path / "other")
    write_backup(library, file)
    before = file.read_bytes()
    with pytest.raises(LibraryError, match="expected a new file"):
        write_backup(library, file)
    assert file.read_bytes() == before
    other.put(make_draft("B", "three"))
    with pytest.raises(LibraryError, match="there is a memory named 'B' already"):
        restore_backup(other, file)
    assert state_of(other) == {"B": "three"}
    with pytest.raises(LibraryError, match="expected a library with memories"):
        write_backup(MemoryLibrary(tmp_path / "empty"), tmp_path / "e.tar")


def sealed(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """An archive with the right hash behind it, as a stranger can make one."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue() + f"sha256:{hashlib.sha256(stream.getvalue()).hexdigest()}\n".encode()


def entry(name: str, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


ABOUT = (entry("lift-backup.json"), b'{"format_version": 1}')


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(entry("memories/a/document.txt"), b"x")],
        [(entry("lift-backup.json"), b"[]")],
        [(entry("lift-backup.json"), b'{"format_version": 2}')],
        [ABOUT, (entry("../../victim"), b"x")],
        [ABOUT, (entry("/tmp/victim"), b"x")],
        [ABOUT, (entry("memories/../document.txt"), b"x")],
        [ABOUT, (entry("memories/a/../../document.txt"), b"x")],
        [ABOUT, (entry("memories/.lock/document.txt"), b"x")],
        [ABOUT, (entry("memories/a/adapter/../../b/document.txt"), b"x")],
        [ABOUT, (entry("memories/a/other.py"), b"x")],
        [ABOUT, (entry("memories/a/document.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")],
        [ABOUT, (entry("memories/a/adapter", type=tarfile.SYMTYPE, linkname="/tmp"), b"")],
        [ABOUT, (entry("memories/a/document.txt", type=tarfile.LNKTYPE, linkname="lift-backup.json"), b"")],
        [ABOUT, (entry("memories/a/document.txt", type=tarfile.FIFOTYPE), b"")],
        [ABOUT, (entry("memories/a/document.txt"), b"x"), (entry("memories/a/document.txt"), b"y")],
        [ABOUT, (entry("memories/a/document.txt"), b"x")],
    ],
)
def test_a_stranger_puts_nothing_but_whole_memories_anywhere(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    file, other = tmp_path / "b.tar", MemoryLibrary(tmp_path / "home" / "other")
    file.write_bytes(sealed(entries))
    if not entries:
        file.write_bytes(b"\0" * 10240)
    with pytest.raises(LibraryError) as caught:
        restore_backup(other, file)
    assert "\n" not in str(caught.value)
    assert other.names() == []
    # the library's own lock and clock, and nothing else
    left = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert left <= {".lock", ".clock", ".whole"}
    assert sorted(path.name for path in tmp_path.iterdir()) in (["b.tar"], ["b.tar", "home"])


def test_a_header_that_states_a_huge_name_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """tarfile reads the long name that a header announces at once, of whatever size it says."""
    long = entry("long", type=tarfile.GNUTYPE_LONGNAME)
    long.size = 1 << 62
    content = long.tobuf(format=tarfile.GNU_FORMAT) + b"\0" * 1024
    file = tmp_path / "b.tar"
    file.write_bytes(content + f"sha256:{hashlib.sha256(content).hexdigest()}\n".encode())
    with pytest.raises(LibraryError) as caught:
        restore_backup(MemoryLibrary(tmp_path / "other"), file)
    assert "\n" not in str(caught.value)


def test_a_damaged_memory_is_left_out_and_told_of(
    library: MemoryLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (library.root / "b" / "tasks.jsonl").write_text("{}")
    assert run(["backup", str(tmp_path / "b.tar"), "--library", str(library.root)]) == 1
    assert "'b' is not in the backup" in capsys.readouterr().err
    assert run(["restore", str(tmp_path / "b.tar"), "--library", str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memories"] == ["a"]


def test_it_is_made_while_others_write(library: MemoryLibrary, tmp_path: Path) -> None:
    stop = threading.Event()

    def replace_for_ever() -> None:
        own = MemoryLibrary(library.root)
        while not stop.is_set():
            for version in ("three", "one"):
                own.put(make_draft("a", version), replace=True)
            own.put(make_draft("passing", "four"))
            own.remove("passing")

    writer = threading.Thread(target=replace_for_ever)
    writer.start()
    try:
        for number in range(6):
            made = write_backup(library, tmp_path / f"{number}.tar")
            assert made.left_out == ()
            other = MemoryLibrary(tmp_path / str(number))
            restore_backup(other, made.file)
            state = state_of(other)
            state.pop("passing", None)
            assert state in (OLD, {**OLD, "a": "three"})
    finally:
        stop.set()
        writer.join()


def outcome(act: Callable[[], object], at: int, how: str) -> tuple[bool, int]:
    """Whether `act` came to its end with the `at`-th call failing, and how many calls there were."""
    with pytest.MonkeyPatch.context() as patch:
        count = interfere(patch, at, fill_disk, last=how == "once")
        try:
            act()
        except LibraryError:
            return False, count[0]
        return True, count[0]


@pytest.mark.parametrize("how", ["killed", "once", "from then on"])
def test_a_fault_at_every_call_of_a_restore_leaves_all_or_nothing(tmp_path: Path, how: str) -> None:
    file = tmp_path / "b.tar"
    write_backup(make_library(tmp_path / "library"), file)
    done = False
    for at in range(1, 300):
        other = MemoryLibrary(tmp_path / f"other-{at}")
        other.put(make_draft("c", "three"))
        if how == "killed":

            def work(other: MemoryLibrary = other, at: int = at) -> None:
                interfere(pytest.MonkeyPatch(), at, kill_self)
                restore_backup(other, file)

            done = not run_in_child(work)
        else:
            finished, calls = outcome(lambda other=other: restore_backup(other, file), at, how)
            done = finished and calls < at
        other.put(make_draft("d", "four"))  # the next writer
        other.remove("d")
        assert state_of(other) in ({"c": "three"}, {**OLD, "c": "three"})
        assert not [name for name in os.listdir(other.root) if name.startswith(".lift-")]
        if done:
            break
    assert done
    assert at > 20
