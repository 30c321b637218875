"""The measurement of a GPU, on a tiny model and the processor: every row is there, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from lift.bench import gpu_bench, limits_bench
from lift.cli import run

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits_bench.SHAPES, "tiny", TINY)


def test_every_batch_is_trained_and_answers_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_bench, "find_gpu", lambda: "cpu")
    before = torch.get_default_dtype()
    command = ["bench", "gpu", "--shape", "tiny", "--batch-tokens", "64,128", "--rows", "3"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["batch_tokens"] for row in told["training"]] == [64, 128]
    assert all(row["loss_is_finite"] and row["train_tokens_per_s"] > 0 for row in told["training"])
    assert [row["rows"] for row in told["answering"]] == [1, 3]
    assert all(row["answer_tokens_per_s"] > 0 for row in told["answering"])
    assert torch.get_default_dtype() == before
    assert run(command) == 0
    assert capsys.readouterr().out.startswith("tiny on cpu\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "gpu", "--shape", "tiny"]) == 2
    assert "expected a CUDA device, got none" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--shape", "huge"], ["--shape", "tiny", "--batch-tokens", "32"]])
def test_what_cannot_be_measured_is_refused(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_bench, "find_gpu", lambda: "cpu")
    assert run(["bench", "gpu", *options]) == 2
    assert capsys.readouterr().err.startswith("lift: expected --")
