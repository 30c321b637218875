"""Fine-tuning at an endpoint, from the training file to the fine-tuned model's name, as a run of typed events.

What has been paid for is never paid for twice: every step is noted on disk before and after it is taken, every job
carries the key of its absorption, and before a job is created those that the endpoint knows are looked through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lift.endpoints.openai_endpoint import Endpoint, EndpointRefusal
from lift.errors import InterruptedAbsorption, RemoteError
from lift.recipes.recipe import RemoteSettings
from lift.remote.finetuning_jobs import (
    CANCELLED,
    ENDED,
    SUCCEEDED,
    EventFeed,
    ProviderJob,
    ProviderJobEvent,
    cancel_job,
    create_job_once,
    find_file,
    find_job,
    get_job,
    upload_file,
)
from lift.remote.job_state import JobState, load_state, save_state
from lift.remote.price import Estimate
from lift.remote.training_file import TrainingFile

_LARGEST_BATCH = 256
_QUIET_GROWTH = 1.5
_LONGEST_QUIET_POLLS = 6
# A job that was created just before a crash may be listed a moment late.
_LOOKS_FOR_A_LOST_JOB = 3


@dataclass(frozen=True)
class Order:
    """An order to fine-tune a model on a file. `key` identifies the absorption: one key, one paid job."""

    key: str
    model: str
    file: TrainingFile
    settings: RemoteSettings
    seed: int
    estimate: Estimate


@dataclass(frozen=True)
class Estimated:
    """The upload to come, and its price; nothing has left the machine yet."""

    estimate: Estimate


@dataclass(frozen=True)
class Uploaded:
    """The training file is at the endpoint; `found`: it was there already, from an earlier run."""

    file_id: str
    size_bytes: int
    found: bool


@dataclass(frozen=True)
class JobCreated:
    """The job is at the endpoint; `found`: it was there already, and is followed on."""

    job_id: str
    found: bool


@dataclass(frozen=True)
class Tuned:
    """The job has succeeded, and `model` can be asked. `retries`: requests that had to be repeated."""

    job_id: str
    model: str
    trained_tokens: int | None
    retries: int


FineTuningEvent = Estimated | Uploaded | JobCreated | ProviderJobEvent | Tuned


def fine_tune(
    endpoint: Endpoint,
    order: Order,
    directory: Path,
    confirm: Callable[[Estimate], bool],
    *,
    cancel_on_stop: bool = False,
) -> Iterator[FineTuningEvent]:
    """Fine-tune as `order` says, ending with Tuned; picks up what an earlier run with the same key has begun.

    The state is kept in `directory`. Where there is no job yet, `confirm` is asked before anything is uploaded. When
    the endpoint's `stop` is set, InterruptedAbsorption is raised: the job goes on by itself and the next run follows
    it, or with `cancel_on_stop` it is cancelled. Raises RemoteError, in one sentence, for every other end.
    """
    with _alone(directory):
        state = load_state(directory, order.key)
        yield Estimated(order.estimate)
        job = _known_job(endpoint, state)
        found = job is not None
        if job is None:
            if not confirm(order.estimate):
                raise InterruptedAbsorption("the price was not agreed to: nothing was uploaded, and nothing is paid")
            state, uploaded = _upload(endpoint, order, directory, state)
            yield uploaded
            job, found = _create(endpoint, order, directory, state)
        state = replace(state, creating=False, job_id=job.id)
        save_state(directory, state)
        yield JobCreated(job.id, found)
        try:
            job = yield from _follow(endpoint, job.id, order.settings.poll_s)
        except InterruptedAbsorption as stopped:
            if cancel_on_stop:
                raise _cancelled(endpoint, job.id, directory, order.key) from stopped
            raise
        if job.status != SUCCEEDED:
            # what has failed is of no use to the next run, its file included
            save_state(directory, JobState(order.key))
            raise _unsuccessful(job)
        if job.model is None:
            raise RemoteError(f"the job {job.id} at {endpoint.url} has succeeded, but names no fine-tuned model")
        yield Tuned(job.id, job.model, job.trained_tokens, endpoint.retries)


def cancel_fine_tuning(endpoint: Endpoint, key: str, directory: Path) -> ProviderJob | None:
    """Cancel the job of an earlier `fine_tune` with that key and directory; None where there is none.

    A job that has ended is left as it is. Raises RemoteError where the endpoint refuses.
    """
    with _alone(directory):
        job = _known_job(endpoint, load_state(directory, key))
        if job is None or job.status in ENDED:
            return job
        job = cancel_job(endpoint, job.id)
        if job.status != SUCCEEDED:
            save_state(directory, JobState(key))
        return job


def _known_job(endpoint: Endpoint, state: JobState) -> ProviderJob | None:
    """The job of an earlier run, by its id, else by what it carries."""
    if state.job_id is not None:
        try:
            return get_job(endpoint, state.job_id)
        except EndpointRefusal as refusal:
            if refusal.status != 404:
                raise
    return find_job(endpoint, state.key, state.file_id)


def _upload(endpoint: Endpoint, order: Order, directory: Path, state: JobState) -> tuple[JobState, Uploaded]:
    file = find_file(endpoint, state.file_id) if state.file_id is not None else None
    found = file is not None
    if file is None:
        state = JobState(order.key, creating=state.creating)
        save_state(directory, state)
        file = upload_file(endpoint, order.file.content, f"lift-{order.key[:12]}.jsonl")
    if file.complaint:
        save_state(directory, JobState(order.key))
        raise RemoteError(f"{endpoint.url} refused the training file {file.id}: {file.complaint}; nothing is paid")
    state = replace(state, file_id=file.id)
    save_state(directory, state)
    return state, Uploaded(file.id, len(order.file.content), found)


def _create(endpoint: Endpoint, order: Order, directory: Path, state: JobState) -> tuple[ProviderJob, bool]:
    """The job, and whether it was there already."""
    assert state.file_id is not None, "a file is uploaded before a job is created"
    if state.creating and (job := _lost_job(endpoint, order, state)) is not None:
        return job, True
    state = replace(state, creating=True, job_id=None)
    save_state(directory, state)
    tried = False

    def attempt() -> tuple[ProviderJob, bool]:
        nonlocal tried
        if tried and (lost := find_job(endpoint, order.key, state.file_id)) is not None:
            return lost, True
        tried = True
        try:
            hyperparameters = _hyperparameters(order)
            job = create_job_once(endpoint, order.model, state.file_id or "", order.key, order.seed, hyperparameters)
        except EndpointRefusal as refusal:
            at_fault = refusal.param == "training_file"
            save_state(directory, JobState(order.key) if at_fault else replace(state, creating=False))
            raise
        return job, False

    return endpoint.repeat("create the fine-tuning job", attempt)


def _lost_job(endpoint: Endpoint, order: Order, state: JobState) -> ProviderJob | None:
    """The job that an earlier run has asked for without living to see the reply."""
    for _ in range(_LOOKS_FOR_A_LOST_JOB):
        if (job := find_job(endpoint, order.key, state.file_id)) is not None:
            return job
        if endpoint.stop.wait(order.settings.poll_s):
            raise InterruptedAbsorption("stopped before a job was created; the same command goes on from here")
    return None


def _hyperparameters(order: Order) -> dict[str, Any]:
    settings = order.settings
    batch_size = (
        min(len(order.file.line_tokens), _LARGEST_BATCH) if settings.batch_size == "all" else settings.batch_size
    )
    return {
        "n_epochs": settings.epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": settings.learning_rate_multiplier,
    }


def _follow(endpoint: Endpoint, job_id: str, poll_s: float) -> Generator[ProviderJobEvent, None, ProviderJob]:
    """The events of a job until it ends, looked for less often while nothing happens; returns the ended job."""
    feed = EventFeed(endpoint, job_id)
    wait_s = poll_s
    while True:
        # the job first: what it has to say at its end is then among the events
        job = get_job(endpoint, job_id)
        events = feed.fresh(to_the_end=job.status in ENDED)
        yield from events
        if job.status in ENDED:
            return job
        wait_s = poll_s if events else min(wait_s * _QUIET_GROWTH, poll_s * _LONGEST_QUIET_POLLS)
        if endpoint.stop.wait(wait_s):
            raise InterruptedAbsorption(
                f"stopped watching; the job {job_id} goes on at {endpoint.url}, and the same command follows it again"
            )


def _cancelled(endpoint: Endpoint, job_id: str, directory: Path, key: str) -> InterruptedAbsorption:
    """Cancel the job; returns what is to be raised. A fresh endpoint, since the stopped one waits for nothing."""
    with Endpoint(endpoint.url, endpoint.retry_policy) as patient:
        job = cancel_job(patient, job_id)
    if job.status == SUCCEEDED:
        return InterruptedAbsorption(
            f"the job {job_id} had succeeded before it was cancelled; the same command uses it"
        )
    save_state(directory, JobState(key))
    return InterruptedAbsorption(f"the job {job_id} is cancelled; what it had trained by then may be billed")


def _unsuccessful(job: ProviderJob) -> RemoteError:
    if job.status == CANCELLED:
        return RemoteError(f"the job {job.id} was cancelled at the endpoint; the same command starts a new one")
    why = job.problem or "it gave no reason"
    return RemoteError(f"the job {job.id} failed ({why}); mend that, then the same command starts a new one")


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Nobody else follows the same fine-tuning meanwhile: two who both found no job would create two."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / "lock", timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        raise RemoteError("another process is at the same fine-tuning; wait until it is done") from None
    except OSError as error:
        raise RemoteError(f"cannot keep the state in {directory} ({error.strerror}); choose another library") from error
    try:
        yield
    finally:
        lock.release()
