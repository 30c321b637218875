"""The server as a process: its socket, its signals, and an orderly end."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from lift.errors import UsageError
from lift.server.access import Parts
from lift.server.settings import ServerSettings

_BACKLOG = 2048
_KEEP_ALIVE_S = 30


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


def open_socket(settings: ServerSettings) -> socket.socket:
    """A listening socket; raises UsageError where the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        where = f"{settings.host} port {settings.port}"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UsageError(f"{where} is in use by another program; choose another --port") from error
        said = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise UsageError(f"cannot listen on {where} ({said}); choose another --host or --port") from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run_server(app: FastAPI, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; running answers may then take `shutdown_s`. A second Ctrl-C ends at once."""
    parts: Parts = app.state.parts
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    _Server(server_config(app), parts, on_ready).run(sockets=[listener])


def server_config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves `app`: it logs nothing of requests, trusts no proxy, and tells nobody what it is."""
    parts: Parts = app.state.parts
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(parts.settings.shutdown_s)),
    )
