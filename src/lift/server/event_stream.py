"""Server-sent events: a stream that ends when its reader leaves, and tells so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# Each event as the OpenAPI document tells it.
EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
KEEP_ALIVE = ": still here\n\n"
DONE = "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """`content` yields whole events. `on_end` is called once, however the stream ended."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], on_end: Callable[[], None] | None = None) -> None:
        # proxies that collect an answer before they pass it on are told not to
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they or their reader are gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_end is not None:
                self._on_end()


def event(data: Any, number: int | None = None) -> str:
    """One event with `data` as JSON; `number` is what a reader who comes back names as Last-Event-ID."""
    line = f"data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"
    return line if number is None else f"id: {number}\n{line}"
