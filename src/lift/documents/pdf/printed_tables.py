"""Printed lines -> rows of tables, one row a line, the cells parted by " | ".

A table is a run of lines with gaps at the same places. Its columns are those of its numbers, or of its fullest lines;
lines above the first row make one header, with what spans several columns said for each of them. A row whose label
comes again in the table gets the label of its group before it, since alone it would not say what it is about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lift.documents.pdf.printed_lines import LineSegment
from lift.documents.pdf.words import PrintedWord
from lift.documents.plain_text import LIST_ITEM

_NUMERIC = re.compile(
    r"[$€£¥(\[+~<>≈±\-–—− ]*(?:\d[\d.,' ]*\d|\d|[-–—−])\s*(?:%|bps|x|pts)?\s*[)\]%*]*"
    r"|\(?n/?[am]\.?\)?|nm|—",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_CURRENCY = re.compile(r"(?:[$€£¥(+]|US\$|USD|EUR|GBP|CHF|R\$|C\$|A\$)+", re.IGNORECASE)
_CLOSING = re.compile(r"[)%\]]+|\*+|\(\d{1,2}\)|pts|bps", re.IGNORECASE)
_ENUMERATOR = re.compile(
    r"(?:(?:item|part|article|section|chapter|note|§)\s*)?(?:\d{1,3}(?:\.\d+)*[A-Z]?|[A-Za-z]|[ivxlcIVXLC]{1,6})?[.):]?"
    r"|\((?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})\)|\[\d{1,3}\]",
    re.IGNORECASE,
)
BULLET = re.compile(r"[•‣▪▫◦●○■□◆◇▶►▸➢➤✓✔✗✘☐☑☒·∙⁃*–—-]|o|[\uf000-\uf0ff]")
_OPEN_END = re.compile(r"(?:,|–|—|-|\b(?:and|or|of|the|for|in|to|on|at|by|from|with|than|per|a|an))$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][\"”’)]*$")
_MAX_GAP_LINES = 3
_MAX_HEADER_LINES = 6
_WIDER_THAN_A_SPACE = 0.45
_MAX_LEADING = 3.6
_MAX_LABEL_SHARE = 0.62


@dataclass(frozen=True)
class Row:
    """A line of text as it is read: the cells of a row joined, or a line of running text (`is_cells` false)."""

    text: str
    segments: tuple[LineSegment, ...]
    is_cells: bool


@dataclass
class _TableLine:
    cells: list[str]
    segments: list[LineSegment]
    numbers: int = 0


@dataclass
class _Columns:
    """Extents from left to right; `first_number` is the place of the first column of numbers, if any."""

    extents: list[tuple[float, float]]
    numeric: list[bool] = field(default_factory=list)

    def covered(self, left: float, right: float) -> list[int]:
        """The columns that an extent overlaps; the nearest one where it overlaps none."""
        slack = min(1.5, 0.2 * (right - left))
        found = [
            index
            for index, (first, last) in enumerate(self.extents)
            if min(right, last) - max(left, first) > slack or (first >= left and last <= right)
        ]
        return found or [min(range(len(self.extents)), key=lambda index: self.distance(index, left, right))]

    def distance(self, index: int, left: float, right: float) -> float:
        """How far the extent is from a column."""
        first, last = self.extents[index]
        return max(first - right, left - last, 0.0) + 0.001 * abs(first + last - left - right)


def rows_of(lines: list[list[LineSegment]]) -> Iterator[Row]:
    """The lines of a column from top to bottom, tables made into rows."""
    lines = [_merged(line) for line in lines]
    place = 0
    for start, end in _runs(lines):
        yield from (_running(line) for line in lines[place:start])
        columns = _columns(lines[start:end])
        rows = None if columns is None else _rows(lines[start:end], columns)
        yield from rows if rows is not None else (_running(line) for line in lines[start:end])
        place = end
    yield from (_running(line) for line in lines[place:])


def _running(line: list[LineSegment]) -> Row:
    if any(segment.is_led for segment in line):
        return Row(" | ".join(segment.text for segment in line), tuple(line), is_cells=True)
    is_form = len(line) > 1 and all(":" in segment.text for segment in line)
    return Row((" | " if is_form else " ").join(segment.text for segment in line), tuple(line), is_cells=False)


def _merged(line: list[LineSegment]) -> list[LineSegment]:
    """The segments of a line, signs joined to their numbers, list marks and labels with a colon to what they mark."""
    merged: list[LineSegment] = []
    for index, segment in enumerate(line):
        text = segment.text
        if merged and not segment.is_led:
            last = merged[-1].text
            is_number = bool(_NUMERIC.fullmatch(text))
            signs = _CURRENCY.fullmatch(last) and is_number
            closes = _CLOSING.fullmatch(text) and (_NUMERIC.fullmatch(last) or re.search(r"\d$", last))
            marks = len(merged) == 1 and len(line) == 2 and not is_number and _ENUMERATOR.fullmatch(last)
            bullet = len(merged) == 1 and BULLET.fullmatch(last) and not is_number
            label = last.endswith(":") and (
                len(line) == 2 or (index + 1 < len(line) and line[index + 1].text.endswith(":")) or _labels(line)
            )
            if signs or closes or marks or bullet or label:
                merged[-1] = LineSegment(merged[-1].words + segment.words, merged[-1].is_led)
                continue
        merged.append(segment)
    return merged


def _labels(line: list[LineSegment]) -> bool:
    """Whether every second segment is a label with a colon, as in the lines of a form."""
    return len(line) % 2 == 0 and all(segment.text.endswith(":") for segment in line[::2])


def _runs(lines: list[list[LineSegment]]) -> Iterator[tuple[int, int]]:
    """The spans of lines that may be a table: two and more lines of several segments, with few others between."""
    place = 0
    while place < len(lines):
        if not _is_tabular(lines[place]):
            place += 1
            continue
        end, ahead = place + 1, place + 1
        left = min(segment.left for segment in lines[place])
        right = max(segment.right for segment in lines[place])
        while ahead < len(lines) and ahead - end <= _MAX_GAP_LINES:
            gap = lines[ahead - 1][0].y - lines[ahead][0].y
            size = max(lines[ahead][0].size, lines[ahead - 1][0].size)
            if gap > _MAX_LEADING * size:
                break
            line = lines[ahead]
            if _is_tabular(line) and ahead > end and _begins_header(line, left, right):
                break
            if _is_tabular(line):
                left = min(left, line[0].left)
                right = max(right, line[-1].right)
                end = ahead + 1
            elif line[0].right - line[0].left > _MAX_LABEL_SHARE * (right - left) or _is_running_line(line[0]):
                break
            ahead += 1
        if end - place >= 2:
            yield place, end
        place = end


def _is_running_line(segment: LineSegment) -> bool:
    """Whether a line of one segment is a sentence or a list item rather than a label."""
    text = segment.text
    return bool(LIST_ITEM.match(text)) or (bool(_SENTENCE_END.search(text)) and len(segment.words) > 2)


def _is_tabular(line: list[LineSegment]) -> bool:
    return len(line) >= 2 and not all(":" in segment.text for segment in line)


def _columns(lines: list[list[LineSegment]]) -> _Columns | None:
    """The columns of a table; None where the gaps of the lines do not stand below each other."""
    tabular = [line for line in lines if len(line) >= 2 and not _are_years(line)]
    if len(tabular) < 2 or 2 * sum(any(segment.is_led for segment in line) for line in tabular) > len(tabular):
        return None  # leader dots part the cells of each line by themselves
    numbers = [
        (_number_extent(segment), line) for line in tabular for segment in line[1:] if _NUMERIC.fullmatch(segment.text)
    ]
    with_numbers = len({id(line) for _, line in numbers})
    if with_numbers >= 0.4 * len(tabular):
        extents = _united([extent for extent, _ in numbers])
        filled = [line for line in tabular if any(_NUMERIC.fullmatch(segment.text) for segment in line[1:])]
        most = max(len(line) for line in filled)
        fullest = [line for line in filled if len(line) == most]
        texts = [
            (segment.left, segment.right)
            for line in (fullest if len(fullest) > 1 else filled)
            for segment in line
            if not any(min(segment.right, last) - max(segment.left, first) > 0 for first, last in extents)
        ]
        columns = [(extent, True) for extent in extents] + [(extent, False) for extent in _united(texts)]
        columns.sort()
        if len(columns) >= 2:
            return _Columns([extent for extent, _ in columns], [is_number for _, is_number in columns])
    counts = Counter(len(line) for line in tabular)
    for count in sorted(counts, reverse=True):
        if count < 2 or counts[count] < max(2, 0.25 * len(tabular)):
            continue
        full = [line for line in tabular if len(line) == count]
        extents = _united([(segment.left, segment.right) for line in full for segment in line])
        if len(extents) == count and _are_aligned(full, tabular):
            return _Columns(extents, [False] * count)
    return None


def _are_years(line: list[LineSegment]) -> bool:
    """Whether a line of a header names years alone."""
    return all(_YEAR.fullmatch(segment.text) for segment in line)


def _begins_header(line: list[LineSegment], left: float, right: float) -> bool:
    """Whether a line leaves the column of labels empty and has no numbers but years: a header does."""
    return line[0].left > left + 0.2 * (right - left) and not any(
        _NUMERIC.fullmatch(segment.text) and not _YEAR.fullmatch(segment.text) for segment in line
    )


def _number_extent(segment: LineSegment) -> tuple[float, float]:
    """Where the digits stand: a sign of currency may stand far to the left of its number."""
    digits = [word for word in segment.words if any(map(str.isalnum, word.text))] or list(segment.words)
    return digits[0].left, max(word.right for word in digits)


def _united(extents: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    united: list[tuple[float, float]] = []
    for left, right in sorted(extents):
        if united and left <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], right))
        else:
            united.append((left, right))
    return united


def _are_aligned(full: list[list[LineSegment]], tabular: list[list[LineSegment]]) -> bool:
    """Whether the cells of each column but the first begin, end or are centred at one place in most lines."""
    if len(full) < 2:
        return False
    met = total = 0
    for index in range(1, len(full[0])):
        cells = [line[index] for line in full]
        edges = [(cell.left, cell.right, (cell.left + cell.right) / 2) for cell in cells]
        for places in map(sorted, zip(*edges, strict=True)):
            middle = places[len(places) // 2]
            aligned = sum(abs(each - middle) <= 2.5 for each in places)
            if aligned >= 0.7 * len(cells):
                met += 1
                break
        total += 1
    gap = min(second.left - first.right for line in full for first, second in pairwise(line))
    words = sum(len(segment.words) for line in full for segment in line) / sum(len(line) for line in full)
    is_wide = gap > 1.5 * full[0][0].size or len(full) >= 3
    return met == total and (is_wide or len(full[0]) >= 3) and words <= 14


def _rows(lines: list[list[LineSegment]], columns: _Columns) -> list[Row] | None:
    first_row = next((index for index, line in enumerate(lines) if _is_data(line, columns)), None)
    if any(columns.numeric):
        of_numbers = next((index for index, line in enumerate(lines) if _has_numbers(line, columns)), None)
        first_row = of_numbers if of_numbers is not None and of_numbers <= _MAX_HEADER_LINES else first_row
    if first_row is None:
        return None
    header = list(_header([_split(line, columns) for line in lines[:first_row]], columns))
    table = [_table_line(line, columns) for line in lines[first_row:]]
    joined = _without_wraps(table, columns)
    counts = Counter(line.cells[0] for line in joined if any(line.cells[1:]) and line.cells[0])
    rows = [_row(line) for line in header]
    group = next((line for line in header[-1:] if not any(line.cells[1:])), None)
    following = joined[0] if group is not None else None
    for index, line in enumerate(joined):
        if not any(line.cells[1:]):
            group = line
        elif group and line.cells[0] and counts[line.cells[0]] > 1 and _heads(group, line):
            line.cells[0] = f"{group.cells[0].removesuffix(':')}: {line.cells[0]}"
            if line is following and rows:  # the group is named here already
                rows.pop()
        following = joined[index + 1] if group is line and index + 1 < len(joined) else None
        rows.append(_row(line))
    return rows


def _heads(group: _TableLine, line: _TableLine) -> bool:
    """Whether a line that has a label alone names the group that the row belongs to."""
    first, label = group.segments[0], line.segments[0]
    if first.left > label.left + 1:
        return False
    return group.cells[0].endswith(":") or (first.is_bold and not label.is_bold) or first.left < label.left - 2


def _row(line: _TableLine) -> Row:
    return Row(" | ".join(line.cells).rstrip(" |").strip(), tuple(line.segments), is_cells=True)


def _is_data(line: list[LineSegment], columns: _Columns) -> bool:
    """Whether a line is a row: its first column is filled, and another one; a header begins behind it mostly."""
    covered = [columns.covered(segment.left, segment.right) for segment in line]
    return len(line) >= 2 and covered[0][0] == 0 and any(each[0] > 0 for each in covered[1:])


def _has_numbers(line: list[LineSegment], columns: _Columns) -> bool:
    """Whether a line is a row of numbers behind a label."""
    return _is_data(line, columns) and any(_NUMERIC.fullmatch(segment.text) for segment in line[1:])


def _header(lines: list[list[LineSegment]], columns: _Columns) -> Iterator[_TableLine]:
    """One row of the lines above the first row; what is no header (a label, a title) stays a row of its own."""
    cells = [""] * len(columns.extents)
    segments: list[LineSegment] = []
    for line in lines:
        if len(line) == 1 and columns.covered(line[0].left, line[0].right)[0] == 0:
            if segments:
                yield _TableLine(cells, segments)
                cells, segments = [""] * len(columns.extents), []
            yield _TableLine([line[0].text], list(line))
            continue
        segments.extend(line)
        for index, segment in _headed(line, columns):
            cells[index] = f"{cells[index]} {segment.text}".strip()
    if segments:
        yield _TableLine(cells, segments)


def _headed(line: list[LineSegment], columns: _Columns) -> Iterator[tuple[int, LineSegment]]:
    """The columns with the segment of a header line that stands over each."""
    owners: dict[int, LineSegment] = {}
    over: list[LineSegment] = []
    for segment in line:
        covered = columns.covered(segment.left, segment.right)
        if covered[0] == 0 and not (columns.numeric[0] or len(covered) > 1):
            owners[0] = segment
            yield 0, segment
        else:
            over.append(segment)
    spans = _spans(over, columns)
    for segment in over:
        covered = spans.get(segment) or columns.covered(segment.left, segment.right)
        free = [index for index in covered if index not in owners]
        for index in free or covered[:1]:  # no word is lost where two stand over one column
            yield index, segment
            owners[index] = segment


def _split(line: list[LineSegment], columns: _Columns) -> list[LineSegment]:
    """The segments of a header line, cut where a gap wider than a space stands between two columns."""
    found: list[LineSegment] = []
    for segment in line:
        current = [segment.words[0]]
        for word in segment.words[1:]:
            last = current[-1]
            is_wide = word.left - last.right > _WIDER_THAN_A_SPACE * word.size
            if is_wide and columns.covered(last.left, last.right)[-1] < columns.covered(word.left, word.right)[0]:
                found.append(LineSegment(tuple(current)))
                current = []
            current.append(word)
        found.append(LineSegment(tuple(current)))
    return found


def _spans(line: list[LineSegment], columns: _Columns) -> dict[LineSegment, list[int]]:
    """The columns of numbers, or all but the first, that each segment of a header spans; {} if unevenly."""
    indices = [index for index, is_number in enumerate(columns.numeric) if is_number]
    indices = indices or list(range(1, len(columns.extents)))
    if not line or len(indices) % len(line):
        return {}
    centres = {index: sum(columns.extents[index]) / 2 for index in indices}
    spans: dict[LineSegment, list[int]] = {segment: [] for segment in line}
    for index in indices:
        nearest = min(line, key=lambda segment: abs((segment.left + segment.right) / 2 - centres[index]))
        spans[nearest].append(index)
    each = len(indices) // len(line)
    if any(len(found) != each for found in spans.values()):
        return {}
    for segment, found in spans.items():
        width = columns.extents[found[-1]][1] - columns.extents[found[0]][0]
        middle = (columns.extents[found[-1]][1] + columns.extents[found[0]][0]) / 2
        if each > 1 and abs((segment.left + segment.right) / 2 - middle) > 0.35 * width:
            return {}
    return spans


def _table_line(line: list[LineSegment], columns: _Columns) -> _TableLine:
    pieces: list[list[PrintedWord]] = [[] for _ in columns.extents]
    for segment in line:
        is_number = bool(_NUMERIC.fullmatch(segment.text))
        left, right = _number_extent(segment) if is_number else (segment.left, segment.right)
        covered = columns.covered(left, right)
        if len(covered) == 1 or is_number or len(line) == 1:
            pieces[covered[-1] if is_number else covered[0]].extend(segment.words)
            continue
        place = covered[0]
        for word in segment.words:
            reached = columns.covered(word.left, word.right)
            if not word.is_glued:
                place = max(place, reached[0])
            pieces[place].extend([word])
    cells = [LineSegment(tuple(words)).text if words else "" for words in pieces]
    return _TableLine(cells, list(line), sum(bool(_NUMERIC.fullmatch(cell)) for cell in cells[1:]))


def _without_wraps(lines: list[_TableLine], columns: _Columns) -> list[_TableLine]:
    """Rows whose label or cells were broken over several lines made whole."""
    joined: list[_TableLine] = []
    for line in lines:
        last = joined[-1] if joined else None
        tight = last is not None and (
            last.segments[-1].y - line.segments[0].y < 1.6 * max(line.segments[0].size, last.segments[-1].size)
        )
        if last is not None and tight:
            label, is_alone = line.cells[0], not any(line.cells[1:])
            last_alone = not any(last.cells[1:])
            goes_on = label[:1].islower() or bool(_OPEN_END.search(last.cells[0])) or label[:1] in "("
            if label and last_alone and goes_on and last.cells[0] and not last.cells[0].endswith(":"):
                joined[-1] = _added(last, line)
                continue
            if label and is_alone and not last_alone and label[:1].islower():
                joined[-1] = _added(last, line)
                continue
            if not label and not line.numbers and not last_alone and _fit(last, line):
                joined[-1] = _added(last, line)
                continue
        joined.append(line)
    return joined


def _fit(last: _TableLine, line: _TableLine) -> bool:
    """Whether every cell of the line goes on with a filled cell of text."""
    return all(
        not cell or (before and not _NUMERIC.fullmatch(before))
        for before, cell in zip(last.cells[1:], line.cells[1:], strict=True)
    )


def _added(first: _TableLine, second: _TableLine) -> _TableLine:
    cells = [f"{one} {other}".strip() for one, other in zip(first.cells, second.cells, strict=True)]
    return _TableLine(cells, first.segments + second.segments, first.numbers + second.numbers)
