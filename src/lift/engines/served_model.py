"""A base model that a server of another program computes: what memories are opened on where one answers for Lift."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift.engines.adapter_files import AdapterFiles
from lift.engines.engine_settings import VLLM_PREFIX, EngineSettings, find_llama_server
from lift.engines.http_server import HttpServer
from lift.engines.llama_cpp import LlamaCppServer
from lift.engines.llama_process import LlamaProcess
from lift.engines.remote_backend import EngineConnection, RemoteBackend
from lift.engines.server_url import check_url
from lift.engines.token_server import TokenServer
from lift.engines.vllm import VllmServer
from lift.errors import EngineError, UsageError
from lift.exporting.gguf_names import GgufNames, base_gguf
from lift.memories.library import ENGINES_DIRECTORY, default_library_directory
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model, load_outline
from lift.packing.prompts import end_of_answer_id

_LLAMA_SLOTS = 4


@dataclass(frozen=True, eq=False)
class ServedModel(BaseModel):
    """A base model without its weights, and the connection to the server that has them."""

    connection: EngineConnection

    def __post_init__(self) -> None:
        """An outline has no mode and no gradients."""

    @property
    def window_tokens(self) -> int:
        """The longest input in tokens, of what the configuration states and the server takes."""
        return min(super().window_tokens, self.connection.server.window_tokens)

    def backend(self, rows: int) -> RemoteBackend:
        """The backend that computes sequences, at most `rows` at a time."""
        return RemoteBackend(self.connection, {end_of_answer_id(self.tokenizer), *self.end_token_ids}, rows)

    def close(self) -> None:
        """Let go of the server; a llama-server of Lift's own ends."""
        self.connection.close()


def serve_model(base: BaseModel, settings: EngineSettings, library: Path | None = None) -> ServedModel:
    """The same base model, computed by a server; `base` may be an outline (load_outline).

    Adapters are written below the directory of the `library` unless the settings name another. Raises UsageError for
    settings that do not go together, EngineError where the server cannot be reached or serves a model
    whose tokens differ, ExportError for a model that llama.cpp does not know.
    """
    settings.check()
    connection = EngineConnection(_server_of(base, settings, library))
    atexit.register(connection.close)
    return ServedModel(base.model, base.tokenizer, base.id, base.fingerprint, connection)


def _server_of(base: BaseModel, settings: EngineSettings, library: Path | None) -> TokenServer:
    directory = settings.adapters or (library or default_library_directory()) / ENGINES_DIRECTORY
    if settings.engine == "vllm":
        assert settings.url is not None
        return VllmServer(check_url(settings.url), base, AdapterFiles(directory / "vllm", "peft", base))
    if settings.engine == "llama.cpp":
        GgufNames.of(base)
        files = AdapterFiles(directory / "llama.cpp", "gguf", base)
        if settings.url is not None:
            return LlamaCppServer(base, files, url=check_url(settings.url))
        gguf = settings.gguf or base_gguf(base)
        if gguf is None or not gguf.is_file():
            raise UsageError(
                f"expected the base model {base.id} as a GGUF file for llama.cpp, got {gguf or 'none'}; "
                "give it with --base-gguf"
            )
        process = LlamaProcess(
            find_llama_server(settings.program),
            gguf,
            slots=min(settings.rows, _LLAMA_SLOTS),
            window_tokens=base.window_tokens,
        )
        return LlamaCppServer(base, files, process=process)
    raise UsageError("expected an engine that is a server of another program, got Lift's own")


def load_named_outline(memory: StoredMemory, model: str | None) -> BaseModel:
    """The outline of a memory's base model; `model` is where the user says that it lies, or "vllm:URL"."""
    if model is None or model.startswith(VLLM_PREFIX):
        return load_outline(memory.manifest.base.id, fetch=False)
    return load_outline(model)


@contextmanager
def opened_base(
    model: str,
    settings: EngineSettings,
    library: Path,
    *,
    on_progress: Callable[[str], None] | None = None,
    fetch: bool = True,
) -> Iterator[BaseModel]:
    """The base model of that name as the settings say: loaded here, or a ServedModel that is let go of in the end.

    `fetch` as for load_model. Raises ModelError, and as serve_model.
    """
    if settings.engine == "own":
        yield load_model(model, on_progress=on_progress, fetch=fetch)
        return
    served = serve_model(load_outline(model, on_progress=on_progress, fetch=fetch), settings, library)
    try:
        yield served
    finally:
        served.close()


def load_served_model(name: str, library: Path | None = None) -> ServedModel:
    """The base model of "vllm:URL", which vLLM serves there, as it lies on this machine.

    Raises UsageError for no URL, EngineError where the server cannot be reached, ModelError where its model is not
    here.
    """
    url = check_url(name.removeprefix(VLLM_PREFIX).strip())
    root = _model_of(url)
    return serve_model(load_outline(root, fetch=False), EngineSettings("vllm", url), library)


def _model_of(url: str) -> str:
    """The directory or hub id of the base model that vLLM serves at `url`, as it was started."""

    async def ask() -> Any:
        server = HttpServer("vLLM", url)
        try:
            return await server.get("/v1/models")
        finally:
            await server.close()

    with ThreadPoolExecutor(1) as elsewhere:  # the caller's thread may run an event loop, as a notebook's does
        reply = elsewhere.submit(asyncio.run, ask()).result()
    try:
        return str(next(card["root"] for card in reply["data"] if not card.get("parent")))
    except (KeyError, TypeError, StopIteration):
        raise EngineError(f"expected vLLM at {url} to name its base model, got none; check the address") from None
