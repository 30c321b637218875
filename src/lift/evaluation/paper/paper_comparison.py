"""Published numbers next to measured ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from lift.evaluation.paper.paper_table import PaperTable

_Row = dict[str, Any]
_ERRORS = ("error", "judge_error", "loogle_judge_error")


@dataclass(frozen=True)
class ComparedCell:
    """One cell: per cent, or seconds in `seconds`. None: not published, or nothing measured.

    `loogle_judge` is by the papers' own judge, `judge` by Lift's, `main` by the suite's first metric. `errors`:
    questions that could not be answered, or that a judge could not be asked about.
    """

    suite: str
    of: str
    method: str
    published: float | None
    loogle_judge: float | None
    judge: float | None
    metric: str
    main: float | None
    seconds: float | None
    questions: int
    errors: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_table(table: PaperTable, rows: Sequence[_Row], costs: Sequence[_Row]) -> list[ComparedCell]:
    """A cell for each published number, in the order of the table, from the lines of a run and of its costs."""
    cells = []
    for expected in table.expected:
        for method, published in expected.values.items():
            own = [
                row
                for row in rows
                if row["suite"] == expected.suite
                and row["method"] == method
                and expected.kind in ("", row["kind"])
                and expected.document in ("", row["document"])
            ]
            cells.append(
                ComparedCell(
                    suite=expected.suite,
                    of=expected.kind or expected.document,
                    method=method,
                    published=published,
                    loogle_judge=_right(own, "loogle_judge"),
                    judge=_right(own, "judge"),
                    metric=own[0]["main"] if own else "",
                    main=100 * fmean(row["scores"][row["main"]] for row in own) if own else None,
                    seconds=_seconds(costs, expected.suite, method, {row["document"] for row in own}),
                    questions=len(own),
                    errors=sum(any(row.get(name) for name in _ERRORS) for row in own),
                )
            )
    return cells


def _right(rows: Sequence[_Row], judge: str) -> float | None:
    """Per cent of the answers that a judge found right; None where it gave no verdict.

    An answer that it could not decide on, or that was an error, is not right; one that it could not be asked about is
    left out.
    """
    asked = [row for row in rows if not row.get(f"{judge}_error")]
    if not any(row.get(judge) for row in asked):
        return None
    return 100 * fmean(row.get(judge) == "right" for row in asked)


def _seconds(costs: Iterable[_Row], suite: str, method: str, documents: set[str]) -> float | None:
    """Mean seconds of absorbing a document and asking one question about it."""
    found = [
        row["absorb_s"] + row["ask_s"]
        for row in costs
        if (row["suite"], row["method"]) == (suite, method)
        and row["document"] in documents
        and row["ask_s"] is not None
    ]
    return fmean(found) if found else None


def _table_rows(cells: Sequence[ComparedCell]) -> tuple[list[str], list[list[str]]]:
    head = [
        "suite",
        "of",
        "method",
        "published",
        "LooGLE's judge",
        "Lift's judge",
        "metric",
        "%",
        "seconds",
        "n",
        "errors",
    ]
    lines = [
        [
            cell.suite,
            cell.of or "all",
            cell.method,
            _number(cell.published),
            _number(cell.loogle_judge),
            _number(cell.judge),
            cell.metric,
            _number(cell.main),
            _number(cell.seconds),
            str(cell.questions),
            str(cell.errors),
        ]
        for cell in cells
    ]
    return head, lines


def as_markdown(table: PaperTable, cells: Sequence[ComparedCell], cost: str, *, model: str, held_as: str) -> str:
    """The comparison as a page, with what a full run costs. `held_as`: how the weights of the `model` were held."""
    head, lines = _table_rows(cells)
    unit = "seconds" if table.scored_by == "seconds" else "per cent"
    rows = ["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *lines)]
    published = "as it is" if table.quantization == "none" else table.quantization
    bases = f"Published on {table.base} ({published}), measured on {model} ({held_as}), in {unit}."
    return "\n".join([f"# {table.title}", "", bases, "", *rows, "", cost, ""])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
