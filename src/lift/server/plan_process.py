"""The process that makes plans: it reads documents of unknown origin, and trains a few steps.

Neither belongs into the server's own process: a file that breaks its reader breaks this one, and the base model there
answers questions meanwhile. Each line of standard input is an order as JSON, each line of standard output what came of
it: {"plan": ...}, or {"error": ..., "status": ...}. What takes seconds to import is there before the first order comes,
and the model stays loaded for the next one.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lift.errors import BudgetError, DocumentError, LiftError, UsageError

if TYPE_CHECKING:
    from lift.models.base_model import BaseModel

# of a text, the part that is shown beside its plan
_SHOWN_CHARS = 20_000


def main() -> None:
    """Make the plans that standard input orders, until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print does not get between the answers
    _import()
    bases: dict[str, BaseModel] = {}
    for line in sys.stdin:
        try:
            said: dict[str, Any] = {"plan": plan(**json.loads(line), bases=bases)}
        except LiftError as error:
            asked_wrongly = isinstance(error, DocumentError | UsageError | BudgetError)
            said = {"error": str(error), "status": 400 if asked_wrongly else 500}
        answers.write(json.dumps(said, allow_nan=False) + "\n")
        answers.flush()


def plan(
    *,
    path: str,
    name: str,
    title: str | None,
    model: str,
    recipe: str,
    budget_s: float | None,
    known: dict[str, float | None] | None = None,
    bases: dict[str, BaseModel] | None = None,
) -> dict[str, Any]:
    """The plan of absorbing the file at `path`, as `lift plan --json` tells it; raises children of LiftError.

    `text`: its beginning as it was read, of `text_chars` characters in all. `known`: the fields of a KnownSpeed, to
    estimate from instead of timing steps. The plan has a `speed` of that kind too. `bases`: models that are loaded
    already, by name; the one that this plan needs is added.
    """
    from lift.documents.read import read_document
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe)
    document = read_document(path, title=title, name=name)
    from lift.absorbing.plan_estimate import KnownSpeed, estimate_plan
    from lift.absorbing.planning import make_plan
    from lift.models.load import load_model

    loaded = bases if bases is not None else {}
    if model not in loaded:
        loaded[model] = load_model(model)
    if known is not None:
        speed = KnownSpeed(**known)
        made = estimate_plan(document, loaded[model], settings, speed, budget_s)
    else:
        made = make_plan(document, loaded[model], settings, budget_s)
        speed = KnownSpeed.of_plan(made)
    shown = {"text": document.text[:_SHOWN_CHARS], "text_chars": len(document.text)}
    return {**asdict(made), **shown, "speed": asdict(speed)}


def _import() -> None:
    """Load what every plan needs."""
    from lift.tasks.rules.dependency_parse import load_parser

    load_parser()


if __name__ == "__main__":
    main()
