"""`lift absorb` and `lift plan`: a file becomes a memory, or one is told what that would cost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lift.cli import progress
from lift.cli.options import (
    BudgetOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    RecipeOption,
    SetOption,
    TitleOption,
    parse_duration,
)
from lift.cli.output import (
    build_table,
    format_bytes,
    format_recall,
    format_seconds,
    print_facts,
    remark,
    stdout,
    write_json,
)

if TYPE_CHECKING:
    from lift.absorption import Finished
    from lift.planning import Plan
    from lift.recall import RecallReport

_FORGOTTEN_SHOWN = 10
_FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A txt, md, html, pdf, docx or epub file; - reads standard input.")
]
_ABSORB_EPILOG = """\b
Examples:
  lift absorb contract.pdf --budget 10m
  lift absorb novel.epub --name novel --budget 2h --set tasks.per_sentence=8
  curl -s https://example.org/page | lift absorb - --title "The page" --name page
  lift absorb novel.epub --name novel --budget 2h --resume     (after Ctrl-C)"""
_PLAN_EPILOG = """\b
Examples:
  lift plan contract.pdf
  lift plan novel.epub --budget 2h --json"""


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    app.command("absorb", epilog=_ABSORB_EPILOG)(absorb)
    app.command("plan", epilog=_PLAN_EPILOG)(plan)


def absorb(
    context: typer.Context,
    file: _FileArgument,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What the memory is called.", show_default="from the title"),
    ] = None,
    title: TitleOption = None,
    model: ModelOption = "smollm2",
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    budget: BudgetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run has stopped.")] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a memory of a text and put it into the library.

    Ends with the recall report: how many of the text's sentences the memory can be shown to know. Ctrl-C saves the
    state, and --resume goes on from it.
    """
    budget_s = parse_duration(budget) if budget is not None else None
    from lift.memories.library import Library
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    memories = Library(library)
    if name is not None:
        from lift.memories.names import check_name, normal_name

        check_name(normal_name(name))
    from lift.documents.read import read_document

    document = read_document(file, title=title)

    from lift.absorption import Finished, Planned, Prepared, Probing, Trained, absorb_events
    from lift.models.load import load_model

    base = load_model(model, on_progress=None if as_json else remark)
    stop = threading.Event()
    display = progress.open_display(as_json)
    finished: Finished | None = None
    try:
        with _stopped_by_signals(stop, display) as training:
            for event in absorb_events(
                document,
                base,
                settings,
                memories,
                name=name,
                budget_s=budget_s,
                resume=resume,
                stop=stop,
                started=context.obj,
            ):
                match event:
                    case Prepared():
                        _say_all(display, progress.describe_prepared(event))
                    case Planned():
                        _say_all(display, progress.describe_planned(event))
                        training.set()
                    case Trained():
                        display.step(event)
                    case Probing():
                        training.clear()
                        display.say(f"asking {event.probes:,} questions that were held back")
                    case Finished():
                        finished = event
    finally:
        display.close()
    assert finished is not None, "absorb_events ends with Finished or raises"
    _report(finished, as_json)


def plan(
    file: _FileArgument,
    title: TitleOption = None,
    model: ModelOption = "smollm2",
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    budget: BudgetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what absorbing a text would cost.

    A few training steps are timed on this machine, and a question is asked with and without the text, which tells
    after how many questions a memory pays. Nothing is kept.
    """
    budget_s = parse_duration(budget) if budget is not None else None
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    from lift.documents.read import read_document

    document = read_document(file, title=title)
    from lift.models.load import load_model
    from lift.planning import make_plan

    base = load_model(model, on_progress=None if as_json else remark)
    made = make_plan(document, base, settings, budget_s)
    if as_json:
        write_json({"title": document.title, **asdict(made)})
        return
    print_facts(_plan_facts(made), title=f"Absorbing “{document.title}”")


@contextmanager
def _stopped_by_signals(stop: threading.Event, display: progress.Display) -> Iterator[threading.Event]:
    """While the yielded event is set, the first Ctrl-C (or SIGTERM) sets `stop`; any other one interrupts at once."""
    training = threading.Event()

    def on_signal(_number: int, _frame: Any) -> None:
        if not training.is_set() or stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        display.say("stopping after this step, saving...")

    if threading.current_thread() is not threading.main_thread():
        yield training
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield training
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_all(display: progress.Display, lines: list[str]) -> None:
    for line in lines:
        display.say(line)


def _report(finished: Finished, as_json: bool) -> None:
    memory, report = finished.memory, _recall_report(finished)
    if as_json:
        write_json(
            {
                "name": memory.name,
                "title": memory.manifest.title,
                "directory": str(memory.directory),
                "reused": finished.reused,
                "seconds": round(finished.seconds, 3),
                "predicted_seconds": round(finished.predicted_s, 3),
                "adapter_bytes": _adapter_bytes(finished),
                "recall": {
                    "sentences": report.sentences,
                    "probed": len(report.probed),
                    "recalled": len(report.recalled),
                    "share": round(report.share, 4),
                    "forgotten": report.forgotten,
                },
            }
        )
        return
    if finished.reused:
        took = "absorbed before with the same text, model, recipe and budget; nothing was trained"
    else:
        took = f"{format_seconds(finished.seconds)} (predicted {format_seconds(finished.predicted_s)})"
    print_facts(
        [
            ("memory", memory.name),
            ("time", took),
            ("adapter", format_bytes(_adapter_bytes(finished))),
            ("recalled", format_recall(len(report.recalled), len(report.probed))),
        ]
    )
    _print_forgotten(report, memory.document.text)
    stdout().print(f'\nAsk it:  lift ask {_quoted(memory.name)} "..."', markup=False)


def _print_forgotten(report: RecallReport, text: str) -> None:
    from lift.sentences import split_sentences

    forgotten = report.forgotten
    if not forgotten:
        return
    sentences = split_sentences(text)
    rows = []
    for index in forgotten[:_FORGOTTEN_SHOWN]:
        probe = next(probe for probe in report.probes if probe.sentence == index)
        rows.append((sentences[index].text, probe.question, probe.expected, probe.answer))
    shown = "" if len(forgotten) <= _FORGOTTEN_SHOWN else f", the first {_FORGOTTEN_SHOWN} of {len(forgotten)}"
    stdout().print(build_table(["sentence", "asked", "expected", "answered"], rows, title=f"\nNot recalled{shown}"))


def _recall_report(finished: Finished) -> RecallReport:
    from lift.recall import Probe, RecallReport

    if finished.report is not None:
        return finished.report
    probes = tuple(Probe(**row) for row in finished.memory.recall)
    return RecallReport(probes, finished.memory.manifest.recall.sentences)


def _adapter_bytes(finished: Finished) -> int:
    files = finished.memory.manifest.files
    return sum(record.size_bytes for path, record in files.items() if path.startswith("adapter/"))


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
        ("training", f"{made.train_tokens:,} tokens ({made.epochs:.1f} epochs) at {made.tokens_per_s:.0f} tokens/s"),
        ("time", format_seconds(made.seconds)),
        ("memory in use", format_bytes(made.peak_bytes)),
        ("adapter", format_bytes(made.adapter_bytes)),
        ("asking closed book", f"{format_seconds(made.ask_s)} a question"),
        ("asking with the whole text", full_read),
        ("pays", pays),
    ]


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
