"""`lift plan`: what absorbing a text would cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from lift.cli import progress
from lift.cli.options import (
    BudgetOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    OcrOption,
    RecipeOption,
    SetOption,
    TitleOption,
    parse_duration,
    read_documents,
)
from lift.cli.output import format_bytes, format_seconds, print_facts, write_json
from lift.training.budget import check_budget

if TYPE_CHECKING:
    from lift.absorbing.plan import Plan

_PLAN_EPILOG = """\b
Examples:
  lift plan contract.pdf
  lift plan novel.epub --budget 2h --json"""


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("plan", epilog=_PLAN_EPILOG)(plan)


def plan(
    files: FilesArgument,
    title: TitleOption = None,
    model: ModelOption = "smollm2",
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    budget: BudgetOption = None,
    ocr: OcrOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what absorbing a text would cost.

    A few training steps are timed on this machine, and a question is asked with and without the text, which tells
    after how many questions a memory pays. Nothing is kept.
    """
    budget_s = parse_duration(budget) if budget is not None else None
    check_budget(budget_s)
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents(files, title, ocr)
    from lift.absorbing.planning import make_plan

    base = progress.load_shown_model(model, as_json)
    with progress.opened_display(as_json) as display:
        display.wait("measuring training and asking on this machine")
        made = make_plan(document, base, settings, budget_s)
    if as_json:
        write_json(asdict(made))
        return
    print_facts(_plan_facts(made), title=f"Absorbing “{made.title}”")


def _plan_facts(made: Plan) -> list[tuple[str, str]]:
    if made.full_read_s is None:
        full_read = "the whole text does not fit the model's window"
    else:
        full_read = f"{format_seconds(made.full_read_s)} a question"
    if made.break_even_questions is None:
        pays = "not by time: a question costs no less closed book"
        if made.full_read_s is None:
            pays = "at once: the text cannot be read whole"
    else:
        pays = f"after {made.break_even_questions:,} questions"
    return [
        ("text", f"{made.tokens:,} tokens, {made.sentences:,} sentences"),
        ("questions to learn", f"{made.tasks:,}"),
        *_requests(made),
        ("training", f"{made.train_tokens:,} tokens ({made.epochs:.1f} epochs) at {made.tokens_per_s:.0f} tokens/s"),
        ("time", format_seconds(made.seconds)),
        ("memory in use", format_bytes(made.peak_bytes)),
        ("adapter", format_bytes(made.adapter_bytes)),
        ("asking closed book", f"{format_seconds(made.ask_s)} a question"),
        ("asking with the whole text", full_read),
        ("pays", pays),
        *(("note", warning) for warning in made.warnings),
    ]


def _requests(made: Plan) -> list[tuple[str, str]]:
    if not made.requests:
        return []
    return [("requests to write them", f"{made.requests:,}, of which {made.cached_requests:,} are answered already")]
