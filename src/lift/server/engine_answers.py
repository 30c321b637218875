"""Questions to the engine on behalf of a caller who may leave at any time, and answers in the shapes they go out in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from lift.answering.answer import Evidence
from lift.server.callers import while_there
from lift.server.failures import Refusal
from lift.server.prometheus_metrics import Metrics
from lift.serving.engine import Engine
from lift.serving.request import Completion, Request, TextDelta
from lift.serving.request_handle import RequestHandle

_KEEP_ALIVE_S = 15.0


@dataclass(frozen=True)
class EngineAnswer:
    """One whole answer, with the pieces that it came in."""

    completion: Completion
    deltas: tuple[TextDelta, ...]


@dataclass(frozen=True)
class AnswerDelta:
    """Something that came of the answer `index`: a piece of it, or, at its end, the whole."""

    index: int
    delta: TextDelta | None
    completion: Completion | None


async def submit(engine: Engine, request: Request, count: int = 1) -> list[RequestHandle]:
    """Ask `count` times, each time with another seed; raises what Engine.submit raises, and then nothing is asked."""
    handles: list[RequestHandle] = []
    try:
        for number in range(count):
            handles.append(await run_in_threadpool(engine.submit, _numbered(request, number)))
    except BaseException:
        cancel(handles)
        raise
    return handles


def cancel(handles: Sequence[RequestHandle]) -> None:
    """Give up on answers; those that are whole stay."""
    for handle in handles:
        handle.cancel()


async def whole(http: HttpRequest, handles: Sequence[RequestHandle], metrics: Metrics) -> list[EngineAnswer]:
    """Wait for all answers; raises CallerLeft, with the answers cancelled, when the caller goes."""
    begun = time.monotonic()
    try:
        found = await while_there(http, _gather(handles))
    finally:
        cancel(handles)
    for answered in found:
        check_whole(answered.completion)
        metrics.answered(answered.completion.prompt_tokens, answered.completion.completion_tokens)
    metrics.first_text(time.monotonic() - begun)
    return found


async def parts(handles: Sequence[RequestHandle], metrics: Metrics) -> AsyncIterator[AnswerDelta | None]:
    """All answers as they come, mixed; None where nothing came for a while and the line should be kept open."""
    begun = time.monotonic()
    queue: asyncio.Queue[AnswerDelta | BaseException] = asyncio.Queue()

    async def follow(index: int, handle: RequestHandle) -> None:
        try:
            async for delta in handle.adeltas():
                queue.put_nowait(AnswerDelta(index, delta, None))
            queue.put_nowait(AnswerDelta(index, None, handle.result()))
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.ensure_future(follow(index, handle)) for index, handle in enumerate(handles)]
    unfinished, started = len(handles), False
    try:
        while unfinished:
            try:
                part = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
            except TimeoutError:
                yield None
                continue
            if isinstance(part, BaseException):
                raise part
            if not started:
                metrics.first_text(time.monotonic() - begun)
                started = True
            if part.completion is not None:
                check_whole(part.completion)
                metrics.answered(part.completion.prompt_tokens, part.completion.completion_tokens)
                unfinished -= 1
            yield part
    finally:
        cancel(handles)
        for task in tasks:
            task.cancel()


def check_whole(completion: Completion) -> None:
    """Raise Refusal for an answer that ended before it began, for want of time or because the server stops."""
    if completion.finish_reason == "cancelled":
        raise Refusal(503, "the server is being stopped; ask again in a moment", code="stopping", retry_after_s=5.0)
    if completion.finish_reason == "timeout" and not completion.text:
        raise Refusal(504, "there was no answer within the time limit; ask again, or for fewer tokens", code="timeout")


def finish_reason(completion: Completion) -> str:
    """OpenAI's word: what a time limit cut is as long as it could be."""
    return "stop" if completion.finish_reason == "stop" else "length"


def usage(completions: Sequence[Completion]) -> dict[str, Any]:
    """Tokens read, once for all answers to the same prompt, and tokens written."""
    read = max((completion.prompt_tokens for completion in completions), default=0)
    written = sum(completion.completion_tokens for completion in completions)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def lift_fields(completion: Completion) -> dict[str, Any]:
    """Lift's own fields of an answer: where the answer stands in the document, and what was left out."""
    return {
        "asked_as": completion.asked_as,
        "context": completion.context,
        "evidence": [evidence_fields(evidence) for evidence in completion.evidence],
        "supported": completion.supported,
        "truncated": completion.truncated,
        "dropped_turns": completion.dropped_turns,
        "timed_out": completion.finish_reason == "timeout",
        "seconds_waiting": round(completion.seconds_waiting, 4),
        "seconds": round(completion.seconds, 4),
    }


def evidence_fields(evidence: Evidence) -> dict[str, Any]:
    """A sentence of the document, with page, heading and file where those are known."""
    place = evidence.place
    where = None
    if place is not None and str(place):
        where = {"page": place.page, "heading": place.heading, "file": place.file}
    return {"relation": evidence.relation, "sentence": evidence.sentence, "text": evidence.text, "place": where}


async def _gather(handles: Sequence[RequestHandle]) -> list[EngineAnswer]:
    return list(await asyncio.gather(*map(_follow, handles)))


async def _follow(handle: RequestHandle) -> EngineAnswer:
    deltas = [delta async for delta in handle.adeltas()]
    return EngineAnswer(handle.result(), tuple(deltas))


def _numbered(request: Request, number: int) -> Request:
    sampling = request.sampling
    if number == 0 or sampling.seed is None:
        return request
    seed = (sampling.seed + number) % 2**63
    return replace(request, sampling=replace(sampling, seed=seed))
