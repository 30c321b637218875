"""/healthz, /readyz and /metrics: for whatever watches over the server."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from lift.errors import EngineError
from lift.server.access import Parts, needs, parts_of
from lift.server.failures import Refusal, documented

router = APIRouter(tags=["operation"], responses=documented(400, 403, 429))
_LOOK_S = 3.0  # that the library and the server that computes have to answer in
_KEPT_S = 1.0  # everybody may ask, and each answer holds so long
_METRICS: dict[int | str, dict[str, Any]] = {
    **documented(401),
    200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The engine answers questions, the library is there, and the worker takes jobs."""

    status: Literal["ready"] = "ready"


@router.get("/healthz")
async def health() -> Health:
    """Whether the process is alive."""
    return Health()


@router.get("/readyz", responses=documented(503))
async def readiness(request: Request) -> Readiness:
    """Whether questions are answered from a library that is there, and jobs are taken."""
    parts = parts_of(request)
    if parts.stopping.is_set() or not parts.engine.alive or not parts.supervisor.alive:
        message = "the server is starting or stopping; ask again in a moment"
        raise Refusal(503, message, code="not_ready", retry_after_s=1.0)
    probe: ReadinessProbe = request.app.state.probe
    await probe.check()
    return Readiness()


class ReadinessProbe:
    """Looks after what the server stands on, made while all of it is there."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._places = {place: _identity(place) for place in (parts.library.root, parts.store.directory)}
        self._checking = asyncio.Lock()
        self._looking: asyncio.Future[Refusal | None] | None = None  # one that hangs is waited for, and never doubled
        self._checked_at = float("-inf")
        self._fault: Refusal | None = None

    async def check(self) -> None:
        """Raise Refusal where the library is gone, replaced or not to be written, or nothing computes answers."""
        async with self._checking:
            if time.monotonic() - self._checked_at > _KEPT_S:
                if self._looking is None:
                    self._looking = asyncio.ensure_future(run_in_threadpool(self._look))
                await asyncio.wait({self._looking}, timeout=_LOOK_S)  # a disk across a network may never answer
                if self._looking.done():
                    self._fault, self._looking = self._looking.result(), None
                else:
                    self._fault = _lost("the library does not answer")
                self._checked_at = time.monotonic()
        if self._fault is not None:
            raise self._fault

    def _look(self) -> Refusal | None:
        for place, identity in self._places.items():
            if _identity(place) != identity:
                return _lost("the library that this server was started on is gone, or another one is in its place")
            if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
                return _lost("the library cannot be read and written")
        try:
            self._parts.engine.check_reachable(_LOOK_S - 1)
        except EngineError as error:
            return Refusal(503, str(error), code="engine", retry_after_s=5.0)
        return None


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lost(what: str) -> Refusal:
    return Refusal(503, f"{what}; its owner has to look after it", code="library_lost", retry_after_s=60.0)


@router.get("/metrics", dependencies=[needs("read")], response_class=PlainTextResponse, responses=_METRICS)
def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(parts_of(request).metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
