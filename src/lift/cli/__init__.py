"""The command line: parse, call, print. What the commands do is done elsewhere.

Exit status: 0 done, 1 failed, 2 used wrongly. An error is one sentence on standard error; with LIFT_DEBUG=1 its
traceback comes before it.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import lift
from lift.cli import absorb_command as absorb
from lift.cli import ask_command as ask
from lift.cli import bench_command as bench
from lift.cli import evaluate_command as evaluate
from lift.cli import export_command as export
from lift.cli import hub_command as hub
from lift.cli import library_command as library
from lift.cli import models_command as models
from lift.cli import plan_command as plan
from lift.cli import recipes_command as recipes
from lift.cli import serve_command as serve
from lift.cli import warm_start_command as start
from lift.cli.output import remark, say
from lift.cli.terminal_text import printable_text
from lift.errors import LiftError
from lift.training.budget import process_started

_STARTED = process_started()
_INTERRUPTED = 130
_EPILOG = """\b
Start here:
  lift absorb minutes.pdf --name minutes --budget 10m
  lift ask minutes "Who chaired the meeting?"

Status: 0 done, 1 failed, 2 used wrongly. LIFT_DEBUG=1 shows the traceback of an error."""

app = typer.Typer(
    name="lift",
    help="Write a long text into a small adapter of a language model, and ask it about the text closed book.",
    epilog=_EPILOG,
    add_completion=False,
    invoke_without_command=True,
    # with a markup mode, rich would be imported for every --help
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (absorb, plan, ask, library, export, hub, serve, recipes, models, start, evaluate, bench):
    _module.add_commands(app)


@app.callback()
def _lift(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        say(f"lift {lift.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main() -> None:
    """Entry point of the `lift` command."""
    if not _debugging():
        import warnings

        # what libraries remark about each other's versions says nothing about the user's text
        warnings.simplefilter("ignore")
    status = run(sys.argv[1:], started=_STARTED)
    sys.exit(status)


def run(args: Sequence[str], *, started: float | None = None) -> int:
    """Run one command line and return its exit status; a budget counts from `started` (time.monotonic, default now)."""
    try:
        result: Any = _command().main(
            args=list(args),
            prog_name="lift",
            standalone_mode=False,
            obj=time.monotonic() if started is None else started,
        )
        sys.stdout.flush()
    except LiftError as error:
        return _fail(str(error), error.exit_status)
    except typer.TyperException as error:
        return _fail(_usage_message(error), 2)
    except BrokenPipeError:
        return _close_broken_pipe()
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else 1
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 1)
    except Exception as error:
        cause = str(error).strip().split("\n")[0] or "no message"
        return _fail(f"unexpected {type(error).__name__}: {cause} (LIFT_DEBUG=1 shows where; please report it)", 1)
    if result == _INTERRUPTED:
        return _fail("interrupted", 1)
    return result if isinstance(result, int) else 0


@functools.cache
def _command() -> Any:
    """The commands with their options, read from their functions once."""
    return typer.main.get_command(app)


def _fail(message: str, status: int) -> int:
    if _debugging():
        import traceback

        sys.stderr.write(printable_text(traceback.format_exc()))
    remark(f"lift: {message}")
    return status


def _usage_message(error: typer.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "lift"
    message = error.format_message().strip().replace(": Value error, ", ": ")
    return f"{message.rstrip('.')}; see {command} --help"


def _close_broken_pipe() -> int:
    # the reader has left; the interpreter's own flush at exit must not complain about it
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _debugging() -> bool:
    return os.environ.get("LIFT_DEBUG", "") not in ("", "0")
