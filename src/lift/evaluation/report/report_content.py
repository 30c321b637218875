"""The content of a report, before it is written as Markdown or HTML: what was run, how to read it, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lift.evaluation.report.abstention_table import abstention_table
from lift.evaluation.report.cost_tables import break_even_table, costs_table, harms_table, measured_table
from lift.evaluation.report.quality_tables import (
    cells_table,
    compared_metrics,
    comparison_table,
    errors_table,
    kinds_table,
    metric_title,
    quality_table,
)
from lift.evaluation.report.tables import NOTHING, Numbered, Selection, Table, TableRow, distinct, numbered, where
from lift.evaluation.run_files import RUN_FILE, RunData

READING = (
    "Scores are means over all questions, in percent; an answer that failed with an error counts as wrong.",
    "71.4 [60.1, 80.2] reads: the mean is 71.4, and its 95 % interval goes from 60.1 to 80.2. With 5 documents or more "
    "the interval comes from drawing whole documents anew with all their questions (bootstrap), and tells how far "
    "other documents of the same kind may give another mean. With fewer, single questions are drawn, and the interval "
    "speaks of these documents only.",
    "Two intervals that overlap may still differ: the comparisons set the same questions side by side, which shows "
    "smaller differences. Their p-values come from flipping signs, of whole documents with 10 or more of them, of "
    "single questions with fewer.",
    "Behind each row stand the lines of the run's files that it was made of, so every number can be traced.",
)


@dataclass(frozen=True)
class Section:
    """Tables under one heading. `anchor`: fit for a link, unique; `facts`: label and text, in order."""

    title: str
    anchor: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class ReportContent:
    """A report: facts about the run, sentences on how to read it, a section for each suite, and what went wrong."""

    title: str
    facts: tuple[tuple[str, str], ...]
    methods: Table | None
    suites: tuple[Section, ...]
    errors: Table | None


def build_content(run: RunData) -> ReportContent:
    """All of a report but its figures, from the rows of a run."""
    results, described = numbered(run.results), run.description
    suites = {suite["name"]: suite for suite in described.get("suites", [])}
    names = list(dict.fromkeys([*suites, *distinct(results, "suite")]))
    sections = tuple(
        _suite_section(run, name, f"suite-{place}", suites.get(name, {}), where(results, suite=name))
        for place, name in enumerate(names, 1)
    )
    title = f"Evaluation: {', '.join(names) or 'nothing'}"
    return ReportContent(title, _run_facts(run), _methods_table(described), sections, errors_table(results))


def _run_facts(run: RunData) -> tuple[tuple[str, str], ...]:
    described = run.description
    errors = sum(row["error"] is not None for row in run.results)
    asked = f"{len(run.results):,} answers, {errors:,} of them errors"
    facts = [(label, str(described[name])) for label, name in _DESCRIBED if described.get(name)]
    if described.get("seconds"):
        facts.append(("Took", duration(described["seconds"])))
    facts.append(("Answers", asked))
    if described.get("budget_s"):
        facts.append(("Budget of an absorption", duration(described["budget_s"])))
    if described.get("versions"):
        facts.append(("Versions", _pairs_text(described["versions"])))
    for name, recipe in (described.get("recipes") or {}).items():
        facts.append((f"Recipe {name}", _pairs_text(recipe) if isinstance(recipe, Mapping) else str(recipe)))
    if judge := described.get("judge"):
        facts.append(("Judge", _judge_text(judge)))
    return tuple(facts)


_DESCRIBED = (
    ("Command", "command"),
    ("Model", "model"),
    ("Fingerprint of its weights", "fingerprint"),
    ("Machine", "machine"),
    ("Started", "started"),
)


def _judge_text(judge: Mapping[str, Any]) -> str:
    text = str(judge["model"])
    if measured := judge.get("agreement"):
        text += (
            f"; on {measured['n']} answers judged by people before it agreed in {100 * measured['share']:.0f} % "
            f"(kappa {measured['kappa']:.2f})"
        )
    return f"{text}; left {judge['undecided']} undecided, failed on {judge['errors']}"


def _methods_table(described: Mapping[str, Any]) -> Table | None:
    methods = described.get("methods") or {}
    rows = tuple(TableRow((name, str(text)), (Selection(RUN_FILE, (), None),)) for name, text in methods.items())
    note = "What each method puts before the model together with the question."
    return Table("methods", "Methods", note, ("Method", "What it is"), rows) if rows else None


def _suite_section(
    run: RunData, name: str, anchor: str, described: Mapping[str, Any], rows: Sequence[Numbered]
) -> Section:
    costs, harms = where(numbered(run.costs), suite=name), where(numbered(run.harms), suite=name)
    tables = (
        quality_table(name, rows, costs, tuple(run.description.get("methods") or ())) if rows else None,
        abstention_table(name, rows),
        *(comparison_table(name, rows, metric) for metric in compared_metrics(rows)),
        cells_table(name, rows),
        kinds_table(name, rows),
        costs_table(name, costs),
        break_even_table(name, costs),
        measured_table(name, run.break_even),
        harms_table(name, harms),
    )
    return Section(name, anchor, _suite_facts(described, rows), tuple(table for table in tables if table))


def _suite_facts(described: Mapping[str, Any], rows: Sequence[Numbered]) -> tuple[tuple[str, str], ...]:
    documents = len(distinct(rows, "document"))
    questions = len({(row["document"], row["question_id"]) for _, row in rows})
    facts = [("Asked", f"{questions:,} questions about {documents:,} documents" if rows else "nothing was answered")]
    if described:
        in_data = f"{described['questions']:,} questions about {described['documents']:,} documents"
        facts.append(("In the data, as it was cut", in_data))
        if described.get("excerpt_rule"):
            facts.append(("Excerpts", f"{described['excerpt_rule']}; {described['left_out']:,} questions left out"))
        if described.get("metrics"):
            facts.append(("Metrics", ", ".join(metric_title(metric) for metric in described["metrics"])))
        if described.get("settings"):
            facts.append(("Settings", _pairs_text(described["settings"])))
        if faults := described.get("faults"):
            facts.append((f"Faults of the data ({len(faults)})", "\n".join(str(fault) for fault in faults)))
    return tuple(facts)


def _pairs_text(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_pairs_text(value)})" if isinstance(value, Mapping) else f"{name} {_value_text(value)}"
        for name, value in values.items()
    )


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value) or NOTHING
    return NOTHING if value is None or value == "" else str(value)


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"
