"""Segments of a page -> its columns of running text, in reading order.

A gutter is a strip that no segment crosses over several lines, with running text on both sides. The page is cut at the
widest run of lines beside a gutter: what stands above comes first, then left, right and below, each cut again.
"""

from __future__ import annotations

import statistics
from itertools import pairwise

from lift.documents.pdf.printed_lines import LineSegment

_MIN_LINES = 3
_MIN_GUTTER = 0.7
_MIN_MEDIAN_CHARS = 15
_MIN_GOING_ON = 0.25
_MIN_FILLED = 0.55
_MAX_CUTS = 12
_MAX_SEGMENTS = 4_000


def columns_in_order(segments: list[LineSegment], cuts: int = _MAX_CUTS) -> list[list[LineSegment]]:
    """The segments in groups that are read one after the other, each from top to bottom."""
    if cuts == 0 or not 2 * _MIN_LINES <= len(segments) <= _MAX_SEGMENTS:
        return [segments]
    ordered = sorted(segments, key=lambda segment: (-segment.y, segment.left))
    best: tuple[int, int, int, float] | None = None
    for edge in _edges(ordered):
        for start, end in _runs(ordered, edge):
            if (best is None or end - start > best[0]) and _is_gutter(ordered[start:end], edge):
                best = (end - start, start, end, edge)
    if best is None:
        return [segments]
    _, start, end, edge = best
    beside = ordered[start:end]
    left = [segment for segment in beside if segment.left < edge]
    right = [segment for segment in beside if segment.left >= edge]
    found: list[list[LineSegment]] = []
    for part in (ordered[:start], left, right, ordered[end:]):
        if part:
            found.extend(columns_in_order(part, cuts - 1))
    return found


def _edges(segments: list[LineSegment]) -> list[float]:
    """Where three or more segments begin in one line below each other, but for the leftmost ones."""
    lefts = sorted(segment.left for segment in segments)
    found: list[float] = []
    group: list[float] = []
    for left in [*lefts, float("inf")]:
        if group and left - group[-1] > 2.0:
            if len(group) >= _MIN_LINES:
                found.append(group[0] - 1.0)
            group = []
        group.append(left)
    return [edge for edge in found if edge > lefts[0] + 20]


def _runs(segments: list[LineSegment], edge: float) -> list[tuple[int, int]]:
    """The runs of segments that do not cross the edge, as places in the list."""
    found, start = [], 0
    for index, segment in enumerate(segments):
        if segment.left < edge < segment.right:
            if index - start >= 2 * _MIN_LINES:
                found.append((start, index))
            start = index + 1
    if len(segments) - start >= 2 * _MIN_LINES:
        found.append((start, len(segments)))
    return found


def _is_gutter(segments: list[LineSegment], edge: float) -> bool:
    left = [segment for segment in segments if segment.left < edge]
    right = [segment for segment in segments if segment.left >= edge]
    if min(len(left), len(right)) < _MIN_LINES:
        return False
    size = statistics.median(segment.size for segment in segments)
    width = min(segment.left for segment in right) - max(segment.right for segment in left)
    if width < _MIN_GUTTER * size or not _overlap(left, right):
        return False
    return _is_running_text(left) and _is_running_text(right) and not _are_rows(left, right)


def _overlap(left: list[LineSegment], right: list[LineSegment]) -> bool:
    """Whether half the height of the shorter side stands beside the other."""
    bottom = max(min(segment.y for segment in side) for side in (left, right))
    top = min(max(segment.y for segment in side) for side in (left, right))
    shorter = min(max(segment.y for segment in side) - min(segment.y for segment in side) for side in (left, right))
    return top - bottom >= 0.5 * shorter > 0


def _is_running_text(segments: list[LineSegment]) -> bool:
    texts = [segment.text for segment in segments]
    if statistics.median(map(len, texts)) < _MIN_MEDIAN_CHARS:
        return False
    joined = "".join(texts)
    if sum(map(str.isalpha, joined)) < 0.6 * len(joined):
        return False
    going_on = sum(text[0].isalpha() and not text[0].isupper() for text in texts)
    if going_on < _MIN_GOING_ON * len(texts):
        return False
    widths = sorted(segment.right - segment.left for segment in segments)
    return statistics.median(widths) >= _MIN_FILLED * widths[int(0.9 * (len(widths) - 1))]


def _are_rows(left: list[LineSegment], right: list[LineSegment]) -> bool:
    """Whether the paragraphs of both sides begin at the same heights: the cells of a table do."""
    begins = []
    for side in (left, right):
        gaps = [first.y - second.y for first, second in pairwise(side)]
        usual = statistics.median(gaps)
        begins.append([second.y for (_, second), gap in zip(pairwise(side), gaps, strict=True) if gap > 1.25 * usual])
    first, second = begins
    if min(len(first), len(second)) < 2:
        return False
    met = sum(any(abs(y - other) < 2 for other in second) for y in first)
    return met >= 0.8 * max(len(first), len(second))
