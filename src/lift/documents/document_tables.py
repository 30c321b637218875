"""Lines of a text -> tables: which sentences are rows, which row is the header, and in what unit the cells are told.

Readers write a row as one line, its cells parted by " | ". A table is a run of such lines in one paragraph; a run that
goes on behind a page's end, without a header of its own, belongs to the table before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lift.documents.sentences import Sentence

_CELLS = re.compile(r"[ ]*\|[ ]*|\t+|(?<=\S) {3,}(?=\S)|(?<=[^\W\d]) ?\.{4,} ?")
_AMOUNT = re.compile(
    r"(?:US|CA|AU|HK|NT)?[$€£¥₹+~<>≈± (\-–—−]*\d[\d.,' ]*\s*(?:%|bps|pp|pts|million|billion|thousand|[MBK]|"
    r"[$€£¥₹]|EUR|USD|GBP|CHF|crowns?|euros?|dollars?|pounds?)?\s*[)%*]*(?:\s*\(\w\))?|[-–—−]+|n/?[am]\.?",
    re.IGNORECASE,
)
_CURRENCY_ALONE = re.compile(r"(?:US|CA|AU|HK|NT)?[$€£¥₹]\(?|USD|EUR|GBP|CHF|\(")
_CLOSING_ALONE = re.compile(r"[)%]+")
_YEAR = re.compile(r"(?:fy|fiscal(?: year)?|year)?\s*(?:19|20)\d\d", re.IGNORECASE)
_UNIT = re.compile(
    r"\b(?:in|amounts? in|dollars in|shares in|expressed in)\s+(?:[A-Z]{3}\s+|[$€£¥]\s*|u\.?s\.? dollars? in\s+)?"
    r"(?P<size>thousands|millions|billions)\b(?:\s+of\s+(?P<of>[\w.$ ]{2,20}?)(?=[,;).]|\s+except|$))?",
    re.IGNORECASE,
)
PERIOD_COUNT = r"(?:three|six|nine|twelve|thirteen|twenty-six|thirty-nine|fifty-two|\d{1,2})"
# "Nine Months Ended", which the dates of the columns complete; "Year ended June 30,", which their years complete.
_OPEN_PERIOD = re.compile(
    rf"(?P<span>(?:{PERIOD_COUNT} (?:months|weeks)|"
    r"(?:fiscal )?(?:year|quarter)s?) ended)(?P<day>,? [A-Z][a-z]{2,8}\.? \d{1,2})?,?",
    re.IGNORECASE,
)
_DATED = re.compile(r"[A-Z][a-z]{2,8}\.? \d{1,2},? (?:19|20)\d\d")
_BARE_YEAR = re.compile(r"(?:19|20)\d\d")
_EXCEPT = re.compile(r"\bexcept(?:\s+for)?\s+(?P<what>[^)\]]{3,120})", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{3,}")
_LETTER = re.compile(r"[^\W\d_]")
_MARK = re.compile(r"\s*(?:\(\d{1,2}\)|\[\d{1,2}\]|\^\d{1,2}|[*†‡])+$")
_MAX_HEADER_ROWS = 3
_MAX_LABEL_WORDS = 14
_MAX_CAPTION_WORDS = 60
_MAX_CAPTION_SENTENCES = 4


@dataclass(frozen=True)
class DocumentTableRow:
    """A row with values: its sentence, its cells (the first is its label), and the label of the rows it stands among.

    `group` is what the row says itself ("Net sales: Products"), else the label above it, "" where there is none.
    """

    sentence: Sentence
    cells: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class DocumentTable:
    """A table as the text has it.

    `columns` are the words of the header over each cell, the first of them over the labels; none without a header.
    `context`: the sentences that a row needs beside it, those of the header and of the unit, in order. `unit` is such
    as "millions", None where none is told; `excepted` are words of the rows that it does not hold for.
    """

    columns: tuple[str, ...]
    header: tuple[Sentence, ...]
    rows: tuple[DocumentTableRow, ...]
    context: tuple[Sentence, ...] = ()
    unit: str | None = None
    excepted: frozenset[str] = field(default=frozenset())

    @property
    def sentences(self) -> Iterator[Sentence]:
        """All lines of the table but labels of groups."""
        yield from self.header
        yield from (row.sentence for row in self.rows)


def row_cells(text: str) -> tuple[str, ...]:
    """The cells of a row of a table, by its rules, tabs or wide gaps; none for a line that is no row.

    A sign of currency, a bracket or a percent sign alone in a cell belongs to the number beside it.
    """
    line = text.strip()
    if line.startswith("|") and line.endswith("|") and len(line) > 1:
        line = line[1:-1]
    cells = [" ".join(cell.split()) for cell in _CELLS.split(line)]
    joined: list[str] = []
    opened = ""
    for cell in cells:
        if _CURRENCY_ALONE.fullmatch(cell):
            opened += cell
        elif joined and joined[-1] and _CLOSING_ALONE.fullmatch(cell):
            joined[-1] += cell
        else:
            joined.append(opened + cell)
            opened = ""
    return tuple(joined) if len(joined) > 1 else ()


def is_amount(cell: str) -> bool:
    """Whether a cell holds a number and no more than its unit; a year alone is none."""
    return bool(_AMOUNT.fullmatch(cell)) and not _YEAR.fullmatch(cell)


def find_tables(sentences: Sequence[Sentence]) -> list[DocumentTable]:
    """The tables of a text in order; a run of rows without any header is a table without columns."""
    found: list[DocumentTable] = []
    last_line = -1
    for first, run in _runs(sentences):
        table = _table(run, sentences[max(first - _MAX_CAPTION_SENTENCES, 0) : first])
        before = found[-1] if found else None
        if before and first == last_line + 1 and not table.columns and _width(before) == _width(table) > 0:
            found[-1] = replace(before, rows=before.rows + table.rows)
        else:
            found.append(table)
        last_line = first + len(run) - 1
    return found


def _width(table: DocumentTable) -> int:
    """The cells of the table's last row, 0 where it has none."""
    return len(table.rows[-1].cells) if table.rows else 0


def _runs(sentences: Sequence[Sentence]) -> Iterator[tuple[int, list[tuple[Sentence, tuple[str, ...]]]]]:
    """(place of the first, lines with their cells) of each run of rows; labels between rows have one cell."""
    run: list[tuple[Sentence, tuple[str, ...]]] = []
    first = 0
    for place, sentence in enumerate(sentences):
        cells = row_cells(sentence.text)
        if run and sentence.paragraph != run[-1][0].paragraph:
            yield from _trimmed(first, run)
            run = []
        if cells or (run and len(sentence.text.split()) <= _MAX_LABEL_WORDS):
            if not run:
                first = place
            run.append((sentence, cells or (sentence.text,)))
        elif run:
            yield from _trimmed(first, run)
            run = []
    yield from _trimmed(first, run)


def _trimmed(
    first: int, run: list[tuple[Sentence, tuple[str, ...]]]
) -> Iterator[tuple[int, list[tuple[Sentence, tuple[str, ...]]]]]:
    """The run without the lines behind its last row."""
    while run and len(run[-1][1]) < 2:
        run = run[:-1]
    if run:
        yield first, run


def _table(lines: Sequence[tuple[Sentence, tuple[str, ...]]], before: Sequence[Sentence]) -> DocumentTable:
    width = max(len(cells) for _, cells in lines)
    header = _header(lines, width)
    columns = _columns([cells for _, cells in lines[: len(header)]], width) if header else ()
    rows: list[DocumentTableRow] = []
    group = ""
    for sentence, read in lines[len(header) :]:
        cells = _under_columns(read, columns)
        if len(cells) < 2 or not any(cells[1:]):
            group = label(cells[0])
        else:
            own, named = _own_group(cells[0])
            rows.append(DocumentTableRow(sentence, (named, *cells[1:]), own or group))
    captions = [each for each in before if _is_caption(each, lines[0][0])]
    told = [*captions, *header]
    unit_in = next((each for each in reversed(told) if _UNIT.search(each.text)), None)
    unit, excepted = (None, frozenset[str]()) if unit_in is None else _unit(unit_in.text)
    spanning = next((each for each in captions[-2:] if _OPEN_PERIOD.fullmatch(each.text.strip())), None)
    columns = _with_whole_periods(columns, spanning.text.strip() if spanning else "")
    beside = {each.index: each for each in (unit_in, spanning) if each is not None and each not in header}
    context = [*(beside[index] for index in sorted(beside)), *header]
    return DocumentTable(columns, tuple(header), tuple(rows), tuple(context), unit, excepted)


def _under_columns(cells: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...]:
    """The cells, each under its column, of a row whose values carry the header's words ("Heron | Crew: 3")."""
    values = dict[str, str]()
    for cell in cells[1:]:
        column = next((each for each in columns[1:] if each and cell.startswith(f"{each}: ")), None)
        if column is None:
            return cells
        values[column] = cell.removeprefix(f"{column}: ")
    return (cells[0], *(values.get(column, "") for column in columns[1:])) if values else cells


def _own_group(cell: str) -> tuple[str, str]:
    """("Net sales", "Products") of "Net sales: Products"; ("", cell) where the row names no group itself."""
    group, colon, named = cell.partition(": ")
    return (label(group), named.strip()) if colon and group.strip() and label(named) else ("", cell)


def label(cell: str) -> str:
    """The label of a row or a group without the marks of its notes and without a colon."""
    return _MARK.sub("", cell.strip().rstrip(":").rstrip()).rstrip(":, ")


def _header(lines: Sequence[tuple[Sentence, tuple[str, ...]]], width: int) -> list[Sentence]:
    """The first lines, of which no cell behind the first is an amount; one alone where the table has no numbers."""
    if len(lines) < 2:
        return []
    has_amounts = any(is_amount(cell) for _, cells in lines for cell in cells[1:])
    found: list[Sentence] = []
    for sentence, cells in lines[: _MAX_HEADER_ROWS if has_amounts else 1]:
        named = cells[1:] if len(cells) == width else cells
        if len(cells) < 2 or any(is_amount(cell) for cell in named) or not any(named):
            break
        if not has_amounts and (not all(map(_LETTER.search, cells[1:])) or any(map(str.isdigit, "".join(cells)))):
            break
        found.append(sentence)
    return found if len(found) < sum(len(cells) > 1 for _, cells in lines) else []


def _columns(header: Sequence[tuple[str, ...]], width: int) -> tuple[str, ...]:
    """The words over each cell; what stands over several columns is said for each of them."""
    texts = [list[str]() for _ in range(width)]
    for cells in header:
        named = list(cells)
        if len(named) == width - 1:
            named = ["", *named]
        elif len(named) < width:
            top = [cell for cell in named if cell]
            if (width - 1) % len(top):
                continue
            named = ["", *(cell for cell in top for _ in range((width - 1) // len(top)))]
        for place, cell in enumerate(named):
            if cell and cell not in texts[place]:
                texts[place].append(cell)
    return tuple(_MARK.sub("", " ".join(each)) for each in texts)


def _with_whole_periods(columns: tuple[str, ...], caption: str) -> tuple[str, ...]:
    """The columns, dates and bare years of them behind the period that is told once for all of them.

    It stands over the labels ("Three Months Ended September 30,"), in another column that has its own year, or in the
    `caption`, a line above the table.
    """
    if not columns:
        return columns
    spans = [found for found in (_OPEN_PERIOD.search(columns[0]), _OPEN_PERIOD.fullmatch(caption)) if found]
    spans += [found for each in columns[1:] if (found := _OPEN_PERIOD.match(each)) and found["day"]]
    if not spans:
        return columns
    span, day = spans[0]["span"], spans[0]["day"]
    wanted = _BARE_YEAR if day else _DATED
    begun = f"{span}{day}, " if day else f"{span} "
    return (columns[0], *(f"{begun}{each}" if wanted.fullmatch(each) else each for each in columns[1:]))


def _is_caption(sentence: Sentence, first: Sentence) -> bool:
    """Whether the sentence stands shortly before the table and may tell of it; no row of another table does."""
    near = first.paragraph - sentence.paragraph <= 2
    return near and not row_cells(sentence.text) and len(sentence.text.split()) <= _MAX_CAPTION_WORDS


def _unit(text: str) -> tuple[str | None, frozenset[str]]:
    """The unit that a line tells and the words that it does not hold for; None where it tells several."""
    exception = _EXCEPT.search(text)
    told = list(_UNIT.finditer(text[: exception.start()] if exception else text))
    found = told[0] if told else _UNIT.search(text)
    if found is None or len({each["size"].lower() for each in told}) > 1:
        return None, frozenset()
    unit = found["size"].lower() + (f" of {found['of'].strip()}" if found["of"] else "")
    words = _WORD.findall(exception["what"].lower()) if exception else ()
    common = {
        "and",
        "per",
        "for",
        "the",
        "number",
        "which",
        "are",
        "reflected",
        "amounts",
        "data",
        "where",
        "otherwise",
        "noted",
    }
    return unit, frozenset(word.removesuffix("s") for word in words if word not in common) - {"thousand", "million"}
