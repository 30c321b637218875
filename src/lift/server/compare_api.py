"""POST /api/compare: one question answered from memory, with the whole text, and with what a search finds."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from lift.errors import UsageError
from lift.server import engine_answers as answers
from lift.server.access import Parts, needs, parts_of
from lift.server.bodies import Body
from lift.server.callers import while_there
from lift.server.failures import ErrorDetail, documented, error_body
from lift.server.model_names import memory_asked, unknown_model
from lift.serving.request import Message
from lift.serving.request import Request as Asked

router = APIRouter(tags=["answers"], responses=documented(400, 401, 403, 404, 409, 413, 429, 503, 504))
# The name of each way, and what of the text the memory reads that way.
_WAYS = {"memory": "none", "full": "full", "evidence": "evidence"}


class CompareBody(Body):
    """Which memory is asked what."""

    model: str = Field(min_length=1, description="A memory's name.")
    question: str = Field(min_length=1, max_length=100_000)


class EvidencePlace(BaseModel):
    """Where in the original a sentence stands."""

    page: int | None
    heading: str | None
    file: str | None


class EvidenceLine(BaseModel):
    """A sentence that supports an answer, in which its words are found, or which is related to the question."""

    relation: Literal["supports", "found", "related"]
    sentence: int
    text: str
    place: EvidencePlace | None


class ComparedAnswer(BaseModel):
    """One way's answer."""

    text: str
    context: str
    evidence: list[EvidenceLine]
    supported: bool | None
    truncated: bool
    prompt_tokens: int
    seconds: float


class ComparedFailure(BaseModel):
    """Why there is no answer this way, such as a text that does not fit the model's window."""

    error: ErrorDetail


class ContextComparison(BaseModel):
    """The three answers side by side."""

    object: Literal["comparison"] = "comparison"
    memory: ComparedAnswer | ComparedFailure
    full: ComparedAnswer | ComparedFailure
    evidence: ComparedAnswer | ComparedFailure


@router.post("/api/compare", dependencies=[needs("ask")])
async def compare(request: Request, body: CompareBody) -> ContextComparison:
    """Ask a memory one question in three ways, all with the same model."""
    parts = parts_of(request)
    memory = await memory_asked(parts, body.model)
    if memory is None:
        raise unknown_model(body.model)
    found = await while_there(request, _gather(parts, memory, body.question))
    return ContextComparison(**dict(zip(_WAYS, found, strict=True)))


async def _gather(parts: Parts, memory: str, question: str) -> list[ComparedAnswer | ComparedFailure]:
    return list(await asyncio.gather(*(_ask(parts, memory, question, context) for context in _WAYS.values())))


async def _ask(parts: Parts, memory: str, question: str, context: str) -> ComparedAnswer | ComparedFailure:
    asked = Asked(
        memory=memory, messages=(Message("user", question),), context=context, deadline_s=parts.settings.answer_s
    )
    if not question.strip():
        raise UsageError("expected a question, got an empty one")
    try:
        handles = await answers.submit(parts.engine, asked)
        try:
            completion = await handles[0].aresult()
        finally:
            answers.cancel(handles)
    except UsageError as error:
        return ComparedFailure(error=ErrorDetail(**error_body(400, str(error), "invalid_value")["error"]))
    answers.check_whole(completion)
    parts.metrics.answered(completion.prompt_tokens, completion.completion_tokens)
    return ComparedAnswer(
        text=completion.text,
        context=completion.context,
        evidence=[EvidenceLine.model_validate(answers.evidence_fields(each)) for each in completion.evidence],
        supported=completion.supported,
        truncated=completion.truncated,
        prompt_tokens=completion.prompt_tokens,
        seconds=completion.seconds,
    )
