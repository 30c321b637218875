"""The process that absorbs: every accepted job ends, whole, however often and whenever its workers are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama

import lift.jobs.worker
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import AbsorptionEvent, Probing, Trained
from lift.errors import DocumentError
from lift.jobs.job import Job, JobEvent
from lift.jobs.job_events import StepThinner
from lift.jobs.store import JobStore
from lift.jobs.supervisor import Supervisor
from lift.jobs.worker import Worker, main
from lift.memories.library import MemoryLibrary
from lift.tasks.rules.dependency_parse import load_parser
from lift.training.training_loop import StepRecord

TEXTS = [
    f"# Museum {number}\n\nAda Quill founded the lighthouse museum of Port Merrow in {1900 + number}. "
    f"The museum owns {number + 40} lenses. A storm destroyed the old tower in {1800 + number}."
    for number in range(4)
]
SMALL = ("adapter.rank=2", "tasks.per_sentence=4", "training.batch_tokens=200", "tasks.held_out_per_sentence=1")
QUICK, LONG = (*SMALL, "training.epochs=1"), (*SMALL, "training.epochs=3")
LIMIT = 100_000


class Place:
    """A library with its jobs, and a tiny model."""

    def __init__(self, root: Path, model: Path) -> None:
        self.model = str(model)
        self.library = MemoryLibrary(root / "library")
        self.store = JobStore(self.library.root / ".serve")

    def submit(self, text: str = TEXTS[0], **options: Any) -> Job:
        file = self.store.add_file("museum.md", "fine-tune", text.encode(), LIMIT)
        return self.store.create(file.id, **{"overrides": QUICK, **options})

    def events(self, job: Job) -> list[JobEvent]:
        return self.store.events(job.id)

    def kinds(self, job: Job) -> list[str]:
        return [event.kind for event in self.events(job)]

    def wait_for(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < until, [(event.kind, event.message) for event in self.store.events()]
            time.sleep(0.01)

    def ended(self) -> bool:
        return all(job.ended for job in self.store.jobs())

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker on a thread of this process; it stops behind the block."""
        stop = threading.Event()
        thread = threading.Thread(target=Worker(self.store, self.library, self.model, 0.1, stop).run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()

    def work(self) -> None:
        with self.working():
            self.wait_for(self.ended)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Iterator[Place]:
    made = Place(tmp_path, model)
    yield made
    made.store.close()


def check_whole(place: Place, others: Collection[str] = ()) -> None:
    """Every job has given a memory, all are whole, nothing unfinished is left, and no event is missing.

    `others`: memories that are not of jobs.
    """
    jobs = place.store.jobs()
    assert {job.status for job in jobs} == {"succeeded"}
    assert {job.memory for job in jobs} | set(others) == set(place.library.names())
    assert place.library.verify() == []
    # the file of a lease whose holder was killed at its very end may be left: an empty one, which nobody holds
    assert not [path for path in (place.library.root / ".absorbing").glob("*") if path.suffix != ".lock"]
    events = place.store.events()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    for job in jobs:
        own = place.events(job)
        assert (own[0].kind, own[-1].kind) == ("queued", "succeeded")
        memory = place.library[job.memory or ""]
        assert [row["step"] for row in memory.training] == list(range(1, len(memory.training) + 1))


def test_a_job_becomes_a_memory_and_its_events_tell_how(place: Place) -> None:
    job = place.submit(overrides=LONG, name="museum")
    place.work()
    done = place.store.job(job.id)
    assert (done.status, done.memory, done.attempt, done.progress) == ("succeeded", "museum", 1, 1.0)
    memory = place.library["museum"]
    assert done.trained_tokens == memory.manifest.cost.tokens > 0
    assert (memory.manifest.title, memory.document.source) == ("Museum 0", "museum.md")
    events = place.events(job)
    told = [event.kind for event in events if event.kind != "trained"]
    assert told == ["queued", "started", "prepared", "planned", "probing", "finished", "succeeded"]
    steps = [event.data for event in events if event.kind == "trained"]
    assert {"step", "loss", "progress", "eta_s"} <= steps[0].keys()
    assert steps[0]["step"] == 1
    assert steps[-1]["step"] == len(memory.training)
    assert len(steps) < len(memory.training)
    assert (events[-2].data["memory"], events[-1].data["memory"]) == ("museum", "museum")
    assert all(json.dumps(dict(event.data), allow_nan=False) and "\n" not in event.message for event in events)
    check_whole(place)


def test_the_most_urgent_job_comes_first_then_the_oldest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> Iterator[Any]:
        raise DocumentError("nothing is absorbed")

    monkeypatch.setattr(lift.jobs.worker, "absorb_events", refuse)  # the order is all that counts
    jobs = [place.submit(text, priority=priority) for text, priority in zip(TEXTS, (0, 0, 2, 1), strict=True)]
    place.store.prioritise(jobs[3].id, 3)
    place.work()
    begun = [event.job for event in place.store.events() if event.kind == "started"]
    assert begun == [jobs[number].id for number in (3, 2, 0, 1)]


def test_nothing_is_trained_twice(place: Place) -> None:
    jobs = [place.submit(), place.submit(), place.submit(name="copy")]
    place.work()
    memories = [place.store.job(job.id).memory for job in jobs]
    assert memories == ["museum-0", "museum-0", "copy"]
    assert [place.store.job(job.id).trained_tokens == 0 for job in jobs] == [False, True, True]
    assert [place.kinds(job).count("trained") > 0 for job in jobs] == [True, False, False]
    assert place.events(jobs[1])[-2].data["reused"]


def test_what_cannot_be_absorbed_fails_with_its_sentence_and_the_next_goes_on(place: Place) -> None:
    empty, picture = place.submit("... --- ..."), place.submit("{\\rtf1 }")
    taken, good = place.submit(TEXTS[1], name="taken"), place.submit(TEXTS[2], name="Taken")
    place.work()
    for job, said in ((empty, "letter"), (picture, "museum.md"), (good, "taken")):
        failed = place.store.job(job.id)
        assert failed.status == "failed"
        assert said in (failed.error or "")
        assert str(place.store.directory) not in (failed.error or "")
        assert (place.events(job)[-1].kind, place.events(job)[-1].level) == ("failed", "error")
    assert place.store.job(taken.id).status == "succeeded"
    place.library.remove("taken")
    place.store.retry(good.id)
    place.work()
    assert place.store.job(good.id).memory == "Taken"
    assert place.store.job(good.id).error is None


def test_an_unforeseen_error_is_a_failed_job_and_the_worker_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(document: Any, *arguments: Any, **options: Any) -> Any:
        for event in absorb_events(document, *arguments, **options):
            if document.title == "Museum 0" and isinstance(event, Trained):
                raise ZeroDivisionError("no such luck")
            yield event

    monkeypatch.setattr(lift.jobs.worker, "absorb_events", failing)
    bad, good = place.submit(TEXTS[0]), place.submit(TEXTS[1])
    place.work()
    assert "ZeroDivisionError" in (place.store.job(bad.id).error or "")
    assert "no such luck" in place.events(bad)[-1].data["traceback"]
    assert place.store.job(good.id).status == "succeeded"


def test_a_model_that_cannot_be_had_fails_the_jobs(place: Place) -> None:
    place.model = str(place.library.root / "no-model")
    job = place.submit()
    place.work()
    assert "no-model" in (place.store.job(job.id).error or "")


def test_a_job_is_cancelled_while_it_runs_and_goes_on_when_it_is_tried_again(place: Place) -> None:
    job = place.submit(overrides=(*SMALL, "training.epochs=50"))
    with place.working():
        place.wait_for(lambda: "trained" in place.kinds(job))
        assert place.store.cancel(job.id).cancelling
        place.wait_for(place.ended)
        assert place.store.job(job.id).status == "cancelled"
        steps_done = place.events(job)[-2].data["step"]
        place.store.retry(job.id)
        place.wait_for(lambda: place.kinds(job).count("started") == 2 and "trained" in place.kinds(job)[-2:])
        first = next(event for event in place.events(job)[::-1] if event.kind == "started").number
        steps = [event.data["step"] for event in place.store.events(job.id, first) if event.kind == "trained"]
        assert steps[0] == steps_done + 1
        place.store.cancel(job.id)
    assert place.library.names() == []


def test_a_job_that_hangs_is_cancelled_all_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lift.jobs.worker, "_PATIENCE_S", 0.2)
    job = place.submit()

    def hang(*_arguments: Any, **_options: Any) -> Any:
        yield from ()
        time.sleep(60)

    def work() -> None:
        monkeypatch.setattr(lift.jobs.worker, "absorb_events", hang)
        main(arguments_of(place, os.getppid()))

    with forked(work) as worker:
        place.wait_for(lambda: place.store.job(job.id).status == "running")
        place.store.cancel(job.id)
        place.wait_for(place.ended)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    assert place.kinds(job) == ["queued", "started", "cancelling", "cancelled"]


def test_the_last_step_before_anything_else_is_always_told() -> None:
    def step(number: int) -> Trained:
        return Trained(StepRecord(number, 0, 1.0, 0.1, 1, 1, 0.1, 0.1), 1.0)

    thinner = StepThinner(every_s=1000.0)
    happened: list[AbsorptionEvent] = [step(1), step(2), step(3), Probing(1), step(4), step(5)]
    told: list[AbsorptionEvent] = [each for event in happened for each in thinner.pass_on(event)]
    told.extend(thinner.rest())
    assert told == [step(1), step(3), Probing(1), step(5)]
    assert list(thinner.rest()) == []


@pytest.fixture
def parser() -> None:
    """The parser is loaded before a worker is forked, and not anew in each of them."""
    load_parser()


def arguments_of(place: Place, parent: int, checkpoint_every_s: float = 0.1) -> list[str]:
    given = {"store": place.store.directory, "library": place.library.root, "model": place.model}
    given |= {"parent": parent, "checkpoint-every": checkpoint_every_s}
    return [part for key, value in given.items() for part in (f"--{key}", str(value))]


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A child of this process, so that nothing need be imported again; killed behind the block if it still runs.

    The child has none of torch's threads. Torch makes new ones when it is told their number, and not safely when the
    threads that read a model ask for it at once.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield child
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class Killer:
    """Says when the next kill is due, and keeps what a reader has seen of the events meanwhile.

    Two of three come a random while after a job got further, the third anywhere: a job that is killed five times in one
    place has failed, and is to.
    """

    def __init__(self, place: Place, seed: int, longest_s: float) -> None:
        self.place = place
        self.pick = random.Random(seed)
        self.longest_s = longest_s
        self.seen: list[JobEvent] = []
        self.kills = 0
        self.furthest = (0, 0.0)

    def read_on(self) -> None:
        self.seen += self.place.store.events(after_number=self.seen[-1].number if self.seen else 0)

    def wait(self) -> None:
        if self.kills % 3 != 2:
            self.place.wait_for(self.got_further, 300.0)
        time.sleep(self.pick.uniform(0.0, self.longest_s))
        self.kills += 1
        self.furthest = max(self.furthest, self.reached())

    def reached(self) -> tuple[int, float]:
        jobs = self.place.store.jobs()
        return sum(job.ended for job in jobs), max((job.progress for job in jobs if not job.ended), default=1.0)

    def got_further(self) -> bool:
        self.read_on()
        ended, progress = self.reached()
        return ended > self.furthest[0] or progress > self.furthest[1] + 0.1 or self.place.ended()


@pytest.mark.slow
@pytest.mark.usefixtures("parser")
def test_kills_at_random_moments_lose_no_job_no_event_and_no_memory(place: Place) -> None:
    for text in TEXTS[:2]:
        place.submit(text, overrides=(*SMALL, "training.epochs=8"))
    killer = Killer(place, 0, 0.2)  # a quick machine is done with a job in a second or two
    while not place.ended() and killer.kills < 60:
        with forked(lambda: main(arguments_of(place, os.getppid()))):
            killer.wait()
        assert place.library.verify() == []
    killer.read_on()
    assert killer.seen == place.store.events()
    assert any(event.kind == "resumed" for event in killer.seen)
    assert killer.kills > 3
    check_whole(place)


@pytest.mark.usefixtures("parser")
def test_a_stopped_worker_saves_its_job_and_the_next_one_goes_on(place: Place) -> None:
    job = place.submit(overrides=LONG)
    with forked(lambda: main(arguments_of(place, os.getppid(), 1000.0))) as worker:
        place.wait_for(lambda: "trained" in place.kinds(job))
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    assert place.store.job(job.id).status == "queued"
    assert place.kinds(job)[-1] == "interrupted"
    steps_done = place.events(job)[-2].data["step"]
    place.work()
    after = [event for event in place.events(job) if event.kind == "trained" and event.data["step"] > steps_done]
    assert after[0].data["step"] == steps_done + 1
    assert place.store.job(job.id).attempt == 2
    check_whole(place)


def test_a_worker_ends_with_the_process_that_started_it(place: Place) -> None:
    place.submit(overrides=(*SMALL, "training.epochs=50"))
    with forked(lambda: main(arguments_of(place, os.getppid() + 1))) as worker:
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    assert place.store.jobs()[0].status == "queued"


@pytest.mark.usefixtures("parser")
def test_only_one_worker_is_at_work(place: Place) -> None:
    jobs = [place.submit(text) for text in TEXTS[:2]]
    with (
        forked(lambda: main(arguments_of(place, os.getppid()))),
        forked(lambda: main(arguments_of(place, os.getppid()))),
    ):
        place.wait_for(place.ended)
    assert all(place.kinds(job).count("started") == 1 and "resumed" not in place.kinds(job) for job in jobs)
    check_whole(place)


def test_the_directory_of_the_jobs_is_no_memory(place: Place) -> None:
    place.submit()
    assert place.library.names() == []
    assert place.library.verify() == []
    place.work()
    assert place.library.names() == ["museum-0"]
    place.library.remove("museum-0")
    assert len(place.store.jobs()) == 1


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the worker's place; returns the file to which it writes a line a start."""

    def put(script: str) -> Path:
        program, starts = tmp_path / "worker.sh", tmp_path / "starts"
        program.write_text(f"#!/bin/sh\necho $$ >> '{starts}'\n{script}\n", "utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return starts

    return put


def lines_of(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize(("script", "patience_s"), [("exec sleep 60", 30.0), ("trap '' TERM; exec sleep 60", 0.2)])
def test_a_supervisor_brings_a_killed_worker_back_and_stops_it_in_the_end(
    place: Place, stand_in: Callable[[str], Path], script: str, patience_s: float
) -> None:
    starts = stand_in(script)
    supervisor = Supervisor(place.store, place.library.root, place.model)
    supervisor.start()
    try:
        for number in (1, 2):
            place.wait_for(lambda number=number: len(lines_of(starts)) == number)
            killed = supervisor.pid
            assert lines_of(starts)[-1] == str(killed)
            os.kill(killed or 0, signal.SIGKILL)
        place.wait_for(lambda: len(lines_of(starts)) == 3)
        assert supervisor.alive
    finally:
        supervisor.close(patience_s)
    assert not supervisor.alive
    assert supervisor.pid is None
    assert len(lines_of(starts)) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines_of(starts)[-1]), 0)


def test_a_worker_that_ignores_a_cancellation_is_killed_with_all_that_it_started(
    place: Place, stand_in: Callable[[str], Path], tmp_path: Path
) -> None:
    child = tmp_path / "child"
    starts = stand_in(f"trap '' TERM; sleep 60 & echo $! > '{child}'; wait; sleep 60")
    stuck, following = place.submit(), place.submit(TEXTS[1])
    supervisor = Supervisor(place.store, place.library.root, place.model, cancel_patience_s=0.5)
    supervisor.start()
    try:
        place.wait_for(lambda: child.exists() and child.read_text("utf-8").strip() != "")
        lease = place.store.lease()
        lease._worker = f"{supervisor.pid}-0"  # as if the shell had claimed it
        lease.claim()
        started = int(child.read_text("utf-8"))
        place.store.cancel(stuck.id)
        place.wait_for(lambda: place.store.job(stuck.id).status == "cancelled")
        place.wait_for(lambda: len(lines_of(starts)) == 2)
        assert not is_alive(started) and not is_alive(int(lines_of(starts)[0]))
        assert place.store.lease().claim() == place.store.job(following.id)
        # a job that is cancelled in another's hands costs no worker its life
        place.store.cancel(following.id)
        time.sleep(1.0)
        assert len(lines_of(starts)) == 2
    finally:
        supervisor.close(0.2)
    assert place.kinds(stuck) == ["queued", "started", "cancelling", "cancelled"]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow  # two processes of their own, which import torch
def test_a_job_that_holds_the_interpreter_is_cancelled_and_the_next_one_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "worker"
    program.write_text(
        f"""#!{sys.executable}
import re, sys
import lift.jobs.worker as worker
read = worker.read_document
def read_document(path, **options):
    document = read(path, **options)
    if "1900" in document.text:
        re.match("(a|a)+$", "a" * 60 + "b")  # goes on for years, and no other thread runs meanwhile
    return document
worker.read_document = read_document
sys.exit(worker.main(sys.argv[5:]))
""",
        "utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    stuck, following = place.submit(TEXTS[0]), place.submit(TEXTS[1])
    supervisor = Supervisor(place.store, place.library.root, place.model, cancel_patience_s=2.0)
    supervisor.start()
    try:
        place.wait_for(lambda: place.store.job(stuck.id).status == "running", 120.0)
        time.sleep(1.0)
        place.store.cancel(stuck.id)
        place.wait_for(place.ended, 180.0)
    finally:
        supervisor.close()
    assert [place.store.job(job.id).status for job in (stuck, following)] == ["cancelled", "succeeded"]


def test_a_worker_that_dies_at_once_is_started_ever_more_seldom(place: Place, stand_in: Callable[[str], Path]) -> None:
    starts = stand_in("exit 1")
    supervisor = Supervisor(place.store, place.library.root, place.model)
    supervisor.start()
    time.sleep(2.0)
    supervisor.close()
    assert 2 <= len(lines_of(starts)) <= 3


@pytest.mark.slow
def test_kills_of_real_workers_under_a_supervisor(place: Place) -> None:
    """Kills of the server with its workers are in test_server_kills.py."""
    for text in TEXTS:
        place.submit(text, overrides=(*SMALL, "training.epochs=8"))
    supervisor = Supervisor(place.store, place.library.root, place.model, checkpoint_every_s=0.1)
    killer = Killer(place, 1, 4.0)
    supervisor.start()
    try:
        while killer.kills < 4:
            killer.wait()
            if (worker := supervisor.pid) is not None:
                os.kill(worker, signal.SIGKILL)
        place.wait_for(place.ended, 300.0)
    finally:
        supervisor.close()
    killer.read_on()
    assert killer.seen == place.store.events()
    check_whole(place)
