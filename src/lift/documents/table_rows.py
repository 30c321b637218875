"""Tables -> lines: cells that span rows or columns are repeated, and the rows of a sheet carry its header's words.

A row is one line of text, "Summer | child | 2 crowns", and a sentence of its own to everything that follows. So each
row must say alone what it says in its place: a season that stands once beside two fares belongs to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lift.documents.blocks import LINE, PARAGRAPH, Block

CELL_SEPARATOR = " | "
MAX_COLUMNS = 1_000
# A longer text that spans several rows is a story beside the table, not a key of its rows.
_MAX_REPEATED_CHARS = 200
_MAX_SPANNED_ROWS = 65_534
_NUMBER = re.compile(r"[\W_]*\d[\d\s.,:/%+-]*\D{0,4}")
_MAX_HEADER_CHARS = 80
# A row of so few cells is a key and its value, which need no header.
_MIN_WORDED_COLUMNS = 3


@dataclass(frozen=True)
class SpannedCell:
    """A cell's text in one line, and how many columns and rows it spans."""

    text: str
    columns: int = 1
    rows: int = 1


class SpanFiller:
    """Gives the rows of one table from above to below their texts, those of cells that span several in each of them."""

    def __init__(self) -> None:
        self._hanging: dict[int, tuple[str, int]] = {}  # column -> text, rows that it still spans

    def fill(self, cells: Iterable[SpannedCell]) -> list[str]:
        """The texts of the next row, column by column; of a cell that spans the whole row, the one text."""
        texts: list[str] = []
        cells = list(cells)
        for cell in cells:
            self._hang(texts)
            for copy in range(min(max(cell.columns, 1), MAX_COLUMNS - len(texts))):
                rows = min(cell.rows, _MAX_SPANNED_ROWS)
                shown = cell.text if copy == 0 or len(cell.text) <= _MAX_REPEATED_CHARS else ""
                if rows > 1:
                    self._hanging[len(texts)] = (cell.text if len(cell.text) <= _MAX_REPEATED_CHARS else "", rows - 1)
                texts.append(shown)
        self._hang(texts)
        return (
            [cells[0].text]
            if len(cells) == 1 and texts and all(text in {cells[0].text, ""} for text in texts)
            else texts
        )

    def spans(self, column: int) -> bool:
        """Whether a cell from a row above reaches into that column of the next row."""
        return column in self._hanging

    def _hang(self, texts: list[str]) -> None:
        while (hanging := self._hanging.pop(len(texts), None)) is not None:
            text, rows = hanging
            if rows > 1:
                self._hanging[len(texts)] = (text, rows - 1)
            texts.append(text)


def span_of(value: str | None) -> int:
    """The number of rows or columns that an attribute states, 1 where it states none that can be."""
    if value is None or not value.strip().isdecimal() or len(value.strip()) > 5:
        return 1
    return max(1, int(value))


def row_line(cells: Sequence[str]) -> str:
    """A row as a line, "" where no cell holds a text."""
    return CELL_SEPARATOR.join(cells).strip() if any(cells) else ""


def row_blocks(rows: Iterable[Sequence[str]]) -> Iterator[Block]:
    """The rows of one table that hold a text, a line each."""
    separator = PARAGRAPH
    for row in rows:
        if line := row_line(row):
            yield Block(line, separator=separator)
            separator = LINE


def sheet_blocks(rows: Iterable[Sequence[str]]) -> Iterator[Block]:
    """The rows of a sheet: a blank row ends a table, lines of one cell above a table are paragraphs, and the rows of a
    table with a header carry its words.
    """
    table: list[list[str]] = []
    for row in rows:
        if any(row):
            table.append(list(row))
        elif table:
            yield from _sheet_table(table)
            table = []
    if table:
        yield from _sheet_table(table)


def _sheet_table(rows: list[list[str]]) -> Iterator[Block]:
    width = max(len(row) for row in rows)
    used = [column for column in range(width) if any(column < len(row) and row[column] for row in rows)]
    packed = [[row[column] if column < len(row) else "" for column in used] for row in rows]
    while packed and len(used) > 1 and sum(map(bool, packed[0])) == 1:
        yield Block("".join(packed.pop(0)))
    yield from row_blocks(worded_rows(packed))


def worded_rows(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows with the words of their header before each value but the first: "Ada | Boats: 3 | Since: 1850".

    A row of a sheet stands hundreds of lines below its header. Rows of a table without header, or of fewer than three
    columns, are given back as they are.
    """
    header = rows[0] if rows else []
    if len(rows) < 2 or not is_header(header, rows[1]):
        return list(rows)
    return [header, *(_worded(header, row) for row in rows[1:])]


def is_header(row: Sequence[str], following: Sequence[str]) -> bool:
    """Whether a row names the columns of the rows below it: short words, none twice, one for each value."""
    named = [text for text in row if text]
    return (
        len(named) >= _MIN_WORDED_COLUMNS
        and len(set(named)) == len(named)
        and all(len(text) <= _MAX_HEADER_CHARS and not _NUMBER.fullmatch(text) for text in named)
        and all(column < len(row) and row[column] for column, text in enumerate(following) if text and column)
    )


def _worded(header: Sequence[str], row: Sequence[str]) -> list[str]:
    first = next((column for column, text in enumerate(row) if text), 0)
    named = [
        f"{header[column]}: {text}" if column != first and column < len(header) and header[column] else text
        for column, text in enumerate(row)
        if text
    ]
    # where the row's own name is missing, the first value needs its header's word too
    if named and first != 0 and first < len(header) and header[first]:
        named[0] = f"{header[first]}: {named[0]}"
    return named
