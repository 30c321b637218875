"""Answers of other programs beside Lift's, over several memories."""

from __future__ import annotations

from pathlib import Path

import pytest
from exporting.made_memories import make_memory

from lift.bench.parity_bench import bench_parity
from lift.cli.bench_tables import show_parity
from lift.memories.library import MemoryLibrary
from lift.models.load import load_model


def test_parity_sums_the_memories_and_says_why_there_is_no_row(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_model(str(tiny_directory), dtype="float32")
    library = MemoryLibrary(tmp_path / "library")
    memories = [make_memory(library, base, "activated"), make_memory(library, base, "plain", seed=1)]
    monkeypatch.setenv("PATH", str(tmp_path))
    result = bench_parity(memories, base, {"peft": None, "vllm": None}, questions=2)
    total = next(row for row in result["sums"] if (row["peer"], row["adapter"]) == ("peft", "memory"))
    assert (total["memories"], total["questions"], total["same"], total["share"]) == (2, 4, 4, 1.0)
    assert total["largest_logit_difference"] < 1e-4
    errors = [row["error"] for row in result["rows"] if row["peer"] == "vllm"]
    assert "Activated LoRA" in errors[0]
    assert "not installed" in errors[1]
    capsys.readouterr()
    show_parity(result)
    told = " ".join(capsys.readouterr().out.split())
    assert "4 of 4" in told
    assert "not installed" in told
