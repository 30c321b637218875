"""Connections: how long a peer may take for each part of a request, and how many may be open at once.

uvicorn alone waits for ever for the first request, for the rest of a header, for a body, and for a reader of an answer.
So anybody who opens sockets and says little could hold all of them. Here each wait has an end, and where all places are
taken, those who have asked for nothing yet make room.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from lift.server.failures import error_body
from lift.server.settings import ServerSettings

# Of the files that a process may have open, those that are not connections: the library, uploads, the database.
_OTHER_FILES = 256
_LEAST_CONNECTIONS = 16
# What of a body has to come in each `body_silence_s`.
_LEAST_BODY_BYTES = 10_000
# After an answer that did not wait for the whole body, for which its reader still writes.
_LINGER_S = 2.0
_RETRY_S = 1


class BoundedConnection(H11Protocol):
    """One connection; `settings` bound its waits, and how many there are beside it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: ServerSettings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._body_bytes = 0
        self._quiet_since = time.monotonic()

    @property
    def has_request(self) -> bool:
        """Whether a request has come whole up to its body, and is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or the place of the one that has asked for nothing for longest."""
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self._settings.connections and not self._make_room():
            self._refuse(503, "all connections of this server are taken; ask again in a moment", "too_many_connections")
            self.transport.close()
            return
        self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of all timers."""
        for timer in (self._reading, self._writing, self._ending):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and wait for what is to come next."""
        if self._is_refused or self.transport.is_closing():
            return
        before = self.conn.their_state
        super().data_received(data)
        if self.transport.is_closing():
            return
        state = self.conn.their_state
        if state is not h11.SEND_BODY and self._ending is not None:  # all of a body that nobody wanted has come
            self._ending.cancel()
            self._ending = None
        if state is h11.SEND_BODY:
            self._body_bytes += len(data)
            if before is not h11.SEND_BODY:
                self._wait_for_body()
        elif state is h11.IDLE:
            if before is not h11.IDLE or self._reading is None:  # a header that has begun has the time that it has
                self._wait_for_header()
        else:
            self._stop_reading()

    def on_response_complete(self) -> None:
        """Keep the connection for another request, but not to read a body that nobody wants."""
        super().on_response_complete()
        self._quiet_since = time.monotonic()
        if self.transport.is_closing():
            self._abort_within(self._settings.write_silence_s)
        elif not self.has_request and self.conn.their_state is h11.SEND_BODY:  # and no next request has begun
            self._abort_within(_LINGER_S)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection without requests, and do not wait for ever until its last answer is read."""
        super().timeout_keep_alive_handler()
        self._abort_within(self._settings.write_silence_s)

    def pause_writing(self) -> None:
        """The reader of an answer is slow: it has some time."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._settings.write_silence_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader has read on."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _make_room(self) -> bool:
        """Close the connection that has asked for nothing for longest; False where all others have."""
        others = [
            each
            for each in self.connections
            if isinstance(each, BoundedConnection) and each is not self and not each.has_request
        ]
        if not others:
            return False
        # those whose last answer is still being read come last
        read = [each for each in others if not each.transport.get_write_buffer_size()]
        longest = min(read or others, key=lambda each: each._quiet_since)
        longest.transport.abort()
        self.connections.discard(longest)
        return True

    def _wait_for_header(self) -> None:
        self._stop_reading()
        self._quiet_since = time.monotonic()
        self._reading = self.loop.call_later(self._settings.header_s, self._header_is_late)

    def _header_is_late(self) -> None:
        self._reading = None
        if self.has_request or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            return  # an answer is under way, or keep-alive has a time of its own
        self._refuse(408, "expected a whole request header in time, got none; send it at once", "timeout")

    def _wait_for_body(self) -> None:
        self._stop_reading()
        self._body_bytes = 0
        self._reading = self.loop.call_later(self._settings.body_silence_s, self._look_at_body)

    def _look_at_body(self) -> None:
        self._reading = None
        if self.transport.is_closing() or self.conn.their_state is not h11.SEND_BODY:
            return
        # where reading is paused it is the server that is slow
        if self._body_bytes >= _LEAST_BODY_BYTES or self.flow.read_paused:
            self._wait_for_body()
            return
        self._refuse(408, "expected the body of the request in time, got too little of it; send it faster", "timeout")

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer without the application, where nothing was answered yet; its reader may read that, and is left."""
        self._is_refused = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not (self.cycle and self.cycle.response_started):
            body = json.dumps(error_body(status, message, code)).encode("utf-8")
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode("ascii")),
                (b"connection", b"close"),
            ]
            if status == 503:
                headers.append((b"retry-after", str(_RETRY_S).encode("ascii")))
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.write_eof()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._abort_within(_LINGER_S)

    def _abort_within(self, seconds: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self.loop.call_later(seconds, self.transport.abort)


def allow_open_files(connections: int) -> int:
    """Let this process have as many files open as its limits allow and it needs; returns how many connections fit."""
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == unlimited else max(_LEAST_CONNECTIONS, min(connections, soft - _OTHER_FILES))
