"""The driver, with workers that die, fail and come back at random: every document ends once, and none is lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.errors import FarmError, UsageError
from lift.farm.document_absorber import AbsorbedDocument, NotAbsorbed
from lift.farm.farm import FarmProgress, FarmReport, farm_events
from lift.farm.pool import DocumentEnded, PoolEvent, WorkerDied, WorkerReady
from lift.farm.sources import FarmDocument
from lift.farm.work_queue import Failure


class ScriptedPool:
    """Workers that work a document at each look, into `library`; some die at random, some documents kill or fail."""

    def __init__(
        self,
        seed: int = 0,
        deaths: int = 0,
        poisoned: Sequence[str] = (),
        bad: Sequence[str] = (),
        cannot_start: str | None = None,
        library: set[str] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.deaths, self.poisoned, self.bad, self.cannot_start = deaths, poisoned, bad, cannot_start
        self.library: set[str] = set() if library is None else library
        self.trained: Counter[str] = Counter()
        self.starting: list[str] = []
        self.lines: dict[str, list[FarmDocument]] = {}
        self.most_at_once = 0
        self.interrupted = False
        self.count = 0

    def start(self) -> str:
        self.count += 1
        self.starting.append(f"w{self.count}")
        return self.starting[-1]

    def submit(self, worker: str, documents: Sequence[FarmDocument]) -> None:
        self.lines[worker] += documents

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.lines.clear()

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        events: list[PoolEvent] = []
        for worker in self.starting:
            if self.cannot_start:
                events.append(WorkerDied(worker, self.cannot_start, at_start=True))
            else:
                self.lines[worker] = []
                events.append(WorkerReady(worker))
        self.starting.clear()
        self.most_at_once = max(self.most_at_once, len(self.lines))
        for worker in list(self.lines):
            events += self._work(worker)
        return events

    def _work(self, worker: str) -> list[PoolEvent]:
        line = self.lines[worker]
        if self.deaths and self.random.random() < 0.1:
            self.deaths -= 1
            if line and self.random.random() < 0.5:  # after the memory was put, before that was heard
                self._absorb(line[0].name)
            del self.lines[worker]
            return [WorkerDied(worker, "its process ended")]
        if not line:
            return []
        document = line.pop(0)
        if document.name in self.poisoned:
            del self.lines[worker]
            return [WorkerDied(worker, "its process ended")]
        if self.interrupted:
            return [DocumentEnded(worker, NotAbsorbed(document.name, Failure("Stop", "stopped"), interrupted=True))]
        if document.name in self.bad:
            return [DocumentEnded(worker, NotAbsorbed(document.name, Failure("DocumentError", "cannot be read")))]
        reused = not self._absorb(document.name)
        return [DocumentEnded(worker, AbsorbedDocument(document.name, document.name, reused, 1.0, 4, 3, 100))]

    def _absorb(self, name: str) -> bool:
        if name in self.library:
            return False
        self.library.add(name)
        self.trained[name] += 1
        return True


def documents(count: int) -> list[FarmDocument]:
    return [FarmDocument(f"d{number}", f"/d{number}", 1000 * (number % 7)) for number in range(count)]


def run(pool: ScriptedPool, count: int, workers: int, **options: threading.Event) -> FarmReport:
    *_, report = farm_events(documents(count), pool, workers, **options)
    assert isinstance(report, FarmReport)
    return report


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    workers=st.integers(1, 5),
    poisoned=st.sets(st.integers(0, 39), max_size=2),
    bad=st.sets(st.integers(0, 39), max_size=3),
)
def test_every_document_ends_once_whoever_dies(
    seed: int, count: int, workers: int, poisoned: set[int], bad: set[int]
) -> None:
    killers, failing = [f"d{number}" for number in poisoned], [f"d{number}" for number in bad - poisoned]
    pool = ScriptedPool(seed, deaths=10, poisoned=killers, bad=failing)
    report = run(pool, count, workers)
    ended = [each.document for each in report.absorbed] + list(report.failed)
    assert sorted(ended) == sorted(each.name for each in documents(count))
    assert {each.document for each in report.absorbed} <= pool.library
    assert not {each.document for each in report.absorbed} & {*killers, *failing}
    assert all(times == 1 for times in pool.trained.values())
    assert pool.most_at_once <= workers
    # the driver ends as well: a new one finds what is done, and trains nothing twice
    again = ScriptedPool(seed + 1, library=pool.library)
    rest = run(again, count, workers)
    assert len(rest.absorbed) == count and all(times == 1 for times in (pool.trained + again.trained).values())


def test_failures_are_tried_twice_and_listed_with_their_sentence() -> None:
    report = run(ScriptedPool(bad=["d1"], poisoned=["d2"]), 6, 2)
    assert report.failed["d1"] == Failure("DocumentError", "cannot be read")
    assert report.failures_by_kind == {"DocumentError": 1, "WorkerDied": 1}
    assert report.workers_lost == 3 and len(report.absorbed) == 4


def test_progress_counts_up_and_tells_the_time() -> None:
    events = [event for event in farm_events(documents(20), ScriptedPool(), 2) if isinstance(event, FarmProgress)]
    done = [event.done for event in events if event.outcome]
    assert done == list(range(1, 21))
    etas = [event.eta_s for event in events if event.outcome]
    assert None not in etas and etas[-1] == 0


def test_where_no_worker_can_start_that_is_said_at_once() -> None:
    with pytest.raises(FarmError, match="got 1 that ended: the model is not there"):
        run(ScriptedPool(cannot_start="the model is not there"), 3, 1)
    with pytest.raises(FarmError, match="got 5 that ended: its process ended"):
        run(ScriptedPool(cannot_start="its process ended"), 3, 1)
    with pytest.raises(UsageError):
        list(farm_events(documents(1), ScriptedPool(), 0))


def test_a_stop_lists_what_is_not_done() -> None:
    stop = threading.Event()
    pool = ScriptedPool()
    events = farm_events(documents(20), pool, 2, stop=stop)
    for event in events:
        if isinstance(event, FarmProgress) and event.done == 5:
            stop.set()
        report = event
    assert isinstance(report, FarmReport) and report.stopped and pool.interrupted
    assert len(report.absorbed) + len(report.failed) == 20 and len(report.absorbed) >= 5
    assert set(report.failures_by_kind) == {"Interrupted"}
