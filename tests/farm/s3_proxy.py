"""A proxy in front of an S3 server on which one request in so many fails: refused, cut, or done and not answered."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target_port: int
    one_in: int
    random: random.Random
    counts: dict[str, int]

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.counts["all"] += 1
        fault = self.random.choice(["refused", "unheard", "cut"]) if self.random.random() < 1 / self.one_in else None
        if fault:
            self.counts["failed"] += 1
        if fault == "refused":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "unheard":  # it was done, and nobody learns of it
            self.close_connection = True
            return
        self._answer(answer.status, answer.getheaders(), content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for key, value in headers:
            if key.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *_arguments: Any) -> None:
        """Nothing is printed."""


@contextmanager
def failing_proxy(target_port: int, one_in: int, seed: int = 0) -> Iterator[tuple[str, dict[str, int]]]:
    """The URL of a proxy to that port of this machine, and how many requests there were in all, and failed."""
    counts = {"all": 0, "failed": 0}
    settings = {"target_port": target_port, "one_in": one_in, "random": random.Random(seed), "counts": counts}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), settings))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", counts
    finally:
        server.shutdown()
        server.server_close()
