"""A round of `lift bench engine-faults` counts where memories were replaced and vLLM killed as planned, else not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lift.bench import engine_faults_bench
from lift.bench.engine_faults_bench import FaultsPlan, bench_engine_faults
from lift.errors import LibraryError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe


@contextlib.contextmanager
def running(*_arguments: Any) -> Iterator[Any]:
    """A server that is there, and does nothing."""
    yield SimpleNamespace(url="http://127.0.0.1:1", kills=0, log=Path("/dev/null"))


@pytest.mark.parametrize("fails", [True, False])
def test_a_round_whose_memories_could_not_be_replaced_leaves_no_line(
    fails: bool, tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_arguments: Any, version: int = 0) -> None:
        if version and fails:
            raise LibraryError("the disk is full; make room")

    def ask(*_arguments: Any) -> list[Any]:
        time.sleep(0.2)
        return []

    for name, replaced in {
        "fill_library": fill,
        "put_under": ask,
        "_vllm": running,
        "serving_process": running,
    }.items():
        monkeypatch.setattr(engine_faults_bench, name, replaced)
    program, out = tmp_path / "vllm", tmp_path / "rounds.jsonl"
    program.touch()
    plan = FaultsPlan(program, memories=2, seconds=0.2, kills=0, replace_every_s=0.02)
    recipe = load_recipe("fast", ["adapter.activated=false"])

    def measure() -> dict[str, Any]:
        return bench_engine_faults(tiny_model, recipe, plan, 1, out, say=lambda _: None)

    if fails:
        with pytest.raises(LibraryError, match="the disk is full"):
            measure()
        assert not out.exists()
    else:
        assert measure()["sum"]["replaced"] > 0
