"""The process that makes one plan: it reads a document of unknown origin, and trains a few steps.

Neither belongs into the server's own process: a file that breaks its reader breaks this one, and the base model there
answers questions meanwhile. The order comes as JSON on standard input; {"plan": ...} or {"error": ..., "status": ...}
goes to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from lift.errors import BudgetError, DocumentError, LiftError, UsageError

# whoever answers questions on the same processor goes first
_NICE = 10


def main() -> None:
    """Make the plan that standard input orders."""
    os.nice(_NICE)
    order = json.load(sys.stdin)
    try:
        said: dict[str, Any] = {"plan": plan(**order)}
    except LiftError as error:
        asked_wrongly = isinstance(error, DocumentError | UsageError | BudgetError)
        said = {"error": str(error), "status": 400 if asked_wrongly else 500}
    sys.stdout.write(json.dumps(said, allow_nan=False) + "\n")


def plan(*, path: str, name: str, title: str | None, model: str, recipe: str, budget_s: float | None) -> dict[str, Any]:
    """What absorbing the file at `path` would take, as `lift plan --json` tells it; raises children of LiftError."""
    from lift.documents.read import read_document
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe)
    document = read_document(path, title=title, name=name)
    from lift.models.load import load_model
    from lift.planning import make_plan

    made = make_plan(document, load_model(model), settings, budget_s)
    return {"title": document.title, **asdict(made)}


if __name__ == "__main__":
    main()
