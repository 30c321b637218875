"""Charts of Office files -> the table that they are drawn from, as the file keeps it beside the drawing."""

from __future__ import annotations

from typing import Any

from lift.documents.blocks import one_line

_MAX_POINTS = 2_000


def chart_rows(chart: Any) -> list[list[str]]:
    """The rows of a chart: first the names of its series, then each category with its values; none where it keeps none.

    A title of the chart is a row of its own, the first.
    """
    categories: dict[int, str] = {}
    series: list[tuple[str, dict[int, str]]] = []
    for element in chart.iter("{*}ser"):
        name = one_line(" ".join(element.xpath("./*[local-name()='tx']//*[local-name()='v']/text()")))
        values = dict[int, str]()
        for child in element:
            kind = str(child.tag).rpartition("}")[2]
            if kind in {"cat", "xVal"}:
                categories.update(_points(child))
            elif kind in {"val", "yVal"}:
                values = _points(child)
        series.append((name, values))
    if not any(values for _, values in series):
        return []
    title = chart.find("{*}chart/{*}title")
    words = one_line(" ".join(text.text or "" for text in title.iter("{*}t"))) if title is not None else ""
    places = sorted({*categories, *(place for _, values in series for place in values)})
    header = ["", *(name for name, _ in series)]
    rows = [[categories.get(place, ""), *(values.get(place, "") for _, values in series)] for place in places]
    return [*([[words]] if words else []), *([header] if any(header) else []), *rows]


def _points(parent: Any) -> dict[int, str]:
    found = dict[int, str]()
    for point in parent.iter("{*}pt"):
        index = point.get("idx") or ""
        value = point.findtext("{*}v")
        if value and index.isdecimal() and len(index) < 6 and len(found) < _MAX_POINTS:
            found[int(index)] = one_line(value)
    return found
