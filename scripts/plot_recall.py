"""What memories answer against what they cost, from runs of `lift evaluate`: a table and a plot.

    python scripts/plot_recall.py OUT-60 OUT-120 OUT-240 --against seconds --out recall-seconds.svg

Each OUT is the directory of a run; what has the same cost is one point, the mean over all its questions. The cost is
the budget of a run in seconds, the length of a document in tokens, or the size of its adapter in bytes. Needs
matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

AXES = {"seconds": "budget, s", "tokens": "tokens of a document", "bytes": "bytes of an adapter"}
MOST_TICKS = 8


def main() -> None:
    """Read the runs, then print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="OUT", help="directories of `lift evaluate --out`")
    parser.add_argument("--against", choices=AXES, default="seconds")
    parser.add_argument("--methods", default="lift:none,lift:auto", help="comma-separated")
    parser.add_argument("--metric", default="f1", help="contained, f1, exact_match, ... of the suite")
    parser.add_argument("--out", type=Path, required=True, help="the SVG or PNG")
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    points = _points(arguments.runs, arguments.against, methods, arguments.metric)
    print(_table(points, methods, arguments))
    _plot(points, methods, arguments)


def _points(runs: list[Path], against: str, methods: list[str], metric: str) -> dict[float, dict[str, list[float]]]:
    """Percent of each question by cost and method."""
    found: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        costs = _costs(run, against)
        for row in _rows(run / "results.jsonl"):
            if row["method"] in methods:
                if row["scores"] and metric not in row["scores"]:
                    raise SystemExit(f"{run}: expected one of the metrics {sorted(row['scores'])}, got {metric!r}")
                # a question that could not be asked has no scores, and counts as wrong
                found[costs[row["document"]]][row["method"]].append(100 * row["scores"].get(metric, 0.0))
    return found


def _costs(run: Path, against: str) -> dict[str, float]:
    """What each document of a run has cost."""
    rows = _rows(run / "costs.jsonl")
    if against == "seconds":
        suites = json.loads((run / "run.json").read_text("utf-8"))["suites"]
        budgets = {suite["settings"]["budget_s"] for suite in suites}
        if len(budgets) != 1:
            raise SystemExit(f"{run}: expected one budget, got {sorted(budgets)}; evaluate each in a run of its own")
        return {row["document"]: float(*budgets) for row in rows}
    key = {"tokens": "document_tokens", "bytes": "adapter_bytes"}[against]
    return {row["document"]: float(row[key]) for row in rows if row[key]}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _table(points: dict[float, dict[str, list[float]]], methods: list[str], arguments: argparse.Namespace) -> str:
    """Costs down, methods across."""
    lines = [f"| {AXES[arguments.against]} | questions | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    for cost in sorted(points):
        asked = max(map(len, points[cost].values()))
        cells = " | ".join(f"{fmean(points[cost][method]):.1f}" if points[cost][method] else "-" for method in methods)
        lines.append(f"| {cost:,.0f} | {asked} | {cells} |")
    return "\n".join(lines)


def _plot(points: dict[float, dict[str, list[float]]], methods: list[str], arguments: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method in methods:
        line = [(cost, fmean(points[cost][method])) for cost in sorted(points) if points[cost][method]]
        if line:
            # budgets and bytes are of the same documents; two lengths are of different ones, and nothing lies between
            joined = "none" if arguments.against == "tokens" else "solid"
            axes.plot(*zip(*line, strict=True), marker="o", linestyle=joined, label=method)
    axes.set(xlabel=AXES[arguments.against], ylabel=f"{arguments.metric}, %", xscale="log", ylim=(0, 100))
    if len(points) <= MOST_TICKS:
        axes.set_xticks(sorted(points), [f"{cost:,.0f}" for cost in sorted(points)])
        axes.minorticks_off()
    axes.legend()
    figure.savefig(arguments.out)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
