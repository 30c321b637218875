"""A scripted OpenAI-compatible endpoint on loopback, for tests of what asks one and for measurements of latency."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = str | tuple[int, Mapping[str, str], str | dict[str, Any]]


def completion(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a chat completion with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as OpenAI's API words it."""
    return status, headers or {}, {"error": {"message": message, "type": "error", "param": None, "code": None}}


class ScriptedEndpoint:
    """Serves POST /v1/chat/completions; a context manager.

    `reply(request)` gives the text of a completion, or status, headers and body; it is called in a thread of its own
    for each request, and `answer_s` seconds pass before it is sent. `requests` holds all bodies in the order that they
    came in, `headers` their headers under names in lower case, `arrived_s` the moments (time.monotonic), and
    `most_at_once` the largest number under way together.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Reply], answer_s: float = 0.0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived_s: list[float] = []
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint._begin(request, {name.lower(): value for name, value in self.headers.items()})
                try:
                    answer = reply(request) if self.path == "/v1/chat/completions" else failure(404, "no such path")
                    endpoint._closing.wait(answer_s)
                finally:
                    with endpoint._lock:
                        endpoint._under_way -= 1
                status, headers, body = (200, {}, completion(answer)) if isinstance(answer, str) else answer
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that went away is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def _begin(self, request: dict[str, Any], headers: dict[str, str]) -> None:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.arrived_s.append(time.monotonic())
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
