"""JSON over HTTP to a server: what is asked, what is streamed, and each failure in a sentence."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from lift.engines.server_url import KEY_VARIABLE
from lift.engines.token_server import BrokenOff, ServerGone
from lift.errors import EngineError

_CONNECT_S = 5.0
_SILENCE_S = 300.0
_LONGEST_MESSAGE_CHARS = 300
_GONE = frozenset({502, 503, 504})  # of a proxy whose server restarts, and of a server that loads its model


class Refused(EngineError):
    """A server said no, with that HTTP status and message."""

    def __init__(self, server: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{server} refused {path} with status {status}: {message}")
        self.status = status
        self.message = message


class HttpServer:
    """Requests to the server of that name; a key is that of LIFT_ENGINE_KEY. Made and closed in one event loop."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        key = os.environ.get(KEY_VARIABLE, "").strip()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, path: str, *, again: bool = False) -> Any:
        """The reply; raises Refused, ServerGone, EngineError. `again`: over a connection of its own."""
        with self._telling(path):
            headers = {"Connection": "close"} if again else {}
            return self._read(path, await self._client.get(path, headers=headers))

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The reply to `body`, text where it is no JSON; raises as get."""
        with self._telling(path):
            return self._read(path, await self._client.post(path, json=body))

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The events that the server sends, each parsed; raises as get, and ServerGone where they break off."""
        with self._telling(path):
            async with self._client.stream("POST", path, json=body) as reply:
                if reply.status_code != 200:
                    await reply.aread()
                    self._read(path, reply)
                async for line in reply.aiter_lines():
                    if line.startswith("data:"):
                        data = line.removeprefix("data:").strip()
                        if data == "[DONE]":
                            return
                        yield json.loads(data)

    @contextlib.contextmanager
    def _telling(self, path: str) -> Any:
        try:
            yield
        except httpx.TransportError as error:
            is_reached = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise (BrokenOff if is_reached else ServerGone)(
                f"expected a reply of {self.name} at {self.url} to {path}, got none "
                f"({str(error) or type(error).__name__}); start it, or give its address with --engine-url"
            ) from error
        except ValueError as error:
            raise EngineError(f"expected JSON of {self.name} as the reply to {path}, got something else") from error

    def _read(self, path: str, reply: httpx.Response) -> Any:
        if reply.status_code in _GONE:
            raise ServerGone(f"{self.name} at {self.url} is not ready (status {reply.status_code} of {path})")
        if reply.status_code >= 400:
            raise Refused(self.name, path, reply.status_code, _message(reply))
        try:
            return reply.json()
        except ValueError:
            return reply.text


def _message(reply: httpx.Response) -> str:
    text = reply.text
    with contextlib.suppress(ValueError, AttributeError):
        body = reply.json()
        error = body.get("error", body)
        text = str(error.get("message") or error.get("detail") or text) if isinstance(error, dict) else str(error)
    return " ".join(text.split())[:_LONGEST_MESSAGE_CHARS] or "no reason given"
