"""`make demo` on a tiny random model: every part of it runs, and the table holds all that is compared."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_demo_compares_three_ways(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = load_demo()
    # a byte-level tokenizer makes the article five times as long as it is for a real model
    tiny_model.model.config.max_position_embeddings = 8192
    quick = load_recipe("default", ["training.epochs=1", "tasks.per_sentence=4", "adapter.rank=2"])
    monkeypatch.setattr(demo, "load_model", lambda **_options: tiny_model)
    monkeypatch.setattr(demo, "load_recipe", lambda: quick)
    monkeypatch.setenv("COLUMNS", "200")
    assert demo.main() == 0
    printed = capsys.readouterr().out
    for shown in ("base, no text", "base, whole text", "memory, no text", "Larry Ellison", "of 6 right"):
        assert shown in printed
    assert "lift ask university-of-chicago" in printed
    assert demo.main() == 0, "a second run finds the memory of the first"
    assert "absorbed in an earlier run" in capsys.readouterr().err
