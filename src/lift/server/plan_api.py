"""POST /api/plan: what absorbing an uploaded document would take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from lift.recipes.recipe import recipe_names
from lift.server.access import Parts, needs, parts_of
from lift.server.bodies import Body
from lift.server.callers import while_there
from lift.server.failures import Refusal, documented

router = APIRouter(tags=["plan"], responses=documented(400, 401, 403, 404, 413, 429, 504))
_logger = logging.getLogger("lift.server")
_MOST_WAITING = 4
_RETRY_S = 10.0


class PlanBody(Body):
    """Which uploaded file, under which title, by which recipe, within which time."""

    file_id: str = Field(min_length=1, max_length=100)
    title: str | None = Field(None, max_length=500)
    recipe: str = "default"
    budget_s: float | None = Field(None, gt=0, le=1e8)


class PlanLine(BaseModel):
    """As `lift plan --json`: sizes in tokens and bytes, times in seconds, and after how many questions it has paid."""

    title: str
    tokens: int
    sentences: int
    tasks: int
    epochs: float
    train_tokens: int
    tokens_per_s: float
    seconds: float
    peak_bytes: int
    adapter_bytes: int
    full_read_s: float | None
    ask_s: float
    break_even_questions: int | None
    requests: int
    cached_requests: int


class Planner:
    """Makes one plan at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def plan(self, order: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer of plan_process; raises Refusal where too many wait, or it takes longer than `limit_s`."""
        if self._waiting >= _MOST_WAITING:
            raise Refusal(429, "other plans are being made; ask again in a moment", code="busy", retry_after_s=_RETRY_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(limit_s), self._turn:
                return await _run(order)
        except TimeoutError:
            raise Refusal(
                504, f"the plan was not made within {limit_s:.0f} s; give a shorter text", code="timeout"
            ) from None
        finally:
            self._waiting -= 1


@router.post("/api/plan", dependencies=[needs("absorb")])
async def make_plan(request: Request, body: PlanBody) -> PlanLine:
    """Time a few training steps on this machine; nothing is kept."""
    parts = parts_of(request)
    if body.recipe not in recipe_names():
        raise Refusal(400, f"expected a recipe of {', '.join(recipe_names())}", code="invalid_value", param="recipe")
    order = await run_in_threadpool(_order, parts, body)
    planner: Planner = request.app.state.planner
    said = await while_there(request, planner.plan(order, parts.settings.plan_s))
    if "error" in said:
        raise Refusal(said["status"], said["error"], code="invalid_document" if said["status"] == 400 else "failed")
    return PlanLine.model_validate(said["plan"])


def _order(parts: Parts, body: PlanBody) -> dict[str, Any]:
    file = parts.store.file(body.file_id)
    return {
        "path": str(parts.store.file_path(file.id)),
        "name": file.name,
        "title": body.title,
        "model": parts.settings.model,
        "recipe": body.recipe,
        "budget_s": body.budget_s,
    }


async def _run(order: dict[str, Any]) -> dict[str, Any]:
    """One plan in a process of its own, which ends with the wait for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lift.server.plan_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        written, _ = await process.communicate(json.dumps(order).encode("utf-8"))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        _logger.error("plan failed", extra={"fields": {"exit_status": process.returncode}})
        raise Refusal(500, "the plan could not be made; save the document in another format", code="failed")
    said: dict[str, Any] = json.loads(written)
    return said
