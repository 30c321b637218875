"""The parts that routes work with, and the keys that may use them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from fastapi import Depends, Request

from lift.jobs.store import JobStore
from lift.jobs.supervisor import Supervisor
from lift.memories.library import MemoryLibrary
from lift.server.failures import Refusal
from lift.server.keys import Key
from lift.server.prometheus_metrics import Metrics
from lift.server.settings import ServerSettings
from lift.serving.engine import Engine


@dataclass(frozen=True)
class Parts:
    """Everything behind the routes. `stopping` is set when the server is asked to end."""

    engine: Engine
    store: JobStore
    supervisor: Supervisor
    library: MemoryLibrary
    settings: ServerSettings
    metrics: Metrics
    stopping: threading.Event = field(default_factory=threading.Event)


def parts_of(request: Request) -> Parts:
    """The parts of which the application of this request was made."""
    parts: Parts = request.app.state.parts
    return parts


def owner_of(request: Request) -> str | None:
    """Whose files and jobs this caller sees: those of its key's name; all of them without keys, and for admins."""
    caller: Key | None = request.state.caller
    return None if caller is None or caller.may("admin") else caller.name


def key_name(request: Request) -> str | None:
    """The name of the caller's key, None without keys."""
    caller: Key | None = request.state.caller
    return None if caller is None else caller.name


def needs(scope: str) -> Any:
    """A dependency of routes: the caller's key must hold `scope`, where the server wants keys."""

    async def check(request: Request) -> None:
        check_scope(request, scope)

    return Depends(check)


def check_scope(request: Request, scope: str) -> None:
    """Raise Refusal where the caller's key lacks `scope`, and the server wants keys."""
    caller: Key | None = request.state.caller
    if caller is not None and not caller.may(scope):
        raise Refusal(
            403, f"the key {caller.name!r} may not do this; it takes the scope {scope!r}", code="missing_scope"
        )
