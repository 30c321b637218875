"""/v1/fine_tuning/jobs: absorbing a document, as OpenAI's clients ask for a fine-tuning."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from lift.jobs.job import Job, JobEvent, Status
from lift.server.access import Parts, check_scope, key_name, needs, owner_of, parts_of
from lift.server.bodies import Body
from lift.server.failures import Refusal, documented
from lift.server.model_names import base_name, unknown_model

router = APIRouter(tags=["fine-tuning"], responses=documented(400, 401, 403, 404, 409, 413, 429))
JobId = Annotated[str, Path(description="The id that creating the job returned.")]
_LARGEST_SEED = 2**31 - 1


class Hyperparameters(Body):
    """Epochs alone can be set; Lift chooses the rest by the recipe."""

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Literal["auto"] = "auto"
    learning_rate_multiplier: Literal["auto"] = "auto"


class Supervised(Body):
    """How a supervised fine-tuning goes."""

    hyperparameters: Hyperparameters | None = None


class FineTuningMethod(Body):
    """Only supervised fine-tuning is what absorbing a document is like."""

    type: Literal["supervised"]
    supervised: Supervised | None = None


class JobBody(Body):
    """An order to absorb. `suffix`: the memory's name. `metadata`: title, recipe, budget_s, priority, as texts."""

    model: str = Field(min_length=1, description="The base model's name.")
    training_file: str = Field(min_length=1, description="The id of an uploaded document.")
    suffix: str | None = Field(None, min_length=1, max_length=100)
    hyperparameters: Hyperparameters | None = None
    method: FineTuningMethod | None = None
    seed: int | None = Field(None, ge=0, le=_LARGEST_SEED)
    metadata: dict[str, str] | None = Field(None, max_length=16)
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    validation_file: None = None


class FineTuningJobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningJob(BaseModel):
    """A job as OpenAI tells it; `fine_tuned_model` is the memory's name."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    fine_tuned_model: str | None
    organization_id: str = "lift"
    result_files: list[str] = []
    status: Status
    training_file: str
    validation_file: str | None = None
    trained_tokens: int | None
    estimated_finish: int | None
    error: FineTuningJobError | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    integrations: list[Any] = []
    user_provided_suffix: str | None
    metadata: dict[str, str]


class JobList(BaseModel):
    """A page of the jobs."""

    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class Event(BaseModel):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class EventList(BaseModel):
    """A page of a job's events, the newest first."""

    object: Literal["list"] = "list"
    data: list[Event]
    has_more: bool


@router.post("/v1/fine_tuning/jobs", dependencies=[needs("absorb")])
def create_job(request: Request, body: JobBody) -> FineTuningJob:
    """Put the absorption of a document into the queue; a priority other than 0 takes the scope admin."""
    parts = parts_of(request)
    if body.model != base_name(parts.engine.base):
        raise unknown_model(body.model)
    metadata = body.metadata or {}
    priority = int(_number(metadata, "priority") or 0)
    if priority:  # who may not reorder the queue may not push in either
        check_scope(request, "admin")
    file = parts.store.file(body.training_file, owner_of(request))
    job = parts.store.create(
        file.id,
        title=metadata.get("title"),
        name=body.suffix,
        recipe=metadata.get("recipe", "default"),
        overrides=_overrides(body),
        budget_s=_number(metadata, "budget_s"),
        priority=priority,
        owner=key_name(request),
    )
    return _object(parts, job)


@router.get("/v1/fine_tuning/jobs", dependencies=[needs("read")])
def list_jobs(
    request: Request,
    after: Annotated[str | None, Query(description="The id that the last page ended with.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> JobList:
    """The caller's jobs, the newest first; an admin sees all."""
    parts = parts_of(request)
    found = parts.store.jobs(limit=limit + 1, after=after, owner=owner_of(request))
    return JobList(data=[_object(parts, job) for job in found[:limit]], has_more=len(found) > limit)


@router.get("/v1/fine_tuning/jobs/{job_id}", dependencies=[needs("read")])
def get_job(request: Request, job_id: JobId) -> FineTuningJob:
    """One job as it is now."""
    parts = parts_of(request)
    return _object(parts, parts.store.job(job_id, owner_of(request)))


@router.get("/v1/fine_tuning/jobs/{job_id}/events", dependencies=[needs("read")])
def list_events(
    request: Request,
    job_id: JobId,
    after: Annotated[str | None, Query(description="The id that the last page ended with.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> EventList:
    """The events of a job, the newest first."""
    store = parts_of(request).store
    events = store.events(store.job(job_id, owner_of(request)).id)[::-1]
    found = [_event(each) for each in events]
    if after is not None:
        ids = [each.id for each in found]
        if after not in ids:
            raise Refusal(404, f"there is no event {after[:100]!r} to go on after", code="not_found", param="after")
        found = found[ids.index(after) + 1 :]
    return EventList(data=found[:limit], has_more=len(found) > limit)


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel", dependencies=[needs("absorb")])
def cancel_job(request: Request, job_id: JobId) -> FineTuningJob:
    """End a job; what was trained is kept for another try."""
    parts = parts_of(request)
    return _object(parts, parts.store.cancel(parts.store.job(job_id, owner_of(request)).id))


def _overrides(body: JobBody) -> list[str]:
    supervised = body.method.supervised if body.method is not None else None
    given = (supervised.hyperparameters if supervised is not None else None) or body.hyperparameters
    found = []
    if given is not None and given.n_epochs != "auto":
        found.append(f"training.epochs={given.n_epochs}")
    if body.seed is not None:
        found.append(f"training.seed={body.seed}")
    return found


def _number(metadata: dict[str, str], key: str) -> float | None:
    text = metadata.get(key)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Refusal(
            400, f"expected metadata.{key} to be a number, got {text[:100]!r}", code="invalid_value", param="metadata"
        )
    return number


def _object(parts: Parts, job: Job) -> FineTuningJob:
    told = {"title": job.title, "recipe": job.recipe, "budget_s": job.budget_s, "priority": job.priority}
    settings = dict(override.split("=", 1) for override in job.overrides)
    epochs = settings.get("training.epochs")
    hyperparameters = {
        "n_epochs": int(epochs) if epochs else "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    running = job.status == "running" and job.eta_s is not None and job.started_at is not None
    return FineTuningJob(
        id=job.id,
        model=base_name(parts.engine.base),
        created_at=int(job.created_at),
        started_at=_whole(job.started_at),
        finished_at=_whole(job.finished_at),
        fine_tuned_model=job.memory,
        status=job.status,
        training_file=job.file_id,
        trained_tokens=job.trained_tokens,
        estimated_finish=_whole(time.time() + (job.eta_s or 0.0)) if running else None,
        error=FineTuningJobError(code="absorption_failed", message=job.error, param=None) if job.error else None,
        hyperparameters=hyperparameters,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        seed=int(settings.get("training.seed", "0")),
        user_provided_suffix=job.name,
        metadata={key: _text(value) for key, value in told.items() if value is not None},
    )


def _event(event: JobEvent) -> Event:
    data = dict(event.data)
    metrics = event.kind == "trained"
    if metrics:
        # the name under which OpenAI's tools look for it
        data["train_loss"] = data.get("loss")
    return Event(
        id=f"ftevent-{event.number}",
        created_at=int(event.at),
        level=event.level,
        message=event.message,
        type="metrics" if metrics else "message",
        data={**data, "kind": event.kind},
    )


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
