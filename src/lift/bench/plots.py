"""The pictures of `lift bench` as SVG files, each made of a result's dictionary alone."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift.errors import BenchError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE_NAMES = {"lift": "Lift", "trainer": "Trainer", "trainer-best": "Trainer at its best"}
_WAY_NAMES = {"none": "closed book", "full": "full text", "truncated": "truncated", "evidence": "evidence"}
_COLOURS = ("#2f86d6", "#d9710f", "#1f9a6b", "#b164d6")
_MARKERS = ("o", "s", "^", "D")


def write_plots(plots: Mapping[str, str], directory: Path) -> list[Path]:
    """Write each picture to NAME.svg in `directory`, which is made; raises BenchError where the disk refuses."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths = [directory / f"{name}.svg" for name in plots]
        for path, svg in zip(paths, plots.values(), strict=True):
            path.write_text(svg, "utf-8")
    except OSError as error:
        raise BenchError(
            f"expected to write the plots into {directory}, got {error.strerror or error}; choose another --plots"
        ) from error
    return paths


def plot_growth(result: Mapping[str, Any]) -> dict[str, str]:
    """Seconds and peak bytes against tokens with their fits, and the library's seconds where it was measured.

    `result`: of bench_growth. Returns the SVG of each picture by name; raises UsageError without matplotlib.
    """
    tokens = [row["tokens"] for row in result["rows"]]
    spent = [
        (name, [row[key] for row in result["rows"]], result["slope"][key])
        for key, name in (("seconds", "together"), ("prepare_s", "preparing"), ("train_s", "training"))
    ]
    peak = [("peak", [row["held_bytes"] / 1e9 for row in result["rows"]], result["slope"]["held_bytes"])]
    plots = {
        "growth-seconds": _power_laws(tokens, spent, "tokens of text", "seconds"),
        "growth-memory": _power_laws(tokens, peak, "tokens of text", "GB held at most"),
    }
    rows = result["library"]
    if rows:
        # a copy of the file system's cache answers in microseconds: milliseconds read better
        counted = [
            (name, [1000 * row[key] for row in rows], None)
            for key, name in (("list_s", "list all"), ("open_s", "open one"), ("ask_s", "ready to answer"))
        ]
        plots["library"] = _power_laws([row["memories"] for row in rows], counted, "memories", "milliseconds")
    return plots


def plot_absorb(result: Mapping[str, Any]) -> dict[str, str]:
    """The recall of each side over seconds of training, a line a seed; `result`: of bench_absorb."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(result["rows"]):
            name = _SIDE_NAMES.get(row["side"], row["side"])
            for number, run in enumerate(row["runs"]):
                if run["curve"]:
                    seconds, recalls = zip(*run["curve"], strict=True)
                    axes.plot(
                        seconds,
                        [100 * recall for recall in recalls],
                        marker=_MARKERS[place % len(_MARKERS)],
                        color=_COLOURS[place % len(_COLOURS)],
                        label=name if number == 0 else None,
                    )
        axes.axhline(100 * result["recall"], color="grey", linestyle=":")
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("held-out questions answered, %")
        axes.set_ylim(-3, 103)
        axes.legend()

    return {"absorb-recall": _svg("absorb-recall", draw)}


def plot_ask(result: Mapping[str, Any]) -> dict[str, str]:
    """Seconds to the first token against the tokens of the text, a bar a way of asking; `result`: of bench_ask."""
    lengths = sorted({row["length"] for row in result["rows"]})
    ways = list(dict.fromkeys(row["context"] for row in result["rows"]))
    taken = {(row["context"], row["length"]): row["first_token_s"] for row in result["rows"] if row["fits"]}

    def draw(axes: Axes) -> None:
        width = 0.8 / len(ways)
        for place, way in enumerate(ways):
            fitting = [(spot, taken[way, length]) for spot, length in enumerate(lengths) if (way, length) in taken]
            axes.bar(
                [spot + (place - (len(ways) - 1) / 2) * width for spot, _ in fitting],
                [seconds for _, seconds in fitting],
                width,
                color=_COLOURS[place % len(_COLOURS)],
                label=_WAY_NAMES.get(way, way),
            )
        axes.set_yscale("log")
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axes.set_xlabel("tokens of text")
        axes.set_ylabel("seconds to the first token")
        axes.legend()

    return {"ask-first-token": _svg("ask-first-token", draw)}


def _power_laws(
    sizes: Sequence[float], costs: Sequence[tuple[str, Sequence[float], float | None]], across: str, up: str
) -> str:
    """Costs against sizes, both logarithmic; where a slope is given, the line of its fit through their middle."""

    def draw(axes: Axes) -> None:
        for place, (name, values, slope) in enumerate(costs):
            colour = _COLOURS[place % len(_COLOURS)]
            label = name if slope is None else f"{name}: tokens to the power of {slope:.2f}"
            points = "none" if slope is not None else "-"
            axes.plot(sizes, values, color=colour, marker=_MARKERS[place], linestyle=points, label=label)
            if slope is not None:
                middle = [sum(map(math.log, column)) / len(column) for column in (sizes, values)]
                fitted = [math.exp(middle[1] + slope * (math.log(size) - middle[0])) for size in sizes]
                axes.plot(sizes, fitted, color=colour, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(fontsize=8)

    return _svg(f"{across} {up}", draw)


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("expected matplotlib for --plots, found none; run: make setup EXTRAS=evaluate") from None
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "axes.grid": True, "grid.alpha": 0.25})
        figure: Figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        draw(figure.add_subplot())
        FigureCanvasSVG(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return stream.getvalue()
