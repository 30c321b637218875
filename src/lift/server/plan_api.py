"""POST /api/plan: what absorbing an uploaded document would take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from lift.absorbing.plan import Plan
from lift.jobs.job import Job
from lift.jobs.store import JobStore
from lift.recipes.recipe import recipe_names
from lift.server.access import Parts, needs, owner_of, parts_of
from lift.server.bodies import Body
from lift.server.callers import while_there
from lift.server.failures import Refusal, documented

router = APIRouter(tags=["plan"], responses=documented(400, 401, 403, 404, 413, 429, 504))
_logger = logging.getLogger("lift.server")
_MOST_WAITING = 4
_FIRST_GUESS_S = 10.0  # how long a plan takes, before any was made
_PLAN_S = 600.0  # of one plan, at most
# A process that has made a plan is kept so long for the next one, with the model in its memory.
_KEPT_S = 120.0
_LATEST_JOBS = 1000

Timing = Literal["timed", "earlier", "running job", "short trial"]


class PlanBody(Body):
    """Which uploaded file, under which title, by which recipe, within which time."""

    file_id: str = Field(min_length=1, max_length=100)
    title: str | None = Field(None, max_length=500)
    recipe: str = "default"
    budget_s: float | None = Field(None, gt=0, le=1e8)


@dataclass(frozen=True)
class PlanLine(Plan):
    """As `lift plan --json`: sizes in tokens and bytes, times in seconds, and after how many questions it has paid.

    `timing`: where the speed is from. "timed": steps were timed for this plan. Else the plan is an estimate, since a
    document is being absorbed: at the speed of an "earlier" plan by that recipe, of the "running job", or, where
    neither is known yet, of a "short trial" that reads a piece of the text. `text` is the beginning of the text as it
    was read, of `text_chars` characters in all.
    """

    timing: Timing
    text: str
    text_chars: int


class Planner:
    """Makes one plan at a time, in a process that is kept for a while. `speeds`: what plans have timed, by recipe."""

    def __init__(self, kept_s: float = _KEPT_S) -> None:
        self.speeds: dict[str, dict[str, float | None]] = {}
        self._turn = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._waiting = 0
        self._usual_s = _FIRST_GUESS_S
        self._kept_s = kept_s
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start the process where there is none, and keep it for a while; in a few seconds it is ready for an order."""
        if self._waiting == 0:
            self._keep()
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "lift.server.plan_process",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )

    async def plan(self, order: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer of plan_process; raises Refusal where too many wait, or it takes longer than `limit_s`."""
        if self._waiting >= _MOST_WAITING:
            message = "other plans are being made; ask again in a moment"
            raise Refusal(429, message, code="busy", retry_after_s=self._usual_s)
        self._waiting += 1
        try:
            async with asyncio.timeout(limit_s), self._turn:
                begun = time.monotonic()
                said = await self._exchange(order)
                self._usual_s = time.monotonic() - begun
                return said
        except TimeoutError:
            raise Refusal(
                504, f"the plan was not made within {limit_s:.0f} s; give a shorter text", code="timeout"
            ) from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process."""
        if self._ending is not None:
            self._ending.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _exchange(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order and its answer; a wait that is given up, and a process that fails, end the process."""
        if self._ending is not None:
            self._ending.cancel()
        said: dict[str, Any] | None = None
        try:
            await self.start()
            process = self._process
            assert process is not None and process.stdin is not None and process.stdout is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(order).encode("utf-8") + b"\n")
                await process.stdin.drain()
            written = await process.stdout.readline()
            if not written.endswith(b"\n"):
                _logger.error("plan failed", extra={"fields": {"exit_status": await process.wait()}})
                raise Refusal(500, "the plan could not be made; save the document in another format", code="failed")
            said = json.loads(written)
        finally:
            if said is None:
                await self.close()
        self._keep()
        assert said is not None
        return said

    def _keep(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(self._kept_s, self._let_go)

    def _let_go(self) -> None:
        """Let the process end by itself, at the end of its orders."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()


@router.post("/api/plan", dependencies=[needs("absorb")])
async def make_plan(request: Request, body: PlanBody) -> PlanLine:
    """Time a few training steps on this machine, or estimate while a document is absorbed; nothing is kept."""
    parts = parts_of(request)
    if body.recipe not in recipe_names():
        raise Refusal(400, f"expected a recipe of {', '.join(recipe_names())}", code="invalid_value", param="recipe")
    order = await run_in_threadpool(_order, parts, body, owner_of(request))
    planner: Planner = request.app.state.planner
    await planner.start()
    known, timing = await run_in_threadpool(_known_speed, planner.speeds, parts.store, body.recipe)
    said = await while_there(request, planner.plan({**order, "known": known}, _PLAN_S))
    if "error" in said:
        raise Refusal(said["status"], said["error"], code="invalid_document" if said["status"] == 400 else "failed")
    made = said["plan"]
    speed = made.pop("speed")
    if timing == "timed":
        planner.speeds[body.recipe] = speed
    return PlanLine(**made, timing=timing)


def _order(parts: Parts, body: PlanBody, owner: str | None) -> dict[str, Any]:
    file = parts.store.file(body.file_id, owner)
    return {
        "path": str(parts.store.file_path(file.id)),
        "name": file.name,
        "title": body.title,
        "model": parts.settings.model,
        "recipe": body.recipe,
        "budget_s": body.budget_s,
    }


def _known_speed(
    speeds: Mapping[str, dict[str, float | None]], store: JobStore, recipe: str
) -> tuple[dict[str, float | None] | None, Timing]:
    """The speed to estimate at while a document is absorbed, and where it is from; None where steps are to be timed."""
    jobs = [job for job in store.jobs(limit=_LATEST_JOBS) if not job.ended]
    if not jobs:
        return None, "timed"
    if recipe in speeds:
        return speeds[recipe], "earlier"
    # how long a question takes depends on no recipe
    ask_s = next((speed["ask_s"] for speed in speeds.values() if speed.get("ask_s")), None)
    tokens_per_s = next((found for job in jobs if (found := _speed_of(store, job))), None)
    timing: Timing = "running job" if tokens_per_s else "short trial"
    return {"tokens_per_s": tokens_per_s, "ask_s": ask_s}, timing


def _speed_of(store: JobStore, job: Job) -> float | None:
    """Tokens a second, as a running job has planned with."""
    if job.status != "running":
        return None
    planned = [event.data.get("tokens_per_s") for event in store.events(job.id) if event.kind == "planned"]
    return float(planned[-1]) if planned and planned[-1] else None
