"""`lift absorb --farm` refuses what cannot be, before anything is started; and tells how it went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lift.cli import farming, run
from lift.farm.document_absorber import AbsorbedDocument
from lift.farm.farm import FarmReport
from lift.farm.work_queue import Failure


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("The mill stood at Orle.")
    return str(path)


def test_what_a_farm_cannot_do_is_refused(file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--name" in refused(capsys, "absorb", file, "--farm", "ray", "--name", "x")
    assert "--workers" in refused(capsys, "absorb", file, "--workers", "2")
    assert "got 's3://bucket/x'" in refused(capsys, "absorb", file, "--library", "s3://bucket/x")
    assert "nosuch://" in refused(capsys, "absorb", file, "--farm", "ray", "--library", "nosuch://x/y")
    assert "no-such.txt" in refused(capsys, "absorb", str(tmp_path / "no-such.txt"), "--farm", "ray")
    assert "ray://HEAD" in refused(capsys, "absorb", file, "--farm", "dask")
    assert "endpoint" in refused(capsys, "absorb", file, "--farm", "ray", "--recipe", "openai-finetune")


REPORT = FarmReport(
    3,
    (AbsorbedDocument("a", "a", False, 10.0, 4, 3, 100), AbsorbedDocument("b", "b", True, 0.1, 4, 4, 0)),
    {"c": Failure("DocumentError", "c.pdf: expected a text, got none")},
    12.0,
    10.0,
    1,
    False,
)


def test_the_summary_tells_recall_time_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    farming.print_report(REPORT, "s3://bucket/x", as_json=False)
    said = capsys.readouterr().out
    for part in ("1, and 1 that were there already", "1: 1 DocumentError", "7 of 8 (88 %)", "c.pdf: expected a text"):
        assert part in said
    farming.print_report(REPORT, "s3://bucket/x", as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert record["failed"] == {"c": {"error": "DocumentError", "message": "c.pdf: expected a text, got none"}}
    assert (record["absorbed"], record["reused"], record["recall"]) == (1, 1, {"probed": 8, "recalled": 7})
