"""Lines that are no sentences: rows of tables, and entries that name a thing and its value. They have no grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lift.documents.document_tables import find_tables
from lift.documents.sentences import Sentence
from lift.tasks.rules.coreference import plain_title
from lift.tasks.rules.table_questions import table_tasks
from lift.tasks.task import Task

MIN_ASKED_ROWS = 500
MAX_ENTRY_WORDS = 6
_ENTRY = re.compile(r"(?P<name>[^\W_][^:|.;!?]{1,60}?): +(?P<value>\S.*?)\.?")
_WARNING = re.compile(
    r"(?i)(?:warning|caution|danger|attention|important|notice|note|hint|tip|figure|fig\.|table) ?\d*"
)
_SMALL_WORD = re.compile(r"(?<![\w'’-])[^\W\d_A-Z][^\W\d_]+(?:[-'’][^\W\d_]+)*")
_NO_WORD = re.compile(r"[\W\d_]*")


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
    tables = find_tables(sentences)
    found: dict[int, list[Task]] = {each.index: [] for table in tables for each in table.sentences}
    prose = (sentence.text for sentence in sentences if sentence.index not in found)
    small = frozenset(word for text in prose for word in _SMALL_WORD.findall(text))
    for table in tables:
        for task in table_tasks(table, small):
            found[task.evidence[0]].append(task)
    return found


def rows_left_out(sentences: Sequence[Sentence]) -> frozenset[int]:
    """The indices of rows that no task is made of, since a long sheet would leave no time for the rest of a text.

    As many rows are asked about as a text has other sentences, twice over, and MIN_ASKED_ROWS at least, evenly from the
    first to the last.
    """
    rows = [row.sentence.index for table in find_tables(sentences) for row in table.rows]
    most = max(2 * (len(sentences) - len(rows)), MIN_ASKED_ROWS)
    if len(rows) <= most:
        return frozenset()
    return frozenset(rows) - {rows[place * len(rows) // most] for place in range(most)}


def entry_tasks(title: str, sentence: Sentence) -> list[Task]:
    """The task of a line such as "Protection class: IP68", in which the parser found no verb; none for other lines."""
    entry = entry_of(sentence.text)
    if entry is None:
        return []
    question = f"What does “{plain_title(title) or title}” give for “{entry[0]}”?"
    return [Task(question, entry[1], (sentence.index,), "rules:entry", 0.9)]
