"""Lines of all pages -> those that belong to the text: page numbers, running heads and watermarks go out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from lift.documents.document import Omission
from lift.documents.pdf.page_lines import PageLine

HEADING_SCALE = 1.15
_MARGIN_LINES = 3
_MIN_PAGES_WITH_HEADS = 3
_NEAR_PAGES = 4
_SAME_HEIGHT = 1.0
_MIN_PAGES_COUNTED, _MIN_SHARE_COUNTED = 4, 0.5
_WATERMARK_SCALE = 1.8
_PAGE_NUMBER = re.compile(
    r"(?:page\s*|p\.\s*)?[-–—\[( ]*(?:\d{1,4}|[ivxlc]{1,7})[-–—\]) ]*(?:(?:of|/)\s*\d{1,4})?", re.IGNORECASE
)
_MAX_PAGE_NUMBER_CHARS = 40
# "Day 3" at the head of a page opens a part of the text; with one of these words it tells the page.
_NAMED_PART = re.compile(r"([^\W\d_]+\.?)\s+(?:\d{1,4}|[IVXLC]+)[.:]?")
_PAGE_WORD = re.compile(
    r"page|pp?|pg|seite|s|bl|blatt|p[aá]g(?:ina)?|sid[ae]|sivu|str|stron?a|strana|oldal|folio|sheet|slide|стр|страница|"
    r"σελίδα",
    re.IGNORECASE,
)
_CONTENTS_ENTRY = re.compile(r"(?P<title>.*[^\W\d_].*?)\s*(?:\|\s*|\s)(?P<page>\d{1,4}|[ivxlc]{1,6})")
_CONTENTS_TITLE = re.compile(
    r"(?:table of )?contents|index|inhalt(?:sverzeichnis)?|table des matières|sommaire|índice|indice|sommario|inhoud|"
    r"innehåll|indhold|spis treści|содержание|目次|目录",
    re.IGNORECASE,
)
_MIN_ENTRIES = 4


def body_size(lines: Sequence[PageLine]) -> float:
    """The type size of most of the text, in points."""
    sizes = Counter[float]()
    for line in lines:
        sizes[line.size] += len(line.text)
    return sizes.most_common(1)[0][0]


def without_running_heads(pages: list[list[PageLine]], size: float) -> list[list[PageLine]]:
    """Leave out page numbers, running heads and feet, and watermarks.

    A running head stands at the edge of its page and comes again near by: with a number that grows as the pages do, or
    on three of nine pages in the same words. Chapters change it, so that no share of all pages would be a measure. A
    word and a number at the head of a page ("Day 3") stays where it changes from page to page.
    """
    by_text: dict[str, list[PageLine]] = {}
    by_number: dict[tuple[str, int], set[int]] = {}
    exactly: dict[str, set[int]] = {}
    margins = [_margin(lines) for lines in pages]
    for margin in margins:
        for line in margin:
            by_text.setdefault(_masked(line), []).append(line)
            exactly.setdefault(line.text.lower(), set()).add(line.page)
            for number in _numbers(line):
                by_number.setdefault((_masked(line), number - line.page), set()).add(line.page)

    def is_running(line: PageLine, is_top: bool) -> bool:
        if line.size >= HEADING_SCALE * size:
            return False
        nearby = range(line.page - _NEAR_PAGES, line.page + _NEAR_PAGES + 1)
        if is_top and is_named_part(line):
            return len(exactly[line.text.lower()].intersection(nearby)) >= _MIN_PAGES_WITH_HEADS
        numbered = not line.is_row and any(
            len(by_number[_masked(line), number - line.page]) > 1 for number in _numbers(line)
        )
        alike = {
            other.page
            for other in by_text[_masked(line)]
            if other.page in nearby
            and abs(other.y - line.y) <= _SAME_HEIGHT * line.size
            # the header of a table comes again atop of pages, with other years mostly
            and not (line.is_row and other.text != line.text)
        }
        return numbered or len(alike) >= _MIN_PAGES_WITH_HEADS

    counted = _counting_lines(pages)
    marks = _watermarks(pages, size)
    kept = []
    for lines, margin in zip(pages, margins, strict=True):
        middle = (max(line.y for line in lines) + min(line.y for line in lines)) / 2 if lines else 0.0
        out = {id(line) for line in margin if is_running(line, line.y > middle) or _is_page_number(line, lines)}
        out |= counted
        kept.append([line for line in lines if id(line) not in out and _placed(line) not in marks])
    return kept


def _counting_lines(pages: list[list[PageLine]]) -> set[int]:
    """The ids of outermost lines that tell their page, beside the name of a section perhaps: most count alike."""
    outermost = []
    for lines in pages:
        upright = [line for line in lines if not line.is_turned and not line.is_row]
        if len(upright) > 1:
            top, foot = max(upright, key=lambda line: line.y), min(upright, key=lambda line: line.y)
            outermost += [(top, True), (foot, False)]
    found: set[int] = set()
    for is_top in (True, False):
        edge = [line for line, at_top in outermost if at_top is is_top and not (is_top and is_named_part(line))]
        shifts = Counter(number - line.page for line in edge for number in set(_numbers(line)))
        if not shifts:
            continue
        shift, count = shifts.most_common(1)[0]
        if count >= max(_MIN_PAGES_COUNTED, _MIN_SHARE_COUNTED * len(pages)):
            found |= {id(line) for line in edge if line.page + shift in _numbers(line)}
    return found


def without_contents(pages: list[list[PageLine]]) -> tuple[list[list[PageLine]], list[Omission]]:
    """Leave out tables of contents: under a title of that name, entries whose page numbers grow within the file's."""
    kept, omissions = [], []
    for lines in pages:
        out: set[int] = set()
        start = next((index for index, line in enumerate(lines) if _is_contents_title(line)), None)
        if start is not None:
            end = _end_of_entries(lines, start + 1, len(pages))
            if end is not None:
                out = set(range(start, end))
                omissions.append(Omission("table of contents", lines[start].page))
        kept.append([line for index, line in enumerate(lines) if index not in out])
    return kept, omissions


def _is_contents_title(line: PageLine) -> bool:
    return bool(_CONTENTS_TITLE.fullmatch(line.text.strip(" :|")))


def _end_of_entries(lines: list[PageLine], start: int, page_count: int) -> int | None:
    """Where the entries from `start` on end; None where they are none."""
    entries, end, last, other = 0, start, 0, 0
    for index in range(start, len(lines)):
        found = _CONTENTS_ENTRY.fullmatch(lines[index].text)
        if found is None:
            other += 1
            if other > 3 or len(lines[index].text) > 120:
                break
            continue
        number = int(found["page"]) if found["page"].isdigit() else 0
        if number and not last <= number <= page_count + 20:
            break
        entries, end, last, other = entries + 1, index + 1, number or last, 0
    return end if entries >= _MIN_ENTRIES else None


def _margin(lines: list[PageLine]) -> list[PageLine]:
    by_height = sorted((line for line in lines if not line.is_turned), key=lambda line: -line.y)
    return by_height[:_MARGIN_LINES] + by_height[max(_MARGIN_LINES, len(by_height) - _MARGIN_LINES) :]


def _masked(line: PageLine) -> str:
    return re.sub(r"\d+|\b[ivxlc]+$", "#", line.text.lower())


def _numbers(line: PageLine) -> list[int]:
    """The numbers at the line's ends, where a page's own number stands."""
    return [int(number) for number in re.findall(r"^\d{1,4}\b|\b\d{1,4}$", line.text)]


def is_named_part(line: PageLine) -> bool:
    """Whether a line is a word and a number, such as "Day 3", and does not tell the page."""
    found = _NAMED_PART.fullmatch(line.text)
    return found is not None and not _PAGE_WORD.fullmatch(found[1].rstrip("."))


def _is_page_number(line: PageLine, lines: list[PageLine]) -> bool:
    if len(line.text) > _MAX_PAGE_NUMBER_CHARS or not _PAGE_NUMBER.fullmatch(line.text) or len(lines) < 2:
        return False
    heights = [other.y for other in lines]
    return line.y in {min(heights), max(heights)}


def _placed(line: PageLine) -> tuple[str, int, int]:
    return line.text.lower(), round(line.left / 4), round(line.y / 4)


def _watermarks(pages: list[list[PageLine]], size: float) -> set[tuple[str, int, int]]:
    """Large lines that stand at the same place of most pages."""
    places = Counter(_placed(line) for lines in pages for line in lines if line.size >= _WATERMARK_SCALE * size)
    return {place for place, count in places.items() if count >= max(3, 0.5 * len(pages))}
