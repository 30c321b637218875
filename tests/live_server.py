"""A server on a free loopback port, in a thread of the test's process, with a tiny model and small memories."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from memory_drafts import make_draft

from lift.adapters.attach import create_adapter
from lift.documents.document import Document, Place
from lift.jobs.store import JobStore
from lift.jobs.worker import Worker
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import RecallSummary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import AdapterSettings
from lift.server.app import create_app
from lift.server.listening import open_socket, url_of
from lift.server.server_process import server_config
from lift.server.settings import ServerSettings
from lift.serving.engine import Engine
from lift.serving.request import Completion, Request, TextDelta, check_request
from lift.serving.request_handle import RequestHandle

TEXT = "Ada Quill founded the museum in 1911. It owns 42 lenses. The tower burned. 𝔸 last word."


@dataclass(frozen=True)
class Live:
    """A running server and what stands behind it."""

    url: str
    app: FastAPI
    engine: Any
    store: JobStore
    library: MemoryLibrary


class IdleWorker:
    """Stands in for the supervisor where no job is to be worked on."""

    alive = True

    def start(self) -> None:
        pass

    def close(self, timeout_s: float) -> None:
        pass


class WorkerThread:
    """A supervisor whose worker is a thread of this process."""

    def __init__(self, store: JobStore, library: MemoryLibrary, model: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=Worker(store, library, model, 0.1, self._stop).run)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)


class ScriptedEngine:
    """Takes questions and answers none until it is told to; `refusal` is raised instead of taking one."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.alive = True
        self.refusal: Exception | None = None
        self.taken: list[RequestHandle] = []

    def start(self) -> None:
        pass

    def close(self, timeout_s: float) -> None:
        for handle in self.taken:
            handle.finish(completion(finish_reason="cancelled"))

    def submit(self, request: Request) -> RequestHandle:
        check_request(request)
        if self.refusal is not None:
            raise self.refusal
        self.taken.append(RequestHandle(request))
        return self.taken[-1]

    def check_reachable(self, timeout_s: float) -> None:
        if self.refusal is not None:
            raise self.refusal

    def statistics(self) -> dict[str, float]:
        return {"waiting": len(self.taken)}

    def forget(self, name: str) -> None:
        pass

    def wait_for(self, count: int) -> Sequence[RequestHandle]:
        eventually(lambda: len(self.taken) >= count)
        return self.taken


def completion(text: str = "", **changes: Any) -> Completion:
    values: dict[str, Any] = {
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "context": "none",
        "evidence": (),
        "supported": None,
        "truncated": False,
        "dropped_turns": 0,
        "seconds_waiting": 0.0,
        "seconds": 0.1,
    }
    return Completion(**{**values, **changes})


def answer(handle: RequestHandle, *pieces: str) -> None:
    """Let a scripted answer go out whole."""
    for piece in pieces:
        handle.put(TextDelta(piece))
    handle.finish(completion("".join(pieces)))


def eventually(reached: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "it did not come to that in time"
        time.sleep(0.005)


def put_memory(library: MemoryLibrary, base: BaseModel, name: str, seed: int = 0, text: str = TEXT) -> None:
    """A memory whose adapter is drawn by `seed`."""
    adapter = create_adapter(base.model, AdapterSettings(kind="lora", rank=2), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    config, state = adapter.stored()
    adapter.detach()
    probe = {"question": "Who founded it?", "expected": "Ada Quill", "answer": "Ada"}
    library.put(
        make_draft(
            name,
            name,
            base_id=base.id,
            base_fingerprint=base.fingerprint,
            adapter_config=config,
            adapter_state=state,
            document=Document(
                "The museum", text, "/home/somebody/museum.pdf", (Place(0, 1, None), Place(38, 2, "Lenses"))
            ),
            recipe={"name": "default", "context": {"window_tokens": 0}},
            recall=[
                {**probe, "sentence": 0, "recalled": False},
                {**probe, "sentence": 0, "recalled": True, "question": "Who founded the museum in 1911?"},
                {**probe, "sentence": 1, "recalled": False},
            ],
            recall_summary=RecallSummary(sentences=4, probed=2, recalled=1),
        )
    )


@contextmanager
def serving(
    base: BaseModel, root: Path, *, engine: Any = None, worker: str | None = None, rows: int = 8, **settings: Any
) -> Iterator[Live]:
    """A server of the library in `root`; with `worker`, the model of a worker on a thread, jobs are worked on."""
    library = MemoryLibrary(root)
    with closing(JobStore(root / ".serve")) as store:
        supervisor: Any = IdleWorker() if worker is None else WorkerThread(store, library, worker)
        engine = engine or Engine(base, library, rows=rows)
        chosen = ServerSettings(port=0, model=base.id, **{"shutdown_s": 5.0, **settings})
        app = create_app(engine, store, supervisor, library, chosen)
        with running(app, chosen) as url:
            yield Live(url, app, engine, store, library)


@contextmanager
def running(app: FastAPI, settings: ServerSettings) -> Iterator[str]:
    """The address of `app` on a free port, as long as the block lasts."""
    listener = open_socket(settings)
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        yield url_of(listener)
    finally:
        server.should_exit = True
        app.state.parts.stopping.set()
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


class Lines(logging.Handler):
    """Every record of the server's log, as the line it would be."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
