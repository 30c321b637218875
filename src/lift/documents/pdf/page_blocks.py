"""Lines of all pages -> paragraphs, list items, rows and headings.

The gaps between lines, their indentation and their type tell where a paragraph ends; a paragraph that a page break or
a footnote cut is made whole, so that no sentence is lost at the foot of a page.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from lift.documents.blocks import LINE, PARAGRAPH, SPACE, Block
from lift.documents.pdf.footnotes import parted_notes
from lift.documents.pdf.page_lines import PageLine
from lift.documents.pdf.running_heads import HEADING_SCALE, body_size, is_named_part
from lift.documents.plain_text import LIST_ITEM, JoinedLines, join_lines, vocabulary

MAX_HEADING_CHARS = 120
_PARAGRAPH_GAP = 1.35
_MAX_BOLD_SHARE = 0.4
_MIN_PAGE_CHARS = 500
_SENTENCE_END = re.compile(r"[.!?:;][\"'”’)\]]*$")
_NUMBERED = re.compile(r"(?:item|part|article|section|chapter|note|appendix|annex)\s+(?:\d|[IVXLC]+\b)", re.IGNORECASE)
_FIGURES = re.compile(r"[$€£¥]\s?\(?\d|%.*%|\d[\d,.]*\s+\(?\d[\d,.]*\s+\(?\d")
_ENDS_AS_TEXT = re.compile(r"[,;:]$|[a-z)]\.$")


@dataclass(frozen=True)
class _Growing:
    """A block to which lines are still added."""

    lines: JoinedLines
    heading: str | None
    page: int
    separator: str


class _Measures:
    """The usual measures of a document: type size, distance of lines, width in characters, weight; and its words."""

    def __init__(self, lines: list[PageLine]) -> None:
        self.size = body_size(lines)
        running = [line for line in lines if not line.is_row]
        self.leading = _leading(running, self.size)
        self.width_chars = _quantile([len(line.text) for line in running if _same_size(line.size, self.size)], 0.9)
        bold, characters = Counter[int](), Counter[int]()
        for line in lines:
            characters[line.page] += len(line.text)
            bold[line.page] += len(line.text) if line.is_bold else 0
        self.pages_where_bold_tells = {page for page in characters if bold[page] <= _MAX_BOLD_SHARE * characters[page]}
        self._page_sizes: dict[int, float] = {}
        for page, on_page in groupby(lines, key=lambda line: line.page):
            same_page = list(on_page)
            if characters[page] >= _MIN_PAGE_CHARS:
                self._page_sizes[page] = body_size(same_page)
        self.words = vocabulary("\n".join(line.text for line in running))

    def size_on(self, page: int) -> float:
        """The usual type size of a page with enough text to tell, else that of the document."""
        return self._page_sizes.get(page, self.size)


def blocks_of_pages(pages: list[list[PageLine]], outline: frozenset[tuple[int, str]] = frozenset()) -> list[Block]:
    """Group lines into blocks; the lines of a page are in reading order.

    `outline`: the page and the words, in lower case and without spaces, of each entry of the file's own table of
    contents, each of which is a heading.
    """
    if not any(pages):
        return []
    measures = _Measures([line for page in pages for line in page])
    parted = [parted_notes(lines, measures.size) for lines in pages]
    grown = _grow([line for lines, _ in parted for line in lines], measures, outline)
    notes = [(lines[0].page, _grow(lines, measures, frozenset())) for _, lines in parted if lines]
    return [Block(each.lines.text, each.heading, each.page, each.separator) for each in _with_notes(grown, notes)]


def _with_notes(grown: list[_Growing], notes: list[tuple[int, list[_Growing]]]) -> list[_Growing]:
    """The blocks with each page's notes behind the paragraph that the page's end cut."""
    whole: list[_Growing] = []
    for block in grown:
        separator = block.separator
        while notes and block.page > notes[0][0] and separator in {PARAGRAPH, LINE}:
            whole += notes.pop(0)[1]
            separator = PARAGRAPH
        whole.append(replace(block, separator=separator))
    return whole + [block for _, blocks in notes for block in blocks]


def _grow(lines: list[PageLine], measures: _Measures, outline: frozenset[tuple[int, str]]) -> list[_Growing]:
    growing: list[_Growing] = []
    previous: PageLine | None = None
    words = measures.words
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else None
        heading = _is_heading(line, previous, following, measures, outline)
        separator = PARAGRAPH
        if previous is not None and growing:
            separator = _separator(previous, line, measures)
            last = growing[-1]
            if heading and last.heading and _goes_on(last.heading, previous, line):
                text = join_lines(last.heading, line.text, words)
                if len(text) <= MAX_HEADING_CHARS:
                    growing[-1] = _Growing(JoinedLines(text, words), text, last.page, last.separator)
                    previous = line
                    continue
            if heading or last.heading:
                separator = PARAGRAPH
        if separator == SPACE:
            assert previous is not None
            if previous.page == line.page:
                growing[-1].lines.add(line.text)
            else:  # a block of its own, so that the page is known
                separator = growing[-1].lines.end_before(line.text)
                growing.append(_Growing(JoinedLines(line.text, words), None, line.page, separator))
        else:
            growing.append(
                _Growing(JoinedLines(line.text, words), line.text if heading else None, line.page, separator)
            )
        previous = line
    return growing


def _separator(previous: PageLine, line: PageLine, measures: _Measures) -> str:
    """The break between two lines: PARAGRAPH, LINE (the next item or row) or SPACE (the paragraph goes on)."""
    gap = previous.y - line.y
    same_column = previous.page == line.page and gap > -0.5 and previous.is_turned == line.is_turned
    leading = measures.leading
    if previous.is_row or line.is_row:
        if previous.is_row and line.is_row:
            return LINE if gap <= 4 * max(leading, line.size) or not same_column else PARAGRAPH
        return PARAGRAPH
    is_short = len(previous.text) < 0.75 * measures.width_chars
    ended = bool(_SENTENCE_END.search(previous.text))
    if LIST_ITEM.match(line.text) or line.is_item:
        tight = same_column and gap <= _PARAGRAPH_GAP * 1.3 * leading
        goes_on = bool(LIST_ITEM.match(previous.text)) or previous.is_item or not ended or previous.left > line.left
        return LINE if tight and goes_on else PARAGRAPH
    if not same_column:
        begins_anew = ended or not line.text[:1].islower()
        return PARAGRAPH if begins_anew and (ended and (is_short or previous.page != line.page)) else SPACE
    if gap > _PARAGRAPH_GAP * max(leading, line.size * 1.1) or not _same_size(previous.size, line.size):
        return PARAGRAPH
    hangs = previous.is_item or bool(LIST_ITEM.match(previous.text))
    if hangs and line.left <= previous.left + 0.3 * line.size and not line.text[:1].islower():
        return PARAGRAPH  # the text after a list stands where its marks do, or further to the left
    if line.left < previous.left - 0.8 * line.size and not line.text[:1].islower():
        return PARAGRAPH
    indented = line.left > previous.left + 0.8 * line.size and not hangs
    if ended and (is_short or indented):
        return PARAGRAPH
    if ":" in line.text and ":" in previous.text and is_short and not line.text[:1].islower():
        return LINE  # lines of a form
    is_very_short = len(previous.text) < 0.5 * measures.width_chars
    return LINE if is_short and not line.text[:1].islower() and is_very_short else SPACE


def _is_heading(
    line: PageLine,
    previous: PageLine | None,
    following: PageLine | None,
    measures: _Measures,
    outline: frozenset[tuple[int, str]],
) -> bool:
    if line.is_row or line.is_turned or len(line.text) > MAX_HEADING_CHARS:
        return False
    if sum(character.isalpha() for character in line.text) < 2:
        return False
    if (line.page, squeezed(line.text)) in outline:
        return True
    if line.text.startswith(("(", "☐", "☑", "☒")) or _FIGURES.search(line.text):
        return False
    if line.size >= HEADING_SCALE * measures.size_on(line.page):
        return True
    if is_named_part(line) and (previous is None or previous.page != line.page):
        return True
    if line.size < 0.95 * measures.size_on(line.page) or _ENDS_AS_TEXT.search(line.text):
        return False
    above = previous is None or previous.page != line.page or not 0 <= previous.y - line.y < 1.25 * measures.leading
    if previous is not None and not above and previous.is_bold and not previous.is_row:
        above = True
    if not above:
        return False
    if line.is_bold and line.page in measures.pages_where_bold_tells:
        return not LIST_ITEM.match(line.text) or line.text[0].isdigit()
    below = following is None or following.page != line.page or line.y - following.y > 1.25 * measures.leading
    return below and bool(_NUMBERED.match(line.text)) and not _SENTENCE_END.search(line.text)


def _goes_on(heading: str, previous: PageLine, line: PageLine) -> bool:
    """Whether a heading goes on in the next line."""
    return (
        previous.page == line.page
        and _same_size(line.size, previous.size)
        and previous.is_bold == line.is_bold
        and 0 < previous.y - line.y < 1.7 * line.size
        and not _NUMBERED.match(line.text)
        and not (heading.isupper() and not line.text.isupper())
    )


def squeezed(text: str) -> str:
    """The letters and digits of a text in lower case: how two writings of a heading are compared."""
    return "".join(character for character in text.casefold() if character.isalnum())


def _leading(lines: list[PageLine], size: float) -> float:
    """The usual distance of two lines of body text, in points."""
    gaps = Counter(
        round(previous.y - line.y, 1)
        for previous, line in pairwise(lines)
        if previous.page == line.page
        and _same_size(previous.size, size)
        and _same_size(line.size, size)
        and 0.5 * size < previous.y - line.y < 3 * size
    )
    return statistics.multimode(gaps.elements())[0] if gaps else 1.2 * size


def _same_size(first: float, second: float) -> bool:
    return abs(first - second) <= 0.08 * max(first, second, 1.0)


def _quantile(values: list[int], share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else 0.0
