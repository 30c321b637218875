"""A naive server: one lock, one request at a time; `python -m lift.bench.naive_server LIBRARY MODEL`.

It opens the memory for every question, asks it as `lift ask` does, and answers in the shape of OpenAI's streams.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lift.answering.answerer import open_memory
from lift.errors import LiftError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.load import load_model

_HOST = "127.0.0.1"


class NaiveServer(ThreadingHTTPServer):
    """Listens on a free port of this machine; serve_forever answers, a thread a request, which waits for the lock."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, base: BaseModel, library: MemoryLibrary) -> None:
        super().__init__((_HOST, 0), _Handler)
        self.base = base
        self.library = library
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it is found."""
        return f"http://{_HOST}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: NaiveServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # the status goes out with the first text, so that a failure before it has one of its own
        self._begun = False
        try:
            with self.server.lock:
                answerer = open_memory(self.server.library[body["model"]], self.server.base)
                answerer.ask(body["messages"][-1]["content"], body["context"], on_text=self._say)
        except LiftError as error:
            self._fail(str(error))
            return
        self._begin()
        self._write("[DONE]")

    def _say(self, text: str) -> None:
        self._begin()
        self._write(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False))

    def _fail(self, message: str) -> None:
        error = json.dumps({"error": {"message": message}}, ensure_ascii=False)
        if self._begun:
            self._write(error)
            return
        self.send_response(500)
        self.end_headers()
        self.wfile.write(error.encode("utf-8"))

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()

    def _write(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests, as `lift serve` is told to say nothing that costs."""


def main(library: str, model: str) -> None:
    """Print the address as a line of JSON, and answer until the process is ended."""
    with NaiveServer(load_model(model), MemoryLibrary(Path(library))) as server:
        print(json.dumps({"url": server.url}), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
