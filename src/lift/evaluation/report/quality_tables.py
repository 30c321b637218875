"""How good the answers of a suite are: by method, by kind of question, against other methods, by cell, and the errors.

An answer that failed with an error has the score 0 like any wrong answer, so it is part of every mean here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from lift.evaluation.metrics import METRICS
from lift.evaluation.report.tables import (
    NOTHING,
    Numbered,
    Table,
    TableRow,
    distinct,
    known,
    mean,
    number,
    p_value,
    percent,
    seconds,
    select,
    where,
    with_interval,
)
from lift.evaluation.run_files import RESULTS_FILE
from lift.evaluation.significance import Interval, PairedDifference, bootstrap, holm, paired_difference

MAIN = "main"
F1 = "f1"
TRUNCATED, FULL, RETRIEVAL = "truncated", "full", "bm25"
CONTROL = "wrong-document"


def is_control(method: str) -> bool:
    """Whether the method answers from another document's memory, so that it should know nothing."""
    return method.partition("@")[0] == CONTROL


def main_score(row: Mapping[str, Any]) -> float:
    """The score that methods are compared by, 0 to 1."""
    return float(row["scores"].get(row["main"], 0.0))


def metric_title(name: str) -> str:
    """How a metric is called in a table; its own name where this version of Lift no longer knows it."""
    return METRICS[name].title if name in METRICS else name


def memory_methods(rows: Sequence[Numbered]) -> list[str]:
    """Methods that answered from a memory, controls left out."""
    used = distinct([(line, row) for line, row in rows if row.get("memory")], "method")
    return [method for method in used if not is_control(method)]


def quality_table(
    suite: str, rows: Sequence[Numbered], costs: Sequence[Numbered], methods: Sequence[str] = ()
) -> Table:
    """One row a method. `rows`: all lines of the suite; `methods` are named even where they have no line."""
    metrics = _metrics(rows)
    judged = any(row.get("judge") for _, row in rows)
    supported = any(row.get("supported") is not None for _, row in rows)
    columns = ["Method", *(_column(name, rows) for name in metrics)]
    columns += ["Judged right, %"] * judged + ["Supported, %"] * supported
    columns += ["Questions", "Errors", "Text cut", "Prompt tokens", "Seconds", "Seconds alone"]
    made = []
    for method in dict.fromkeys([*distinct(rows, "method"), *methods]):
        own = where(rows, method=method)
        numbers: dict[str, float] = {"questions": len(own)}
        cells = [f"{method} (control)" if is_control(method) else method]
        cells += [_metric_cell(own, name, numbers, first=name == metrics[0]) for name in metrics]
        if judged:
            cells.append(_share([row.get("judge") == "right" for _, row in own if row.get("judge") or row["error"]]))
        if supported:
            cells.append(_share([row["supported"] for _, row in own if row.get("supported") is not None]))
        answered = [row for _, row in own if row["error"] is None]
        alone = known(row["ask_s"] for _, row in where(costs, method=method))
        cells.append(str(len(own)))
        cells.append(str(len(own) - len(answered)))
        cells.append(str(sum(bool(row["truncated"]) for row in answered)))
        numbers |= _cost_numbers(answered, alone)
        cells.append(number(numbers.get("prompt_tokens"), 0))
        cells += [seconds(numbers.get(name)) for name in ("seconds", "ask_s")]
        made.append(TableRow(tuple(cells), (select(RESULTS_FILE, own, suite=suite, method=method),), numbers))
    note = (
        "Means in percent, with the interval in brackets. An error counts as a wrong answer. Text cut: answers for "
        "which the document had to be cut to fit. Prompt tokens and seconds are means over the questions that were "
        "answered; questions may have been asked many at once. Seconds alone: the median over the documents of the "
        "time of one question asked by itself, where that was measured."
    )
    if judged:
        note += " Judged right: the share that the judge called right; what it left undecided, and errors, are not."
    if supported:
        note += " Supported: answers that were checked against the document and whose words it contains."
    if any(is_control(method) for method in [*distinct(rows, "method"), *methods]):
        note += " Control: answers from the memory of another document, which show what can be had by guessing."
    return Table("quality", "Quality", note, tuple(columns), tuple(made))


def kinds_table(suite: str, rows: Sequence[Numbered]) -> Table | None:
    """The main score by kind of question; None where the suite has one kind."""
    kinds = sorted({str(row["kind"]) for _, row in rows})
    if len(kinds) < 2:
        return None
    made = []
    for kind in kinds:
        for method in distinct(rows, "method"):
            own = where(rows, kind=kind, method=method)
            if own:
                text, found = _mean_cell(own, [main_score(row) for _, row in own])
                titles = ", ".join(metric_title(name) for name in distinct(own, "main"))
                selection = select(RESULTS_FILE, own, suite=suite, kind=kind, method=method)
                cells = (kind or NOTHING, method, titles, text, str(len(own)))
                made.append(TableRow(cells, (selection,), {MAIN: found.mean}))
    columns = ("Kind", "Method", "Metric", "Mean, %", "Questions")
    note = "The same answers, by the benchmark's own kinds of questions."
    return Table("kinds", "By kind of question", note, columns, tuple(made))


def cells_table(suite: str, rows: Sequence[Numbered]) -> Table | None:
    """The main score by length and depth of a generated text; None where nothing has both."""
    gridded = [(line, row) for line, row in rows if {"length", "depth"} <= (row.get("cell") or {}).keys()]
    if not gridded:
        return None
    made = []
    for method in distinct(gridded, "method"):
        own = where(gridded, method=method)
        for length, depth in sorted({(row["cell"]["length"], row["cell"]["depth"]) for _, row in own}):
            at = [(n, row) for n, row in own if (row["cell"]["length"], row["cell"]["depth"]) == (length, depth)]
            score = sum(main_score(row) for _, row in at) / len(at)
            cells = (method, f"{length:,.0f}", f"{100 * depth:.0f} %", percent(score), str(len(at)))
            selection = select(RESULTS_FILE, at, suite=suite, method=method, length=length, depth=depth)
            made.append(TableRow(cells, (selection,), {"length": length, "depth": depth, MAIN: score}))
    columns = ("Method", "Length, tokens", "Depth", "Mean, %", "Questions")
    note = "Depth: where in the text the fact stands that is asked for; 0 % is its beginning."
    return Table("cells", "By length and depth", note, columns, tuple(made))


def compared_metrics(rows: Sequence[Numbered]) -> list[str]:
    """The metrics that methods are compared by: the main metric, and F1 where it is another one that all answers have.

    One alone misleads: a long answer contains more, and a short one has the better F1.
    """
    by_f1 = bool(rows) and distinct(rows, "main") != [F1] and all(F1 in row["scores"] for _, row in rows)
    return [MAIN, F1] if by_f1 else [MAIN]


def comparison_table(suite: str, rows: Sequence[Numbered], metric: str = MAIN) -> Table | None:
    """Every method against the references, on the questions that both were asked; None where there is no pair.

    References: truncated; full, on the questions for which it read the whole text; and for methods with a memory
    bm25 and the controls too. p-values are adjusted together (Holm).
    """
    pairs = []
    for method, reference in _pairs(rows):
        ours, theirs = _matched(rows, method, reference)
        if ours:
            difference = paired_difference(
                [_score(row, metric) for _, row in ours],
                [_score(row, metric) for _, row in theirs],
                [str(row["document"]) for _, row in ours],
            )
            pairs.append((method, reference, ours, theirs, difference))
    if not pairs:
        return None
    adjusted = holm({f"{method}\n{reference}": pair.p_value for method, reference, _, _, pair in pairs})
    made = tuple(
        _comparison_row(suite, metric, ours, theirs, pair, adjusted[f"{method}\n{reference}"])
        for method, reference, ours, theirs, pair in pairs
    )
    mains = distinct(rows, "main")
    what = metric_title(metric if metric != MAIN else mains[0]) if metric != MAIN or len(mains) == 1 else "Main score"
    columns = ("Method", "Against", "Method, %", "Against, %", "Difference, points", "p", "p adjusted", "Better")
    note = (
        f"{what[:1].upper()}{what[1:]}, on the same questions. Difference: method less reference, with its interval; "
        "one that leaves out 0 shows a difference. p: the chance of a difference at least as large if both were "
        "equally good; adjusted (Holm) for all the comparisons of this table. Better: questions on which the method "
        "scored better / worse / the same. Against full: only questions for which the whole text fitted."
    )
    name = "comparisons" if metric == MAIN else f"comparisons-{metric}"
    return Table(name, f"Compared by {what}", note, (*columns, "Questions"), made)


def errors_table(rows: Sequence[Numbered]) -> Table | None:
    """All that went wrong in the whole run; None where nothing did."""
    failed = [(line, row) for line, row in rows if row["error"] is not None]
    if not failed:
        return None
    made = []
    groups = dict.fromkeys((str(row["suite"]), str(row["method"]), str(row["error"])) for _, row in failed)
    for suite, method, reason in groups:
        own = where(failed, suite=suite, method=method, error=reason)
        selection = select(RESULTS_FILE, own, suite=suite, method=method, outcome="error")
        made.append(TableRow((suite, method, str(len(own)), reason), (selection,), {"errors": len(own)}))
    note = "Questions without an answer. Each counts as wrong, with all scores 0, in the tables of its suite."
    return Table("errors", "Errors", note, ("Suite", "Method", "Questions", "Reason"), tuple(made))


def _score(row: Mapping[str, Any], metric: str) -> float:
    return main_score(row) if metric == MAIN else float(row["scores"][metric])


def _metrics(rows: Sequence[Numbered]) -> list[str]:
    """Names of the columns: the main metric first, or MAIN where it differs from question to question."""
    mains = distinct(rows, "main")
    names = list(dict.fromkeys(name for _, row in rows for name in row["scores"]))
    first = mains if len(mains) == 1 else [MAIN]
    return list(dict.fromkeys([*first, *names])) if rows else []


def _column(name: str, rows: Sequence[Numbered]) -> str:
    if name == MAIN:
        return "Main score, %"
    return f"{metric_title(name)} (main), %" if distinct(rows, "main") == [name] else f"{metric_title(name)}, %"


def _metric_cell(own: Sequence[Numbered], name: str, numbers: dict[str, float], *, first: bool) -> str:
    scored = own if name == MAIN else [(line, row) for line, row in own if name in row["scores"]]
    if not scored:
        return NOTHING
    values = [main_score(row) if name == MAIN else float(row["scores"][name]) for _, row in scored]
    text, found = _mean_cell(scored, values)
    numbers[name] = found.mean
    if first:
        numbers.update({MAIN: found.mean, "low": found.low, "high": found.high})
    return text if len(scored) == len(own) else f"{text} of {len(scored)}"


def _mean_cell(rows: Sequence[Numbered], values: Sequence[float]) -> tuple[str, Interval]:
    found = bootstrap(values, [str(row["document"]) for _, row in rows])
    return with_interval(found.mean, found.low, found.high), found


def _share(values: Sequence[bool]) -> str:
    return percent(mean([float(value) for value in values]))


def _cost_numbers(answered: Sequence[Mapping[str, Any]], alone: Sequence[float]) -> dict[str, float]:
    found = {
        "prompt_tokens": mean([row["prompt_tokens"] for row in answered]),
        "seconds": mean([row["seconds"] for row in answered]),
        "ask_s": median(alone) if alone else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _pairs(rows: Sequence[Numbered]) -> list[tuple[str, str]]:
    methods = distinct(rows, "method")
    usual = [method for method in methods if not is_control(method)]
    remembering = memory_methods(rows)
    pairs = [(method, reference) for reference in (TRUNCATED, FULL) for method in usual]
    pairs += [(method, RETRIEVAL) for method in remembering]
    pairs += [(method, control) for control in methods if is_control(control) for method in remembering]
    return [(method, reference) for method, reference in pairs if reference in methods and method != reference]


def _matched(rows: Sequence[Numbered], method: str, reference: str) -> tuple[list[Numbered], list[Numbered]]:
    """The lines of both methods on the questions that both were asked, in the same order."""
    theirs = {
        (row["document"], row["question_id"]): (line, row)
        for line, row in where(rows, method=reference)
        if reference != FULL or (row["error"] is None and not row["truncated"])
    }
    ours = [(line, row) for line, row in where(rows, method=method) if (row["document"], row["question_id"]) in theirs]
    return ours, [theirs[row["document"], row["question_id"]] for _, row in ours]


def _comparison_row(
    suite: str,
    metric: str,
    ours: Sequence[Numbered],
    theirs: Sequence[Numbered],
    pair: PairedDifference,
    adjusted: float,
) -> TableRow:
    method, reference = str(ours[0][1]["method"]), str(theirs[0][1]["method"])
    scores = [mean([_score(row, metric) for _, row in side]) for side in (ours, theirs)]
    cells = (
        method,
        f"{reference} (control)" if is_control(reference) else reference,
        *(percent(score) for score in scores),
        with_interval(pair.mean, pair.low, pair.high, "+"),
        p_value(pair.p_value),
        p_value(adjusted),
        f"{pair.better} / {pair.worse} / {pair.equal}",
        str(pair.n),
    )
    selections = (
        select(RESULTS_FILE, ours, suite=suite, method=method),
        select(RESULTS_FILE, theirs, suite=suite, method=reference),
    )
    return TableRow(cells, selections, {"difference": pair.mean, "p": adjusted})
