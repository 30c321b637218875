"""The application: all routes, around them the guard, and what lives as long as they do."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.routing import compile_path
from starlette.staticfiles import StaticFiles

import lift
from lift.jobs.store import JobStore
from lift.jobs.supervisor import Supervisor
from lift.memories.library import MemoryLibrary
from lift.server import (
    compare_api,
    jobs_api,
    library_api,
    openai_answers,
    openai_files,
    openai_jobs,
    openai_models,
    plan_api,
    probes,
)
from lift.server.access import Parts
from lift.server.callers import CallerLeft
from lift.server.failures import add_handlers, documented
from lift.server.guard import Guard
from lift.server.keys import KeyFile
from lift.server.prometheus_metrics import Metrics
from lift.server.settings import ServerSettings
from lift.serving.engine import Engine

_ERROR = "#/components/schemas/ErrorBody"
_PAGE = Path(__file__).parent / "page"
_CORS_METHODS = ["GET", "POST", "PATCH", "DELETE"]


def create_app(
    engine: Engine, store: JobStore, supervisor: Supervisor, library: MemoryLibrary, settings: ServerSettings
) -> FastAPI:
    """The server's ASGI application; its lifespan starts `engine` and `supervisor`, and closes them.

    Raises UsageError where it could be reached from elsewhere without keys, or the key file is not one.
    """
    settings.check()
    keys = KeyFile(settings.key_file) if settings.key_file is not None else None
    parts = Parts(engine, store, supervisor, library, settings, Metrics(engine, store))
    app = FastAPI(
        title="Lift",
        version=lift.__version__,
        description="Memories of documents, asked over HTTP; in OpenAI's shapes under /v1, in Lift's own under /api.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.parts = parts
    app.state.planner = plan_api.Planner()
    app.state.probe = probes.ReadinessProbe(parts)
    for module in (
        openai_models,
        openai_answers,
        openai_files,
        openai_jobs,
        library_api,
        jobs_api,
        plan_api,
        compare_api,
        probes,
    ):
        app.include_router(module.router, responses=documented(403, 413, 503))
    app.add_api_route("/", _page, include_in_schema=False, response_class=FileResponse)
    app.mount("/static", StaticFiles(directory=_PAGE))
    add_handlers(app, _methods(app))
    app.add_exception_handler(CallerLeft, _nobody_reads)
    app.add_middleware(Guard, settings=settings, keys=keys, metrics=parts.metrics)
    if settings.cors_origins:
        # around the guard, since a page can read a refusal only where it has these headers too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=_CORS_METHODS,
            # clients send headers of their own (x-stainless-..., openai-...), which the routes do not read
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    _describe(app, has_keys=keys is not None)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    parts.engine.start()
    parts.supervisor.start()
    try:
        yield
    finally:
        parts.stopping.set()
        await app.state.planner.close()
        limit_s = parts.settings.shutdown_s
        await run_in_threadpool(parts.engine.close, limit_s)
        await run_in_threadpool(parts.supervisor.close, limit_s)


async def _page() -> FileResponse:
    return FileResponse(_PAGE / "index.html", media_type="text/html")


async def _nobody_reads(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


def _operation_id(route: APIRoute) -> str:
    """Its methods and path: names of functions are not unique over the modules."""
    return re.sub(r"\W+", "_", f"{'_'.join(sorted(route.methods or ())).lower()}{route.path_format}").strip("_")


def _methods(app: FastAPI) -> Callable[[str], list[str]]:
    """Which methods a path takes; a router alone knows them for each of its routes apart."""
    table = functools.cache(
        lambda: [(compile_path(path)[0], sorted(map(str.upper, item))) for path, item in app.openapi()["paths"].items()]
    )
    return lambda path: sorted({method for pattern, methods in table() if pattern.match(path) for method in methods})


def _describe(app: FastAPI, *, has_keys: bool) -> None:
    """An OpenAPI document that is true: faults of validation have status 400 here, and keys are what they are."""
    made = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            operations = [
                operation
                for path in document["paths"].values()
                for operation in path.values()
                if isinstance(operation, dict)
            ]
            for operation in operations:
                operation["responses"].pop("422", None)
                for status, response in operation["responses"].items():
                    if int(status) >= 400:  # whatever the route's own answers are made of
                        response["content"] = {"application/json": {"schema": {"$ref": _ERROR}}}
            schemas = document["components"]["schemas"]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            if has_keys:
                document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path, item in document["paths"].items():
                    for operation in item.values():
                        operation["security"] = [] if path in ("/healthz", "/readyz") else [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
