"""A report as Markdown: the tables, with the lines behind each row in its last column."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lift.evaluation.report.report_content import READING, ReportContent
from lift.evaluation.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


def markdown_report(content: ReportContent) -> str:
    """The whole text of report.md."""
    parts = [f"# {_text(content.title)}", "## What was run", _facts(content.facts)]
    if content.methods:
        parts.append(_table(content.methods))
    parts += ["## How to read this", "\n".join(f"- {_text(line)}" for line in READING)]
    parts.append("report.html, beside this file, has the figures, and every question with its prompt and answers.")
    for section in content.suites:
        parts += [f"## {_text(section.title)}", _facts(section.facts), *(_table(table) for table in section.tables)]
    if content.errors:
        parts += ["## What went wrong", _table(content.errors)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [_line([*table.columns, "Made of"]), _line(["---"] * (len(table.columns) + 1))]
    for row in table.rows:
        cells = [_text(cell) for cell in row.cells]
        lines.append(_line([*cells, _text("; ".join(str(selection) for selection in row.selections))]))
    return f"### {_text(table.title)}\n\n{_text(table.note)}\n\n" + "\n".join(lines)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_text(label)}: {_text(text)}" for label, text in facts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Data as it stands, on one line and without any meaning in Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
