"""CSV and TSV -> blocks: a line for each row, with the header's words before its values."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator

from lift.documents.blocks import Content, one_line
from lift.documents.table_rows import sheet_blocks
from lift.errors import DocumentError

_DELIMITERS = "\t;,|"
_SAMPLE_LINES = 50
_MAX_FIELD_CHARS = 1_000_000


def read_delimited(text: str, name: str) -> Content:
    """Read a table of delimited values; the delimiter is the one that gives most rows the same number of columns.

    Raises DocumentError for values that are quoted in no known way.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    text = text.removeprefix("\ufeff")
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == len("sep=;"):
        delimiter, text = first.strip()[-1], rest
    else:
        delimiter = _delimiter(text)
    try:
        return Content(None, list(sheet_blocks(_rows(text, delimiter))))
    except csv.Error as error:
        raise DocumentError(
            f"{name}: expected a table of comma-separated values, got one that cannot be read ({error}); save it anew"
        ) from error


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True):
        yield [one_line(value) for value in row]


def _delimiter(text: str) -> str:
    sample = text[: 1 << 16].splitlines()[:_SAMPLE_LINES]
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            widths = Counter(len(row) for row in csv.reader(sample, delimiter=delimiter) if row)
        except csv.Error:
            continue
        width, count = max(widths.items(), key=lambda item: (item[1] * (item[0] > 1), item[0]), default=(1, 0))
        score = count / max(1, sum(widths.values())) if width > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best
