"""`lift recipes` and `lift recipes show R`: the ways to absorb, and every setting that --set may change."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lift.cli.options import JsonOption
from lift.cli.output import build_table, stdout, write_json

_EPILOG = """\b
Examples:
  lift recipes
  lift recipes show default
  lift absorb minutes.txt --set training.epochs=3 --set adapter.rank=16"""


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    recipes = typer.Typer(rich_markup_mode=None)
    recipes.callback(invoke_without_command=True, epilog=_EPILOG)(list_recipes)
    recipes.command("show", epilog=_EPILOG)(show)
    app.add_typer(recipes, name="recipes")


def list_recipes(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the ways to absorb, or show one with all its settings."""
    if context.invoked_subcommand is not None:
        return
    from lift.recipes.recipe import load_recipe, recipe_names

    found = [load_recipe(name) for name in recipe_names()]
    if as_json:
        write_json([{"name": each.name, "version": each.version, "description": each.description} for each in found])
        return
    rows = [(each.name, each.description.split(". ")[0].rstrip(".") + ".") for each in found]
    stdout().print(build_table(["recipe", "description"], rows))


def show(
    name: Annotated[str, typer.Argument(metavar="R", help="A recipe's name or a .toml file.")],
    as_json: JsonOption = False,
) -> None:
    """Show every setting of a recipe: its value, and what it does."""
    from pydantic import BaseModel

    from lift.recipes.recipe import load_recipe

    recipe = load_recipe(name)
    if as_json:
        write_json(recipe.model_dump(mode="json"))
        return
    rows = []
    for section, settings in recipe:
        if isinstance(settings, BaseModel):
            for key, field in type(settings).model_fields.items():
                rows.append((f"{section}.{key}", json.dumps(getattr(settings, key)), field.description or ""))
    stdout().print(f"{recipe.name}, version {recipe.version}: {recipe.description}\n", markup=False)
    stdout().print(build_table(["setting", "value", "what it is"], rows))
