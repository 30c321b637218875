import base64
import dataclasses
import gzip
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.errors import UsageError
from lift.evaluation.report.report_content import ReportContent, build_content
from lift.evaluation.report.run_comparison import compare
from lift.evaluation.report.svg_figures import CostPoint, cost_scatter, heat_map
from lift.evaluation.report.tables import Table, TableRow, line_ranges
from lift.evaluation.report.write import write_report
from lift.evaluation.run_files import RunData, load_run, write_rows, write_value

HOSTILE = "</script><img src=x onerror=alert(1)> | *bold*"
TOO_LONG = "the text does not fit"
# scores of the questions (A, q1), (A, q2), (B, q1), (B, q2); None: the question failed
SCORES: dict[str, list[float | None]] = {
    "truncated": [0, 1, 0, 0],
    "full": [1, 1, None, 0.5],
    "bm25": [1, 0, 0, 0],
    "lift:none": [1, 1, 1, 0],
    "wrong-document": [0, 0, 0, 0],
}
QUESTIONS = [("A", "q1"), ("A", "q2"), ("B", "q1"), ("B", "q2")]
METHODS = {**dict.fromkeys(SCORES, "a way to answer"), "hybrid": "was stopped before it began"}


def answer_row(method: str, document: str, question_id: str, score: float | None, **changed: Any) -> dict[str, Any]:
    memory = "m" if method in ("lift:none", "wrong-document") else None
    row: dict[str, Any] = {
        "suite": "qa", "document": document, "question_id": question_id, "method": method,
        "question": f"What of {document} {question_id}?", "answer": HOSTILE if score else "", "gold": ["42", "forty"],
        "scores": {"contained": score or 0, "f1": (score or 0) / 2}, "main": "contained",
        "prompt_tokens": 0 if score is None else 100, "answer_tokens": 5, "seconds": 0.0 if score is None else 2.0,
        "error": TOO_LONG if score is None else None, "title": f"Text {document}",
        "kind": {"q1": "number", "q2": "name"}[question_id], "context": "none", "prompt": f"Text. {question_id}?",
        "truncated": False, "supported": None, "support": [], "cell": None, "memory": memory, "judge": None,
        "key": f"{method}{document}{question_id}",
    }  # fmt: skip
    return row | changed


def cost_row(method: str, document: str, **changed: Any) -> dict[str, Any]:
    remembers = method in ("lift:none", "wrong-document")
    ask_s = {"truncated": 0.5, "full": 2.1, "bm25": 0.05, "lift:none": 0.1, "wrong-document": 0.1}[method]
    row = {
        "suite": "qa", "document": document, "method": method, "document_tokens": 1000,
        "memory": "m" if remembers else None, "absorb_s": 100.0 if remembers else 0, "absorb_tokens": 5000,
        "adapter_bytes": 2_000_000 if remembers else 0, "kv_bytes": 50_000_000, "ask_s": ask_s,
        "ask_prompt_tokens": 60, "answer_tokens": 5, "recalled": 3 if remembers else 0,
        "probed": 4 if remembers else 0, "peak_memory_bytes": 10**9,
        "seconds_per_token": {"full": 0.75, "lift:none": 0.25}.get(method),
    }  # fmt: skip
    return row | changed


def results() -> list[dict[str, Any]]:
    rows = [
        answer_row(method, document, question_id, scores[place])
        for place, (document, question_id) in enumerate(QUESTIONS)
        for method, scores in SCORES.items()
    ]
    for number, (length, depth) in enumerate([(1024, 0.0), (1024, 0.5), (2048, 0.0), (2048, 0.5), (2048, 0.5)]):
        cell = {"length": length, "depth": depth}
        for method, score in (("truncated", 0.0), ("lift:none", float(number != 4))):
            where = {"suite": "niah", "kind": "", "cell": cell}
            rows.append(answer_row(method, f"T{number}", "q1", score, **where))
    return rows


def harm_row(document: str, after: float) -> dict[str, Any]:
    return {
        "suite": "qa", "document": document, "memory": "m", "method": "lift:none", "perplexity_base": 10.0,
        "perplexity_memory": after, "unrelated_questions": 8, "unrelated_base": {"contained": 0.75, "f1": 0.5},
        "unrelated_memory": {"contained": 0.5, "f1": 0.25},
    }  # fmt: skip


def write_run(directory: Path) -> RunData:
    """A run as the files of one, read again."""
    directory.mkdir()
    write_rows(directory / "results.jsonl", results())
    write_rows(directory / "costs.jsonl", [cost_row(method, document) for document in "AB" for method in SCORES])
    write_rows(directory / "harms.jsonl", [harm_row("A", 11.0), harm_row("B", 12.0)])
    suites = [
        {
            "name": name, "settings": {"limit": 2}, "documents": 2, "questions": 4, "left_out": 3,
            "excerpt_rule": "cut to 1,000 tokens", "metrics": ["contained", "f1"], "faults": ["qa.jsonl, line 9: bad"],
        }
        for name in ("qa", "niah")
    ]  # fmt: skip
    described = {
        "command": "lift evaluate qa --data <b>.jsonl", "model": "tiny", "fingerprint": "abc", "machine": "2 cores",
        "versions": {"lift": "1"}, "started": "2030-01-01T00:00:00Z", "seconds": 75.0, "suites": suites,
        "methods": METHODS, "recipes": {"default": {"adapter": {"rank": 8}}}, "budget_s": None, "judge": None,
    }  # fmt: skip
    write_value(directory / "run.json", described)
    points = [
        {"questions": 10, "seconds_a": 101.0, "seconds_b": 21.0},
        {"questions": 60, "seconds_a": 106.0, "seconds_b": 126.0},
    ]
    found = {"suite": "qa", "document": "A", "method_a": "lift:none", "method_b": "full", "absorb_s": 100.0}
    found |= {"ask_s_a": 0.1, "ask_s_b": 2.1, "predicted_questions": 50, "measured_questions": 60, "measured": points}
    write_value(directory / "break_even.json", found)
    return load_run(directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return write_run(tmp_path_factory.mktemp("reports") / "run")


@pytest.fixture(scope="module")
def content(run: RunData) -> ReportContent:
    return build_content(run)


@pytest.fixture(scope="module")
def pages(run: RunData) -> tuple[str, str]:
    markdown, html = write_report(run)
    assert (markdown.name, html.name) == ("report.md", "report.html")
    assert markdown.parent == html.parent == run.directory
    return markdown.read_text("utf-8"), html.read_text("utf-8")


def table(content: ReportContent, suite: str, name: str) -> Table:
    return next(
        each for section in content.suites if section.title == suite for each in section.tables if each.name == name
    )


def find_row(found: Table, *cells: str) -> TableRow:
    return next(row for row in found.rows if row.cells[: len(cells)] == cells)


def cell(found: Table, row: TableRow, column: str) -> str:
    return row.cells[found.columns.index(column)]


def without(run: RunData, **changed: Any) -> RunData:
    return dataclasses.replace(run, **changed)


def test_quality_is_the_mean_and_an_error_counts_as_wrong(content: ReportContent) -> None:
    quality = table(content, "qa", "quality")
    means = {row.cells[0]: row.cells[1].split(" ")[0] for row in quality.rows}
    assert means == {
        "truncated": "25.0", "full": "62.5", "bm25": "25.0", "lift:none": "75.0", "wrong-document (control)": "0.0",
        "hybrid": "–",
    }  # fmt: skip
    full = find_row(quality, "full")
    assert full.numbers["f1"] == pytest.approx(0.3125)
    assert [cell(quality, full, name) for name in ("Questions", "Errors", "Prompt tokens", "Seconds")] == [
        "4", "1", "100", "2",
    ]  # fmt: skip
    assert cell(quality, full, "Seconds alone") == "2.1"
    assert full.numbers["low"] <= 0.625 <= full.numbers["high"]


def test_a_method_without_answers_has_a_row_of_nothing(content: ReportContent) -> None:
    row = find_row(table(content, "qa", "quality"), "hybrid")
    assert cell(table(content, "qa", "quality"), row, "Questions") == "0"
    assert row.selections[0].lines == ()


def test_every_row_can_be_made_again_from_its_lines(run: RunData, content: ReportContent) -> None:
    lines = (run.directory / "results.jsonl").read_text("utf-8").splitlines()
    traced = 0
    for section in content.suites:
        for found in section.tables:
            for row in found.rows:
                picked = [
                    [json.loads(lines[line - 1]) for line in selection.lines or ()]
                    for selection in row.selections
                    if selection.file == "results.jsonl"
                ]
                means = [_mean_main(rows) for rows in picked if rows]
                if found.name == "comparisons-f1":
                    by_f1 = [sum(each["scores"]["f1"] for each in rows) / len(rows) for rows in picked]
                    assert row.numbers["difference"] == pytest.approx(by_f1[0] - by_f1[1])
                elif found.name == "comparisons":
                    assert row.numbers["difference"] == pytest.approx(means[0] - means[1])
                    assert {each["method"] for each in picked[0]} == {row.cells[0]}
                elif means:
                    assert row.numbers["main"] == pytest.approx(means[0])
                    for rows, selection in zip(picked, row.selections, strict=True):
                        common = {name: value for name, value in selection.where if name in ("suite", "method", "kind")}
                        assert all(each[name] == value for each in rows for name, value in common.items())
                traced += bool(means)
    assert traced >= 5 + 6 + 10 + 8


def _mean_main(rows: list[dict[str, Any]]) -> float:
    return sum(row["scores"][row["main"]] for row in rows) / len(rows)


def test_lines_behind_costs_and_harms_are_lines_of_their_files(run: RunData, content: ReportContent) -> None:
    costs = table(content, "qa", "costs")
    for row in costs.rows:
        (selection,) = row.selections
        assert {run.costs[line - 1]["method"] for line in selection.lines or ()} == {row.cells[0]}
    (row,) = table(content, "qa", "harms").rows
    assert [run.harms[line - 1]["perplexity_memory"] for line in row.selections[0].lines or ()] == [11.0, 12.0]


@given(st.sets(st.integers(1, 60), min_size=1))
def test_ranges_name_exactly_the_lines(lines: set[int]) -> None:
    named: set[int] = set()
    for each in line_ranges(tuple(lines)):
        first, _, last = each.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == lines


def test_errors_are_listed_with_their_reason(content: ReportContent, pages: tuple[str, str]) -> None:
    assert content.errors
    (row,) = content.errors.rows
    assert row.cells == ("qa", "full", "1", TOO_LONG)
    assert f"| qa | full | 1 | {TOO_LONG} | line 12 of results.jsonl (1) |" in pages[0]
    assert f"<td>{TOO_LONG}</td>" in pages[1]


def test_full_is_compared_only_where_the_text_fitted(content: ReportContent) -> None:
    compared = table(content, "qa", "comparisons")
    row = find_row(compared, "lift:none", "full")
    assert cell(compared, row, "Questions") == "3"
    assert row.numbers["difference"] == pytest.approx((0 + 0 - 0.5) / 3)
    assert cell(compared, row, "Better") == "0 / 1 / 2"


def test_which_methods_are_compared(content: ReportContent) -> None:
    compared = table(content, "qa", "comparisons")
    pairs = [(row.cells[0], row.cells[1]) for row in compared.rows]
    assert ("lift:none", "bm25") in pairs and ("lift:none", "wrong-document (control)") in pairs
    assert ("full", "bm25") not in pairs and ("truncated", "truncated") not in pairs
    assert "wrong-document" not in [method for method, _ in pairs]
    assert find_row(compared, "lift:none", "truncated").numbers["difference"] == pytest.approx(0.5)
    for row in compared.rows:
        p, adjusted = (float(cell(compared, row, name).strip("< ")) for name in ("p", "p adjusted"))
        assert p <= adjusted <= 1


def test_kinds_have_means_of_their_own(content: ReportContent) -> None:
    kinds = table(content, "qa", "kinds")
    assert find_row(kinds, "name", "lift:none").numbers["main"] == 0.5
    assert find_row(kinds, "number", "lift:none").numbers["main"] == 1.0
    assert not [each for section in content.suites[1:] for each in section.tables if each.name == "kinds"]


def test_a_grid_has_a_row_for_each_cell(content: ReportContent) -> None:
    cells = table(content, "niah", "cells")
    assert find_row(cells, "lift:none", "2,048", "50 %").cells[3:] == ("50.0", "2")
    assert len(cells.rows) == 8


def test_a_suite_with_several_main_metrics_has_the_mean_of_each_question_s_own() -> None:
    rows = [
        answer_row("full", "A", "q1", 1.0),
        answer_row("full", "A", "q2", 0.0, scores={"rouge": 0.5}, main="rouge"),
    ]
    quality = table(build_content(RunData(Path(), {}, rows)), "qa", "quality")
    (row,) = quality.rows
    assert row.numbers["main"] == 0.75
    assert cell(quality, row, "Main score, %").startswith("75.0 ")
    assert cell(quality, row, "rouge, %") == "50.0 [50.0, 50.0] of 1"


def test_verdicts_and_support_are_shares() -> None:
    verdicts = ["right", "wrong", "undecided", "right"]
    rows = [
        answer_row("full", "A", f"q{place % 2 + 1}", 1.0, judge=verdict, supported=place < 3)
        for place, verdict in enumerate(verdicts)
    ]
    quality = table(build_content(RunData(Path(), {}, rows)), "qa", "quality")
    assert cell(quality, quality.rows[0], "Judged right, %") == "50.0"
    assert cell(quality, quality.rows[0], "Supported, %") == "75.0"


def test_costs_are_means_over_documents(content: ReportContent) -> None:
    costs = table(content, "qa", "costs")
    lift = find_row(costs, "lift:none")
    shown = {name: cell(costs, lift, name) for name in ("Absorb, s", "Memory, MB", "Cache / memory", "Recall, %")}
    assert shown == {"Absorb, s": "100", "Memory, MB": "2.0", "Cache / memory": "25", "Recall, %": "75.0"}
    assert cell(costs, find_row(costs, "bm25"), "Absorb, s") == "–"


def test_a_memory_pays_from_absorbing_over_saving(content: ReportContent) -> None:
    pays = table(content, "qa", "break-even")
    assert find_row(pays, "A", "lift:none", "full").cells[-2:] == ("50", "200")
    assert find_row(pays, "A", "lift:none", "bm25").cells[-2:] == ("never", "–")
    assert find_row(pays, "median of 2", "lift:none", "full").cells[-2:] == ("50", "200")
    assert "wrong-document" not in {row.cells[1] for row in pays.rows}


def test_what_was_run_both_ways_stands_beside_the_prediction(content: ReportContent) -> None:
    measured = table(content, "qa", "measured")
    assert [row.cells for row in measured.rows] == [("10", "101", "21", "full"), ("60", "106", "126", "lift:none")]
    assert "from 50 questions on. Measured: from 60 on." in measured.note
    assert not [each for each in content.suites[1].tables if each.name == "measured"]


def test_harm_is_the_change_beside_the_document(content: ReportContent) -> None:
    (row,) = table(content, "qa", "harms").rows
    assert row.cells == ("lift:none", "2", "10.00", "11.50", "+15.0 %", "75.0", "50.0", "50.0", "25.0", "8")


def test_the_top_says_what_was_run(pages: tuple[str, str]) -> None:
    markdown, html = pages
    assert r"- Command: lift evaluate qa --data \<b\>.jsonl" in markdown
    assert "lift evaluate qa --data &lt;b&gt;.jsonl" in html
    for page in pages:
        assert "1 min 15 s" in page and "adapter (rank 8)" in page and "30 answers, 1 of them errors" in page
        assert "qa.jsonl, line 9: bad" in page and "3 questions left out" in page and "95 % interval" in page


def test_markdown_rows_have_as_many_cells_as_their_heads() -> None:
    rows = [answer_row("a|b", "A", "q1", None, error="x | `y`\n| z <script>")]
    from lift.evaluation.report.markdown_report import markdown_report

    text = markdown_report(build_content(RunData(Path(), {}, rows)))
    assert r"| qa | a\|b | 1 | x \| \`y\` \| z \<script\> |" in text
    widths: set[int] = set()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.add(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1
            widths.clear()


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, ids, text of script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def test_the_page_refers_to_nothing_outside(pages: tuple[str, str]) -> None:
    page = Page(pages[1])
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image")
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\((?!#)|@import", pages[1])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_policy_allows_the_page_s_own_script_alone(pages: tuple[str, str]) -> None:
    page = Page(pages[1])
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes) or ""
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode("utf-8")).digest()).decode("ascii")
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert len(page.scripts) == 2


def test_the_script_puts_data_into_the_page_as_text_only() -> None:
    script = resources.files("lift.evaluation.report").joinpath("page.js").read_text("utf-8")
    assert "textContent" in script
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "Function("):
        assert name not in script


def unpacked(page: str) -> list[dict[str, Any]]:
    """The rows of a page, read as its script does."""
    data = json.loads(gzip.decompress(base64.b64decode(Page(page).scripts[0])))
    assert len(data["texts"]) == len(set(data["texts"]))
    found = []
    for values in data["rows"]:
        rest = iter(values)
        row = {name: None if (at := next(rest)) is None else data["texts"][at] for name in data["textFields"]}
        row |= {name: [data["texts"][at] for at in next(rest)] for name in data["listFields"]}
        row |= {name: next(rest) for name in data["plainFields"]}
        found.append(row)
    return found


def test_the_page_holds_every_row_and_a_hostile_answer_stays_data(run: RunData, pages: tuple[str, str]) -> None:
    expected = [{name: value for name, value in row.items() if name != "key"} for row in run.results]
    assert unpacked(pages[1]) == expected
    assert HOSTILE in {row["answer"] for row in expected}
    assert "onerror" not in pages[1]


def test_hostile_names_are_escaped_in_tables(tmp_path: Path) -> None:
    rows = [answer_row(HOSTILE, HOSTILE, "q1", None, suite=HOSTILE, error=HOSTILE)]
    _, html = write_report(RunData(tmp_path, {"command": HOSTILE}, rows))
    page = Page(html.read_text("utf-8"))
    assert len(page.scripts) == 2
    assert "img" not in [tag for tag, _ in page.elements]


def test_numbers_stand_to_the_right_and_sentences_do_not(tmp_path: Path) -> None:
    rows = [answer_row("full", "A", "q1", None, error="8,192 tokens are too few")]
    _, html = write_report(RunData(tmp_path, {}, rows))
    assert "<td>8,192 tokens are too few</td>" in html.read_text("utf-8")
    assert '<td class="number">0.0 [0.0, 0.0]</td>' in html.read_text("utf-8")


def test_links_of_a_table_lead_to_its_answers(pages: tuple[str, str]) -> None:
    links = [attributes.get("href") or "" for tag, attributes in Page(pages[1]).elements if tag == "a"]
    assert "#answers?suite=qa&method=lift%3Anone" in links
    assert "#answers?suite=qa&kind=name&method=full" in links
    assert "#answers?suite=niah&method=lift%3Anone&length=2048&depth=0.5" in links
    assert "#answers?suite=qa&method=full&outcome=error" in links


def test_a_report_needs_no_more_than_results(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", results())
    markdown, html = write_report(load_run(tmp_path))
    assert "| lift:none | 75.0" in markdown.read_text("utf-8")
    assert "From where a memory pays" not in html.read_text("utf-8")


def test_a_report_of_the_same_run_is_the_same_text_in_place_of_the_old(run: RunData, tmp_path: Path) -> None:
    small = without(run, directory=tmp_path, results=run.results[-10:], costs=[], break_even=None)
    first = [path.read_text("utf-8") for path in write_report(small)]
    assert [path.read_text("utf-8") for path in write_report(small)] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_a_run_without_answers_is_said_to_be_one(tmp_path: Path) -> None:
    described = {"suites": [{"name": "qa", "documents": 0, "questions": 0, "left_out": 0}]}
    markdown, html = write_report(RunData(tmp_path, described))
    assert "nothing was answered" in markdown.read_text("utf-8")
    assert unpacked(html.read_text("utf-8")) == []


def test_without_matplotlib_the_tables_are_written_and_the_cure_is_named(
    run: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="make setup EXTRAS=evaluate"):
        write_report(without(run, directory=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_figures_stand_beside_their_tables(pages: tuple[str, str]) -> None:
    figures = re.findall(r"<figure>.*?</figure>", pages[1], re.DOTALL)
    assert len(figures) == 4  # quality of two suites, the grid, and the curve
    assert all("currentColor" in figure and "<metadata" not in figure for figure in figures)
    curve = next(figure for figure in figures if "seconds in all" in figure)
    assert "the document A" in curve and ">lift:none<" in curve and ">wrong-document<" not in curve


def test_a_figure_says_each_cell_and_takes_names_as_they_are() -> None:
    svg = heat_map("grid", {"a $x$ <b>": {(1024.0, 0.0): 0.25, (2048.0, 1.0): 1.0}})
    texts = [element.text for element in ElementTree.fromstring(svg.replace("xlink:", "")).iter("text")]
    assert {"a $x$ <b>", "25", "100", "1k", "2k", "0 %", "100 %"} <= set(texts)
    assert svg == heat_map("grid", {"a $x$ <b>": {(1024.0, 0.0): 0.25, (2048.0, 1.0): 1.0}})
    assert "one" in cost_scatter("cost", [CostPoint("one", 0.5, 0.5, 0.5, 0.2, 3.0)], "seconds")


def test_runs_are_compared_on_the_questions_that_both_answered(run: RunData) -> None:
    rows = [dict(row) for row in run.results if row["suite"] == "qa"]
    for row in rows:
        if row["method"] == "truncated" and row["document"] == "A":
            row["scores"] = {"contained": 1.0, "f1": 1.0}
        if row["method"] == "bm25" and row["question_id"] == "q1":
            row["question"] += " Really?"
    rows.append(answer_row("closed-book", "A", "q1", 1.0))
    found = compare(run, without(run, results=rows, description={**run.description, "model": "large"}))
    assert (found.only_a, found.only_b, found.unlike) == (10, 1, 2)
    by_method = {each.method: each for each in found.differences}
    truncated = by_method["truncated"]
    assert (truncated.mean_a, truncated.mean_b, truncated.pair.mean) == (0.25, 0.5, 0.25)
    assert (truncated.pair.better, truncated.pair.worse, truncated.pair.equal) == (1, 0, 3)
    assert by_method["lift:none"].pair.mean == 0
    assert by_method["bm25"].pair.n == 2
    (change,) = found.changes
    assert (change.method, change.question_id, change.score_a, change.score_b) == ("truncated", "q1", 0, 1)
    assert run.results[change.line_a - 1]["key"] == rows[change.line_b - 1]["key"] == "truncatedAq1"
    assert found.settings == (("model", "tiny", "large"),)
    assert found.remarks()[-1] == "model differs: tiny in A, large in B"


def test_a_comparison_prints_as_plain_rows_and_as_json(run: RunData) -> None:
    rows = [row | {"scores": {"contained": 1.0 if row["error"] is None else 0.0}} for row in run.results]
    found = compare(run, without(run, results=rows))
    for printed, count in ((found.rows(), 7), (found.changed_rows(), 18)):
        assert len(printed) == 1 + count
        assert {len(row) for row in printed} == {len(printed[0])}
    assert found.rows()[1][:5] == ["qa", "truncated", "contained", "25.0", "100.0"]
    gains = [each.score_b - each.score_a for each in found.changes]
    assert gains == sorted(gains, reverse=True) and gains[-1] == 0.5
    assert found.changed == len(found.changes) == 18
    assert json.loads(json.dumps(found.as_dict()))["differences"][0]["pair"]["n"] == 4


def test_runs_with_nothing_in_common_have_no_difference(run: RunData) -> None:
    found = compare(run, without(run, results=[]))
    assert (found.differences, found.changes, found.only_a, found.only_b) == ((), (), 30, 0)
