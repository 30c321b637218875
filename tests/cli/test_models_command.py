"""`lift models`: its table, its JSON, and the speed of a model that is timed."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from lift.absorbing import base_model_survey as survey
from lift.absorbing.base_speed import BaseSpeed
from lift.cli import run
from lift.models.known_models import known_models
from lift.models.machine_speed import MachineSpeed, measure_machine_speed

MACHINE = MachineSpeed("cpu", "float32", 4, 8_000_000_000, 2e10, {512: 1e11, 4096: 1.5e11})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed is known, with the default model alone, and without network."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(survey, "measure_machine_speed", lambda: MACHINE)
    monkeypatch.setattr(survey, "find_weights", lambda model: "package" if model == "smollm2" else None)
    monkeypatch.setattr(survey, "load_model", lambda _name: None)
    monkeypatch.setattr(survey, "measure_base_speed", lambda _base, _recipe: BaseSpeed(400.0, 20.0))


def test_the_json(timed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["device"] == "cpu"
    assert result["machine"]["measured_model"] == "smollm2"
    assert [each["model"] for each in result["models"]] == [known.model for known in known_models()]
    first = result["models"][0]
    assert first["train_tokens_per_s"] == pytest.approx(400)
    assert first["answer_tokens_per_s"] == pytest.approx(20)
    assert first["weights"] == "package" and first["warm_start"] and first["fits"] and first["licence"] == "Apache 2.0"
    assert result["recommended"] == "smollm2"
    assert result["advice"].count("smollm2") >= 1


def test_the_table_fits_80_columns_and_names_every_model(
    timed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["models"]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if not line.startswith("  lift ")]
    assert max(map(len, lines)) <= 80
    assert all(known.name in printed for known in known_models())
    assert "Use smollm2 on this machine" in " ".join(printed.split())


def test_this_machine_is_timed() -> None:
    speed = measure_machine_speed([64, 256])
    assert set(speed.flops_per_s) == {64, 256}
    assert min(speed.flops_per_s.values()) > 0 and speed.bytes_per_s > 0 and speed.memory_bytes > 0
    assert speed.dtype in ("float32", "bfloat16") and speed.number_bytes in (2, 4)


@pytest.mark.slow
def test_the_real_default_model_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["measured_model"] == "smollm2"
    assert all(each["train_tokens_per_s"] > 0 for each in result["models"])
