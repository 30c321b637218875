"""How near Gated Memory comes to the attention of a reader, epoch by epoch: a table, JSON lines and a plot.

    python scripts/plot_attention_fit.py examples/university-of-chicago.txt --out fit.png

The text is read once by the base model for each gate, and a new memory is fitted to its attention (attention
distillation). The error is that of held-out queries, mean over layers; at epoch 0 it is that of leaving the document
out. Needs matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

GATES = ("query", "exact")


def main() -> None:
    """Fit each gate, then print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a document")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of attention and adapter")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    arguments = parser.parse_args()
    rows = [row for gate in arguments.gates for row in _fit(gate, arguments)]
    print(_table(rows, arguments.gates))
    _plot(rows, arguments)


def _fit(gate: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an epoch, printed as it is done: gate, epoch, error, and seconds from the start of the fit."""
    from lift.adapters.attach import create_adapter
    from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
    from lift.documents.read import read_document
    from lift.models.load import load_model
    from lift.recipes.recipe import load_recipe
    from lift.training.attention_distillation import distill_attention

    overrides = ["adapter.kind=gated-memory", f"adapter.gate={gate}", f"attention.epochs={arguments.epochs}"]
    recipe = load_recipe("default", [*arguments.set, *overrides])
    base = load_model(arguments.model)
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed)
    if not isinstance(adapter, GatedMemoryAdapter):
        raise TypeError(f"expected a Gated Memory, got {type(adapter).__name__}")
    rows = []
    started = time.monotonic()
    for fit in distill_attention(base, adapter, read_document(arguments.text).text, recipe.attention):
        elapsed_s = round(time.monotonic() - started, 2)
        rows.append({"gate": gate, "epoch": fit.epoch, "error": round(fit.error, 5), "seconds": elapsed_s})
        print(json.dumps(rows[-1]), flush=True)
    adapter.detach()
    return rows


def _table(rows: list[dict[str, Any]], gates: list[str]) -> str:
    """Epochs down, gates across."""
    errors = {(row["gate"], row["epoch"]): row["error"] for row in rows}
    lines = [f"| epoch | {' | '.join(gates)} |", "|---" * (len(gates) + 1) + "|"]
    for epoch in sorted({row["epoch"] for row in rows}):
        lines.append(f"| {epoch} | " + " | ".join(f"{errors[gate, epoch]:.4f}" for gate in gates) + " |")
    return "\n".join(lines)


def _plot(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for gate in arguments.gates:
        points = [(row["epoch"], row["error"]) for row in rows if row["gate"] == gate]
        axes.plot(*zip(*points, strict=True), label=f"gate {gate}")
    axes.set(xlabel="epoch", ylabel="relative error on held-out queries")
    axes.set_ylim(0, 1.05 * max(row["error"] for row in rows))
    axes.set_title(f"{arguments.model}, {arguments.text.name}")
    axes.legend()
    figure.savefig(arguments.out, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
