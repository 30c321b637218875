"""A page's words -> its lines in reading order: running text and rows of tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lift.documents.cleaning import clean_text
from lift.documents.pdf.columns import columns_in_order
from lift.documents.pdf.printed_lines import LineSegment, printed_lines, without_line_numbers
from lift.documents.pdf.printed_tables import BULLET, Row, rows_of
from lift.documents.pdf.words import PageWords, PrintedWord

_MARKS = re.compile(r"[\uf000-\uf0ff]|[●○■□◆◇▶►▸➢➤▫∙⁃]")
_SPACED_BULLET = re.compile(r"(?:[•‣▪◦●○■□◆◇▶►▸➢➤✓✔▫·∙⁃]|o(?=\s+[A-Z]))\s+(?=\S)")


@dataclass(frozen=True)
class PageLine:
    """A line: its extent and baseline in points from the page's lower left corner, and its type size.

    `is_row`: a row of a table; `is_turned`: text that runs in another direction than most of its page.
    """

    text: str
    left: float
    right: float
    y: float
    size: float
    page: int
    is_bold: bool = False
    is_row: bool = False
    is_turned: bool = False
    is_item: bool = False

    @property
    def x(self) -> float:
        """Where it begins."""
        return self.left


def lines_of_page(page: PageWords) -> list[PageLine]:
    """The lines of a page in reading order, turned text last."""
    lines = _lines(without_line_numbers(page.words), page.number, is_turned=False)
    for words in page.turned:
        lines += _lines(words, page.number, is_turned=True)
    return lines


def _lines(words: list[PrintedWord], number: int, is_turned: bool) -> list[PageLine]:
    segments = [segment for line in printed_lines(words) for segment in line]
    found = []
    for column in columns_in_order(segments):
        found += [
            line for row in rows_of(_by_height(column)) if (line := _page_line(row, number, is_turned)) is not None
        ]
    return found


def _by_height(segments: list[LineSegment]) -> list[list[LineSegment]]:
    """The segments of a column by their lines."""
    lines: list[list[LineSegment]] = []
    for segment in sorted(segments, key=lambda segment: (-segment.y, segment.left)):
        if lines and abs(lines[-1][0].y - segment.y) <= 0.35 * min(lines[-1][0].size, segment.size):
            lines[-1].append(segment)
        else:
            lines.append([segment])
    for line in lines:
        if not _is_right_to_left(line):
            line.sort(key=lambda segment: segment.left)
    return lines


def _is_right_to_left(line: list[LineSegment]) -> bool:
    return any(len(segment.words) > 1 and segment.words[0].left > segment.words[-1].left for segment in line)


def _page_line(row: Row, number: int, is_turned: bool) -> PageLine | None:
    text = " ".join(clean_text(row.text).split())
    if not text or BULLET.fullmatch(text):
        return None
    item = _SPACED_BULLET.match(text)
    if item and not row.is_cells:
        text = f"- {text[item.end() :]}"
    largest = max(row.segments, key=lambda segment: len(segment.text))
    return PageLine(
        text=text,
        left=min(segment.left for segment in row.segments),
        right=max(segment.right for segment in row.segments),
        y=row.segments[0].y,
        size=round(largest.size, 1),
        page=number,
        is_bold=all(segment.is_bold for segment in row.segments) and any(map(str.isalpha, text)),
        is_row=row.is_cells,
        is_turned=is_turned,
        is_item=bool(item),
    )
