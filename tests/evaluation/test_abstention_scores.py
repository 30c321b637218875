"""What a method does with questions that nothing answers: counted by hand, and as SQuAD 2.0's own script does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.abstention import abstains
from lift.answering.scoring import normalised_words
from lift.evaluation.abstention_scores import measure_abstention
from lift.evaluation.report.report_content import build_content
from lift.evaluation.report.write import write_report
from lift.evaluation.run import Evaluation
from lift.evaluation.run_files import RunData, load_run, write_rows
from lift.evaluation.suite_plan import RunPlan
from lift.models.base_model import BaseModel

REFUSAL = "The text does not tell."


def row(answer: str, gold: Sequence[str], error: str | None = None, **changed: Any) -> dict[str, Any]:
    return {
        "suite": "qa", "document": "A", "question_id": f"{answer} {gold} {error}", "method": "bm25", "question": "Who?",
        "answer": answer, "gold": list(gold), "scores": {"f1": 0.0}, "main": "f1", "prompt_tokens": 9,
        "answer_tokens": 2, "seconds": 1.0, "error": error, "title": "A", "kind": "", "context": "evidence",
        "prompt": "Who?", "truncated": False, "supported": None, "support": [], "cell": None, "memory": None,
        "judge": None, "key": "k",
    } | changed  # fmt: skip


ROWS = [
    row(REFUSAL, []),
    row("not mentioned in the passage", []),
    row("", []),
    row("Ada Quill", []),
    row("", [], error="no room"),
    row("Ada Quill", ["Ada Quill"]),
    row("Ada", ["Ada Quill"]),  # F1 2/3
    row("Tom Veil", ["Ada Quill"]),
    row("I don't know.", ["Ada Quill"]),
    row("The text does not tell.", ["the text"]),
    row("unknown", ["unknown"]),
    row("", ["Ada Quill"], error="no room"),
    row("", ["Ada Quill"]),
]


def test_numbers_are_those_counted_by_hand() -> None:
    found = measure_abstention(ROWS)
    assert found is not None
    assert (found.unanswerable, found.abstained, found.missed) == (5, 3, 2)
    assert (found.answerable, found.refused) == (8, 3)
    assert (found.refused_share, found.precision, found.recall) == (3 / 8, 3 / 6, 3 / 5)
    assert found.abstention_f1 == pytest.approx(2 * 0.5 * 0.6 / 1.1)
    assert found.answerable_f1 == pytest.approx((1 + 2 / 3 + 1) / 8)
    assert found.answerable_exact == 2 / 8
    assert found.no_answer == 3 / 5
    assert (found.f1, found.exact) == (pytest.approx((8 / 3 + 3) / 13), pytest.approx(5 / 13))


def test_where_everything_has_an_answer_there_is_nothing_to_tell() -> None:
    assert measure_abstention(ROWS[5:]) is None
    only = measure_abstention(ROWS[3:4])
    assert only is not None
    assert (only.precision, only.abstention_f1, only.answerable_f1, only.refused_share) == (None, 0.0, None, None)


def official(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, float]:
    """(F1, EM) of evaluate-v2.0.py: without an answer the only reference is the empty string."""
    f1s, exacts = [], []
    for prediction, golds in zip(predictions, references, strict=True):
        said = normalised_words(prediction)
        f1, exact = 0.0, 0.0
        for gold in list(golds) or [""]:
            wanted = normalised_words(gold)
            exact = max(exact, float(said == wanted))
            if not said or not wanted:
                f1 = max(f1, float(said == wanted))
                continue
            same = sum(min(said.count(word), wanted.count(word)) for word in set(said))
            precision, recall = same / len(said), same / len(wanted)
            f1 = max(f1, 2 * precision * recall / (precision + recall) if same else 0.0)
        f1s.append(f1)
        exacts.append(exact)
    return sum(f1s) / len(f1s), sum(exacts) / len(exacts)


SAID = st.sampled_from([REFUSAL, "", "I don't know", "Ada Quill", "Ada", "the tower of Ada", "42", "no text does"])
GOLD = st.lists(st.sampled_from(["Ada Quill", "the tower", "text", "42 lenses"]), max_size=2)


@given(st.lists(st.tuples(SAID, GOLD), min_size=1, max_size=12))
def test_the_overall_scores_are_those_of_the_official_definition(answers: list[tuple[str, list[str]]]) -> None:
    found = measure_abstention([row(said, gold) for said, gold in answers])
    if found is None:
        assert all(gold for _, gold in answers)
        return
    predictions = ["" if abstains(said) else said for said, _ in answers]
    f1, exact = official(predictions, [gold for _, gold in answers])
    assert (found.f1, found.exact) == (pytest.approx(f1), pytest.approx(exact))
    empty = [not prediction for prediction, (_, gold) in zip(predictions, answers, strict=True) if not gold]
    assert found.no_answer == pytest.approx(sum(empty) / len(empty))


def test_the_reports_have_a_table_of_it_only_where_there_is_something_to_tell(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", ROWS)
    write_report(load_run(tmp_path))
    [table] = [table for table in build_content(load_run(tmp_path)).suites[0].tables if table.name == "abstention"]
    cells = "bm25 | 5 | 3 | 2 | 3 of 8 | 37.5 | 50.0 | 60.0 | 54.5 | 33.3 | 25.0 | 60.0 | 43.6 | 38.5"
    assert table.rows[0].cells == tuple(cells.split(" | "))
    assert f"| {cells} |" in (tmp_path / "report.md").read_text("utf-8")
    assert ">Abstention</h3>" in (tmp_path / "report.html").read_text("utf-8")
    without = build_content(RunData(tmp_path, {}, ROWS[5:]))
    assert all(table.name != "abstention" for table in without.suites[0].tables)


def test_an_evaluation_asks_what_nothing_answers_and_says_how_often_it_was_refused(
    tiny_model: BaseModel, tmp_path: Path
) -> None:
    questions = [
        {"question": "Who founded the museum?", "answers": ["Ada Quill"], "evidence": ["Ada Quill founded it."]},
        {"id": "shown", "question": "Who sold it?", "answers": [], "evidence": ["Ada Quill founded it."]},
        {"id": "bare", "question": "Who painted it?", "answers": []},
    ]
    document = {"id": "merrow", "context": "The museum is old. Ada Quill founded it.", "questions": questions}
    data = tmp_path / "own.jsonl"
    data.write_text(json.dumps(document) + "\n", "utf-8")
    methods = ["closed-book", "bm25", "oracle"]
    plan = RunPlan.parse({"suite": [{"name": "qa", "data": data}], "methods": methods}, "test")
    evaluation = Evaluation(plan, tmp_path / "out", tiny_model)
    list(evaluation.run())
    rows = load_run(tmp_path / "out").results
    assert not [each for each in rows if each["error"]]
    assert [each["question_id"] for each in rows if each["method"] == "oracle"] == ["merrow-0", "shown"]
    for each in rows:
        if not each["gold"]:
            assert set(each["scores"].values()) == {float(abstains(each["answer"]))}
    told = {each["method"]: each for each in evaluation.summary()["abstention"]}
    assert {name: each["unanswerable"] for name, each in told.items()} == {"closed-book": 2, "bm25": 2, "oracle": 1}
    for name, each in told.items():
        scores = measure_abstention([row for row in rows if row["method"] == name])
        assert scores is not None
        assert (each["f1"], each["false_refusals"]) == (scores.abstention_f1, scores.refused_share)
