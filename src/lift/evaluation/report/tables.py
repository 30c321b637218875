"""A table of a report: rows of plain text, and behind each row the lines of the run's files that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "–"
MOST_RANGES = 4

Numbered = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Selection:
    """Lines of one file of the run, numbered from 1; None: the whole file.

    `where`: the fields that the lines have in common, and their values.
    """

    file: str
    where: tuple[tuple[str, str], ...]
    lines: tuple[int, ...] | None

    def __str__(self) -> str:
        """For people: lines 1-3, 7 of results.jsonl (4); many ranges are cut short and the fields named instead."""
        if not self.lines:
            return self.file if self.lines is None else f"no line of {self.file}"
        ranges = line_ranges(self.lines)
        word = "line" if len(self.lines) == 1 else "lines"
        if len(ranges) <= MOST_RANGES:
            return f"{word} {', '.join(ranges)} of {self.file} ({len(self.lines)})"
        fields = ", ".join(f"{name} {value}" for name, value in self.where)
        shown = ", ".join(ranges[: MOST_RANGES - 1])
        return f"{word} {shown}, … {ranges[-1]} of {self.file} ({len(self.lines)}: {fields})"


@dataclass(frozen=True)
class TableRow:
    """Texts, one a column. `numbers`: what some of them were rounded from, by the name of the column."""

    cells: tuple[str, ...]
    selections: tuple[Selection, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """`name`: unique within its section, fit for a link. `note`: what the columns mean, in whole sentences."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def numbered(rows: Iterable[Mapping[str, Any]]) -> list[Numbered]:
    """Each row with the number of its line, from 1."""
    return list(enumerate(rows, 1))


def where(rows: Iterable[Numbered], **fields: Any) -> list[Numbered]:
    """The rows whose fields have these values."""
    return [(line, row) for line, row in rows if all(row.get(name) == value for name, value in fields.items())]


def select(file: str, rows: Iterable[Numbered], **fields: Any) -> Selection:
    """The lines of `rows`; `fields` says what they have in common."""
    common = tuple((name, str(value)) for name, value in fields.items())
    return Selection(file, common, tuple(line for line, _ in rows))


def distinct(rows: Iterable[Numbered], name: str) -> list[Any]:
    """The values of a field in the order that they first occur in."""
    return list(dict.fromkeys(row.get(name) for _, row in rows))


def line_ranges(lines: Sequence[int]) -> list[str]:
    """[1, 2, 3, 7] -> ["1-3", "7"]; the lines in rising order."""
    ranges: list[tuple[int, int]] = []
    for line in sorted(lines):
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], line)
        else:
            ranges.append((line, line))
    return [str(first) if first == last else f"{first}-{last}" for first, last in ranges]


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean, None of nothing."""
    return sum(values) / len(values) if values else None


def number(value: float | None, digits: int = 1) -> str:
    """1234.5 -> "1,234.5"; a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """0.714 -> "71.4"; a dash where there is none."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def with_interval(middle: float, low: float, high: float, sign: str = "") -> str:
    """0.714, 0.601, 0.802 -> "71.4 [60.1, 80.2]"; `sign` "+" shows the sign of all three."""
    return f"{100 * middle:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def seconds(value: float | None) -> str:
    """Three significant digits below 100, whole seconds above; a dash where there is none."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(value: float | None) -> str:
    """Bytes as MB of a million."""
    return NOTHING if value is None else f"{value / 1e6:,.1f}"


def p_value(value: float) -> str:
    """0.0312 -> "0.031"; never zero, which no test can show."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
