"""The process that absorbs: `python -m lift.jobs.worker`, one job after the other, the model loaded once.

It may be killed at any moment. What it has accepted lies in the store, what it has trained in checkpoints, and memories
are put whole; whoever gets the lock next goes on. It stops by itself when it is asked to (SIGTERM) and when the process
that started it is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Trained
from lift.absorbing.run_options import AbsorptionOptions
from lift.documents.read import read_document
from lift.errors import InterruptedAbsorption, JobConflictError, LiftError, cleaning_up
from lift.jobs.job import Job, JobEventDraft
from lift.jobs.job_events import StepThinner, job_event_of
from lift.jobs.lease import JobLease
from lift.jobs.store import JobStore
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import load_recipe

LOCK_FILE = "worker.lock"
_POLL_S = 0.25
# an absorption looks whether it is to stop between its steps; some of what it does takes longer than one wants to wait
# (less than the supervisor's patience, which ends what not even a thread beside the work can end)
_PATIENCE_S = 8.0
_TRACEBACK_CHARS = 8000
# whoever answers questions on the same processor goes first
_NICE = 5
_log = logging.getLogger(__name__)


class Worker:
    """Absorbs what waits in `store` into `library` on the model `model_name`, until `stop` is set."""

    def __init__(
        self, store: JobStore, library: MemoryLibrary, model_name: str, checkpoint_every_s: float, stop: threading.Event
    ) -> None:
        self._store = store
        self._library = library
        self._model_name = model_name
        self._checkpoint_every_s = checkpoint_every_s
        self._stop = stop
        self._lease = store.lease()
        self._base: BaseModel | None = None

    def run(self) -> None:
        """Work until `stop` is set; for the holder of the lock. Raises JobError where the store cannot be used."""
        while not self._stop.is_set():
            if not self._lease.is_work_waiting():
                self._stop.wait(_POLL_S)
                continue
            problem = self._load()
            if not self._stop.is_set() and (job := self._lease.claim()) is not None:
                if problem is None:
                    self._work_on(job)
                else:
                    self._lease.fail(job.id, problem)

    def _load(self) -> JobEventDraft | None:
        """Have the model at hand; returns why it cannot be had.

        That is done before a job is claimed, so that a kill while a large model is read does not count against a job.
        """
        if self._base is None:
            try:
                self._base = load_model(self._model_name)
            except Exception as error:
                return _failure(error)
        return None

    def _work_on(self, job: Job) -> None:
        stop = threading.Event()
        try:
            with _watched(self._lease, job.id, self._stop, stop):
                self._absorb(job, stop)
        except InterruptedAbsorption:
            self._lease.give_back(job.id, _INTERRUPTED)
        except JobConflictError:
            _log.warning("job %s was taken away while it ran", job.id)
        except Exception as error:
            if not isinstance(error, LiftError):
                self._base = None  # an adapter may still be attached to it
            self._lease.fail(job.id, _failure(error))

    def _absorb(self, job: Job, stop: threading.Event) -> None:
        started = time.monotonic()
        file = self._store.file(job.file_id)
        document = read_document(self._store.file_path(file.id), title=job.title, name=file.name)
        assert self._base is not None
        options = AbsorptionOptions(
            name=job.name,
            budget_s=job.budget_s,
            resume=True,
            stop=stop,
            started=started,
            checkpoint_every_s=self._checkpoint_every_s,
            wait_for_others=True,
        )
        recipe = load_recipe(job.recipe, job.overrides)
        events = absorb_events(document, self._base, recipe, self._library, options)
        thinner = StepThinner()

        def tell_rest() -> None:
            for event in thinner.rest():
                self._lease.record(job.id, job_event_of(event), event.step.progress, event.eta_s)

        with closing(events), cleaning_up(tell_rest):  # type: ignore[type-var]
            for happened in events:
                for event in thinner.pass_on(happened):
                    if isinstance(event, Finished):
                        tokens = 0 if event.reused else event.memory.manifest.cost.tokens
                        self._lease.succeed(job.id, job_event_of(event), event.memory.name, tokens)
                    elif isinstance(event, Trained):
                        self._lease.record(job.id, job_event_of(event), event.step.progress, event.eta_s)
                    else:
                        self._lease.record(job.id, job_event_of(event))
                if stop.is_set() and not isinstance(happened, Finished | Trained):
                    raise InterruptedAbsorption("stopped before the training")


_INTERRUPTED = JobEventDraft(
    "interrupted", "the worker was stopped; what was trained is kept, and the job waits again", {}
)


@contextmanager
def _watched(lease: JobLease, job_id: str, stop_all: threading.Event, stop: threading.Event) -> Iterator[None]:
    """While the block runs, set `stop` as soon as the worker or the job is to end, and end the process if that is slow.

    A process may be ended anywhere: nothing is lost but the work since the last checkpoint.
    """
    done = threading.Event()

    def watch() -> None:
        asked_at: float | None = None
        while not done.wait(_POLL_S):
            try:
                if asked_at is None and (stop_all.is_set() or lease.is_cancelled(job_id)):
                    asked_at = time.monotonic()
                    stop.set()
                if asked_at is not None and time.monotonic() - asked_at > _PATIENCE_S:
                    lease.give_back(job_id, _INTERRUPTED)
                    os._exit(0)
            except JobConflictError:
                return  # it has just ended
            except LiftError:
                _log.exception("the job %s cannot be looked at; trying again", job_id)

    thread = threading.Thread(target=watch, name="job-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _failure(error: Exception) -> JobEventDraft:
    """Why a job has failed: in a sentence, and for an error that nobody foresaw with the place in the code."""
    if isinstance(error, LiftError):
        return JobEventDraft("failed", str(error), {"error": type(error).__name__}, "error")
    _log.error("unexpected error in a job", exc_info=error)
    said = f"unexpected {type(error).__name__} while absorbing ({error}); where it arose stands in the job's events"
    trace = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARS:]
    return JobEventDraft("failed", said, {"error": type(error).__name__, "traceback": trace}, "error")


def _stop_with(parent: int, stop: threading.Event) -> None:
    """Set `stop` when the process `parent`, which has started this one, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main(arguments: list[str]) -> int:
    """Wait for the lock, then work until SIGTERM or the end of the parent."""
    parser = argparse.ArgumentParser(prog="python -m lift.jobs.worker")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--checkpoint-every", type=float, required=True)
    chosen = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    _stop_with(chosen.parent, stop)
    os.nice(_NICE)
    store = JobStore(chosen.store)
    lock = FileLock(chosen.store / LOCK_FILE)
    while not stop.is_set():
        try:
            with lock.acquire(timeout=_POLL_S):
                Worker(store, MemoryLibrary(chosen.library), chosen.model, chosen.checkpoint_every, stop).run()
        except Timeout:
            continue  # another worker is at it, perhaps one whose server was killed and which is just stopping
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.exit(main(sys.argv[1:]))
