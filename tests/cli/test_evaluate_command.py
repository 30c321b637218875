"""`lift evaluate` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import ScriptedEndpoint

from lift.cli import run
from lift.cli.evaluate_command import SUITES
from lift.cli.options import parse_tokens
from lift.errors import UsageError
from lift.evaluation.methods.method_registry import all_methods
from lift.evaluation.suites.suite_registry import all_suites

QUICK = ["--set", "training.epochs=1", "--set", "adapter.rank=2", "--set", "tasks.per_sentence=4"]
RECORD = {
    "id": "holt",
    "title": "Holt",
    "context": "Bram Holt sells the tickets. The shop opens at nine.",
    "questions": [{"id": "1", "question": "Who sells the tickets?", "answers": ["Bram Holt"]}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(RECORD) + "\n", "utf-8")
    return path


def evaluate(*arguments: object) -> int:
    return run(["evaluate", *map(str, arguments)])


def test_the_listed_suites_are_those_there_are() -> None:
    assert list(SUITES) == [suite.name for suite in all_suites()]
    assert all(suite.summary for suite in all_suites())


def test_help_lists_suites_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*SUITES, "compare", "break-even"])
    assert evaluate("qa", "--help") == 0
    shown = capsys.readouterr().out
    assert all(method.name in shown for method in all_methods())


def test_what_nothing_answers_is_asked_and_its_refusals_are_shown(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "questions.jsonl"
    unanswerable = {"question": "Who painted the ferry?", "answers": []}
    data.write_text(json.dumps(RECORD | {"questions": [*RECORD["questions"], unanswerable]}) + "\n", "utf-8")
    arguments = ["qa", "--data", data, "--out", tmp_path / "out", "--model", tiny_directory, "--methods", "bm25"]
    assert evaluate(*arguments, "--json") == 0
    [told] = json.loads(capsys.readouterr().out)["abstention"]
    assert (told["method"], told["unanswerable"]) == ("bm25", 1)
    assert evaluate(*arguments) == 0
    assert "F1 of refusing" in capsys.readouterr().out


def test_your_own_questions_from_data_to_report(
    tiny_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["qa", "--data", data, "--out", out, "--model", tiny_directory, "--methods", "bm25,lift:none", *QUICK]
    assert evaluate(*arguments, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert {mean["method"] for mean in shown["means"]} == {"bm25", "lift:none"}
    assert [Path(path).name for path in shown["report"]] == ["report.md", "report.html"]
    assert all(Path(path).is_file() for path in shown["report"])
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert [(line["method"], line["gold"]) for line in lines] == [("bm25", ["Bram Holt"]), ("lift:none", ["Bram Holt"])]
    assert evaluate(*arguments) == 0
    captured = capsys.readouterr()
    assert "(known)" in captured.err
    assert "report.html" in captured.out


def test_two_runs_are_compared(
    tiny_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        assert (
            evaluate("qa", "--data", data, "--out", tmp_path / name, "--model", tiny_directory, "--methods", "bm25")
            == 0
        )
    capsys.readouterr()
    assert evaluate("compare", tmp_path / "a", tmp_path / "b", "--json") == 0
    assert json.loads(capsys.readouterr().out)
    assert evaluate("compare", tmp_path / "a", tmp_path / "b") == 0
    assert "bm25" in capsys.readouterr().out
    (tmp_path / "a" / "report.md").unlink()
    assert evaluate("report", tmp_path / "a") == 0
    assert (tmp_path / "a" / "report.md").is_file()


def test_a_plan_of_several_suites(
    tiny_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'methods = ["closed-book"]\n[[suite]]\nname = "qa"\ndata = "questions.jsonl"\n'
        '[[suite]]\nname = "niah"\nlengths = [512]\ndepths = [0.5]\n',
        "utf-8",
    )
    assert evaluate("run", plan, "--out", tmp_path / "out", "--model", tiny_directory, "--json") == 0
    assert {mean["suite"] for mean in json.loads(capsys.readouterr().out)["means"]} == {"qa", "niah"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["qa"], 2, "--out"),
        (["qa", "--out", "o"], 2, "expected --data for the suite qa, got none"),
        (["qa", "--out", "o", "--data", "missing.jsonl"], 2, "'missing.jsonl', which is not there"),
        (["longbench", "--out", "o"], 2, "expected --data for the suite longbench"),
        (["qa", "--out", "o", "--lengths", "1k"], 2, "the suite qa does not take lengths"),
        (["niah", "--out", "o", "--lengths", "long"], 2, "expected --lengths with numbers of tokens"),
        (["niah", "--out", "o", "--depths", "50"], 2, "0.5"),
        (["qa", "--out", "o", "--methods", "rag"], 2, "expected methods of"),
        (["qa", "--out", "o", "--limit", "0"], 2, "limit"),
        (["hotpot"], 2, "hotpot"),
        (["compare", "a", "b"], 1, "found no results.jsonl"),
        (["run", "plan.toml", "--out", "o"], 2, "the plan plan.toml cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tiny_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = [] if arguments[0] in ("compare", "hotpot") else ["--model", str(tiny_directory)]
    assert evaluate(*arguments, *model) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("text", "tokens"), [("4k", 4096), ("1K", 1024), ("512", 512)])
def test_numbers_of_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text, "--lengths") == tokens


@pytest.mark.parametrize("text", ["", "k", "0", "-1", "1.5k", "4kb"])
def test_no_numbers_of_tokens(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tokens(text, "--lengths")


def test_a_model_at_an_endpoint_is_evaluated_and_judged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: dict[str, Any]) -> str:
        said = request["messages"][0]["content"]
        if "VERDICT" in said:
            return "VERDICT: RIGHT" if "Bram Holt" in said else "VERDICT: WRONG"
        return "It is Bram Holt." if "sells the tickets. " in said else "I cannot know."

    monkeypatch.setenv("OPENAI_API_KEY", "sk-scripted")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = tmp_path / "out"
    with ScriptedEndpoint(answer) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        arguments = ["qa", "--data", data, "--out", out, "--model", "openai:m", "--judge", "j"]
        assert evaluate(*arguments, "--methods", "closed-book,full,bm25", "--json") == 0
        asked = len(endpoint.requests)
        assert evaluate(*arguments, "--methods", "closed-book,full,bm25", "--json") == 0
        assert len(endpoint.requests) == asked
        assert evaluate(*arguments, "--methods", "lift:none") == 2
    assert "has no memories here" in capsys.readouterr().err
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert [(line["method"], line["scores"]["contained"]) for line in lines] == [
        ("closed-book", 0.0),
        ("full", 1.0),
        ("bm25", 1.0),
    ]
    assert [line["judge"] for line in lines] == ["right"] * 3  # every prompt of the judge holds the reference
    judged = json.loads((out / "run.json").read_text("utf-8"))["judge"]
    assert (judged["model"], judged["agreement"]["n"], judged["errors"]) == ("j", 40, 0)


def test_a_judge_without_a_key_is_refused_before_anything_is_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert evaluate("qa", "--data", data, "--out", tmp_path / "out", "--judge", "gpt") == 1
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.jsonl"))
