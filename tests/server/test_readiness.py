"""Readiness: the server says so where its library is lost, or what computes its answers is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
from engines.scripted_vllm import ScriptedVllm
from live_server import Live, ScriptedEngine, eventually, serving

from lift.engines.engine_settings import EngineSettings
from lift.engines.served_model import serve_model
from lift.errors import EngineError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.serving.engine import Engine


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.server.probes._KEPT_S", 0.0)


@pytest.fixture
def live(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model)) as server:
        yield server


def test_a_library_that_is_gone_or_replaced_is_told(live: Live, tmp_path: Path) -> None:
    library, aside = live.library.root, tmp_path / "aside"
    assert loopback.get(f"{live.url}/readyz").status_code == 200
    library.rename(aside)
    lost = loopback.get(f"{live.url}/readyz")
    assert lost.status_code == 503 and lost.json()["error"]["code"] == "library_lost"
    assert int(lost.headers["Retry-After"]) >= 1
    assert str(tmp_path) not in lost.text
    library.mkdir()
    assert loopback.get(f"{live.url}/readyz").status_code == 503
    library.rmdir()
    aside.rename(library)
    assert loopback.get(f"{live.url}/readyz").status_code == 200
    assert loopback.get(f"{live.url}/healthz").status_code == 200


def test_a_library_that_does_not_answer_is_told_in_time(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.server.probes._LOOK_S", 0.2)
    monkeypatch.setattr("lift.server.probes._identity", lambda _place: time.sleep(2))
    assert loopback.get(f"{live.url}/readyz").json()["error"]["code"] == "library_lost"


def test_an_engine_that_is_gone_is_told(live: Live) -> None:
    live.engine.refusal = EngineError("vLLM is gone")
    gone = loopback.get(f"{live.url}/readyz")
    assert gone.status_code == 503 and gone.json()["error"]["code"] == "engine"
    live.engine.refusal = None
    assert loopback.get(f"{live.url}/readyz").status_code == 200


def test_a_served_engine_is_asked(tiny_model: BaseModel, tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path / "library")
    with ScriptedVllm(tiny_model) as vllm:
        served = serve_model(tiny_model, EngineSettings("vllm", vllm.url), library.root)
        try:
            engine = Engine(served, library, backend=served.backend(4))
            with serving(served, library.root, engine=engine) as live:
                assert loopback.get(f"{live.url}/readyz").status_code == 200
                vllm.kill()
                gone = loopback.get(f"{live.url}/readyz", timeout=30)
                assert gone.status_code == 503 and gone.json()["error"]["code"] == "engine"
                vllm.restart()
                eventually(lambda: loopback.get(f"{live.url}/readyz").status_code == 200)
        finally:
            served.close()
