"""One absorption within a budget, in its own process: `python -m lift.bench.budgeted_absorption JOB RESULT` (JSON).

It does what `lift absorb FILE --budget TIME` does, and notes the remaining time that it tells on the way. A job has
`file`, `budget_s`, `recipe`, `overrides`, `model` and `library`, the directory that the memory is put into.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lift.errors import LiftError
from lift.training.budget import process_started

_STARTED = process_started()


def absorb_budgeted(job: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Absorb, and return what came of it; `etas` are pairs of seconds since the start and seconds said to remain."""
    from lift.absorbing.absorb import absorb_events
    from lift.absorbing.absorption_events import Finished, Planned, Trained
    from lift.absorbing.run_options import AbsorptionOptions
    from lift.documents.read import read_document
    from lift.memories.library import MemoryLibrary
    from lift.models.load import load_model
    from lift.recipes.recipe import load_recipe

    recipe = load_recipe(job["recipe"], job["overrides"])
    document = read_document(job["file"])
    base = load_model(job["model"])
    options = AbsorptionOptions(budget_s=job["budget_s"], started=started)
    budget = options.begin()
    loaded_s = budget.elapsed_s
    library = MemoryLibrary(Path(job["library"]))
    etas: list[tuple[float, float]] = []
    plans: list[str] = []
    finished: Finished | None = None
    for event in absorb_events(document, base, recipe, library, options):
        if isinstance(event, Trained):
            etas.append((budget.elapsed_s, event.eta_s))
        elif isinstance(event, Planned):
            plans.extend(event.warnings)
        elif isinstance(event, Finished):
            finished = event
    assert finished is not None, "absorb_events ends with Finished or raises"
    manifest = finished.memory.manifest
    return {
        "memory": not library.verify(finished.memory.name),
        "loaded_s": loaded_s,
        "stored_s": finished.seconds,
        "document_tokens": manifest.sizes.document_tokens,
        "tokens": manifest.cost.tokens,
        "steps": manifest.cost.steps,
        "epochs": (finished.memory.training or [{"epoch": -1}])[-1]["epoch"] + 1,
        "all_epochs": recipe.training.segment_epochs + recipe.training.epochs,
        "probed": manifest.recall.probed,
        "recalled": manifest.recall.recalled,
        "plans": plans,
        "remarks": list(finished.remarks),
        "etas": etas,
    }


def main(order: str, outcome: str) -> int:
    """Do the job in the file `order` and write what came of it, or {"error": ...}, into `outcome`."""
    try:
        result = absorb_budgeted(json.loads(Path(order).read_text("utf-8")), _STARTED)
    except LiftError as error:
        result = {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"unexpected {type(error).__name__}: {error}"}
    Path(outcome).write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), "utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
