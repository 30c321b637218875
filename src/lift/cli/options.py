"""Options that several commands share, declared once, and the reading of their values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from lift.errors import UsageError

ContextName = Literal["auto", "none", "truncated", "full", "evidence"]
CONTEXT_NAMES: tuple[str, ...] = get_args(ContextName)
_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([smh]?)", re.IGNORECASE)

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        metavar="DIR",
        help="The directory that holds the memories.",
        show_default="LIFT_HOME, else the user data directory",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="M", help="Base model: smollm2, a transformers directory, a GGUF file, or a hub id."
    ),
]
MemoryModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help="Where the base model lies now; its weights must be those that the memory was trained on.",
        show_default="the model it was absorbed with",
    ),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", metavar="R", help="A recipe's name (see lift recipes) or a .toml file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting of the recipe, as section.key=value."),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Be done within this time, from start to end: 90s, 10m, 1h, or a number of seconds.",
        show_default="as long as the recipe takes",
    ),
]
TitleOption = Annotated[
    str | None, typer.Option("--title", metavar="T", help="What the text is called.", show_default="from the file")
]
ContextOption = Annotated[
    ContextName,
    typer.Option(
        "--context",
        metavar="C",
        help="What of the text goes into the prompt: none (closed book), truncated (its head and tail), full, "
        "evidence (retrieved sentences), or auto.",
    ),
]


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "1.5h" or "90"; raises UsageError for anything else, and for no time at all."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNIT_S[match[2].lower()] if match else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"expected --budget with a time above zero such as 90s, 10m or 1h, got {text!r}")
    return seconds
