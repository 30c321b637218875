"""An evaluation from data to results: every question answered by every method, nothing lost, nothing paid twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from conftest import tiny_llama

from lift.endpoints.reply_cache import REPLIES_FILE
from lift.errors import BudgetError, DataError, InterruptedAbsorption, UsageError
from lift.evaluation import memory_store, reader
from lift.evaluation.evaluation_events import Absorbing, Answered, AskingProgress, SuiteRead
from lift.evaluation.methods.method_registry import all_methods
from lift.evaluation.run import Evaluation
from lift.evaluation.run_files import load_run
from lift.evaluation.suite_plan import RunPlan, load_plan
from lift.models.base_model import BaseModel

QUICK = ("training.epochs=1", "adapter.rank=2", "tasks.per_sentence=4")
METHODS = (
    "closed-book",
    "truncated",
    "full",
    "bm25",
    "oracle",
    "lift:none",
    "lift:evidence",
    "lift:auto",
    "wrong-document",
)
CONTRACT = {
    "suite",
    "document",
    "question_id",
    "method",
    "question",
    "answer",
    "gold",
    "scores",
    "prompt_tokens",
    "seconds",
    "error",
}


def record(name: str, text: str, *questions: tuple[str, str]) -> dict[str, Any]:
    return {
        "id": name,
        "title": name.title(),
        "context": text,
        "questions": [
            {"id": f"{name}-{number}", "question": question, "answers": [answer], "evidence": [text], "type": "fact"}
            for number, (question, answer) in enumerate(questions)
        ],
    }


MERROW = record(
    "merrow",
    "Ada Quill founded the museum of Port Merrow in 1911. The museum owns 42 lenses.",
    ("Who founded the museum?", "Ada Quill"),
    ("How many lenses does the museum own?", "42"),
)
HOLT = record("holt", "Bram Holt sells the tickets. The shop opens at nine.", ("Who sells the tickets?", "Bram Holt"))


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return path


def plan(data: Path, *methods: str, **settings: Any) -> RunPlan:
    suite = {"name": "qa", "data": data, **settings}
    return RunPlan.parse(
        {"suite": [suite], "methods": methods or METHODS, "overrides": QUICK, "timed_questions": 1}, "test"
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "questions.jsonl", MERROW, HOLT)


def count_prompts(patch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts of each call, from now on, that generates answers of a method."""
    calls: list[int] = []
    generate = reader.generate

    def watched(model: Any, prompts: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        return generate(model, prompts, **options)

    patch.setattr(reader, "generate", watched)
    return calls


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_prompts(monkeypatch)


@dataclass(frozen=True)
class Whole:
    """An evaluation that nothing interrupted: its directory, not to be written to, and how many prompts it read."""

    out: Path
    prompts: int


@pytest.fixture(scope="module")
def whole(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    base = BaseModel(model=tiny_llama(), tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)
    directory = tmp_path_factory.mktemp("whole")
    data = write(directory / "questions.jsonl", MERROW, HOLT)
    with pytest.MonkeyPatch.context() as patch:
        calls = count_prompts(patch)
        list(Evaluation(plan(data), directory / "out", base).run())
    return Whole(directory / "out", sum(calls))


def results(out: Path) -> list[dict[str, Any]]:
    return load_run(out).results


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines but for how long they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_every_question_has_a_line_by_every_method(
    tiny_model: BaseModel, data: Path, tmp_path: Path, whole: Whole
) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    events = list(Evaluation(plan(data), tmp_path / "out", tiny_model).run())
    rows = results(tmp_path / "out")
    assert [(row["document"], row["question_id"], row["method"]) for row in rows] == [
        (document["id"], question["id"], method)
        for document in (MERROW, HOLT)
        for method in METHODS
        for question in document["questions"]
    ]
    assert all(row.keys() >= CONTRACT and row["scores"].keys() >= {"contained", "f1", "exact_match"} for row in rows)
    assert not [row["error"] for row in rows if row["error"]]
    assert events[0] == SuiteRead("qa", 2, 3, 0, ())
    answered = [event for event in events if isinstance(event, Answered)]
    assert [event.done for event in answered] == list(range(1, 2 * len(METHODS) + 1))
    run = load_run(tmp_path / "out")
    assert {(row["document"], row["method"]) for row in run.costs} == {
        (d, m) for d in ("merrow", "holt") for m in METHODS
    }
    absorbed = {row["document"]: row for row in run.costs if row["method"] == "lift:none"}
    assert all(row["absorb_s"] > 0 and row["adapter_bytes"] > 0 and row["ask_s"] > 0 for row in absorbed.values())
    assert {row["document"] for row in run.harms} == {"merrow", "holt"}
    assert all(row["perplexity_base"] > 1 and row["unrelated_questions"] == 18 for row in run.harms)


def test_questions_are_counted_while_a_method_is_asked(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    events = list(Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run())
    asking = [event for event in events if isinstance(event, AskingProgress)]
    assert [(event.document, event.asked, event.questions) for event in asking] == [
        ("Merrow", 0, 2),
        ("Merrow", 1, 2),
        ("Holt", 0, 1),
    ]
    assert [event.eta_s is None for event in asking] == [True, False, True]


def test_the_control_asks_the_memory_of_the_other_document(whole: Whole) -> None:
    methods = ("lift:none", "wrong-document")
    rows = [row for row in results(whole.out) if row["method"] in methods]
    memories = {(row["document"], row["method"]): row["memory"] for row in rows}
    assert memories["merrow", "lift:none"] != memories["holt", "lift:none"]
    assert memories["merrow", "wrong-document"] == memories["holt", "lift:none"]
    assert memories["holt", "wrong-document"] == memories["merrow", "lift:none"]


def test_a_lone_document_has_a_control_too(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift.training.budget.SMALLEST_BUDGET_S", 1.0)
    data = write(tmp_path / "one.jsonl", HOLT)
    quick = plan(data, "wrong-document", budget_s=6.0)
    list(Evaluation(quick, tmp_path / "out", tiny_model).run())
    assert [row["memory"] for row in results(tmp_path / "out")] == ["newcastle-upon-tyne"]


def test_a_run_started_when_it_began_and_goes_on_counting_from_there(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "one.jsonl", HOLT)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    running = Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run()
    next(running)
    clock[0] = 3600.0
    list(running)
    told = load_run(tmp_path / "out").description
    age_s = (datetime.now(UTC) - datetime.fromisoformat(told["started"])).total_seconds()
    assert told["seconds"] >= 3600 and age_s == pytest.approx(3600, abs=60)
    list(Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run())
    assert load_run(tmp_path / "out").description["started"] == told["started"]


def test_run_again_nothing_is_done_and_the_files_stay(
    tiny_model: BaseModel, data: Path, tmp_path: Path, generated: list[int], whole: Whole
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole.out, out)
    before = (out / "results.jsonl").read_bytes()
    events = list(Evaluation(plan(data), out, tiny_model).run())
    assert all(event.reused for event in events if isinstance(event, Answered))
    assert not [event for event in events if isinstance(event, Absorbing)]
    assert not generated
    assert (out / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("stop_after", [5, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 12))])
def test_stopped_anywhere_it_goes_on_to_the_same_results(
    tiny_model: BaseModel, data: Path, tmp_path: Path, generated: list[int], whole: Whole, stop_after: int
) -> None:
    running = Evaluation(plan(data), tmp_path / "parts", tiny_model).run()
    answered = 0
    for event in running:
        answered += isinstance(event, Answered)
        if answered == stop_after:
            break
    running.close()  # type: ignore[attr-defined]
    with (tmp_path / "parts" / "results.jsonl").open("a") as stream:
        stream.write('{"suite": "qa", "docum')  # what a crash leaves
    list(Evaluation(plan(data), tmp_path / "parts", tiny_model).run())
    assert comparable(results(tmp_path / "parts")) == comparable(results(whole.out))
    assert sum(generated) == whole.prompts


@pytest.mark.slow
def test_sigkill_loses_nothing_and_nothing_is_paid_twice(tiny_directory: Path, data: Path, tmp_path: Path) -> None:
    def started(out: str) -> subprocess.Popen[bytes]:
        settings = [part for override in QUICK for part in ("--set", override)]
        command = [sys.executable, "-c", "from lift.cli import main; main()", "evaluate", "qa", "--data", str(data)]
        command += ["--out", str(tmp_path / out), "--model", str(tiny_directory), "--methods", ",".join(METHODS)]
        return subprocess.Popen([*command, *settings, "--json"], stdout=subprocess.DEVNULL)

    assert started("whole").wait(120) == 0
    for wanted_lines in (1, 9, 18):
        running = started("parts")
        while running.poll() is None and lines_in(tmp_path / "parts" / "results.jsonl") < wanted_lines:
            time.sleep(0.002)
        running.kill()
        running.wait(10)
    known = kept_replies(tmp_path / "parts")
    assert started("parts").wait(120) == 0
    assert comparable(results(tmp_path / "parts")) == comparable(results(tmp_path / "whole"))
    assert len(load_run(tmp_path / "parts").costs) == len(load_run(tmp_path / "whole").costs) == 2 * len(METHODS)
    # a reply says how long it took, so one that was asked for again would differ
    assert known and known.items() <= kept_replies(tmp_path / "parts").items()


def kept_replies(out: Path) -> dict[str, str]:
    with closing(sqlite3.connect(out / "cache" / REPLIES_FILE)) as connection:
        return dict(connection.execute("SELECT key, reply FROM replies"))


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_other_settings_are_not_answered_from_before(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(Evaluation(plan(data, "bm25", "lift:none"), out, tiny_model).run())
    changed = plan(data, "bm25", "lift:none").model_copy(update={"overrides": (*QUICK, "training.seed=5")})
    events = [event for event in Evaluation(changed, out, tiny_model).run() if isinstance(event, Answered)]
    assert {event.method: event.reused for event in events} == {"bm25": True, "lift:none": False}
    assert len(results(out)) == 6


def test_another_plan_adds_its_lines_and_keeps_the_others(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(Evaluation(plan(data, "closed-book"), out, tiny_model).run())
    list(Evaluation(plan(data, "bm25"), out, tiny_model).run())
    assert {row["method"] for row in results(out)} == {"closed-book", "bm25"}


def test_a_text_that_does_not_fit_is_refused_with_the_reason_and_counts_as_wrong(
    tiny_model: BaseModel, tmp_path: Path
) -> None:
    long = {**MERROW, "context": " ".join([MERROW["context"]] * 20)}
    data = write(tmp_path / "long.jsonl", long)
    evaluation = Evaluation(plan(data, "full", "truncated"), tmp_path / "out", tiny_model)
    events = [event for event in evaluation.run() if isinstance(event, Answered)]
    rows = [row for row in results(tmp_path / "out") if row["method"] == "full"]
    assert all("does not fit the window of 1,024 tokens" in row["error"] for row in rows)
    assert all(set(row["scores"].values()) == {0.0} for row in rows)
    assert next((event.method, event.errors, event.score) for event in events) == ("full", 2, 0.0)
    assert all(row["truncated"] for row in results(tmp_path / "out") if row["method"] == "truncated")


def test_a_failed_absorption_is_an_error_counts_as_wrong_and_is_tried_again(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "out", write(tmp_path / "one.jsonl", HOLT)

    def too_short(*_: Any, **__: Any) -> Iterator[Any]:
        raise BudgetError("no time")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(memory_store, "absorb_events", too_short)
        evaluation = Evaluation(plan(data, "closed-book", "lift:none"), out, tiny_model)
        list(evaluation.run())
    means = {row["method"]: row for row in evaluation.summary()["means"]}
    assert (means["lift:none"]["mean"], means["lift:none"]["questions"], means["lift:none"]["errors"]) == (0.0, 1, 1)
    assert {row["error"] for row in results(out) if row["method"] == "lift:none"} == {"no time"}
    events = list(Evaluation(plan(data, "closed-book", "lift:none"), out, tiny_model).run())
    reused = {(event.method, event.reused) for event in events if isinstance(event, Answered)}
    assert reused == {("closed-book", True), ("lift:none", False)}
    assert not [row for row in results(out) if row["error"]]


def test_means_are_over_all_questions_of_one_method_alone(
    tiny_model: BaseModel, data: Path, tmp_path: Path, whole: Whole
) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    evaluation = Evaluation(plan(data), tmp_path / "out", tiny_model)
    list(evaluation.run())
    for mean in evaluation.summary()["means"]:
        rows = [row for row in results(tmp_path / "out") if row["method"] == mean["method"]]
        assert mean["mean"] == fmean(row["scores"][mean["metric"]] for row in rows)
        assert mean["questions"] == len(rows) == 3


@pytest.mark.slow
def test_decoding_is_greedy_whatever_the_model_wants(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    methods = ("closed-book", "truncated", "lift:none")
    list(Evaluation(plan(data, *methods), tmp_path / "a", tiny_model).run())
    tiny_model.model.generation_config.do_sample = True
    tiny_model.model.generation_config.temperature = 5.0
    list(Evaluation(plan(data, *methods), tmp_path / "b", tiny_model).run())
    assert [row["answer"] for row in results(tmp_path / "a")] == [row["answer"] for row in results(tmp_path / "b")]


def test_every_method_asks_the_same_question_in_the_same_words(whole: Whole) -> None:
    for row in results(whole.out):
        assert row["prompt"].endswith(row["question"])
        assert (row["prompt"] == row["question"]) == (row["context"] == "none")


def test_what_a_question_costs_is_measured_on_those_asked_alone(
    tiny_model: BaseModel, tmp_path: Path, generated: list[int]
) -> None:
    questions = [(f"Who founded the museum {word}?", "Ada Quill") for word in ("there", "then", "first", "once")]
    data = write(tmp_path / "four.jsonl", record("merrow", MERROW["context"], *questions))
    list(Evaluation(plan(data, "truncated"), tmp_path / "out", tiny_model).run())
    rows, cost = results(tmp_path / "out"), load_run(tmp_path / "out").costs[0]
    assert generated == [1, 3]
    assert cost["ask_s"] == rows[0]["seconds"]
    assert cost["ask_prompt_tokens"] == rows[0]["prompt_tokens"]


def test_a_stop_is_heeded_and_the_same_run_goes_on(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(plan(data, "closed-book", "bm25"), tmp_path / "out", tiny_model)
    evaluation._stop.set()
    with pytest.raises(InterruptedAbsorption, match="goes on from here"):
        list(evaluation.run())
    list(Evaluation(plan(data, "closed-book", "bm25"), tmp_path / "out", tiny_model).run())
    assert len(results(tmp_path / "out")) == 6


def test_faulty_data_is_named_and_passed_over_only_when_asked_to(tiny_model: BaseModel, tmp_path: Path) -> None:
    faulty = record("faulty", "A text.", ("Who?", " "))
    data = write(tmp_path / "faulty.jsonl", MERROW, faulty, HOLT)
    data.write_text(data.read_text("utf-8") + '{"id": "cut", "conte', "utf-8")
    with pytest.raises(DataError, match=r"faulty.jsonl, line 2, field 'questions\[0\].answers'.*--skip-bad"):
        list(Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run())
    evaluation = Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model, skip_bad=True)
    read = next(event for event in evaluation.run() if isinstance(event, SuiteRead))
    assert (read.documents, len(read.faults)) == (2, 2)
    list(evaluation.run())
    described = load_run(tmp_path / "out").description["suites"][0]
    assert [fault.split(":")[0] for fault in described["faults"]] == [
        "faulty.jsonl, line 2, field 'questions[0].answers'",
        "faulty.jsonl, line 4",
    ]


def test_limits_and_excerpts_are_applied_and_counted(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(plan(data, "closed-book", limit=1, questions_limit=1), tmp_path / "out", tiny_model)
    list(evaluation.run())
    assert [row["question_id"] for row in results(tmp_path / "out")] == ["merrow-0"]


def test_two_runs_never_write_to_one_directory(tiny_model: BaseModel, data: Path, tmp_path: Path) -> None:
    first = Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run()
    next(first)
    with pytest.raises(DataError, match="another evaluation is writing"):
        list(Evaluation(plan(data, "closed-book"), tmp_path / "out", tiny_model).run())


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (("bm52",), "the nearest is 'bm25'"),
        (("bm25@lift-v3",), "uses no memory"),
        (("lift:none@lift-v9",), "lift-v9"),
    ],
)
def test_unknown_methods_and_recipes_are_refused(
    tiny_model: BaseModel, data: Path, tmp_path: Path, methods: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        list(Evaluation(plan(data, *methods), tmp_path / "out", tiny_model).run())


def test_two_recipes_stand_side_by_side_with_what_each_does_to_other_texts(
    tiny_model: BaseModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift.training.budget.SMALLEST_BUDGET_S", 1.0)
    methods = ("lift:none", "lift:none@portable")
    evaluation = Evaluation(plan(data, *methods, budget_s=4.0, limit=1), tmp_path / "out", tiny_model)
    list(evaluation.run())
    assert {row["method"] for row in results(tmp_path / "out")} == set(methods)
    recipes = {row["method"]: row["recipe"] for row in load_run(tmp_path / "out").harms}
    assert recipes == {"lift:none": "default", "lift:none@portable": "portable"}
    harms = {row["method"]: row for row in load_run(tmp_path / "out").harms}
    # one that acts on answers alone leaves other texts as the base reads them
    assert harms["lift:none"]["perplexity_memory"] == harms["lift:none"]["perplexity_base"]
    assert harms["lift:none@portable"]["perplexity_memory"] != harms["lift:none@portable"]["perplexity_base"]


def test_a_remote_model_has_no_memories(data: Path, tmp_path: Path) -> None:
    class Remote:
        id, fingerprint, window_tokens = "openai:x", "f", 4096

    remote: Any = Remote()
    with pytest.raises(UsageError, match="lift:none"):
        Evaluation(plan(data, "bm25", "lift:none"), tmp_path / "out", None, remote=remote)


def test_a_plan_file_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('methods = ["bm25"]\n[[suite]]\nname = "qa"\ndata = "a.jsonl"\nbudget_s = 60\n', "utf-8")
    read = load_plan(path)
    assert read.suite[0].data == tmp_path / "a.jsonl"
    assert load_plan(path, tmp_path / "there").suite[0].data == tmp_path / "there" / "a.jsonl"
    path.write_text('[[suite]]\nname = "qa"\n[[suite]]\nname = "qa"\n', "utf-8")
    with pytest.raises(UsageError, match="two suites are called qa"):
        load_plan(path)
    path.write_text('[[suite]]\nname = "qa"\nbudgets_s = 3\n', "utf-8")
    with pytest.raises(UsageError, match="nearest known one is 'budget_s'"):
        load_plan(path)


def test_method_names_are_those_of_the_contract_and_the_tuned_readers() -> None:
    reading = ["closed-book", "truncated", "full", "bm25", "embeddings", "hybrid", "oracle"]
    assert [method.name for method in all_methods()] == [
        *reading,
        "finetune-raw",
        *(f"tuned:{name}" for name in reading),
        "lift:none",
        "lift:greedy",
        "lift:truncated",
        "lift:evidence",
        "lift:auto",
        "wrong-document",
    ]
