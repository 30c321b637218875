"""/api/jobs: absorptions under way, their events as they come, and what can be done with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from lift.errors import UnknownJobError
from lift.jobs.job import Job, Level, Status
from lift.server.access import Parts, needs, owner_of, parts_of
from lift.server.bodies import Body
from lift.server.event_stream import EVENT_SCHEMA, KEEP_ALIVE, EventStream, event
from lift.server.failures import documented

router = APIRouter(tags=["jobs"], responses=documented(400, 401, 403, 404, 409, 413, 429))
JobId = Annotated[str, Path(description="A job's id, as the queue gave it.")]
_LOOK_EVERY_S = 0.25
_KEEP_ALIVE_S = 15.0
_PAGE = 500
_LARGEST_NUMBER = 2**63 - 1
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events as they come: id is the event's number, data a JobEvent as JSON.",
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
    }
}


class JobLine(BaseModel):
    """An absorption; times are seconds since 1970, `title` the file's name where none was given."""

    id: str
    file_id: str
    title: str
    name: str | None
    recipe: str
    overrides: list[str]
    budget_s: float | None
    priority: int
    status: Status
    memory: str | None
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    trained_tokens: int | None
    attempt: int
    progress: float
    eta_s: float | None
    cancelling: bool


class JobLines(BaseModel):
    """A page of the jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobLine]
    has_more: bool


class EventLine(BaseModel):
    """The data of an event of the stream."""

    number: int
    job: str
    at: float
    level: Level
    kind: str
    message: str
    data: dict[str, Any]


class Priority(Body):
    """Where a waiting job stands: the higher, the sooner."""

    priority: int = Field(ge=-1_000_000, le=1_000_000)


@router.get("/api/jobs", dependencies=[needs("read")])
def list_jobs(
    request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> JobLines:
    """The caller's jobs, the newest first; an admin sees all."""
    store = parts_of(request).store
    found = store.jobs(limit=limit + 1, after=after, owner=owner_of(request))
    return JobLines(data=[_line(parts_of(request), job) for job in found[:limit]], has_more=len(found) > limit)


@router.get("/api/jobs/{job_id}", dependencies=[needs("read")])
def show_job(request: Request, job_id: JobId) -> JobLine:
    """One job as it is now."""
    return _line(parts_of(request), _own(request, job_id))


@router.post("/api/jobs/{job_id}/cancel", dependencies=[needs("absorb")])
def cancel_job(request: Request, job_id: JobId) -> JobLine:
    """End a job; what was trained is kept for another try."""
    return _line(parts_of(request), parts_of(request).store.cancel(_own(request, job_id).id))


@router.post("/api/jobs/{job_id}/retry", dependencies=[needs("absorb")])
def retry_job(request: Request, job_id: JobId) -> JobLine:
    """Put a job that failed or was cancelled back into the queue."""
    return _line(parts_of(request), parts_of(request).store.retry(_own(request, job_id).id))


@router.patch("/api/jobs/{job_id}", dependencies=[needs("admin")])
def prioritise_job(request: Request, job_id: JobId, body: Priority) -> JobLine:
    """Let a waiting job come sooner or later than others."""
    return _line(parts_of(request), parts_of(request).store.prioritise(job_id, body.priority))


@router.get(
    "/api/jobs/{job_id}/events",
    dependencies=[needs("read")],
    status_code=200,
    response_class=EventStream,
    responses=_EVENTS,
)
async def follow_job(
    request: Request,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(description="The number of the last event that was read.")] = None,
) -> EventStream:
    """Everything that happens to a job, from its beginning or from where the reader was, until it ends."""
    parts = parts_of(request)
    await run_in_threadpool(_own, request, job_id)
    return EventStream(_events(parts, job_id, _number(last_event_id)))


async def _events(parts: Parts, job_id: str, last: int) -> AsyncIterator[str]:
    quiet_since = time.monotonic()
    while not parts.stopping.is_set():
        # asked before the events are: one that comes in between is then read before the end is believed
        job = await run_in_threadpool(parts.store.job, job_id)
        found = await run_in_threadpool(parts.store.events, job_id, last, _PAGE)
        for each in found:
            last = each.number
            yield event(EventLine(**{**asdict(each), "data": dict(each.data)}).model_dump(), last)
        if found:
            quiet_since = time.monotonic()
            continue
        if job.ended:
            return
        if time.monotonic() - quiet_since > _KEEP_ALIVE_S:
            quiet_since = time.monotonic()
            yield KEEP_ALIVE
        await asyncio.sleep(_LOOK_EVERY_S)


def _own(request: Request, job_id: str) -> Job:
    """The job, where it is the caller's; raises UnknownJobError."""
    return parts_of(request).store.job(job_id, owner_of(request))


def _number(last_event_id: str | None) -> int:
    """Where to go on; whatever is no number of ours means from the beginning."""
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdigit()):
        return 0
    return min(int(last_event_id[:20]), _LARGEST_NUMBER)


def _line(parts: Parts, job: Job) -> JobLine:
    title = job.title
    if title is None:
        try:
            title = parts.store.file(job.file_id).name
        except UnknownJobError:
            # the file of a job that has ended may be deleted
            title = job.name or job.file_id
    told = {name: value for name, value in asdict(job).items() if name != "owner"}
    return JobLine.model_validate({**told, "overrides": list(job.overrides), "title": title})
