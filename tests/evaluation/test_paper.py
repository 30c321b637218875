"""Published tables as plans: they load, say what is missing, ask as published, and compare with what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama
from scripted_endpoint import ScriptedEndpoint

from lift.bench.paper_cost import cost_of_table, size_of
from lift.cli import run
from lift.endpoints.openai_endpoint import Endpoint
from lift.endpoints.reply_cache import ReplyCache
from lift.errors import DataError, UsageError
from lift.evaluation.methods.method_registry import find_methods
from lift.evaluation.paper.loogle_judge import SYSTEM, LoogleJudge
from lift.evaluation.paper.paper_comparison import compare_table
from lift.evaluation.paper.paper_table import load_table, table_names
from lift.evaluation.reader import ModelReader
from lift.evaluation.suite_plan import RunPlan, SuitePlan
from lift.evaluation.suite_reading import read_suite
from lift.evaluation.suites.suite_registry import find_suite
from lift.models.base_model import BaseModel
from lift.packing.prompts import prompt_ids, user_text

TEXT = " ".join(f"The boat number {number} lies at the pier of Merrow." for number in range(20))
PAIRS = [
    {"Q": "Where does boat 7 lie?", "A": "at the pier", "S": ["The boat number 7 lies at the pier of Merrow."]},
    {"Q": "How many boats are there?", "A": "20", "S": [], "type": "computation"},
]
# v3 Table 2, 3, 4, 5, 6 and figures of v5, as printed
PUBLISHED = {
    ("2", "ShortQA", "", "truncated"): 44.49,
    ("2", "ShortQA", "", "lift:truncated@lift-v3"): 47.51,
    ("2", "LongQA", "", "truncated"): 15.44,
    ("2", "LongQA", "", "lift:truncated@lift-v3"): 29.97,
    ("2", "LongQA", "timeline_reorder", "truncated"): 1.86,
    ("2-gemma", "ShortQA", "", "lift:truncated@lift-v3-pissa"): 50.33,
    ("2-gemma", "LongQA", "timeline_reorder", "truncated"): 40.00,
    ("3", "MuSiQue", "", "lift:truncated@lift-v3-musique"): 21.19,
    ("3", "GovReport", "", "lift:truncated@lift-v3-govreport"): 33.62,
    ("3", "PassageRetrieval-EN", "", "lift:truncated@lift-v3-passage-retrieval"): 62.50,
    ("4", "ShortQA", "", "lift:truncated@without-contexts"): 43.98,
    ("5", "LongQA", "", "lift:truncated@thirty-tasks"): 30.70,
    ("5", "ShortQA", "", "lift:truncated@without-tasks"): 47.21,
    ("6", "ShortQA", "", "lift:truncated@pissa"): 42.03,
    ("loogle-v5", "ShortQA", "", "lift:greedy@lift-v5"): 52.69,
    ("loogle-v5", "ShortQA", "", "lift:greedy@five"): 45.67,
    ("loogle-v5", "LongQA", "", "finetune-raw"): 25.16,
    ("niah-v5", "NIAH", "", "lift:greedy@needle"): 100.0,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """LooGLE's two files, in the layout that they were published in."""
    line = json.dumps({"title": "Boats", "input": TEXT, "qa_pairs": str(PAIRS)}) + "\n"
    (tmp_path / "loogle").mkdir()
    for name in ("shortdep_qa", "longdep_qa"):
        (tmp_path / "loogle" / f"{name}.jsonl").write_text(line + line.replace("Boats", "Ships"), "utf-8")
    return tmp_path


def test_every_table_can_be_run_and_expects_numbers_of_its_own_methods() -> None:
    for name in table_names():
        table = load_table(name)
        suites = {suite.title: suite for suite in table.plan.suite}
        for suite in table.plan.suite:
            find_suite(suite.name)
            for method in find_methods(suite.methods or table.plan.methods):
                assert table.plan.load_recipe(method).name  # its settings load
        for cell in table.expected:
            assert set(cell.values) <= set(suites[cell.suite].methods or table.plan.methods)
    with pytest.raises(UsageError, match=r"expected --table .*2-gemma.*got '7'"):
        load_table("7")


def test_published_numbers_are_those_of_the_papers() -> None:
    found = {
        (name, cell.suite, cell.kind, method): value
        for name in table_names()
        for cell in load_table(name).expected
        for method, value in cell.values.items()
    }
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED


def test_a_missing_file_is_named_with_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loogle/shortdep_qa\.jsonl.*found nothing there; give .*LooGLE") as caught:
        load_table("2").plan_on(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_table_asks_as_it_was_published(data: Path, tiny_model: BaseModel) -> None:
    plan = load_table("2").plan_on(data, limit=1)
    read = read_suite(plan.suite[0], lambda _: [], skip_bad=False)
    (record,) = read.records
    asking = record.asking
    assert asking.max_new_tokens == 200
    assert user_text("Who?", "It rained.", asking.form).startswith("The article Boats: \nIt rained.\nPlease answer")
    ids = prompt_ids(tiny_model.tokenizer, "Who?", "It rained.", asking.form)
    assert not set(ids) & set(tiny_model.tokenizer.all_special_ids)
    lengths = {suite.label: suite.answer_tokens for name in ("2", "loogle-v5") for suite in load_table(name).plan.suite}
    assert lengths == {"ShortQA": 300, "LongQA": 500}
    chat = SuitePlan.parse({**plan.suite[0].model_dump(exclude_unset=True), "chat": True}, "plan")
    (other,) = read_suite(chat, lambda _: [], skip_bad=False).records
    shown = prompt_ids(tiny_model.tokenizer, "Who?", "It rained.", other.asking.form)
    assert set(shown) & set(tiny_model.tokenizer.all_special_ids)


def test_every_method_has_the_same_window(tiny_model: BaseModel) -> None:
    form = load_table("2").plan.suite[0]
    for window in (300, 500):
        reader = ModelReader(tiny_model, prompt_tokens=window)
        text, cut = reader.fit("Who?", "x " * 4000, load_form(form), 100)
        used = len(prompt_ids(tiny_model.tokenizer, "Who?", text, load_form(form)))
        assert cut and window - 40 < used <= window


def load_form(suite: SuitePlan) -> Any:
    from lift.packing.published_prompts import PROMPT_FORMS

    assert suite.prompt is not None
    return PROMPT_FORMS[suite.prompt].about("Boats")


def test_measured_numbers_stand_beside_published_ones() -> None:
    table = load_table("2")
    row = {"suite": "LongQA", "document": "d", "method": "truncated", "main": "f1", "error": None}
    rows = [
        {**row, "kind": "computation", "scores": {"f1": 0.5}, "judge": "right", "loogle_judge": "wrong"},
        {**row, "kind": "timeline_reorder", "scores": {"f1": 0.0}, "judge": "undecided", "loogle_judge": "right"},
    ]
    costs = [{"suite": "LongQA", "document": "d", "method": "truncated", "absorb_s": 2.0, "ask_s": 1.0}]
    cells = {(cell.suite, cell.of, cell.method): cell for cell in compare_table(table, rows, costs)}
    whole = cells["LongQA", "", "truncated"]
    assert (whole.published, whole.judge, whole.loogle_judge, whole.main) == (15.44, 50.0, 50.0, 25.0)
    assert (whole.questions, whole.seconds, whole.metric) == (2, 3.0, "f1")
    part = cells["LongQA", "computation", "truncated"]
    assert (part.published, part.judge, part.loogle_judge, part.questions) == (5.00, 100.0, 0.0, 1)
    nothing = cells["ShortQA", "", "truncated"]
    assert (nothing.published, nothing.judge, nothing.main, nothing.questions) == (44.49, None, None, 0)


def test_an_answer_that_a_judge_could_not_be_asked_about_is_left_out_and_counted() -> None:
    table = load_table("2")
    row = {"suite": "ShortQA", "document": "d", "method": "truncated", "kind": "", "main": "f1", "error": None}
    row |= {"scores": {"f1": 0.5}, "judge": "right", "loogle_judge": "right"}
    unasked = {**row, "loogle_judge": "undecided", "loogle_judge_error": "no endpoint answers"}
    failed = {**row, "judge": None, "loogle_judge": None, "error": "the text is too long"}

    def cell(*rows: dict[str, Any]) -> tuple[float | None, float | None, int]:
        (found,) = [
            each for each in compare_table(table, rows, []) if (each.suite, each.method) == ("ShortQA", "truncated")
        ]
        return found.loogle_judge, found.judge, found.errors

    assert cell(row, unasked) == (100.0, 100.0, 1)
    assert cell(unasked, unasked) == (None, 100.0, 2)
    assert cell({**unasked, "judge": "undecided", "judge_error": "no endpoint answers"}) == (None, None, 1)
    assert cell(row, unasked, failed) == (50.0, pytest.approx(200 / 3), 2)  # what cannot be answered is wrong


def test_loogles_judge_is_asked_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    def reply(request: dict[str, Any]) -> str:
        return "True" if "predict_answer = Ada" in request["messages"][-1]["content"] else "False."

    with ScriptedEndpoint(reply) as endpoint:
        judge = LoogleJudge(Endpoint(endpoint.base_url), "gpt-4", ReplyCache(tmp_path))
        items = [("Who?", ["Ada"], "Ada Quill"), ("Who?", ["Ada"], "Bram"), ("Who?", ["Ada"], "Ada Quill")]
        assert [verdict.verdict for verdict in judge.grade_many(items)] == ["right", "wrong", "right"]
        system, asked = endpoint.requests[0]["messages"]
        assert system == {"role": "system", "content": SYSTEM}
        assert asked["content"].startswith("Question: Who?\ngroudtruth = Ada\npredict_answer = ")
        seen = len(endpoint.requests)
        assert judge.grade("Who?", ["Ada"], "Bram").verdict == "wrong"
        assert len(endpoint.requests) == seen  # it is known


def test_a_full_run_costs_what_all_data_cost_whatever_is_run(data: Path) -> None:
    table = load_table("2")
    plan = table.plan_on(data, limit=1)
    size = size_of(plan.suite[0], lambda text: [(0, 1)] * (len(text) // 4))
    assert (size.documents, size.questions, size.answer_tokens) == (2, 2.0, 200)
    assert size.document_tokens == pytest.approx(len(TEXT) / 4, rel=0.01)
    cost = cost_of_table(plan, lambda text: [(0, 1)] * (len(text) // 4))
    assert (cost.documents, cost.questions) == (4, 8)
    assert cost.train_s > 0 and cost.ask_s > 0
    assert "one H100 of 80 GB" in str(cost) and "\n" not in str(cost)


def test_a_cost_is_that_of_the_base_as_it_is_held_and_not_of_the_published_one(data: Path) -> None:
    long = json.dumps({"title": "Boats", "input": 120 * TEXT, "qa_pairs": str(PAIRS)}) + "\n"
    for path in (data / "loogle").iterdir():
        path.write_text(long, "utf-8")
    plan = load_table("2").plan_on(data)

    def offsets(text: str) -> list[tuple[int, int]]:
        return [(0, 1)] * (len(text) // 6)

    whole, quantised = (cost_of_table(plan, offsets, held) for held in (None, "nf4"))
    assert (whole.held_as, whole.fits) == ("bfloat16", False)
    assert "(bfloat16)" in str(whole) and "which does not fit" in str(whole)
    assert (quantised.held_as, quantised.fits) == ("nf4", True)
    assert cost_of_table(plan, offsets, "gptq").held_as == "bfloat16"


def test_settings_change_the_recipes_of_named_methods_and_no_baseline() -> None:
    plan = RunPlan.parse(
        {
            "suite": [{"name": "qa"}],
            "overrides": ["training.seed=7"],
            "recipes": {"mine": {"recipe": "lift-v3", "overrides": ["context.segment_tokens=0"]}},
        },
        "plan",
    )
    methods = {each.name: each for each in find_methods(["lift:none@lift-v3", "lift:none@mine", "finetune-raw"])}
    assert plan.load_recipe(methods["lift:none@lift-v3"]).training.seed == 7
    mine = plan.load_recipe(methods["lift:none@mine"])
    assert (mine.name, mine.training.seed, mine.context.segment_tokens) == ("mine", 7, 0)
    assert plan.load_recipe(methods["finetune-raw"]).training.seed == 0


def test_the_command_runs_a_table_to_its_end(
    data: Path, tmp_path: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    quick = ["generator.kind=rules", "tasks.per_document=2", "adapter.width=1"]
    quick += ["training.segment_epochs=1", "training.epochs=1"]
    given = ["evaluate", "paper", "--table", "2", "--data", str(data), "--limit", "1", "--questions-limit", "1"]
    given += ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    given += [word for override in quick for word in ("--set", override)]
    assert run([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    cell = told["cells"][1]
    assert (cell["method"], cell["published"], cell["questions"], cell["errors"]) == (
        "lift:truncated@lift-v3",
        47.51,
        1,
        0,
    )
    assert told["cost"]["documents"] == 4
    page = (tmp_path / "out" / "paper.md").read_text("utf-8")
    assert told["held_as"] in ("bfloat16", "float32")  # as this processor holds it
    measured = f"measured on {tmp_path / 'model'} ({told['held_as']})"
    assert f"Published on Meta-Llama-3-8B-Instruct (nf4), {measured}" in page
    assert told["cost"]["held_as"] == "bfloat16"
    assert "| 47.51 |" in page and "By arithmetic, all 4 documents" in page
