"""The driver of a farm: keeps its workers busy until every document has ended, yielding what happens as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event as StopFlag

from lift.errors import FarmError, UsageError
from lift.farm.document_absorber import AbsorbedDocument, NotAbsorbed, Outcome
from lift.farm.pool import DocumentEnded, Pool, PoolEvent, WorkerDied, WorkerReady
from lift.farm.sources import FarmDocument
from lift.farm.work_queue import Failure, Work, WorkQueue

# So many workers that die before they are ready, one after the other, are no accident.
FAILED_STARTS = 5
_START_S = 600.0
_POLL_S = 0.5
# Reading a document and looking for its memory take as long as so many bytes of one.
_LEAST_SIZE_BYTES = 500
_STOPPED = Failure("Interrupted", "the run was stopped before this document was done; --resume goes on")


@dataclass(frozen=True)
class FarmProgress:
    """Something has happened: an outcome, or a `note` in a sentence. `eta_s` is None where nothing tells it yet."""

    done: int
    failed: int
    total: int
    workers: int
    eta_s: float | None
    outcome: AbsorbedDocument | None = None
    note: str | None = None


@dataclass(frozen=True)
class FarmReport:
    """How a run ended: each document is in `absorbed` or in `failed` (document -> why).

    `seconds`: of the whole run; `working_s`: of these, those since the first worker was ready.
    """

    documents: int
    absorbed: tuple[AbsorbedDocument, ...]
    failed: dict[str, Failure]
    seconds: float
    working_s: float
    workers_lost: int
    stopped: bool

    @property
    def failures_by_kind(self) -> dict[str, int]:
        """How many documents failed for each kind of reason, the most frequent first."""
        kinds = [failure.kind for failure in self.failed.values()]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))}


FarmEvent = FarmProgress | FarmReport


def farm_events(
    documents: Sequence[FarmDocument],
    pool: Pool,
    workers: int,
    *,
    stop: StopFlag | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[FarmEvent]:
    """Absorb all documents on `workers` workers of `pool`, and yield FarmReport at the end.

    A dead worker is replaced. When `stop` is set, what is being absorbed is interrupted where it is safe, and the rest
    is listed as failed. Raises FarmError where no worker can be started, UsageError for no workers. The pool is left
    open.
    """
    if workers < 1:
        raise UsageError(f"expected at least 1 worker, got {workers}")
    return _Farm(documents, pool, workers, stop, clock).run()


@dataclass
class _Farm:
    documents: Sequence[FarmDocument]
    pool: Pool
    wanted: int
    stop: StopFlag | None
    clock: Callable[[], float]
    absorbed: list[AbsorbedDocument] = field(default_factory=list)
    starting: set[str] = field(default_factory=set)
    failed_starts: int = 0
    lost: int = 0
    ready_at: float | None = None
    stopping: bool = False

    def run(self) -> Iterator[FarmEvent]:
        by_name = {document.name: document for document in self.documents}
        self.sizes = {name: max(each.size_bytes, _LEAST_SIZE_BYTES) for name, each in by_name.items()}
        self.queue = queue = WorkQueue([Work(name, size) for name, size in self.sizes.items()])
        began = self.heard_at = self.clock()
        while not queue.is_finished:
            while not self.stopping and len(queue.workers) + len(self.starting) < self._useful_workers():
                self.starting.add(self.pool.start())
            if self.stop is not None and self.stop.is_set() and not self.stopping:
                self.stopping = True
                self.pool.interrupt()
            for worker in queue.workers:
                if not self.stopping and not queue.leased(worker) and (taken := queue.lease(worker)):
                    self.pool.submit(worker, [by_name[name] for name in taken])
            if self.stopping and not any(map(queue.leased, queue.workers)):
                queue.give_up(_STOPPED)
                break
            events = self.pool.wait(_POLL_S)
            self._check_started(bool(events))
            for event in events:
                yield from self._hear(event)
        yield FarmReport(
            len(self.documents),
            tuple(self.absorbed),
            dict(queue.failed),
            self.clock() - began,
            self.clock() - (began if self.ready_at is None else self.ready_at),
            self.lost,
            self.stopping,
        )

    def _useful_workers(self) -> int:
        return min(self.wanted, len(self.documents) - len(self.queue.done) - len(self.queue.failed))

    def _check_started(self, heard: bool) -> None:
        now = self.clock()
        if heard or self.queue.workers:
            self.heard_at = now
        elif now - self.heard_at > _START_S:
            raise FarmError(
                f"expected a worker to start within {_START_S:.0f} s, got none; see whether the cluster has the "
                "processors, GPUs and memory that one needs (`ray status`)"
            )

    def _hear(self, event: PoolEvent) -> Iterator[FarmEvent]:
        queue = self.queue
        match event:
            case WorkerReady(worker):
                self.starting.discard(worker)
                self.failed_starts = 0
                self.ready_at = self.clock() if self.ready_at is None else self.ready_at
                queue.join(worker)
                yield self._progress(note=f"{worker} is ready")
            case WorkerDied(worker, why, at_start):
                self.starting.discard(worker)
                if at_start:
                    self.failed_starts += 1
                    if self.failed_starts >= FAILED_STARTS or (not queue.workers and not self._retry_start(why)):
                        raise FarmError(f"expected a worker that can start, got {self.failed_starts} that ended: {why}")
                    yield self._progress(note=f"{worker} could not start: {why}")
                    return
                self.lost += 1
                suspect = queue.lose(worker, why)
                at = f" while it absorbed {suspect!r}" if suspect else ""
                after = "; that document is given up" if suspect in queue.failed else ""
                yield self._progress(note=f"{worker} was lost{at} ({why}){after}")
            case DocumentEnded(worker, outcome):
                yield from self._end(worker, outcome)

    def _retry_start(self, why: str) -> bool:
        """A process that ended may start another time; a sentence of Lift's own says what nothing changes."""
        return why.startswith("its ")

    def _end(self, worker: str, outcome: Outcome) -> Iterator[FarmEvent]:
        queue = self.queue
        if isinstance(outcome, AbsorbedDocument):
            if queue.record_done(worker, outcome.document):
                self.absorbed.append(outcome)
                yield self._progress(outcome=outcome)
            return
        failure = _STOPPED if outcome.interrupted else outcome.failure
        given_up = queue.record_failure(worker, outcome.document, failure)
        if not outcome.interrupted:
            said = "failed" if given_up else "is tried again"
            yield self._progress(note=f"{outcome.document} {said}: {failure.sentence}")

    def _progress(self, outcome: AbsorbedDocument | None = None, note: str | None = None) -> FarmProgress:
        queue = self.queue
        total, done, failed = len(self.documents), len(queue.done), len(queue.failed)
        return FarmProgress(done, failed, total, len(queue.workers), self._eta_s(), outcome, note)

    def _eta_s(self) -> float | None:
        """By the seconds a byte of the documents that were trained: those that are left, over all workers."""
        trained = [each for each in self.absorbed if not each.reused]
        if not trained or not self.queue.workers:
            return None
        pace = sum(each.seconds for each in trained) / sum(self.sizes[each.document] for each in trained)
        held = sum(self.sizes[name] for worker in self.queue.workers for name in self.queue.leased(worker))
        return pace * (self.queue.waiting_size + held) / len(self.queue.workers)


__all__ = ["AbsorbedDocument", "FarmEvent", "FarmProgress", "FarmReport", "NotAbsorbed", "farm_events"]
