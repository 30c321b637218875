"""Every failure as OpenAI's clients expect it: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from lift.errors import (
    BudgetError,
    DocumentError,
    EngineClosed,
    EngineError,
    FileTooLargeError,
    JobConflictError,
    LibraryError,
    LiftError,
    QueueFull,
    UnknownJobError,
    UsageError,
)
from lift.server.invalid import describe_invalid

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_logger = logging.getLogger("lift.server")


class ErrorDetail(BaseModel):
    """A failure: a sentence for people, `type` and `code` for programs, `param`: which value was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 and above."""

    error: ErrorDetail


class Refusal(LiftError):
    """A request that the server refuses, with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may fail with these statuses, for the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": _describe(status)} for status in statuses}


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON of a failure."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def fault_body(request_id: str | None) -> dict[str, Any]:
    """The JSON of a fault that only the server's log can tell of."""
    return error_body(500, f"something failed in the server; its log tells more under the request id {request_id}")


def refused(failure: Refusal) -> JSONResponse:
    """The answer that tells of a refusal."""
    headers = {}
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(failure.retry_after_s)))
    if failure.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        error_body(failure.status, str(failure), failure.code, failure.param), failure.status, headers=headers
    )


def as_refusal(error: LiftError) -> Refusal:
    """The HTTP failure of one of Lift's errors."""
    if isinstance(error, Refusal):
        return error
    message = str(error)
    if isinstance(error, QueueFull):
        return Refusal(429, message, code="queue_full", retry_after_s=error.retry_after_s)
    if isinstance(error, EngineClosed):
        return Refusal(503, message, code="stopping", retry_after_s=5.0)
    if isinstance(error, EngineError):
        return Refusal(503, message, code="engine", retry_after_s=5.0)
    if isinstance(error, DocumentError):
        return Refusal(400, message, code="invalid_document")
    if isinstance(error, UsageError | BudgetError):
        return Refusal(400, message, code="invalid_value")
    if isinstance(error, UnknownJobError):
        return Refusal(404, message, code="not_found")
    if isinstance(error, FileTooLargeError):
        return Refusal(413, message, code="too_large")
    if isinstance(error, JobConflictError):
        return Refusal(409, message, code="job_conflict")
    if isinstance(error, LibraryError):
        return Refusal(409, message, code="library_conflict")
    return Refusal(500, message, code="failed")


def add_handlers(app: FastAPI, methods_of: Callable[[str], list[str]]) -> None:
    """Let `app` answer every failure in this shape; `methods_of` a path are those that it takes."""

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, status = request.url.path, error.status_code
        message = {404: f"there is nothing at {path}", 405: f"{request.method} cannot be used here"}
        headers = {"Allow": ", ".join(methods_of(path)) or "GET"} if status == 405 else None
        return JSONResponse(error_body(status, message.get(status, str(error.detail))), status, headers=headers)

    app.add_exception_handler(LiftError, _on_lift_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def log_fault(request_id: str | None, error: BaseException) -> None:
    """Tell of a fault by its type and places in the code; its message may quote a document, so it is left out."""
    places = []
    step = error.__traceback__
    while step is not None:
        places.append(f"{step.tb_frame.f_code.co_filename.rpartition('/')[2]}:{step.tb_lineno}")
        step = step.tb_next
    _logger.error("fault", extra={"fields": {"request_id": request_id, "error": type(error).__name__, "at": places}})


async def _on_lift_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LiftError)
    failure = as_refusal(error)
    if failure.status >= 500:
        log_fault(getattr(request.state, "request_id", None), error)
    return refused(failure)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    invalid = describe_invalid(error.errors(), error.body)
    return refused(Refusal(400, invalid.message, code=invalid.code, param=invalid.place or None))


def _describe(status: int) -> str:
    return {
        400: "The request cannot be understood or carried out.",
        401: "A key is needed, and none or an unknown one was given.",
        403: "The key, or the page that asks, may not do this.",
        404: "There is no such thing.",
        409: "What is there stands in the way.",
        413: "The body is larger than the server takes.",
        429: "Too many requests; Retry-After says when to ask again.",
        503: "The server is not ready.",
        504: "The time limit was reached before there was anything to answer.",
    }[status]
