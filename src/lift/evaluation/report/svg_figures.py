"""The pictures of a report, as SVG to be put into a page: the same numbers always give the same text.

Letters and axes take the page's own colour and the background is left clear, so that they are readable in light and
dark. Colours of the methods are of a middle lightness (contrast of 3 or more with white and with near-black).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lift.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f86d6", "#d9710f", "#1f9a6b", "#b164d6", "#dd5050", "#0f97a8", "#9c7a2c", "#d9559a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
PANELS_IN_A_ROW = 3
_INK = "#010203"  # stands for the page's colour of text until the SVG is written
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_HEADER = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACES = re.compile(r' xmlns(?::xlink)?="[^"]*"')
_FAMILY = re.compile(r"font-family: [^;\"]*")


@dataclass(frozen=True)
class CostPoint:
    """A method's main score (a share, with its interval) against the seconds of a question.

    `with_absorbing`: the same seconds with absorbing spread over the questions; None for a method without a memory.
    """

    method: str
    score: float
    low: float
    high: float
    seconds: float
    with_absorbing: float | None = None


@dataclass(frozen=True)
class CostLine:
    """Seconds that a method takes for n questions: absorb_s + n * ask_s. `measured`: (n, seconds) as it was run."""

    method: str
    absorb_s: float
    ask_s: float
    measured: tuple[tuple[int, float], ...] = ()


def heat_map(name: str, panels: Mapping[str, Mapping[tuple[float, float], float]]) -> str:
    """One panel a method: (length, depth) -> score, 0 to 1, as colour and as a number in percent."""

    def draw(figure: Figure) -> None:
        from matplotlib import colormaps
        from matplotlib.patches import Rectangle

        colour_of = colormaps["viridis"]
        columns = min(len(panels), PANELS_IN_A_ROW)
        rows = math.ceil(len(panels) / columns)
        lengths = sorted({length for cells in panels.values() for length, _ in cells})
        depths = sorted({depth for cells in panels.values() for _, depth in cells})
        width, height = max(2.6, 0.42 * len(lengths) + 0.7), max(2.4, 0.3 * len(depths) + 0.7)
        figure.set_size_inches(max(width * columns, 4.0), height * rows + 0.4)
        for place, (method, cells) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, place + 1)
            grid = [[cells.get((length, depth), math.nan) for length in lengths] for depth in depths]
            axes.set_title(method)
            axes.set_xlim(-0.5, len(lengths) - 0.5)
            axes.set_ylim(len(depths) - 0.5, -0.5)
            axes.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
            axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if place % columns == 0:
                axes.set_ylabel("depth")
            if place + columns >= len(panels):
                axes.set_xlabel("length, tokens")
            for row, values in enumerate(grid):
                for column, value in enumerate(values):
                    if not math.isnan(value):
                        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour_of(value), linewidth=0))
                        ink = "#111111" if value > 0.6 else "#ffffff"
                        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink)

    return _svg(name, draw)


def cost_scatter(name: str, points: Sequence[CostPoint], seconds_title: str) -> str:
    """Score against seconds a question (logarithmic): hollow, asking alone; full, with absorbing spread over them."""

    def draw(figure: Figure) -> None:
        figure.set_size_inches(7.2, 4.0)
        axes = figure.add_subplot()
        for place, point in enumerate(points):
            colour, marker = _look(place)
            score = 100 * point.score
            spread = [[score - 100 * point.low], [100 * point.high - score]]
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 8, "linestyle": "none"}
            full = point.with_absorbing
            axes.errorbar(
                [point.seconds], [score], yerr=spread, elinewidth=1, capsize=3, label=point.method, **look,
                markerfacecolor=colour if full is None else "none",
            )  # fmt: skip
            if full is not None:
                axes.plot([point.seconds, full], [score, score], color=colour, linewidth=1, linestyle=":")
                axes.plot([full], [score], **look)
        axes.set_xscale("log")
        axes.set_ylim(-3, 103)
        axes.set_xlabel(seconds_title)
        axes.set_ylabel("main score, %")
        _plain_logarithm(axes.xaxis)
        _grid_and_legend(axes)

    return _svg(name, draw)


def break_even_curve(name: str, lines: Sequence[CostLine], most_questions: float) -> str:
    """Seconds in all against the number of questions, both logarithmic, from 1 to `most_questions`."""

    def draw(figure: Figure) -> None:
        figure.set_size_inches(7.2, 4.0)
        axes = figure.add_subplot()
        steps = 60
        counts = [most_questions ** (step / steps) for step in range(steps + 1)]
        for place, line in enumerate(lines):
            colour, marker = _look(place)
            took = [line.absorb_s + count * line.ask_s for count in counts]
            axes.plot(counts, took, color=colour, linestyle=DASHES[place % len(DASHES)], label=line.method)
            if line.measured:
                axes.plot(
                    *zip(*line.measured, strict=True), color=colour, marker=marker, markersize=7, linestyle="none"
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("questions")
        axes.set_ylabel("seconds in all")
        _plain_logarithm(axes.xaxis)
        _plain_logarithm(axes.yaxis)
        _grid_and_legend(axes)

    return _svg(name, draw)


def _svg(name: str, draw: Callable[[Figure], None]) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "expected matplotlib for the figures of report.html, found none; run: make setup EXTRAS=evaluate"
        ) from None
    with mpl.rc_context():
        mpl.rcdefaults()
        parameters: Any = {**_STYLE, "svg.hashsalt": name}
        mpl.rcParams.update(parameters)
        figure = Figure(layout="constrained")
        draw(figure)
        FigureCanvasSVG(figure)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _for_a_page(stream.getvalue(), name)


def _for_a_page(svg: str, name: str) -> str:
    """An SVG that stands within HTML: no header, no addresses, ids of its own, the page's colour and font."""
    svg = _NAMESPACES.sub("", _METADATA.sub("", _HEADER.sub("", svg)))
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    return _FAMILY.sub("font-family: inherit", svg.replace(_INK, "currentColor")).strip()


def _look(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def _grid_and_legend(axes: Axes) -> None:
    axes.grid(True, alpha=0.2, color=_INK)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _plain_logarithm(axis: Any) -> None:
    """Ticks as 0.1, 1, 10 instead of powers; where the span is below two powers, 2 and 5 between them too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())
    if high / low < 100:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _short(length: float) -> str:
    return f"{length / 1024:.0f}k" if length >= 1024 and length % 1024 == 0 else f"{length:.0f}"
