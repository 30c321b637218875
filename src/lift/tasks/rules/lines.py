"""Lines that are no sentences: rows of tables, and entries that name a thing and its value. They have no grammar.

A row whose table has a header is asked by it: "What does the table give as “Price” for “Gravel”?"
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from lift.documents.sentences import Sentence
from lift.tasks.rules.coreference import plain_title
from lift.tasks.task import Task

# A cell that is longer is prose in the form of a table.
MAX_CELL_WORDS = 14
MAX_ENTRY_WORDS = 6
_CELLS = re.compile(r"[ ]*\|[ ]*|\t+|(?<=\S) {3,}(?=\S)|(?<=[^\W\d]) ?\.{4,} ?")
_ENTRY = re.compile(r"(?P<name>[^\W_][^:|.;!?]{1,60}?): +(?P<value>\S.*?)\.?")
_WARNING = re.compile(
    r"(?i)(?:warning|caution|danger|attention|important|notice|note|hint|tip|figure|fig\.|table) ?\d*"
)
_DIGIT = re.compile(r"\d")
_NO_WORD = re.compile(r"[\W\d_]*")


def row_cells(text: str) -> list[str]:
    """The cells of a row of a table, by its rules, tabs or wide gaps; none for a line that is no row."""
    cells = [" ".join(cell.split()) for cell in _CELLS.split(text.strip().strip("|"))]
    return cells if len(cells) > 1 else []


def entry_of(text: str) -> tuple[str, str] | None:
    """("Protection class", "IP68") of the line "Protection class: IP68"; None where name or value is too long.

    A line that the parser finds a verb in is prose all the same.
    """
    match = _ENTRY.fullmatch(" ".join(text.split()))
    if match is None:
        return None
    name, value = match["name"].strip(), match["value"]
    if len(name.split()) > MAX_ENTRY_WORDS or len(value.split()) > MAX_ENTRY_WORDS or _WARNING.fullmatch(name):
        return None
    return None if _NO_WORD.fullmatch(name) else (name, value)


def row_tasks(sentences: Sequence[Sentence]) -> dict[int, list[Task]]:
    """The tasks of all rows of tables among the `sentences`, by the index of the sentence; rows without any are there.

    No rule for sentences may see these.
    """
    found: dict[int, list[Task]] = {}
    rows = [(sentence, row_cells(sentence.text)) for sentence in sentences]
    for (_, width), run in groupby(rows, key=lambda row: (row[0].paragraph, len(row[1]))):
        if width:
            group = list(run)
            found.update((sentence.index, []) for sentence, _ in group)
            for task in _table_tasks(group):
                found[task.evidence[0]].append(task)
    return found


def entry_tasks(title: str, sentence: Sentence) -> list[Task]:
    """The task of a line such as "Protection class: IP68", in which the parser found no verb; none for other lines."""
    entry = entry_of(sentence.text)
    if entry is None:
        return []
    question = f"What does “{plain_title(title) or title}” give for “{entry[0]}”?"
    return [Task(question, entry[1], (sentence.index,), "rules:entry", 0.9)]


def _table_tasks(rows: Sequence[tuple[Sentence, list[str]]]) -> Iterator[Task]:
    header = rows[0][1]
    if len(rows) < 2 or not all(header[1:]) or any(map(_DIGIT.search, header)):
        # without a header, or with one that cannot be told from a row, nothing says what a cell means
        return
    if header[0]:
        columns = rows[0][0].text[rows[0][0].text.index(header[1]) :].strip(" |\n")
        yield Task(
            f"What does the table give for each “{header[0]}”?", columns, (rows[0][0].index,), "rules:header", 0.5
        )
    heads = Counter(cells[0] for _, cells in rows)
    for column, named in enumerate(header[1:], 1):
        values = Counter(cells[column] for _, cells in rows)
        for sentence, cells in rows[1:]:
            head, value = cells[0], cells[column]
            if heads[head] > 1 or not head or not any(map(str.isalnum, value)):
                continue
            if max(len(head.split()), len(value.split())) > MAX_CELL_WORDS:
                continue
            evidence = (sentence.index,)
            yield Task(f"What does the table give as “{named}” for “{head}”?", value, evidence, "rules:row", 0.9)
            if values[value] == 1 and header[0]:
                yield Task(
                    f"For which “{header[0]}” does the table give “{value}” as “{named}”?",
                    head,
                    evidence,
                    "rules:row-head",
                    0.8,
                )
