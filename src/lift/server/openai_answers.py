"""POST /v1/chat/completions and /v1/completions: answers in OpenAI's shapes, whole or streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from lift.errors import LiftError
from lift.server import engine_answers as answers
from lift.server.access import needs, parts_of
from lift.server.callers import while_there
from lift.server.event_stream import DONE, EVENT_SCHEMA, KEEP_ALIVE, EventStream, event
from lift.server.failures import Refusal, as_refusal, documented, error_body, fault_body, log_fault
from lift.server.model_names import memory_asked
from lift.server.openai_shapes import AskBody, ChatBody, CompletionBody
from lift.serving.request import Completion, TextDelta, TokenInfo
from lift.serving.request import Request as Asked

router = APIRouter(
    tags=["answers"], dependencies=[needs("ask")], responses=documented(400, 401, 403, 404, 409, 413, 429, 503, 504)
)
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, or a stream of its pieces that ends with [DONE].",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": EVENT_SCHEMA},
        },
    }
}


class _Shape(Protocol):
    """How one of the two routes tells an answer."""

    name: str
    whole: str
    piece: str

    def choice(self, index: int, answered: answers.EngineAnswer) -> dict[str, Any]:
        """A whole answer."""

    def first(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a streamed answer."""

    def delta(self, index: int, piece: TextDelta, offset: int) -> dict[str, Any]:
        """A piece of an answer, `offset` characters behind its beginning."""

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        """The end of a streamed answer."""


class _Chat:
    name, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, answered: answers.EngineAnswer) -> dict[str, Any]:
        tokens = [token for piece in answered.deltas for token in piece.tokens]
        return {
            "index": index,
            "message": {"role": "assistant", "content": answered.completion.text, "refusal": None},
            "logprobs": self._logprobs(tokens),
            "finish_reason": answers.finish_reason(answered.completion),
        }

    def first(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, piece: TextDelta, offset: int) -> dict[str, Any]:
        return self._chunk(index, {"content": piece.text}, self._logprobs(piece.tokens))

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        return {**self._chunk(index, {}), "finish_reason": answers.finish_reason(completion)}

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if not tokens:
            return None
        content = [
            {
                **_token(token.text, token.logprob),
                "top_logprobs": [_token(text, logprob) for text, logprob in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class _Text:
    name = "cmpl"
    whole = piece = "text_completion"

    def choice(self, index: int, answered: answers.EngineAnswer) -> dict[str, Any]:
        tokens = [token for piece in answered.deltas for token in piece.tokens]
        return {
            "index": index,
            "text": answered.completion.text,
            "logprobs": self._logprobs(tokens, 0),
            "finish_reason": answers.finish_reason(answered.completion),
        }

    def first(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, index: int, piece: TextDelta, offset: int) -> dict[str, Any]:
        logprobs = self._logprobs(piece.tokens, offset)
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": answers.finish_reason(completion)}

    def _logprobs(self, tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any] | None:
        if not tokens:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
            "text_offset": offsets,
        }


@router.post("/v1/chat/completions", responses=_STREAMED)
async def chat(http: Request, body: ChatBody) -> Response:
    """Answer the last message, with what came before in view."""
    return await _answer(http, body, body.request, _Chat())


@router.post("/v1/completions", responses=_STREAMED)
async def complete(http: Request, body: CompletionBody) -> Response:
    """Continue a text as it stands, without chat template and context."""
    return await _answer(http, body, body.request, _Text())


async def _answer(http: Request, body: AskBody, asked: Callable[[str | None, float], Asked], shape: _Shape) -> Response:
    door = parts_of(http)
    memory = await memory_asked(door, body.model)
    request = asked(memory, door.settings.answer_s)
    window = door.engine.base.window_tokens
    if request.sampling.max_tokens >= window:
        message = f"expected max_tokens below the model's window of {window} tokens, got {request.sampling.max_tokens}"
        raise Refusal(400, f"{message}; ask for fewer", code="invalid_value", param="max_tokens")
    handles = await answers.submit(door.engine, request, body.n or 1)
    head = {"id": f"{shape.name}-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        # a failure before the first text still has a status of its own
        coming = answers.parts(handles, door.metrics)
        first = await while_there(http, anext(coming))
        chunks = _chunks(http, body, shape, {**head, "object": shape.piece}, _chained(first, coming), len(handles))
        return EventStream(chunks, on_end=lambda: answers.cancel(handles))
    found = await answers.whole(http, handles, door.metrics)
    completions = [answered.completion for answered in found]
    return JSONResponse(
        {
            **head,
            "object": shape.whole,
            "choices": [
                _with_lift(shape.choice(index, each), each.completion, len(found)) for index, each in enumerate(found)
            ],
            "usage": answers.usage(completions),
            "system_fingerprint": None,
            "lift": answers.lift_fields(completions[0]),
        }
    )


async def _chunks(
    http: Request,
    body: AskBody,
    shape: _Shape,
    head: dict[str, Any],
    coming: AsyncIterator[answers.AnswerDelta | None],
    count: int,
) -> AsyncIterator[str]:
    usage = {"usage": None} if body.include_usage else {}
    completions: dict[int, Completion] = {}
    offsets = [0] * count
    last: dict[str, Any] = {}
    try:
        for index in range(count):
            first = shape.first(index)
            if first is not None:
                yield event({**head, "choices": [first], **usage})
        async for part in coming:
            if part is None:
                yield KEEP_ALIVE
            elif part.delta is not None:
                yield event({**head, "choices": [shape.delta(part.index, part.delta, offsets[part.index])], **usage})
                offsets[part.index] += len(part.delta.text)
            elif part.completion is not None:
                completions[part.index] = part.completion
                end = _with_lift(shape.end(part.index, part.completion), part.completion, count)
                if len(completions) < count:
                    yield event({**head, "choices": [end], **usage})
                else:
                    last = end
    except LiftError as error:
        # the status went out with the first byte, so the failure is told in the stream
        failure = as_refusal(error)
        yield event(error_body(failure.status, str(failure), failure.code, failure.param))
        return
    except Exception as error:
        log_fault(http.state.request_id, error)
        yield event(fault_body(http.state.request_id))
        return
    lift = {"lift": answers.lift_fields(completions[0])}
    if not body.include_usage:
        yield event({**head, "choices": [last], **lift})
    else:
        yield event({**head, "choices": [last], **usage})
        yield event({**head, "choices": [], "usage": answers.usage(list(completions.values())), **lift})
    yield DONE


async def _chained(
    first: answers.AnswerDelta | None, coming: AsyncIterator[answers.AnswerDelta | None]
) -> AsyncIterator[answers.AnswerDelta | None]:
    yield first
    async for part in coming:
        yield part


def _with_lift(choice: dict[str, Any], completion: Completion, choices: int) -> dict[str, Any]:
    """Of several answers each has evidence of its own."""
    return {**choice, "lift": answers.lift_fields(completion)} if choices > 1 else choice


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
