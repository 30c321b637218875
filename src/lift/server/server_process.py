"""The server as a process: its signals, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from lift.server.access import Parts
from lift.server.bounded_connections import BoundedConnection

# Connections that are waited for in the kernel, and taken at one go.
_BACKLOG = 128


class _Server(uvicorn.Server):
    """Tells the routes, which would otherwise stream for as long as somebody reads, that the end has come."""

    def __init__(self, config: uvicorn.Config, parts: Parts, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._parts = parts
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._parts.stopping.set()
        super().handle_exit(sig, frame)
        # the process ends by itself, with the status of one that did what it was told
        self._captured_signals.clear()


def run_server(app: FastAPI, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; running answers may then take `shutdown_s`. A second Ctrl-C ends at once."""
    parts: Parts = app.state.parts
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    _Server(server_config(app), parts, on_ready).run(sockets=[listener])


def server_config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves `app`: with bounded waits; it logs no request, trusts no proxy, and says not what it is."""
    parts: Parts = app.state.parts
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=_BACKLOG,
        http=cast(type[asyncio.Protocol], partial(BoundedConnection, settings=parts.settings)),
        timeout_keep_alive=cast(int, parts.settings.idle_s),
        timeout_graceful_shutdown=max(1, round(parts.settings.shutdown_s)),
    )
