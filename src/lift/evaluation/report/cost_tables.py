"""Tables of the costs of methods: absorbing, storing, asking; from where a memory pays; and what it harms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from lift.evaluation.method_costs import break_even_questions
from lift.evaluation.report.quality_tables import FULL, RETRIEVAL, is_control
from lift.evaluation.report.tables import (
    NOTHING,
    Numbered,
    Selection,
    Table,
    TableRow,
    distinct,
    known,
    mean,
    megabytes,
    number,
    percent,
    seconds,
    select,
    where,
)
from lift.evaluation.run_files import BREAK_EVEN_FILE, COSTS_FILE, HARMS_FILE

NEVER = "never"


def costs_table(suite: str, costs: Sequence[Numbered]) -> Table | None:
    """One row a method, means over its documents; None where no costs were written."""
    if not costs:
        return None
    made = []
    for method in distinct(costs, "method"):
        own = where(costs, method=method)
        rows = [row for _, row in own]
        remembers = any(row["memory"] for row in rows)
        numbers = {name: _mean_of(rows, name) for name in ("document_tokens", "absorb_s", "absorb_tokens")}
        numbers |= {name: _mean_of(rows, name) for name in ("adapter_bytes", "kv_bytes", "answer_tokens")}
        alone, per_token = known(row["ask_s"] for row in rows), known(row["seconds_per_token"] for row in rows)
        peaks = known(row["peak_memory_bytes"] for row in rows)
        probed = sum(row["probed"] or 0 for row in rows)
        adapter, cache = numbers["adapter_bytes"], numbers["kv_bytes"]
        cells = (
            method,
            str(len(rows)),
            number(numbers["document_tokens"], 0),
            seconds(numbers["absorb_s"]) if remembers else NOTHING,
            number(numbers["absorb_tokens"], 0) if remembers else NOTHING,
            megabytes(adapter) if remembers else NOTHING,
            megabytes(cache),
            f"{cache / adapter:.2g}" if remembers and adapter and cache else NOTHING,
            seconds(median(alone) if alone else None),
            number(_mean_of(rows, "ask_prompt_tokens"), 0),
            f"{1000 * median(per_token):.1f}" if per_token else NOTHING,
            percent(sum(row["recalled"] or 0 for row in rows) / probed) if probed else NOTHING,
            megabytes(max(peaks) if peaks else None),
        )
        kept = {name: value for name, value in numbers.items() if value is not None}
        made.append(TableRow(cells, (select(COSTS_FILE, own, suite=suite, method=method),), kept))
    columns: tuple[str, ...] = (
        "Method",
        "Documents",
        "Document tokens",
        "Absorb, s",
        "Tokens trained on",
        "Memory, MB",
    )
    columns += ("Cache of full text, MB", "Cache / memory", "Ask alone, s", "Prompt tokens", "ms a token")
    note = (
        "Means over the documents, but for ask alone (the median) and peak (the most). Cache of full text: what the "
        "key-value cache of the whole document takes in bf16, the price of reading it instead. Recall: of the "
        "probes put to the memory after absorbing, how many it answered."
    )
    return Table("costs", "Costs", note, (*columns, "Recall, %", "Peak, MB"), tuple(made))


def pays_after(absorb_s: float, other_s: float | None, own_s: float | None) -> float | None:
    """From how many questions (or tokens) on a memory has cost no more time than the other way.

    Infinite where it never does, None where something was not measured.
    """
    if other_s is None or own_s is None:
        return None
    count = break_even_questions(absorb_s, other_s, own_s)
    return math.inf if count is None else float(count)


def break_even_table(suite: str, costs: Sequence[Numbered]) -> Table | None:
    """Each document's memories against full and bm25, and their medians; None where nothing can be compared."""
    made: list[TableRow] = []
    medians: list[TableRow] = []
    lasting = [(line, row) for line, row in costs if row["memory"] and not is_control(row["method"])]
    for method in distinct(lasting, "method"):
        for reference in (FULL, RETRIEVAL):
            others = {row["document"]: (line, row) for line, row in where(costs, method=reference)}
            rows = [
                _break_even_row(suite, (line, row), others[row["document"]])
                for line, row in where(lasting, method=method)
                if row["document"] in others
            ]
            made += rows
            if len(rows) > 1:
                medians.append(_median_row(method, reference, rows))
    if not made:
        return None
    columns = ("Document", "Method", "Against", "Absorb, s", "Ask, s", "Against, s", "Questions", "Output tokens")
    note = (
        "Questions: from how many on the memory, absorbing included, has taken less time: absorb / (ask of the other "
        "- ask of the memory), each question asked alone. Output tokens: the same for one long answer, by the seconds "
        f"that each token of it takes. {NEVER.capitalize()}: the other is as fast or faster at every question."
    )
    return Table("break-even", "From where a memory pays", note, columns, (*medians, *made))


def measured_table(suite: str, found: Mapping[str, Any] | None) -> Table | None:
    """Both ways run for a number of questions, next to the number predicted; None where this suite was not."""
    if not found or found["suite"] != suite:
        return None
    a, b = found["method_a"], found["method_b"]
    made = []
    for point in found["measured"]:
        faster = a if point["seconds_a"] < point["seconds_b"] else b
        cells = (number(point["questions"], 0), seconds(point["seconds_a"]), seconds(point["seconds_b"]), faster)
        made.append(TableRow(cells, (Selection(BREAK_EVEN_FILE, (), None),), {"questions": point["questions"]}))
    last = max((point["questions"] for point in found["measured"]), default=0)
    crossing = found.get("measured_questions")
    truth = f"from {number(crossing, 0)} on" if crossing else f"not within {number(last, 0)}"
    kept = ", what was read kept for the next question" if found.get("text_kept") else ""
    note = (
        f"The document {found['document']}, asked question after question by both ways{kept}. Absorbing took "
        f"{seconds(found['absorb_s'])} s, a question {seconds(found['ask_s_a'])} s with {a} and "
        f"{seconds(found['ask_s_b'])} s with {b}; by that the memory has taken no more time from "
        f"{number(found['predicted_questions'], 0)} questions on. Measured: {truth}."
    )
    columns = ("Questions", f"{a}, s", f"{b}, s", "Faster")
    return Table("measured", "Break-even, measured", note, columns, tuple(made))


def harms_table(suite: str, harms: Sequence[Numbered]) -> Table | None:
    """Harm: the effect of an attached memory on other texts, means over the memories; None where not measured."""
    if not harms:
        return None
    made = []
    for method in distinct(harms, "method"):
        own = where(harms, method=method)
        rows = [row for _, row in own]
        before, after = _mean_of(rows, "perplexity_base"), _mean_of(rows, "perplexity_memory")
        cells = [method, str(len(rows)), number(before, 2), number(after, 2)]
        cells.append(f"{100 * (after / before - 1):+.1f} %" if before and after is not None else NOTHING)
        for measure in ("contained", "f1"):
            cells += [percent(mean(known(row[side].get(measure) for row in rows))) for side in _UNRELATED]
        cells.append(number(_mean_of(rows, "unrelated_questions"), 0))
        numbers = {"perplexity_base": before, "perplexity_memory": after}
        kept = {name: value for name, value in numbers.items() if value is not None}
        made.append(TableRow(tuple(cells), (select(HARMS_FILE, own, suite=suite, method=method),), kept))
    columns: tuple[str, ...] = (
        "Method",
        "Memories",
        "Perplexity without",
        "with memory",
        "Change",
        "Contained without, %",
    )
    columns += ("with memory, %", "F1 without, %", "with memory, %", "Unrelated questions")
    note = (
        "Text and questions that have nothing to do with the document, answered by the model without any memory and "
        "with it attached. A memory that does no harm changes nothing here; a higher perplexity is worse."
    )
    return Table("harms", "Harm to other knowledge", note, columns, tuple(made))


_UNRELATED = ("unrelated_base", "unrelated_memory")


def _break_even_row(suite: str, own: Numbered, other: Numbered) -> TableRow:
    ours, theirs = own[1], other[1]
    questions = pays_after(ours["absorb_s"], theirs["ask_s"], ours["ask_s"])
    tokens = pays_after(ours["absorb_s"], theirs["seconds_per_token"], ours["seconds_per_token"])
    cells = (
        str(ours["document"]),
        str(ours["method"]),
        str(theirs["method"]),
        *(seconds(value) for value in (ours["absorb_s"], ours["ask_s"], theirs["ask_s"])),
        _count(questions),
        _count(tokens),
    )
    selections = tuple(
        select(COSTS_FILE, [side], suite=suite, document=side[1]["document"], method=side[1]["method"])
        for side in (own, other)
    )
    return TableRow(cells, selections, _given(questions=questions, tokens=tokens))


def _median_row(method: str, reference: str, rows: Sequence[TableRow]) -> TableRow:
    questions = _median([row.numbers.get("questions") for row in rows])
    tokens = _median([row.numbers.get("tokens") for row in rows])
    cells = (f"median of {len(rows)}", method, reference, NOTHING, NOTHING, NOTHING, _count(questions), _count(tokens))
    selections = tuple(selection for row in rows for selection in row.selections)
    lines = tuple(sorted(line for selection in selections for line in selection.lines or ()))
    common = (("method", f"{method} and {reference}"),)
    return TableRow(cells, (Selection(COSTS_FILE, common, lines),), _given(questions=questions, tokens=tokens))


def _median(values: Sequence[float | None]) -> float | None:
    present = known(values)
    return median(present) if present else None


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _count(value: float | None) -> str:
    if value is None:
        return NOTHING
    return NEVER if math.isinf(value) else f"{math.ceil(value):,}"


def _mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return mean(known(row[name] for row in rows))
