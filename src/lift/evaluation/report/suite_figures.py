"""Which figures a suite gets, each beside the table that it shows, and from which numbers it is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lift.evaluation.report.cost_tables import pays_after
from lift.evaluation.report.quality_tables import MAIN, is_control
from lift.evaluation.report.report_content import Section
from lift.evaluation.report.svg_figures import CostLine, CostPoint, break_even_curve, cost_scatter, heat_map
from lift.evaluation.report.tables import Numbered, TableRow, distinct, known, numbered, where
from lift.evaluation.run_files import RunData

FEWEST_QUESTIONS_SHOWN = 10.0
MOST_QUESTIONS_SHOWN = 100_000.0


@dataclass(frozen=True)
class SuiteFigure:
    """An SVG that stands behind the table called `table`; `caption`: what it shows, in whole sentences."""

    table: str
    caption: str
    svg: str


def suite_figures(run: RunData, section: Section) -> list[SuiteFigure]:
    """The figures of a suite's section: as many as there are numbers for."""
    tables = {table.name: table for table in section.tables}
    costs = where(numbered(run.costs), suite=section.title)
    found = []
    if "quality" in tables:
        found += _scatter(section.anchor, tables["quality"].rows, costs)
    if "cells" in tables:
        panels: dict[str, dict[tuple[float, float], float]] = {}
        for row in tables["cells"].rows:
            place = (row.numbers["length"], row.numbers["depth"])
            panels.setdefault(row.cells[0], {})[place] = row.numbers[MAIN]
        svg = heat_map(f"{section.anchor}-cells-figure", panels)
        found.append(SuiteFigure("cells", "Mean of the main score in percent, by length of the text and depth.", svg))
    measured = run.break_even if run.break_even and run.break_even["suite"] == section.title else None
    return [*found, *_curve(section.anchor, costs, measured, "measured" if measured else "break-even")]


def _scatter(anchor: str, rows: Sequence[TableRow], costs: Sequence[Numbered]) -> list[SuiteFigure]:
    answered = [row for row in rows if row.numbers.get("seconds")]
    if not answered:
        return []
    # one clock for all: the question asked alone where every method has it
    alone = all(row.numbers.get("ask_s") for row in answered)
    points = []
    for row in answered:
        method = dict(row.selections[0].where)["method"]
        took = row.numbers["ask_s" if alone else "seconds"]
        absorbed = sum(known(cost["absorb_s"] for _, cost in where(costs, method=method)))
        spread = took + absorbed / row.numbers["questions"] if absorbed else None
        score, low, high = (row.numbers[name] for name in (MAIN, "low", "high"))
        points.append(CostPoint(row.cells[0], score, low, high, took, spread))
    caption = (
        "Quality against cost. Hollow: a question on a memory that is there already. Full: the absorbing spread over "
        "the questions that were asked here; with more questions it moves left, towards the hollow one."
    )
    title = f"seconds a question{', asked alone' if alone else ''}"
    return [SuiteFigure("quality", caption, cost_scatter(f"{anchor}-quality-figure", points, title))]


def _curve(anchor: str, costs: Sequence[Numbered], measured: Mapping[str, Any] | None, table: str) -> list[SuiteFigure]:
    timed = [(line, row) for line, row in costs if row["ask_s"] and not is_control(row["method"])]
    remembering = [row for _, row in timed if row["memory"]]
    if not remembering:
        return []
    document = (
        measured["document"] if measured else max(remembering, key=lambda row: row["document_tokens"])["document"]
    )
    own = where(timed, document=document)
    lines = []
    for method in distinct(own, "method"):
        row = where(own, method=method)[0][1]
        points = [
            (point["questions"], point[f"seconds_{side}"])
            for side in ("a", "b")
            if measured and measured[f"method_{side}"] == method
            for point in measured["measured"]
        ]
        lines.append(CostLine(method, row["absorb_s"] or 0.0, row["ask_s"], tuple(points)))
    crossings = known(
        pays_after(line.absorb_s, other.ask_s, line.ask_s)
        for line in lines
        if line.absorb_s
        for other in lines
        if not other.absorb_s
    )
    last = max([FEWEST_QUESTIONS_SHOWN, *(3 * value for value in crossings if math.isfinite(value))])
    last = max([min(last, MOST_QUESTIONS_SHOWN), *(float(asked) for line in lines for asked, _ in line.measured)])
    caption = (
        f"Seconds in all for the document {document}, against the number of questions asked about it. Where two lines "
        "cross, the memory begins to pay. Lines: absorbing and a question's time as measured; points: run in truth."
    )
    return [SuiteFigure(table, caption, break_even_curve(f"{anchor}-curve-figure", lines, last))]
