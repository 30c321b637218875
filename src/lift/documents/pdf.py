"""PDF -> blocks: pages, paragraphs and headings rebuilt from where the lines stand.

A PDF knows glyphs at coordinates, no paragraphs. pypdf gives lines in reading order; here the gaps between them, their
indentation and their type size tell where a paragraph ends, running heads and page numbers are left out, and a
paragraph that a page break cut is made whole, so that no sentence is lost at the foot of a page.
"""

from __future__ import annotations

import io
import logging
import re
import statistics
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, SPACE, Block, Content, one_line
from lift.documents.cleaning import clean_text
from lift.documents.plain_text import LIST_ITEM, JoinedLines, join_lines, vocabulary
from lift.errors import DocumentError

MAX_PAGES = 10_000
# What pypdf lets through, besides its own errors, when a damaged file breaks an assumption of its code.
_BROKEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    NotImplementedError,
    OSError,
    zlib.error,
)
_MARGIN_LINES = 2
_MIN_PAGES_WITH_HEADS = 3
_NEAR_PAGES = 4
_PARAGRAPH_GAP = 1.35
_HEADING_SCALE = 1.15
_MAX_HEADING_CHARS = 120
_SENTENCE_END = re.compile(r"[.!?:][\"'”’)\]]*$")
_PAGE_NUMBER = re.compile(
    r"(?:page\s*|p\.\s*)?[-–—\[( ]*(?:\d{1,4}|[ivxlc]{1,7})[-–—\]) ]*(?:(?:of|/)\s*\d{1,4})?", re.IGNORECASE
)
_CONTENTS_ENTRY = re.compile(r"(?<!\.)(?<!\. )(?:\. ?){4,}+\s*[\divxlc]+$")
_MAX_PAGE_NUMBER_CHARS = 40
_BULLET_ALONE = re.compile(r"[•‣▪◦●■–—*-]")


@dataclass(frozen=True)
class PageLine:
    """A printed line: where it begins, in points from the page's lower left corner, and its type size in points."""

    text: str
    x: float
    y: float
    size: float
    page: int


@dataclass(frozen=True)
class _Growing:
    """A block to which lines are still added."""

    lines: JoinedLines
    heading: str | None
    page: int
    separator: str


def read_pdf(data: bytes, name: str) -> Content:
    """Read a PDF's text with its pages.

    Raises DocumentError, naming the file as `name`, where it is broken, locked by a password, a scan without text, or
    of more than MAX_PAGES pages.
    """
    import pypdf
    from pypdf.errors import DependencyError, PyPdfError

    logger = logging.getLogger("pypdf")
    previous_level = logger.level
    logger.setLevel(logging.CRITICAL)  # it warns about every oddity that it has already repaired
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError(f"{name}: the PDF is encrypted; save it without a password and try again")
        pages = []
        for number, page in enumerate(reader.pages, start=1):
            if number > MAX_PAGES:
                raise DocumentError(f"{name}: expected at most {MAX_PAGES:,} pages, got more; split the file")
            pages.append(_page_lines(page, number))
        title = _metadata_title(reader)
    except DependencyError as error:
        raise DocumentError(f"{name}: the PDF is encrypted; save it without a password and try again") from error
    except (PyPdfError, *_BROKEN) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DocumentError(
            f"{name}: expected a whole PDF, got one that cannot be read ({reason}); repair it or print it to PDF again"
        ) from error
    finally:
        logger.setLevel(previous_level)
    if not any(line.text for lines in pages for line in lines):
        raise DocumentError(
            f"{name}: the PDF has {len(pages)} page(s) but no text, so it is probably a scan; "
            "run OCR on it first (for example ocrmypdf)"
        )
    blocks = blocks_of_pages(pages)
    return Content(title=title or _printed_title(pages[0]), blocks=blocks)


def blocks_of_pages(pages: list[list[PageLine]]) -> list[Block]:
    """Group lines into paragraphs and headings; the lines of a page are in reading order. Pure."""
    if not any(pages):
        return []
    size = _body_size([line for page in pages for line in page])
    lines = [line for page in _without_running_heads(pages, size) for line in page]
    words = vocabulary("\n".join(line.text for line in lines))
    leading = _leading(lines, size)
    width_chars = _quantile([len(line.text) for line in lines if _same_size(line.size, size)], 0.9)
    growing: list[_Growing] = []
    previous: PageLine | None = None
    for line in lines:
        heading = _is_heading(line, size)
        separator = PARAGRAPH
        if previous is not None and growing:
            separator = _separator(previous, line, leading, width_chars)
            last = growing[-1]
            if heading and last.heading and previous.page == line.page and _same_size(line.size, previous.size):
                text = join_lines(last.heading, line.text, words)
                if previous.y - line.y < 2.5 * line.size and len(text) <= _MAX_HEADING_CHARS:
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
    return [Block(each.lines.text, each.heading, each.page, each.separator) for each in growing]


def _separator(previous: PageLine, line: PageLine, leading: float, width_chars: float) -> str:
    """What stands between two lines: PARAGRAPH, LINE (the next item of a list) or SPACE (the paragraph goes on)."""
    gap = previous.y - line.y
    same_column = previous.page == line.page and gap > 0
    is_short = len(previous.text) < 0.75 * width_chars
    ended = bool(_SENTENCE_END.search(previous.text))
    if LIST_ITEM.match(line.text):
        tight = same_column and gap <= _PARAGRAPH_GAP * 1.3 * leading
        return LINE if tight and (LIST_ITEM.match(previous.text) or not ended) else PARAGRAPH
    if not same_column:
        begins_anew = ended or not line.text[:1].islower()
        return PARAGRAPH if begins_anew and (ended and (is_short or previous.page != line.page)) else SPACE
    if gap > _PARAGRAPH_GAP * max(leading, line.size * 1.1) or not _same_size(previous.size, line.size):
        return PARAGRAPH
    indented = line.x > previous.x + 0.8 * line.size and not LIST_ITEM.match(previous.text)
    if ended and (is_short or indented):
        return PARAGRAPH
    return LINE if is_short and not line.text[:1].islower() and len(previous.text) < 0.5 * width_chars else SPACE


def _page_lines(page: Any, number: int) -> list[PageLine]:
    """The lines of a page in pypdf's reading order, each with the place and type size of its first glyphs."""
    pieces: list[tuple[str, float, float, float]] = []

    def visit(text: str, transform: list[float], matrix: list[float], _font: Any, size: float) -> None:
        x = matrix[4] * transform[0] + matrix[5] * transform[2] + transform[4]
        y = matrix[4] * transform[1] + matrix[5] * transform[3] + transform[5]
        scale = abs(matrix[3] * transform[3]) or abs(matrix[1] * transform[2]) or 1.0
        pieces.append((text, x, y, size * scale))

    page.extract_text(visitor_text=visit)
    lines: list[PageLine] = []
    current: list[tuple[str, float, float, float]] = []
    for text, x, y, size in pieces:
        for index, part in enumerate(text.split("\n")):
            if index:
                _close_line(lines, current, number)
                current = []
            if part.strip():
                current.append((part, x, y, size))
            elif part and current and not current[-1][0].endswith(" "):
                current[-1] = (current[-1][0] + " ", *current[-1][1:])
    _close_line(lines, current, number)
    return lines


def _close_line(lines: list[PageLine], pieces: list[tuple[str, float, float, float]], page: int) -> None:
    text = " ".join(clean_text("".join(piece[0] for piece in pieces)).split())
    if not text:
        return
    sizes = Counter[float]()
    for piece, _, _, size in pieces:
        sizes[round(size, 1)] += len(piece)
    line = PageLine(text, pieces[0][1], pieces[0][2], sizes.most_common(1)[0][0], page)
    if lines and _BULLET_ALONE.fullmatch(lines[-1].text) and abs(lines[-1].y - line.y) < line.size:
        bullet = lines.pop()
        line = PageLine(f"{bullet.text} {text}", bullet.x, line.y, line.size, page)
    lines.append(line)


def _without_running_heads(pages: list[list[PageLine]], body_size: float) -> list[list[PageLine]]:
    """Leave out page numbers, running heads and feet, and the entries of a table of contents.

    A running head stands at the edge of its page and comes again near by: with a number that grows as the pages do, or
    on three of nine pages in the same words. Chapters change it, so that no share of all pages would be a measure.
    """
    by_text: dict[str, set[int]] = {}
    by_number: dict[tuple[str, int], set[int]] = {}
    for lines in pages:
        for line in _margin(lines):
            by_text.setdefault(_masked(line), set()).add(line.page)
            for number in _numbers(line):
                by_number.setdefault((_masked(line), number - line.page), set()).add(line.page)

    def is_running(line: PageLine) -> bool:
        if line.size >= _HEADING_SCALE * body_size:
            return False
        pages_with_it = by_text[_masked(line)]
        near = pages_with_it.intersection(range(line.page - _NEAR_PAGES, line.page + _NEAR_PAGES + 1))
        numbered = any(len(by_number[_masked(line), number - line.page]) > 1 for number in _numbers(line))
        return numbered or len(near) >= _MIN_PAGES_WITH_HEADS

    kept = []
    for lines in pages:
        running = {id(line) for line in _margin(lines) if is_running(line) or _is_page_number(line, lines)}
        kept.append([line for line in lines if id(line) not in running and not _CONTENTS_ENTRY.search(line.text)])
    return kept


def _margin(lines: list[PageLine]) -> list[PageLine]:
    by_height = sorted(lines, key=lambda line: -line.y)
    return by_height[:_MARGIN_LINES] + by_height[max(_MARGIN_LINES, len(by_height) - _MARGIN_LINES) :]


def _masked(line: PageLine) -> str:
    return re.sub(r"\d+|\b[ivxlc]+$", "#", line.text.lower())


def _numbers(line: PageLine) -> list[int]:
    """The numbers at the line's ends, where a page's own number stands."""
    return [int(number) for number in re.findall(r"^\d{1,4}\b|\b\d{1,4}$", line.text)]


def _is_page_number(line: PageLine, lines: list[PageLine]) -> bool:
    if len(line.text) > _MAX_PAGE_NUMBER_CHARS or not _PAGE_NUMBER.fullmatch(line.text) or len(lines) < 2:
        return False
    heights = [other.y for other in lines]
    return line.y in {min(heights), max(heights)}


def _body_size(lines: list[PageLine]) -> float:
    sizes = Counter[float]()
    for line in lines:
        sizes[line.size] += len(line.text)
    return sizes.most_common(1)[0][0]


def _leading(lines: list[PageLine], size: float) -> float:
    """The usual distance of two lines of body text, in points."""
    gaps = [
        previous.y - line.y
        for previous, line in pairwise(lines)
        if previous.page == line.page
        and _same_size(previous.size, size)
        and _same_size(line.size, size)
        and 0.5 * size < previous.y - line.y < 3 * size
    ]
    return statistics.multimode(round(gap, 1) for gap in gaps)[0] if gaps else 1.2 * size


def _is_heading(line: PageLine, body_size: float) -> bool:
    return (
        line.size >= _HEADING_SCALE * body_size
        and len(line.text) <= _MAX_HEADING_CHARS
        and sum(character.isalpha() for character in line.text) >= 2
    )


def _same_size(first: float, second: float) -> bool:
    return abs(first - second) <= 0.08 * max(first, second, 1.0)


def _quantile(values: list[int], share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else 0.0


def _printed_title(first_page: list[PageLine]) -> str | None:
    """The largest type of the first page, where it is one run of lines and larger than the page's text."""
    if not first_page:
        return None
    largest = max(line.size for line in first_page)
    if largest < _HEADING_SCALE * _body_size(first_page):
        return None
    run = [index for index, line in enumerate(first_page) if _same_size(line.size, largest)]
    if run[-1] - run[0] != len(run) - 1:
        return None
    title = " ".join(first_page[index].text for index in run)
    return title if len(title) <= _MAX_HEADING_CHARS and re.search(r"[^\W\d]{2}", title) else None


def _metadata_title(reader: Any) -> str | None:
    """The title in the file's properties, unless it is only a file name that a program has left there."""
    title = one_line(str((reader.metadata or {}).get("/Title") or ""))
    is_file_name = re.search(
        r"\.(docx?|tex|dvi|pdf|indd|odt|rtf|txt|html?|pptx?)$|^(untitled|microsoft word)\b", title, re.I
    )
    return None if not title or is_file_name else title
