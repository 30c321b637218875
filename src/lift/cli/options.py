"""Options that several commands share, declared once, and the reading of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from lift.cli.output import remark
from lift.errors import UsageError
from lift.training.budget import SMALLEST_BUDGET_S

if TYPE_CHECKING:
    from lift.documents.document import Document

ContextName = Literal["auto", "none", "truncated", "full", "evidence"]
EngineChoice = Literal["own", "vllm", "llama.cpp"]
CONTEXT_NAMES: tuple[str, ...] = get_args(ContextName)
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0}
_UNITS = r"h|hr|hrs|hours?|m|min|mins|minutes?|s|sec|secs|seconds?"
_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)")
_NUMBER = r"\d+(?:\.\d+)?|\.\d+"
_DURATION_PART = re.compile(rf"({_NUMBER})\s*({_UNITS})(?![a-z])\s*", re.IGNORECASE)

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="txt, md, html, pdf, docx or epub files, or folders of them, absorbed as one; - reads standard input.",
    ),
]
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
OcrOption = Annotated[
    bool, typer.Option("--ocr", help="Read scanned pages of PDFs by character recognition (needs lift-memory[ocr]).")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="M",
        help="Base model: smollm2, a transformers directory, a GGUF file, a hub id, or openai:NAME to fine-tune there.",
    ),
]
BaseGgufOption = Annotated[
    Path | None,
    typer.Option(
        "--base-gguf",
        metavar="FILE",
        help="The base model as llama.cpp reads it.",
        show_default="the file it was loaded from",
    ),
]
EngineOption = Annotated[
    EngineChoice,
    typer.Option(
        "--engine",
        metavar="E",
        help="What computes the answers: own (this process), vllm (a running one, at --engine-url), or llama.cpp (a "
        "llama-server that is started, or one at --engine-url).",
    ),
]
EngineUrlOption = Annotated[
    str | None, typer.Option("--engine-url", metavar="URL", help="Where that engine's server listens.")
]
EngineAdaptersOption = Annotated[
    Path | None,
    typer.Option(
        "--engine-adapters",
        metavar="DIR",
        help="Where adapters are written for the engine, which has to see them under the same path.",
        show_default=".engines in the library",
    ),
]
LlamaServerOption = Annotated[
    Path | None,
    typer.Option("--llama-server", metavar="FILE", help="The program.", show_default="from the PATH"),
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
        help="Be done within this time, from start to end: 90s, 10m, 1h30m, or a number of seconds; "
        f"{SMALLEST_BUDGET_S:g} s at least.",
        show_default="as long as the recipe takes",
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="SHARE",
        help="Rehearse what is forgotten until this share of the probed sentences is recalled, for example 95%.",
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
    """Seconds of "90s", "10 min", "1h30m", "1.5h" or "90"; each unit once, the largest first.

    Raises UsageError for anything else, and for no time at all.
    """
    parts, rest = [], text.strip()
    while match := _DURATION_PART.match(rest):
        parts.append((match[2][0].lower(), float(match[1])))
        rest = rest[match.end() :]
    units = [unit for unit, _ in parts]
    if rest or units != [unit for unit in _UNIT_S if unit in units]:
        parts = [("s", float(text))] if re.fullmatch(_NUMBER, text.strip()) else []
    seconds = sum(number * _UNIT_S[unit] for unit, number in parts)
    if not 0 < seconds < math.inf:
        raise UsageError(f"expected --budget with a time above zero such as 90s, 10m or 1h30m, got {text!r}")
    return seconds


def parse_share(text: str) -> float:
    """0.95 of "95%" or "0.95"; raises UsageError for anything else, and for nothing or more than all."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= 1:
        raise UsageError(f"expected --until with a share such as 95% or 0.95, got {text!r}")
    return share


def parse_tokens(text: str, option: str) -> int:
    """4096 of "4k" or "4096"; raises UsageError for anything else."""
    number, unit = (text[:-1], 1024) if text[-1:] in "kK" else (text, 1)
    if not number.strip().isdigit() or int(number) == 0:
        raise UsageError(f"expected {option} with numbers of tokens such as 1024 or 4k, got {text!r}")
    return int(number) * unit


def read_documents(files: Sequence[str], title: str | None, ocr: bool = False) -> Document:
    """One document of all `files`; a single one may have its title from the caller, several share it as the whole's.

    Of a folder all files are read that can be, those of its folders too; of each other it is told why it was not, and
    that it was left out. `ocr`: scanned pages are read by character recognition. Raises DocumentError where a file that
    is named itself, or no file of a folder, can be read.
    """
    from lift.documents.folder import read_files

    return read_files(files, title, say=remark, ocr=ocr)
