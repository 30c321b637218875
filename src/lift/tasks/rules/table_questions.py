"""Questions of a table's cells: label of the row, words over the column -> value, with unit and period.

"How much was net income in 2022, in millions?" A column that is no period is asked by the table's own words: "What does
the table give as “Price” for “Gravel”?" The answer is the cell as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set

from lift.documents.document_tables import PERIOD_COUNT, DocumentTable, DocumentTableRow, is_amount, label
from lift.tasks.rules.lexicon import words
from lift.tasks.task import Task

# A cell that is longer is prose in the form of a table.
MAX_CELL_WORDS = 14
_MAX_ASKED_LABEL_WORDS = 12
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = rf"(?:{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}|\d{{1,2}} {_MONTH} \d{{4}}|{_MONTH},? \d{{4}})"
_YEAR = r"(?:19|20)\d\d"
_PERIODS = (
    (re.compile(rf"(?:the )?(?P<p>{PERIOD_COUNT} (?:months|weeks) ended),? (?P<d>{_DATE})", re.I), "for the {p} {d}"),
    (
        re.compile(rf"(?:the )?(?P<p>(?:fiscal )?(?:year|quarter|half|period)s? ended),? (?P<d>{_DATE})", re.I),
        "for the {p} {d}",
    ),
    (re.compile(rf"(?:(?:as )?(?:of|at) )?(?P<d>{_DATE})", re.I), "as of {d}"),
    (re.compile(rf"(?P<p>fy|fiscal(?: year)?) ?(?P<d>{_YEAR})", re.I), "in {p} {d}"),
    (re.compile(rf"(?:year )?(?P<d>{_YEAR})", re.I), "in {d}"),
    (re.compile(rf"(?P<d>(?:Q[1-4]|[1-4]Q|H[12]) ?(?:FY)? ?'?(?:{_YEAR}|\d\d)?)", re.I), "in {d}"),
    (re.compile(rf"(?P<d>{_MONTH})", re.I), "in {d}"),
)
_MANY_YEARS = re.compile(r"(year|quarter|period)s ended$")
_DAY_OF_YEAR = re.compile(rf"({_MONTH} \d{{1,2}}) ((?:19|20)\d\d)", re.I)
_DATED_MONTH = re.compile(rf"^{_MONTH} \d{{4}}$", re.I)
# Such a label says nothing without that of its group.
_BARE = words(
    """
    total subtotal basic diluted other others net gross current non-current noncurrent low high beginning ending
    average cost minimum maximum amount value yes no all
    """
)
_PREPOSITIONS = words("as at by for from in of on per to with under")
_SMALL_HEAD = re.compile(
    r"\s+(?:per|of|from|for|in|to|on|before|after|by|used|with|under|as|at|less|attributable)\b|[,(/]"
)
_NO_PLURAL = re.compile(r"(?:ss|us|is|'s|’s)$")
_UNCOUNTED = re.compile(
    r"(?i)%|\b(?:per[- ](?:basic |diluted )?share|percent(?:age)?|rate|ratio|margin percentage|years?|days)\b"
)
_LETTER = re.compile(r"[^\W\d_]")


def table_tasks(table: DocumentTable, small: Set[str]) -> Iterator[Task]:
    """Every question of the table's cells, those of each row one after the other, about the row's own sentence.

    `small` are the words that the document writes with a small first letter in its sentences. A row whose label comes
    again is told apart by its group, else not asked about.
    """
    if not table.columns:  # nothing says what a cell means
        return
    yield from _header_tasks(table)
    labels = Counter(label(row.cells[0]) for row in table.rows)
    whole = Counter((row.group, label(row.cells[0])) for row in table.rows)
    columns = Counter(table.columns)
    composed = Counter(row.cells[:2] for row in table.rows)
    values = Counter((place, cell) for row in table.rows for place, cell in enumerate(row.cells))
    for row in table.rows:
        named = label(row.cells[0])
        if len(row.cells) != len(table.columns) or not named:
            continue
        evidence = (row.sentence.index, *(each.index for each in table.context))
        is_told_apart = labels[named] == 1 or (bool(row.group) and whole[row.group, named] == 1)
        needs_group = labels[named] > 1 or named.lower() in _BARE
        by_two = (
            not is_told_apart and len(row.cells) > 2 and not is_amount(row.cells[1]) and composed[row.cells[:2]] == 1
        )
        for place, column in enumerate(table.columns[1:], 1):
            value = row.cells[place]
            if not column or columns[column] > 1 or not any(map(str.isalnum, value)):
                continue
            if max(len(named.split()), len(value.split())) > MAX_CELL_WORDS:
                continue
            if by_two and place > 1:
                both = f"{named}, {row.cells[1]}"
                yield Task(_form_question(column, both), value, evidence, "rules:row", 0.9)
            if not is_told_apart:
                continue
            asked = _period_question(table, row, column, value, small, needs_group)
            if asked is not None:
                yield Task(asked, value, evidence, "rules:cell", 0.95)
            group = f"{row.group}: " if needs_group and row.group else ""
            yield Task(
                _form_question(column, group + named), value, evidence, "rules:row", 0.9 if asked is None else 0.5
            )
            if values[place, value] == 1 and table.columns[0] and asked is None:
                question = f"For which “{table.columns[0]}” does the table give “{value}” as “{column}”?"
                yield Task(question, named, evidence, "rules:row-head", 0.8)


def _header_tasks(table: DocumentTable) -> Iterator[Task]:
    head = table.columns[0]
    if not head or len(table.header) != 1 or not all(table.columns[1:]) or any(map(str.isdigit, head)):
        return
    if any(_period(column) for column in table.columns[1:]):
        return
    text = table.header[0].text
    columns = text[text.index(table.columns[1]) :].strip(" |\n") if table.columns[1] in text else ""
    if columns:
        yield Task(
            f"What does the table give for each “{head}”?", columns, (table.header[0].index,), "rules:header", 0.5
        )


def _form_question(column: str, named: str) -> str:
    return f"What does the table give as “{column}” for “{named}”?"


def _period_question(
    table: DocumentTable, row: DocumentTableRow, column: str, value: str, small: Set[str], needs_group: bool
) -> str | None:
    """The question for the amount of a row in the period of its column; None where the column is none."""
    period = _period(column)
    named = label(row.cells[0])
    if period is None or not is_amount(value) or not _LETTER.search(named) or not any(map(str.isdigit, value)):
        return None
    if named.split()[0].lower() in _PREPOSITIONS:  # "As a percent of revenue" is no thing that was so much
        return None
    if len(named.split()) > _MAX_ASKED_LABEL_WORDS or (needs_group and not row.group):
        return None
    if needs_group and named.lower() in _BARE:  # "basic earnings per share"
        subject, head = f"{named.lower()} {_with_small_letter(row.group, small)}", row.group
    elif needs_group:
        subject, head = f"{_with_small_letter(named, small)} ({_with_small_letter(row.group, small)})", named
    else:
        subject, head = _with_small_letter(named, small), named
    verb = "were" if _is_plural(head) else "was"
    what = "What" if _UNCOUNTED.search(f"{named} {value} {row.group}") else "How much"
    unit = f", in {table.unit}" if table.unit and not _is_excepted(table, row, value) else ""
    return f"{what} {verb} {subject} {period}{unit}?"


def _period(column: str) -> str | None:
    """ "for the three months ended July 1, 2023" of "Three Months Ended July 1, 2023"; None for what is no period."""
    text = _DAY_OF_YEAR.sub(r"\1, \2", " ".join(column.split()).rstrip(":"))
    for pattern, form in _PERIODS:
        if (found := pattern.fullmatch(text)) is not None:
            parts = found.groupdict()
            parts["p"] = _MANY_YEARS.sub(r"\1 ended", parts.get("p", "").lower())
            if form.startswith("as of") and _DATED_MONTH.match(parts["d"]):
                return f"in {parts['d']}"
            return form.format(**parts)
    return None


def _is_excepted(table: DocumentTable, row: DocumentTableRow, value: str) -> bool:
    """Whether the table's unit does not hold for the row: shares, amounts per share, percentages."""
    text = f"{row.cells[0]} {row.group}"
    told = {word.removesuffix("s") for word in re.findall(r"\w+", text.lower())}
    return "%" in value or bool(_UNCOUNTED.search(text)) or not told.isdisjoint(table.excepted)


def _with_small_letter(text: str, small: Set[str]) -> str:
    """A label as it stands inside a sentence: its first letter is small where the document's sentences write it so."""
    first = re.match(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text)
    if first is None or not first.group()[1:].islower() or first.group().lower() not in small:
        return text
    if any(word[:1].isupper() for word in text[first.end() :].split()):  # a name: "Greater China"
        return text
    return text[:1].lower() + text[1:]


def _is_plural(named: str) -> bool:
    head = _SMALL_HEAD.split(named, maxsplit=1)[0].split()
    if not head:
        return False
    return " and " in f" {' '.join(head)} " or (
        head[-1].lower().endswith("s") and not _NO_PLURAL.search(head[-1].lower())
    )
