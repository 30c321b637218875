"""Files, jobs and events as an endpoint of OpenAI's shape tells of them: one function a request, replies checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lift.endpoints.openai_endpoint import Endpoint, EndpointRefusal, list_of, text_of

KEY_FIELD = "lift_key"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELLED})
_PAGE = 100


@dataclass(frozen=True)
class ProviderFile:
    """An uploaded file; `complaint` says why the endpoint cannot use it, and is empty where it can."""

    id: str
    complaint: str = ""


@dataclass(frozen=True)
class ProviderJob:
    """A fine-tuning job. `model` is the fine-tuned model's name once there is one; `problem` why the job failed."""

    id: str
    status: str
    file_id: str
    key: str
    suffix: str
    model: str | None
    problem: str
    trained_tokens: int | None


@dataclass(frozen=True)
class ProviderJobEvent:
    """One line of a job's log; `metrics` holds numbers such as step and train_loss, and is empty for a message."""

    id: str
    created_at: int
    level: str
    message: str
    metrics: Mapping[str, float] = field(default_factory=dict)


def upload_file(endpoint: Endpoint, content: bytes, name: str) -> ProviderFile:
    """Upload a training file. A repeated upload may leave a file unused, which costs nothing."""
    upload = partial(endpoint.client.files.create, file=(name, content, "application/jsonl"), purpose="fine-tune")
    return endpoint.call("upload the training file", lambda: _read_file(upload()))


def find_file(endpoint: Endpoint, file_id: str) -> ProviderFile | None:
    """The uploaded file of that id, or None where it is gone."""
    try:
        return endpoint.call("look at the training file", lambda: _read_file(endpoint.client.files.retrieve(file_id)))
    except EndpointRefusal as refusal:
        if refusal.status == 404:
            return None
        raise


def create_job_once(endpoint: Endpoint, model: str, file_id: str, key: str, seed: int, settings: Any) -> ProviderJob:
    """Ask for a job, once: where the reply is lost there may be one, and a second would be paid as well.

    `settings` are the hyper-parameters by their names at the endpoint. Raises TransientFault, Refusal.
    """
    return endpoint.once(
        "create the fine-tuning job",
        lambda: _read_job(
            endpoint.client.fine_tuning.jobs.create(
                model=model,
                training_file=file_id,
                seed=seed,
                suffix=suffix_of(key),
                metadata={KEY_FIELD: key},
                method={"type": "supervised", "supervised": {"hyperparameters": settings}},
            )
        ),
    )


def find_job(endpoint: Endpoint, key: str, file_id: str | None) -> ProviderJob | None:
    """The newest job that came of `key` or trains on `file_id` and has not failed or been cancelled, or None.

    A job is known by its metadata, by the suffix of its model, or by its file: endpoints keep some of these.
    """
    after, seen = None, set[str]()
    while True:
        options: dict[str, Any] = {"after": after} if after else {}
        request = partial(endpoint.client.fine_tuning.jobs.list, limit=_PAGE, **options)
        jobs, more = endpoint.call("list the fine-tuning jobs", partial(_read_jobs_of, request))
        for job in jobs:
            if job.status not in (FAILED, CANCELLED) and _belongs(job, key, file_id):
                return job
        if not more or seen.issuperset(job.id for job in jobs):
            return None
        seen.update(job.id for job in jobs)
        after = jobs[-1].id


def get_job(endpoint: Endpoint, job_id: str) -> ProviderJob:
    """The job of that id as it stands now; raises Refusal where there is none."""
    return endpoint.call(
        "look at the fine-tuning job", lambda: _read_job(endpoint.client.fine_tuning.jobs.retrieve(job_id))
    )


def cancel_job(endpoint: Endpoint, job_id: str) -> ProviderJob:
    """Cancel a job, and return it as it then stands: one that had ended already stays as it was."""
    try:
        return endpoint.call(
            "cancel the fine-tuning job", lambda: _read_job(endpoint.client.fine_tuning.jobs.cancel(job_id))
        )
    except EndpointRefusal:
        job = get_job(endpoint, job_id)
        if job.status not in ENDED:
            raise
        return job


class EventFeed:
    """The events of a job, each once, in the order in which they happened."""

    def __init__(self, endpoint: Endpoint, job_id: str) -> None:
        self._endpoint = endpoint
        self._job_id = job_id
        self._seen: set[str] = set()

    def fresh(self, *, to_the_end: bool = False) -> list[ProviderJobEvent]:
        """Events since the last call.

        OpenAI lists the newest event first, and its `after` leads to older ones: pages are turned until one holds
        what is known. Endpoints that list the oldest first are read to the end, as all are with `to_the_end`.
        """
        found: list[ProviderJobEvent] = []
        after: str | None = None
        newest_s, newest_first = None, True
        while True:
            events, more = self._page(after)
            unseen = [event for event in events if event.id not in self._seen]
            self._seen.update(event.id for event in unseen)
            found += unseen
            newest_s = events[0].created_at if events and newest_s is None else newest_s
            newest_first = newest_first and all(event.created_at <= (newest_s or 0) for event in events)
            met_known = len(unseen) < len(events) and newest_first and not to_the_end
            if not more or not events or events[-1].id == after or met_known:
                break
            after = events[-1].id
        return sorted(found[::-1] if newest_first else found, key=lambda event: event.created_at)

    def _page(self, after: str | None) -> tuple[list[ProviderJobEvent], bool]:
        jobs = self._endpoint.client.fine_tuning.jobs
        options: dict[str, Any] = {"after": after} if after else {}
        return self._endpoint.call(
            "read the events of the fine-tuning job",
            lambda: _read_events(jobs.list_events(self._job_id, limit=_PAGE, **options)),
        )


def suffix_of(key: str) -> str:
    """The part of an absorption's key that the fine-tuned model's name carries."""
    return f"lift-{key[:12]}"


def _belongs(job: ProviderJob, key: str, file_id: str | None) -> bool:
    suffix = suffix_of(key)
    same_file = file_id is not None and job.file_id == file_id
    return same_file or job.key == key or job.suffix == suffix or suffix in (job.model or "").split(":")


def _read_file(reply: Any) -> ProviderFile:
    complaint = ""
    if getattr(reply, "status", None) == "error":
        complaint = str(getattr(reply, "status_details", None) or "without a reason").rstrip(".")
    return ProviderFile(text_of(reply, "id"), complaint)


def _read_job(reply: Any) -> ProviderJob:
    metadata, error = getattr(reply, "metadata", None), getattr(reply, "error", None)
    problem = ""
    if message := getattr(error, "message", None):
        param = getattr(error, "param", None)
        problem = str(message).rstrip(".") + (f", about {param}" if param else "")
    trained = getattr(reply, "trained_tokens", None)
    model = getattr(reply, "fine_tuned_model", None)
    return ProviderJob(
        id=text_of(reply, "id"),
        status=text_of(reply, "status"),
        file_id=str(getattr(reply, "training_file", None) or ""),
        key=str(metadata.get(KEY_FIELD, "")) if isinstance(metadata, Mapping) else "",
        suffix=str(getattr(reply, "user_provided_suffix", None) or ""),
        model=model if isinstance(model, str) and model else None,
        problem=problem,
        trained_tokens=trained if isinstance(trained, int) else None,
    )


def _read_jobs_of(request: Callable[[], Any]) -> tuple[list[ProviderJob], bool]:
    reply = request()
    return [_read_job(each) for each in list_of(reply)], bool(getattr(reply, "has_more", False))


def _read_events(reply: Any) -> tuple[list[ProviderJobEvent], bool]:
    return [_read_event(each) for each in list_of(reply)], bool(getattr(reply, "has_more", False))


def _read_event(reply: Any) -> ProviderJobEvent:
    data, created_at = getattr(reply, "data", None), getattr(reply, "created_at", None)
    metrics = {
        str(name): float(value)
        for name, value in (data.items() if isinstance(data, Mapping) else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return ProviderJobEvent(
        id=text_of(reply, "id"),
        created_at=created_at if isinstance(created_at, int) else 0,
        level=str(getattr(reply, "level", None) or "info"),
        message=str(getattr(reply, "message", None) or ""),
        metrics=metrics,
    )
