"""The queue on disk: what was accepted stays, events have no gap, files are whole, and every refusal is a sentence."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from memories.test_library_crash import interfere, kill_self, run_in_child

from lift.errors import (
    FileTooLargeError,
    JobConflictError,
    JobError,
    LiftError,
    RecipeError,
    UnknownJobError,
    UsageError,
)
from lift.jobs.job import Job, JobEvent, JobEventDraft
from lift.jobs.lease import MOST_DEATHS, JobLease
from lift.jobs.store import JobStore

LIMIT = 1000
STEP = JobEventDraft("trained", "step 1", {"step": 1, "loss": 0.5})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "library" / ".serve")
    yield opened
    opened.close()


def file_in(store: JobStore, content: bytes = b"some text") -> str:
    return store.add_file("notes.txt", "fine-tune", content, LIMIT).id


def job_in(store: JobStore, **options: Any) -> Job:
    return store.create(file_in(store), **options)


def kinds(store: JobStore, job_id: str) -> list[str]:
    return [event.kind for event in store.events(job_id)]


class TwoConnections(RuleBasedStateMachine):
    """Any operations over two connections: the model is a plain list of what was accepted."""

    files = Bundle("files")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.stores = [JobStore(Path(self.place.name) / ".serve") for _ in range(2)]
        self.turns = itertools.cycle(self.stores)
        self.lease: JobLease = self.stores[0].lease()
        self.contents: dict[str, bytes] = {}
        self.statuses: dict[str, str] = {}
        self.queue: list[tuple[int, int, str]] = []  # minus the priority, the turn, the job
        self.turn = itertools.count()
        self.further = itertools.count(2)
        self.place_of: dict[str, tuple[int, int, str]] = {}
        self.running: str | None = None
        self.orphaned = False
        self.seen: list[JobEvent] = []

    def teardown(self) -> None:
        for each in self.stores:
            each.close()
        self.place.cleanup()

    @property
    def store(self) -> JobStore:
        """The other one each time."""
        return next(self.turns)

    @rule(target=files, content=st.binary(max_size=LIMIT))
    def add_file(self, content: bytes) -> str:
        pieces = iter([content[:100], content[100:]])
        added = self.store.add_file("a.txt", "fine-tune", pieces, LIMIT)
        self.contents[added.id] = content
        return added.id

    @rule(target=jobs, file=files, priority=st.integers(-2, 2))
    def create(self, file: str, priority: int) -> Any:
        if file not in self.contents:
            with pytest.raises(UnknownJobError):
                self.store.create(file, priority=priority)
            return multiple()
        job = self.store.create(file, priority=priority)
        self._enqueue(job.id, priority)
        return job.id

    @rule(file=files)
    def remove_file(self, file: str) -> None:
        live = {"queued", "running"}
        needed = any(self.stores[0].job(job).file_id == file for job, status in self.statuses.items() if status in live)
        error = UnknownJobError if file not in self.contents else JobConflictError if needed else None
        if error is not None:
            with pytest.raises(error):
                self.store.remove_file(file)
        else:
            self.store.remove_file(file)
            del self.contents[file]

    @rule()
    def claim(self) -> None:
        if self.running is not None and not self.orphaned:
            return
        cancelled = self.orphaned and self.running is not None and self.stores[0].job(self.running).cancelling
        job = self.lease.claim()
        if self.orphaned and cancelled:
            assert self.running is not None
            self.statuses[self.running] = "cancelled"
        if self.orphaned and not cancelled:
            expected = self.running
        else:
            expected = min(self.queue)[2] if self.queue else None
            self.queue = [each for each in self.queue if each[2] != expected]
        assert (job.id if job else None) == expected
        self.running, self.orphaned = expected, False
        if job is not None:
            self.statuses[job.id] = "running"

    @rule(progress=st.floats(0, 1))
    def record(self, progress: float) -> None:
        if self.running is not None and not self.orphaned:
            self.lease.record(self.running, STEP, progress, 3.0)
            assert self.store.job(self.running).progress == progress

    @rule(end=st.sampled_from(["succeed", "fail", "give_back"]))
    def end(self, end: str) -> None:
        if self.running is None or self.orphaned:
            return
        job = self.stores[0].job(self.running)
        told = JobEventDraft(end, end, {})
        if end == "succeed":
            self.lease.succeed(job.id, told, "memory", 7)
            self.statuses[job.id] = "succeeded"
        elif end == "fail":
            self.lease.fail(job.id, told)
            self.statuses[job.id] = "failed"
        else:
            self.lease.give_back(job.id, told)
            self.statuses[job.id] = "cancelled" if job.cancelling else "queued"
            if not job.cancelling:
                self.queue.append(self.place_of[job.id])
        self.running = None

    @rule()
    def die(self) -> None:
        """The worker is gone, not without some progress; the next one has another connection."""
        if self.running is not None and not self.orphaned:
            self.lease.record(self.running, STEP, next(self.further))
        self.lease = self.store.lease()
        self.orphaned = self.running is not None

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        if self.statuses[job] in ("succeeded", "failed"):
            with pytest.raises(JobConflictError):
                self.store.cancel(job)
        elif self.statuses[job] == "running":
            assert self.store.cancel(job).cancelling
        else:
            assert self.store.cancel(job).status == "cancelled"
            self.statuses[job] = "cancelled"
            self.queue = [each for each in self.queue if each[2] != job]

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        known = self.store.job(job)
        if known.status not in ("failed", "cancelled"):
            with pytest.raises(JobConflictError):
                self.store.retry(job)
        elif known.file_id not in self.contents:
            with pytest.raises(UnknownJobError):
                self.store.retry(job)
        else:
            self.store.retry(job)
            self._enqueue(job, known.priority)

    @rule(job=jobs, priority=st.integers(-2, 2))
    def prioritise(self, job: str, priority: int) -> None:
        if self.statuses[job] != "queued":
            with pytest.raises(JobConflictError):
                self.store.prioritise(job, priority)
            return
        self.store.prioritise(job, priority)
        turn = next(each for each in self.queue if each[2] == job)[1]
        self.queue = [each for each in self.queue if each[2] != job]
        self._place(job, priority, turn)

    @rule()
    def read_on(self) -> None:
        self.seen += self.store.events(after_number=self.seen[-1].number if self.seen else 0, limit=4)

    @invariant()
    def both_see_what_was_accepted(self) -> None:
        for store in self.stores:
            jobs = store.jobs()
            assert {job.id: job.status for job in jobs} == self.statuses
            assert all(job.ended == (job.finished_at is not None) for job in jobs)
            assert sum(job.status == "running" for job in jobs) <= 1
            assert {file.id: file.sha256 for file in store.files()} == {
                key: hashlib.sha256(content).hexdigest() for key, content in self.contents.items()
            }
        assert {
            path.name: path.read_bytes() for path in (self.stores[0].directory / "files").iterdir()
        } == self.contents

    @invariant()
    def events_have_no_gap_and_no_reader_misses_one(self) -> None:
        events = self.stores[0].events()
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert self.seen == events[: len(self.seen)]
        assert self.stores[1].last_number() == len(events)

    def _enqueue(self, job: str, priority: int) -> None:
        self.statuses[job] = "queued"
        self._place(job, priority, next(self.turn))

    def _place(self, job: str, priority: int, turn: int) -> None:
        self.place_of[job] = (-priority, turn, job)
        self.queue.append(self.place_of[job])


TestTwoConnections = TwoConnections.TestCase
TestTwoConnections.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)


def test_jobs_are_listed_newest_first_and_in_pages(store: JobStore) -> None:
    made = [job_in(store, title=f"{n}").id for n in range(5)]
    assert [job.id for job in store.jobs()] == made[::-1]
    first = store.jobs(limit=2)
    assert [job.id for job in store.jobs(limit=2, after=first[-1].id)] == made[2:0:-1]
    assert store.jobs(after=made[0]) == []


def test_jobs_are_taken_by_priority_then_age_and_one_that_is_tried_again_goes_behind(store: JobStore) -> None:
    first, second, urgent, stopped = (job_in(store, priority=priority).id for priority in (0, 0, 1, 2))
    lease = store.lease()

    def taken() -> str:
        job = lease.claim()
        assert job is not None
        return job.id

    assert taken() == stopped
    store.prioritise(urgent, 3)
    lease.give_back(stopped, STEP)
    assert taken() == urgent
    lease.fail(urgent, STEP)
    assert taken() == stopped
    store.cancel(stopped)
    lease.give_back(stopped, STEP)
    assert [store.job(job).status for job in (stopped, urgent)] == ["cancelled", "failed"]
    store.cancel(first)
    store.retry(first)
    for job in (second, first):
        assert taken() == job
        lease.succeed(job, STEP, "m", 1)
    assert lease.claim() is None


def test_a_job_that_is_cancelled_while_its_worker_dies_is_not_taken_up(store: JobStore) -> None:
    job = job_in(store).id
    assert store.lease().claim() is not None
    assert store.cancel(job).cancelling
    assert store.lease().claim() is None
    assert (store.job(job).status, kinds(store, job)[-1]) == ("cancelled", "cancelled")


def test_what_no_job_can_be_done_with_is_refused_and_leaves_nothing(store: JobStore, tmp_path: Path) -> None:
    file = file_in(store)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\n', "utf-8")
    for options, error in (
        ({"name": "../x"}, UsageError),
        ({"recipe": "defualt"}, RecipeError),
        ({"recipe": str(recipe)}, RecipeError),
        ({"overrides": ["training.epoch=3"]}, RecipeError),
        ({"budget_s": 0.0}, UsageError),
        ({"budget_s": float("nan")}, UsageError),
        ({"priority": 10**9}, UsageError),
    ):
        with pytest.raises(error) as caught:
            store.create(file, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownJobError, match="upload"):
        store.create("file-0")
    for unknown in (store.job, store.events, store.cancel, store.retry):
        with pytest.raises(UnknownJobError, match="ftjob-0"):
            unknown("ftjob-0")
    assert store.jobs() == []
    assert store.events() == []


def test_texts_of_any_letters_are_kept(store: JobStore) -> None:
    job = job_in(store, title="\ud800 Zürich\n", name="Zu\u0308rich")
    assert (job.title, job.name) == ("? Zürich", "Zürich")
    assert job == store.job(job.id)


def test_a_job_fails_when_its_workers_die_again_and_again_in_one_place(store: JobStore) -> None:
    job = job_in(store)
    for attempt in range(1, MOST_DEATHS + 1):
        lease = store.lease()
        claimed = lease.claim()
        assert claimed is not None
        assert claimed.attempt == attempt
        lease.record(job.id, STEP, 0.3)
    assert store.lease().claim() is not None  # the first death came after some progress
    assert store.lease().claim() is None
    failed = store.job(job.id)
    assert failed.status == "failed"
    assert "died 5 times" in (failed.error or "")
    assert store.retry(job.id).error is None
    lease = store.lease()
    for progress in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        assert lease.claim() is not None
        lease.record(job.id, STEP, progress)
        lease = store.lease()
    assert kinds(store, job.id).count("resumed") == MOST_DEATHS + 6


def test_a_worker_whose_job_was_taken_over_can_do_nothing_to_it(store: JobStore) -> None:
    job = job_in(store)
    dead, alive = store.lease(), store.lease()
    assert dead.claim() is not None
    assert alive.claim() is not None
    before = store.events()
    with pytest.raises(JobConflictError):
        dead.record(job.id, STEP, 0.5)
    with pytest.raises(JobConflictError):
        dead.succeed(job.id, STEP, "m", 1)
    for late in (dead.fail, dead.give_back):
        with pytest.raises(JobConflictError):
            late(job.id, STEP)
    assert store.events() == before
    assert not alive.is_work_waiting()


def test_a_label_is_never_a_path(store: JobStore) -> None:
    for name, label in (
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\notes.docx", "notes.docx"),
        ("a\x00b\n.txt", "ab.txt"),
        ("..", ".."),
        ("///", "file"),
        ("x" * 500 + ".pdf", "x" * 196 + ".pdf"),
    ):
        file = store.add_file(name, "fine-tune", b"x", LIMIT)
        assert file.name == label
        assert store.file_path(file.id) == store.directory / "files" / file.id
        assert store.file_path(file.id).stat().st_mode & 0o077 == store.directory.stat().st_mode & 0o077 == 0


def test_a_file_that_is_too_large_or_breaks_off_leaves_nothing(store: JobStore) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"x" * 10
        raise RuntimeError("the client is gone")

    assert store.add_file("a", "p", b"x" * LIMIT, LIMIT).bytes == LIMIT
    with pytest.raises(FileTooLargeError, match="1,000 bytes"):
        store.add_file("b", "p", iter([b"x" * LIMIT, b"y"]), LIMIT)
    with pytest.raises(RuntimeError):
        store.add_file("c", "p", breaking(), LIMIT)
    assert [path.stat().st_size for path in (store.directory / "files").iterdir()] == [LIMIT]
    assert len(store.files()) == 1


def test_all_files_together_have_a_largest_size_and_room_comes_back(store: JobStore) -> None:
    first = store.add_file("a", "p", b"x" * 600, LIMIT, max_stored_bytes=1_000)
    store.add_file("b", "p", b"x" * 400, LIMIT, max_stored_bytes=1_000)
    with pytest.raises(FileTooLargeError, match="at most 1,000 bytes together, got 1,000 that are kept and 1 more"):
        store.add_file("c", "p", b"x", LIMIT, max_stored_bytes=1_000)
    assert len(list((store.directory / "files").iterdir())) == len(store.files()) == 2
    store.remove_file(first.id)
    assert store.add_file("c", "p", b"x" * 600, LIMIT, max_stored_bytes=1_000).bytes == 600


def test_a_kill_at_every_call_of_an_upload_leaves_a_whole_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    content = b"some text" * 20
    kept = []
    for at in range(1, 50):
        directory = tmp_path / str(at)
        JobStore(directory).close()

        def work(directory: Path = directory, at: int = at) -> None:
            own = JobStore(directory)
            interfere(pytest.MonkeyPatch(), at, kill_self)
            own.add_file("a", "p", content, LIMIT)

        ended_by = run_in_child(work)
        store = JobStore(directory)
        kept.append(len(store.files()))
        paths = list((directory / "files").iterdir())
        assert [path.name for path in paths] == [file.id for file in store.files()]
        assert all(path.read_bytes() == content for path in paths)
        store.close()
        if not ended_by:
            break
    assert kept[0] == 0
    assert kept[-1] == 1
    assert len(kept) > 4


def test_whoever_opens_the_store_leaves_an_upload_under_way_alone(store: JobStore) -> None:
    def content() -> Iterator[bytes]:
        yield b"first "
        JobStore(store.directory).close()
        yield b"second"

    file = store.add_file("a", "p", content(), LIMIT)
    assert store.file_path(file.id).read_bytes() == b"first second"


_WRITER = """
import sys
from pathlib import Path
from lift.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
for n in range(20):
    store.cancel(store.create(sys.argv[2]).id)
"""


def test_writers_in_several_processes_and_threads_leave_no_gap_and_readers_miss_nothing(store: JobStore) -> None:
    file, done, seen = file_in(store), threading.Event(), list[JobEvent]()

    def read() -> None:
        reader = JobStore(store.directory)
        while True:
            last_round = done.is_set()
            seen.extend(reader.events(after_number=seen[-1].number if seen else 0, limit=3))
            if last_round and len(seen) == reader.last_number():
                return

    def write() -> None:
        for _ in range(20):
            store.cancel(store.create(file).id)

    threads = [threading.Thread(target=write) for _ in range(3)]
    reader = threading.Thread(target=read)
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(store.directory), file], stdin=subprocess.DEVNULL)
        for _ in range(2)
    ]
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    done.set()
    reader.join(60)
    assert [event.number for event in seen] == list(range(1, 2 * 5 * 20 + 1))


def test_another_version_and_what_is_no_database_are_refused_in_a_sentence(tmp_path: Path) -> None:
    JobStore(tmp_path / "a").close()
    with sqlite3.connect(tmp_path / "a" / "jobs.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="version 99"):
        JobStore(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "jobs.sqlite").write_bytes(b"no database" * 100)
    (tmp_path / "c").write_text("a file", "utf-8")
    for name in ("b", "c"):
        with pytest.raises(LiftError) as caught:
            JobStore(tmp_path / name)
        assert isinstance(caught.value, JobError)
        assert "\n" not in str(caught.value)


DAY_S = 86_400.0


def test_what_has_ended_is_cleared_away_in_time_and_nothing_else(store: JobStore) -> None:
    now = time.time()
    shared = file_in(store, b"of two jobs")
    ended = store.cancel(store.create(shared).id)
    waiting = store.create(shared)
    other = store.cancel(job_in(store).id)
    unused = file_in(store, b"of none")
    store.clear_expired(now + 6 * DAY_S)
    assert len(store.files()) == 3
    store.clear_expired(now + 8 * DAY_S)
    # a job that waits still needs its file, and what was never used has a longer time
    assert {file.id for file in store.files()} == {shared, unused}
    assert {job.id for job in store.jobs()} == {ended.id, waiting.id, other.id}
    with pytest.raises(UnknownJobError, match="was deleted; upload it again"):
        store.retry(other.id)
    store.clear_expired(now + 31 * DAY_S)
    assert {file.id for file in store.files()} == {shared}
    assert {job.id for job in store.jobs()} == {waiting.id}
    assert {event.job for event in store.events()} == {waiting.id}
    assert [path.name for path in (store.directory / "files").iterdir()] == [shared]
    assert store.file_path(shared).read_bytes() == b"of two jobs"


def test_numbers_of_events_go_on_when_old_events_are_cleared_away(store: JobStore) -> None:
    job = store.cancel(job_in(store).id)
    last = store.last_number()
    assert last == store.events()[-1].number
    store.clear_expired(time.time() + 31 * DAY_S)
    assert store.events() == []
    assert store.last_number() == last
    assert job.id not in {each.id for each in store.jobs()}
    job_in(store)
    assert [event.number for event in store.events()] == [last + 1]


@pytest.mark.parametrize("moment", ["open", "create"])
def test_old_jobs_are_cleared_when_the_store_is_opened_and_when_a_job_is_created(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    old = store.cancel(job_in(store).id)
    later = [time.time()]
    for module in ("lift.jobs.store", "lift.memories.clock_guard"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=lambda: later[0]))

    def write() -> None:
        if moment == "open":
            JobStore(store.directory).close()
        else:
            job_in(store)

    later[0] += 31 * DAY_S
    write()
    assert old.id in {job.id for job in store.jobs()}  # the clock may have jumped
    later[0] += 2 * DAY_S
    write()
    assert old.id not in {job.id for job in store.jobs()}


def test_a_file_that_is_not_ours_is_left_beside_the_uploads(store: JobStore) -> None:
    mine = store.directory / "files" / ".tmp-mine"
    mine.write_text("x")
    (store.directory / "files" / (".tmp-" + "0" * 16)).write_text("x")
    JobStore(store.directory).close()
    assert [path.name for path in (store.directory / "files").iterdir()] == [".tmp-mine"]
