"""/healthz, /readyz and /metrics: for whatever watches over the server."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from lift.server.access import needs, parts_of
from lift.server.failures import Refusal, documented

router = APIRouter(tags=["operation"], responses=documented(400, 403, 429))
_METRICS: dict[int | str, dict[str, Any]] = {
    **documented(401),
    200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The engine answers questions, and the worker takes jobs."""

    status: Literal["ready"] = "ready"


@router.get("/healthz")
async def health() -> Health:
    """Whether the process is alive."""
    return Health()


@router.get("/readyz", responses=documented(503))
async def readiness(request: Request) -> Readiness:
    """Whether questions are answered and jobs are taken."""
    parts = parts_of(request)
    if parts.stopping.is_set() or not parts.engine.alive or not parts.supervisor.alive:
        message = "the server is starting or stopping; ask again in a moment"
        raise Refusal(503, message, code="not_ready", retry_after_s=1.0)
    return Readiness()


@router.get("/metrics", dependencies=[needs("read")], response_class=PlainTextResponse, responses=_METRICS)
def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(parts_of(request).metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
