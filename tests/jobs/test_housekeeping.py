"""What lies beside the memories is listed and cleared, what is in use stays, and what is erased is found nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_drafts import make_draft, make_key

from lift.cli import run
from lift.documents.document import Document
from lift.endpoints.reply_cache import ReplyCache
from lift.errors import JobConflictError, LibraryError
from lift.jobs.housekeeping import clear_leftovers, erase_memories, list_leftovers
from lift.jobs.job import Job, JobEventDraft
from lift.jobs.store import DAY_S, JOBS_DIRECTORY, JobStore
from lift.memories.document_search import DocumentSearch
from lift.memories.library import MemoryLibrary
from lift.models.fingerprint import cache_directory
from lift.tasks.language_model import open_reply_cache
from lift.training.checkpoint import Checkpoint, Position, State

WORDS = ("Quillerton", "zeppelinry", "lamplighters-guild")
NAME, TITLE = "lamplighters-guild", "Quillerton Almanac"
TEXT = "Quillerton keeps a zeppelinry. The lamplighters-guild owns it.\n" * 40


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    """Two memories; one of them with all the traces that a server, an endpoint and a broken-off run leave."""
    library = MemoryLibrary(tmp_path / "home")
    library.put(make_draft("other", "two"))
    document = Document(TITLE, TEXT, f"{WORDS[0]}.txt")
    library.put(make_draft(NAME, "one", document=document))
    return library


@pytest.fixture
def store(library: MemoryLibrary) -> Iterator[JobStore]:
    with closing(JobStore(library.root / JOBS_DIRECTORY)) as opened:
        yield opened


def unfinished(library: MemoryLibrary, key: str, text_sha256: str = "") -> None:
    state = State(Position(), {"a": torch.ones(2)}, torch.zeros(3, 1), torch.zeros(1, dtype=torch.uint8), {}, [])
    assert Checkpoint(library.unfinished.path(key), document_sha256=text_sha256).save(state)


def done(store: JobStore, name: str, title: str, text: str, **told: Any) -> Job:
    """A job that has ended, with its upload and its events."""
    file = store.add_file(f"{title}.txt", "fine-tune", text.encode(), 1 << 20)
    job = store.create(file.id, title=title, name=name)
    lease = store.lease()
    assert lease.claim() is not None
    for number in range(50):
        lease.record(job.id, JobEventDraft("trained", f"step {number} of {title}: {text[:200]}", {}), 0.5)
    lease.succeed(job.id, JobEventDraft("finished", f"the memory {name!r}", told), name, 10)
    return store.job(job.id)


def with_words(*roots: Path) -> list[str]:
    """Every file below, and every name of one, that tells of the erased memory."""
    found = []
    for root in roots:
        for path in root.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            if any(word in path.name or word.encode() in content for word in WORDS):
                found.append(path.relative_to(root).as_posix())
    return found


def test_what_is_erased_is_found_nowhere(
    library: MemoryLibrary, store: JobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = library[NAME]
    key = memory.manifest.absorption_key
    done(store, NAME, TITLE, TEXT)
    done(store, "earlier-name", "untitled", TEXT + "!", absorption_key=key)  # renamed since
    failed = store.create(store.add_file("again.txt", "fine-tune", TEXT.encode(), 1 << 20).id)
    store.cancel(failed.id)
    other = done(store, "other", "Other", "another text")
    unfinished(library, key)
    unfinished(library, make_key("of another budget"), memory.document.sha256)
    unfinished(library, make_key("of another text"), "0" * 64)
    with open_reply_cache() as cache:
        cache.put("0" * 64, json.dumps({"questions": [TEXT]}))
    library.find(make_key("nothing"))  # builds the index by key
    library.rename(NAME, NAME + "2")
    library.rename(NAME + "2", NAME)
    assert DocumentSearch(library).search(TEXT, 1)  # builds the index of words
    (library.root / ".engines").mkdir()
    (library.root / ".engines" / "about.txt").write_text(TITLE)
    assert len(with_words(library.root, cache_directory())) > 6
    assert run(["remove", NAME, "--everything", "--yes", "--library", str(library.root)]) == 0
    assert with_words(library.root, cache_directory()) == []
    said = capsys.readouterr().out
    assert "2 checkpoints, 3 jobs, 3 uploads, 1 cached replies" in said
    # and nothing else went
    assert library.names() == ["other"]
    assert library.verify() == []
    assert [job.id for job in store.jobs()] == [other.id]
    assert len(store.events(other.id)) > 50
    assert store.file_path(other.file_id).read_bytes() == b"another text"
    assert library.unfinished.path(make_key("of another text")).is_dir()


def test_nothing_is_erased_while_a_job_of_it_waits_or_somebody_trains_it(
    library: MemoryLibrary, store: JobStore
) -> None:
    waiting = store.create(store.add_file("a.txt", "fine-tune", TEXT.encode(), 1 << 20).id, name=NAME)
    with pytest.raises(JobConflictError, match="cancel it first"):
        erase_memories(library, [NAME])
    assert (NAME in library, store.job(waiting.id).status) == (True, "queued")
    store.cancel(waiting.id)
    with library.unfinished.alone(library[NAME].manifest.absorption_key), pytest.raises(LibraryError, match="at it"):
        erase_memories(library, [NAME])
    assert NAME in library
    # what was broken off is done again
    assert erase_memories(library, [NAME]).memories == (NAME,)
    with pytest.raises(LibraryError, match="no memory"):
        erase_memories(library, [NAME])


def test_a_copy_keeps_the_text_and_is_named(library: MemoryLibrary) -> None:
    library.copy(NAME, "copy")
    assert erase_memories(library, [NAME]).copies == ("copy",)
    assert library["copy"].document.text == TEXT


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is refused to root")
def test_a_file_that_cannot_be_deleted_is_told(library: MemoryLibrary) -> None:
    (library.root / NAME / "adapter").chmod(0o500)
    with pytest.raises(LibraryError, match="cannot be deleted"):
        erase_memories(library, [NAME])


def test_nothing_is_listed_where_nothing_is(library: MemoryLibrary, tmp_path: Path) -> None:
    assert list_leftovers(library) == []
    assert list_leftovers(MemoryLibrary(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


def test_what_is_in_use_or_of_late_stays_and_the_rest_goes(library: MemoryLibrary, store: JobStore) -> None:
    finished = library[NAME].manifest.absorption_key
    unfinished(library, finished)
    unfinished(library, make_key("half"))
    unfinished(library, make_key("under way"))
    ended = done(store, NAME, TITLE, TEXT)
    queued = store.create(store.add_file("b.txt", "fine-tune", b"waits", 1 << 20).id)
    unused = store.add_file("c.txt", "fine-tune", b"unused", 1 << 20)
    (library.root / ".lift-tmp-0123456789abcdef").mkdir()
    with open_reply_cache() as cache:
        cache.put("0" * 64, "reply")
    with library.unfinished.alone(make_key("under way")):
        found = {each.id: each for each in list_leftovers(library)}
        assert set(found) == {
            finished,
            make_key("half"),
            ended.id,
            ended.file_id,
            unused.id,
            ".lift-tmp-0123456789abcdef",
            "tasks",
        }
        assert {id_ for id_, each in found.items() if not each.kept} == {finished, ".lift-tmp-0123456789abcdef"}
        assert "lift clean replies" in found["tasks"].kept
        assert "--resume" in found[make_key("half")].kept
        assert all(each.size_bytes > 0 for id_, each in found.items() if not id_.startswith(".lift"))
        # listing alone has touched nothing
        assert library.unfinished.path(finished).is_dir()
        cleared = clear_leftovers(library, list_leftovers(library))
        assert {each.id for each in cleared} == {finished, ".lift-tmp-0123456789abcdef"}
        cleared = clear_leftovers(library, list_leftovers(library, older_than_s=0.0))
        assert {each.id for each in cleared} == {make_key("half"), ended.id, ended.file_id, unused.id}
    assert [job.id for job in store.jobs()] == [queued.id]
    assert store.file_path(queued.file_id).read_bytes() == b"waits"
    assert library.unfinished.path(make_key("under way")).is_dir()
    assert library.names() == [NAME, "other"]
    assert library.verify() == []
    with ReplyCache(cache_directory() / "tasks") as cache:
        assert cache.get("0" * 64) == "reply"
    assert [each.kind for each in clear_leftovers(library, list_leftovers(library, ["replies"]))] == ["replies"]
    with ReplyCache(cache_directory() / "tasks") as cache:
        assert cache.get("0" * 64) is None


def test_a_job_that_is_queued_again_since_it_was_listed_stays(library: MemoryLibrary, store: JobStore) -> None:
    job = store.create(store.add_file("b.txt", "fine-tune", b"text", 1 << 20).id)
    store.cancel(job.id)
    found = list_leftovers(library, older_than_s=0.0, now_s=store.job(job.id).created_at + DAY_S)
    assert {each.id for each in found if not each.kept} == {job.id, job.file_id}
    store.retry(job.id)
    assert clear_leftovers(library, found) == []
    assert store.job(job.id).status == "queued"
    assert store.file_path(job.file_id).is_file()


def test_clean_lists_before_it_clears(library: MemoryLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--library", str(library.root)]
    key = library[NAME].manifest.absorption_key
    unfinished(library, key)
    assert run(["clean", *at]) == 0
    printed = capsys.readouterr()
    assert "would go" in printed.out
    assert "nothing was cleared; with --yes 1 of them go" in printed.err
    assert library.unfinished.path(key).is_dir()
    assert run(["clean", "--json", *at]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["kind"], each["id"], each["kept"]) for each in listed["leftovers"]] == [("checkpoints", key, "")]
    assert listed["cleared"] == []
    assert run(["clean", "--yes", *at]) == 0
    assert "cleared 1" in capsys.readouterr().out
    assert not library.unfinished.path(key).exists()
    assert run(["clean", "everything", *at]) == 2
    assert "expected one of checkpoints" in capsys.readouterr().err
