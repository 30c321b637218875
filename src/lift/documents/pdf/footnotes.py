"""Lines of a page -> its running text, and the notes at its foot."""

from __future__ import annotations

import re

from lift.documents.pdf.page_lines import PageLine

_SMALL = 0.92
_NOTE = re.compile(r"(?:\[?\^?\d{1,3}\]?[.)]?|[*†‡§¶]{1,3}|\(\d{1,2}\)|[a-z]\))\s*[^\W\d_\"“‘(]")


def parted_notes(lines: list[PageLine], size: float) -> tuple[list[PageLine], list[PageLine]]:
    """The running text, and the notes: lines of smaller type at the page's foot, from the first that has a mark on."""
    upright = [line for line in lines if not line.is_turned]
    start = len(upright)
    while start and upright[start - 1].size <= _SMALL * size and not upright[start - 1].is_row:
        start -= 1
    while start < len(upright) and not _NOTE.match(upright[start].text):
        start += 1
    if start in {0, len(upright)}:
        return lines, []
    if upright[start].y >= min(line.y for line in upright[:start]) and len(upright) - start > start:
        return lines, []
    notes = upright[start:]
    out = {id(line) for line in notes}
    return [line for line in lines if id(line) not in out], notes
