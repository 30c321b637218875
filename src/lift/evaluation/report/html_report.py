"""A report as one HTML page that works from disk: it loads nothing, and its policy forbids that it ever could."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from lift.evaluation.report.cost_tables import NEVER
from lift.evaluation.report.embedded import embed_rows
from lift.evaluation.report.report_content import READING, ReportContent, Section
from lift.evaluation.report.suite_figures import SuiteFigure
from lift.evaluation.report.tables import NOTHING, Selection, Table
from lift.evaluation.run_files import RESULTS_FILE

MOST_ROWS_OPEN = 24
LONGEST_OPEN_FACT = 300
_NUMERIC = re.compile(rf"(?:[-+<\d.,%\[\]/ ]|of )*|{NOTHING}|{NEVER}")


def html_report(
    content: ReportContent, figures: Mapping[str, Sequence[SuiteFigure]], results: Sequence[Mapping[str, Any]]
) -> str:
    """The whole text of report.html. `figures`: those of each suite, by the anchor of its section."""
    script = _own_file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(content.title)}</title>
<style>
{_own_file("page.css")}</style>
</head>
<body>
<a class="skip" href="#results">To the results</a>
<header>
<h1>{escape(content.title)}</h1>
{_contents(content)}
</header>
<main>
<section id="run">
<h2>What was run</h2>
{_facts(content.facts)}
{_table(content.methods, "run") if content.methods else ""}
</section>
<section id="reading">
<h2>How to read this</h2>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in READING)}</ul>
</section>
<div id="results">
{"".join(_suite(section, figures.get(section.anchor, ())) for section in content.suites)}
</div>
{_errors(content)}
{_ANSWERS}
</main>
<script type="text/plain" id="data">{embed_rows(results)}</script>
<script>{script}</script>
</body>
</html>
"""


_ANSWERS = """<section id="answers">
<h2>Every answer</h2>
<form id="filters" role="search" hidden>
<label class="wide">Search<input type="search" name="search" placeholder="words of the question, answer or document"
 autocomplete="off"></label>
<label>Suite<select name="suite"><option value="">all</option></select></label>
<label>Method<select name="method"><option value="">all</option></select></label>
<label>Kind<select name="kind"><option value="">all</option></select></label>
<label>Outcome<select name="outcome"><option value="">all</option><option value="right">right</option>
<option value="partly">partly right</option><option value="wrong">wrong</option><option value="error">error</option>
</select></label>
<button type="reset">Clear</button>
</form>
<p class="note">Right: main score 100 %. Partly right: between. Wrong: 0 %. Open an answer to see its prompt, scores
and support.</p>
<p id="status" role="status">The answers are opened by a script; without it, read them in results.jsonl.</p>
<ol id="list"></ol>
<nav id="pages" aria-label="Pages of answers" hidden><button type="button" data-step="-1">Previous 50</button>
<span></span><button type="button" data-step="1">Next 50</button></nav>
</section>"""


def _contents(content: ReportContent) -> str:
    links = [("run", "What was run"), ("reading", "How to read this")]
    links += [(section.anchor, section.title) for section in content.suites]
    links += [("wrong", "What went wrong")] * bool(content.errors)
    items = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in links)
    return f'<nav aria-label="Contents"><ul>{items}<li><a href="#answers">Every answer</a></li></ul></nav>'


def _suite(section: Section, figures: Sequence[SuiteFigure]) -> str:
    parts = []
    for table in section.tables:
        parts.append(_table(table, section.anchor))
        parts += [_figure(figure) for figure in figures if figure.table == table.name]
    head = f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{_facts(section.facts)}\n'
    return head + "\n".join(parts) + "\n</section>\n"


def _errors(content: ReportContent) -> str:
    if not content.errors:
        return ""
    return f'<section id="wrong">\n<h2>What went wrong</h2>\n{_table(content.errors, "wrong")}\n</section>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f'<dl class="facts">{"".join(_fact(label, text) for label, text in facts)}</dl>'


def _fact(label: str, text: str) -> str:
    shown = f"<span>{escape(text)}</span>"
    if len(text) > LONGEST_OPEN_FACT:
        shown = f"<details><summary>{escape(text[:80])}…</summary>{shown}</details>"
    return f"<dt>{escape(label)}</dt><dd>{shown}</dd>"


def _table(table: Table, anchor: str) -> str:
    name = f"{anchor}-{table.name}"
    kinds = [
        ' class="number"' if column and all(_NUMERIC.fullmatch(row.cells[column]) for row in table.rows) else ""
        for column in range(len(table.columns))
    ]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>' for column, kind in zip(table.columns, kinds, strict=True)
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row.cells[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row.cells[1:], kinds[1:], strict=True))
        + f'<td class="lines">{"<br>".join(_selection(each) for each in row.selections)}</td></tr>'
        for row in table.rows
    )
    body = (
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0"><table>\n'
        f'<thead><tr>{heads}<th scope="col">Made of</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )
    if len(table.rows) > MOST_ROWS_OPEN:
        body = f"<details><summary>{len(table.rows)} rows</summary>\n{body}</details>"
    return f'<h3 id="{name}">{escape(table.title)}</h3>\n<p class="note">{escape(table.note)}</p>\n{body}'


def _selection(selection: Selection) -> str:
    if selection.file != RESULTS_FILE or not selection.lines:
        return escape(str(selection))
    count = len(selection.lines)
    link = f"#answers?{urlencode(selection.where)}"
    text = f"{count:,} answer{'s' if count > 1 else ''}"
    return f'<a href="{escape(link)}" title="{escape(str(selection))}">{text}</a>'


def _figure(figure: SuiteFigure) -> str:
    caption = escape(figure.caption)
    return (
        f'<figure><div class="scroll" role="img" aria-label="{caption}" tabindex="0">{figure.svg}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _own_file(name: str) -> str:
    return resources.files("lift.evaluation.report").joinpath(name).read_text("utf-8")
