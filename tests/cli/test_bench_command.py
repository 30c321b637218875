"""`lift bench` as it is typed; every training in this process, since a process of its own is tested elsewhere."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lift.bench import absorb_bench as absorb
from lift.bench import growth_bench as growth
from lift.bench import llama_peer
from lift.bench import serve_bench as serve
from lift.bench.bench_worker import perform
from lift.bench.processes import Served
from lift.bench.side import SideRun
from lift.cli import run

TEXT = "Bram Holt sells the tickets. The shop opens at nine. Mira Lund repairs the clocks in the tower."
QUICK = ["--set", "training.epochs=1", "--set", "adapter.rank=2", "--set", "tasks.per_sentence=3"]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (absorb.bench_absorb, growth.bench_growth):
        monkeypatch.setitem(module.__kwdefaults__, "run", perform)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "holt.txt"
    path.write_text(TEXT, "utf-8")
    return path


def bench(*arguments: object) -> int:
    return run(["bench", *map(str, arguments)])


def bench_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert bench(*arguments, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err
    result = json.loads(captured.out)
    assert {"machine", "rows", "speedup"} <= result.keys()
    assert result["machine"]["cores"] > 0
    return result


def test_absorbing_beside_trainer(text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", tiny_directory, "--rates", "1e-3", "--batches", "8", "--seeds", "1", "--limit-s", "0.001"]
    result = bench_json(capsys, "absorb", text, *options, "--probes", "1", *QUICK)
    assert [row["side"] for row in result["rows"]] == ["lift", "trainer", "trainer-best"]
    assert result["speedup"].keys() == {"trainer", "trainer-best"}
    assert result["texts"][0]["facts"]["probes"] == 1
    assert all(row["peak_bytes"] > 0 for row in result["rows"])


def test_asking_beside_reading(text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_json(capsys, "ask", text, "--model", tiny_directory, "--lengths", "200", "--repeats", "1", *QUICK)
    assert [row["context"] for row in result["rows"]] == ["none", "full", "kept", "truncated", "evidence"]


def test_asking_beside_llama(
    text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"first_token_s": 0.25, "rest_s": 2.3, "said": [0] * 24}
    monkeypatch.setattr(llama_peer, "_ask_llama", lambda *_: {"version": "0", "answers": [answer]})
    gguf = text.with_name("model.gguf")
    gguf.write_bytes(b"GGUF")
    model = ["--model", tiny_directory, "--lengths", "200", "--repeats", "1"]
    assert bench("ask", text, *model, *QUICK, "--gguf", gguf, "--llama-python", "python") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "to a memory (untrained)" in shown
    assert all(way in shown for way in ("closed book", "full text", "kept text", "truncated"))
    assert "held while the text is kept" in shown
    assert "32 at once" in shown
    assert "to as many memories" in shown
    assert "llama.cpp 10.0 (10.0-10.0)" in shown
    assert "model.gguf" in shown


def test_asking_a_memory_of_the_library(text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["absorb", str(text), "--name", "holt", "--model", str(tiny_directory), *QUICK]) == 0
    capsys.readouterr()
    result = bench_json(capsys, "ask", text, "--memory", "holt", "--lengths", "200", "--repeats", "1")
    assert result["memory"] == "given"
    assert bench("ask", text, "--memory", "nobody") == 1
    assert "nobody" in capsys.readouterr().err


def test_growing(text: Path, tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["growth", text, "--model", tiny_directory, "--lengths", "60,120", "--tokens-per-sentence", "2", *QUICK]
    timed = ["--train-s", "0.3", "--memories", "1,3", "--plots", tmp_path / "plots"]
    result = bench_json(capsys, *arguments, *timed)
    assert [row["length"] for row in result["rows"]] == [60, 120]
    assert all(0 < row["timed_epochs"] <= 1 and row["timed_peak_bytes"] > 0 for row in result["rows"])
    assert result["speedup"] is None
    assert [row["memories"] for row in result["library"]] == [1, 3]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "growth-seconds.svg",
        "growth-memory.svg",
        "library.svg",
    }
    assert bench(*arguments, *timed[:4]) == 0
    shown = capsys.readouterr().out
    assert "grows as tokens to the power of" in shown
    assert "3 memories" in shown
    assert "epochs in" in shown


def test_growing_without_a_timed_training_and_libraries(
    text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["growth", text, "--model", tiny_directory, "--lengths", "60", "--tokens-per-sentence", "2", *QUICK]
    result = bench_json(capsys, *arguments, "--train-s", "0", "--memories", "none")
    assert result["library"] == []
    assert result["rows"][0]["timed_epochs"] is None
    assert result["peak_growth"] == 1


def test_a_table_says_what_was_not_reached(
    text: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scripted(job: Mapping[str, Any]) -> dict[str, Any]:
        reached = 12.0 if job["options"] is None else None
        trained = reached or job["limit_s"]
        return SideRun(reached, trained, [(trained, 0.25)], 100.0, 90.0, 25.0, 1e9, 1e6, 0.4, 0.5, 10**9).as_dict()

    monkeypatch.setitem(absorb.bench_absorb.__kwdefaults__, "run", scripted)
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["--model", tiny_directory, "--rates", "1e-3", "--batches", "8", "--seeds", "1", "--limit-s", "60"]
    assert bench("absorb", text, *arguments, "--recall", "0.6", *QUICK) == 0
    captured = capsys.readouterr()
    shown = " ".join(captured.out.split())
    assert "not in 60 0 of 1" in shown
    assert "at least 5.0x" in shown
    assert "padded, batch 16, rate 0.001; 25 tokens with loss a second" in shown
    assert "trainer, padded, batch 16, rate 0.001, seed 0: recall 25% after 60 s, not 60%" in captured.err


@pytest.mark.slow
def test_serving_beside_one_client_and_a_naive_server(
    tiny_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def serving(*_: object) -> Iterator[Served]:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", lambda: None)

    monkeypatch.setitem(serve.bench_serve.__kwdefaults__, "serving", serving)
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["serve", "--model", tiny_directory, "--clients", "2", "--memories", "2", "--seconds", "1.2", *QUICK]
    result = bench_json(capsys, *arguments)
    assert [(row["side"], row["clients"]) for row in result["rows"]] == [("lift", 2), ("one-client", 1), ("naive", 2)]
    assert result["speedup"].keys() == {"one-client", "naive"}
    assert all(row["lost"] == row["failures"] > 0 for row in result["rows"])
    assert bench(*arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 memories, context auto" in shown
    assert "naive 0 answers, 0 with their own secret, 0 with another's; " in shown
    assert "lift beside naive not known" in shown
    assert "times ConnectionRefusedError" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "full"], "auto or none"),
        (["--seconds", "0"], "seconds above 0"),
        (["--memories", "1000"], "1 to 256 memories"),
        (["--clients", "1"], "--clients"),
    ],
)
def test_wrong_use_of_serving_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("serve", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absorb", "--recall", "0"], "--recall"),
        (["absorb", "--recall", "1.5"], "--recall"),
        (["absorb", "--rates", "fast"], "--rates"),
        (["absorb", "--rates", "0"], "--rates"),
        (["absorb", "--batches", "1.5"], "--batches with whole numbers"),
        (["absorb", "--limit-s", "0"], "--limit-s"),
        (["absorb", "--seeds", "0"], "--seeds"),
        (["ask", "--lengths", "some"], "--lengths"),
        (["growth", "--lengths", ","], "--lengths"),
        (["growth", "--memories", "1,many"], "--memories"),
        (["growth", "--recipe", "nonsense"], "nonsense"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], message: str, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(arguments[0], text, *arguments[1:]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
