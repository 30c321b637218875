"""`lift absorb`: files become a memory, or are added to one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift.absorbing.run_options import AbsorptionOptions, RunOptions
from lift.cli import progress
from lift.cli.following import follow
from lift.cli.options import (
    BudgetOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    OcrOption,
    RecipeOption,
    SetOption,
    TitleOption,
    UntilOption,
    parse_duration,
    parse_share,
    read_documents,
)
from lift.cli.output import (
    format_bytes,
    format_recall,
    format_seconds,
    print_facts,
    print_forgotten,
    remark,
    stdout,
    write_json,
)
from lift.errors import UsageError

if TYPE_CHECKING:
    from lift.absorbing.absorption_events import AbsorptionEvent, Finished
    from lift.documents.document import Document
    from lift.memories.library import MemoryLibrary
    from lift.recipes.recipe import Recipe
    from lift.remote.openai_finetuning import FineTuningEvent
    from lift.remote.price import Estimate

_ABSORB_EPILOG = """\b
Examples:
  lift absorb contract.pdf --budget 10m
  lift absorb novel.epub --name novel --budget 2h --set tasks.per_sentence=8
  lift absorb january.pdf february.pdf --name minutes     one memory of several files
  lift absorb contracts/ --name contracts                 all files of a folder that can be read
  lift absorb march.pdf --into minutes                    add a text to a memory
  lift absorb contract-v2.pdf --name contract --replace   in the place of the old one, once it is made
  lift absorb contract.pdf --until 95% --budget 30m       rehearse what is forgotten
  lift absorb novel.epub --recipe lift-v3                 the method as published
  lift absorb contract.pdf --model openai:gpt-4o-mini-2024-07-18     fine-tuned behind an API
  curl -s https://example.org/page | lift absorb - --title "The page" --name page
  lift absorb novel.epub --name novel --budget 2h --resume     (after Ctrl-C)
  lift absorb archive/ --farm ray --workers 4                  a memory of each file, on four processors
  lift absorb papers.parquet --farm ray://head:6379 --workers 40 --library s3://bucket/papers --resume"""


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("absorb", epilog=_ABSORB_EPILOG)(absorb)


def absorb(
    context: typer.Context,
    files: FilesArgument,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What the memory is called.", show_default="from the title"),
    ] = None,
    title: TitleOption = None,
    ocr: OcrOption = False,
    into: Annotated[
        str | None, typer.Option("--into", metavar="NAME", help="Add the text to this memory, by its own recipe.")
    ] = None,
    model: ModelOption = "smollm2",
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    budget: BudgetOption = None,
    until: UntilOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the memory in the place of another one of that --name.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run has stopped.")] = False,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="openai:NAME: the endpoint, if it is not OpenAI's own."),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="openai:NAME: cancel the job that the same command has started.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="openai:NAME: accept the price without being asked.")] = False,
    farm: Annotated[
        str | None,
        typer.Option(
            "--farm",
            metavar="ray[://HEAD]",
            help="Make a memory of each document, on many processors or machines (needs lift-memory[farm]). FILE is "
            "then a file, folder, glob or URL, a .jsonl or .parquet table of path, url or text with title, or @FILE, a "
            "list of them.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="--farm: how many at once.")] = 1,
    worker_cpus: Annotated[
        int, typer.Option("--worker-cpus", metavar="N", min=1, help="--farm: processors of each worker.")
    ] = 1,
    worker_gpus: Annotated[
        float, typer.Option("--worker-gpus", metavar="X", min=0, help="--farm: GPUs of each worker, or a part of one.")
    ] = 0.0,
    library: Annotated[
        str | None,
        typer.Option(
            "--library",
            metavar="DIR",
            help="The directory that holds the memories; with --farm also a URL such as s3://bucket/prefix.",
            show_default="LIFT_HOME, else the user data directory",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a memory of a text and put it into the library.

    Ends with the recall report: how many of the text's sentences the memory can be shown to know. Ctrl-C saves the
    state, and --resume goes on from it; with --into, the memory stays as it was.
    """
    budget_s = parse_duration(budget) if budget is not None else None
    stop = threading.Event()
    share = parse_share(until) if until is not None else None
    options = AbsorptionOptions(
        budget_s=budget_s, started=context.obj, stop=stop, name=name, replace=replace, resume=resume, until=share
    )
    if into is not None:
        _refuse_beside(context, "--into", "name", "recipe", "until", "replace", "resume", "base_url")
    from lift.memories.library import MemoryLibrary
    from lift.recipes.recipe import load_recipe

    remote = into is None and model.startswith("openai:")
    if remote:
        _refuse_beside(context, "--model openai:NAME", "budget", "until", "replace", "resume")
        recipe = "openai-finetune" if recipe == "default" else recipe
    elif cancel:
        raise UsageError("expected --cancel with --model openai:NAME, got it alone; Ctrl-C stops a training here")
    where = [f"remote.base_url={base_url}"] if base_url is not None else []
    own = overrides or () if into is None else ()  # a memory's own recipe is not this one
    settings = load_recipe(recipe, [*own, *where])
    if farm is not None:
        _refuse_beside(context, "--farm", "name", "title", "into", "until", "replace", "base_url", "cancel", "yes")
        if remote:
            raise UsageError(f"expected --farm with a model that its workers train, got {model!r}; leave one out")
        from lift.cli.farming import absorb_on_farm
        from lift.farm.document_absorber import FarmSettings
        from lift.memories.library import default_library_directory

        farm_settings = FarmSettings(
            library=library or str(default_library_directory()),
            recipe=settings,
            model=model,
            budget_s=budget_s,
            ocr=ocr,
            replace=resume,
            threads=worker_cpus,
        )
        absorb_on_farm(files, farm, farm_settings, workers, worker_cpus, worker_gpus, as_json)
        return
    for each in ("workers", "worker_cpus", "worker_gpus"):
        if _given(context, each):
            raise UsageError(f"expected --{each.replace('_', '-')} with --farm, got it alone; add --farm ray")
    if library is not None and "://" in library:
        raise UsageError(f"expected a directory as --library, got {library!r}; add --farm ray, or name a directory")
    memories = MemoryLibrary(Path(library) if library is not None else None)
    if not remote and into is None:
        from lift.absorbing.resolved_recipe import check_local

        check_local(settings)  # before a model is loaded
    if name is not None:
        from lift.memories.memory_names import check_name, normal_name

        check_name(normal_name(name))
    events: Iterator[AbsorptionEvent | FineTuningEvent]
    if replace and name is None and into is None:
        raise UsageError("expected --replace with the --name of the memory to be replaced, got none; add --name NAME")
    document = read_documents(files, title, ocr)
    if cancel:
        _cancel_remotely(document, model, settings, memories, as_json)
        return
    if remote:
        from lift.remote.remote_absorbing import absorb_remotely
        from lift.remote.remote_model import remote_name

        confirm, named = _confirm(yes, as_json), remote_name(model) or ""
        events = absorb_remotely(
            document, named, settings, memories, confirm=confirm, name=name, stop=stop, started=context.obj
        )
    elif into is not None:
        chosen = model if _given(context, "model") else None
        events = _add(document, into, chosen, memories, options, overrides or (), as_json)
    else:
        from lift.absorbing.absorb import absorb_events

        events = absorb_events(document, progress.load_shown_model(model, as_json), settings, memories, options)
    finished = follow(events, stop, as_json)
    _report(finished, as_json)


def _add(
    document: Document,
    into: str,
    model: str | None,
    memories: MemoryLibrary,
    options: RunOptions,
    overrides: Sequence[str],
    as_json: bool,
) -> Iterator[AbsorptionEvent]:
    memory = memories[into]
    from lift.remote.remote_model import is_remote

    if is_remote(memory):
        raise UsageError(f"{into!r} is a model at an endpoint, and no text can be added to it; absorb all files as one")
    from lift.absorbing.add import add_events, choose_recipe

    choose_recipe(memory, overrides)  # what is refused is refused before a model is loaded
    base = progress.load_shown_model(model or memory.manifest.base.id, as_json, fetch=model is not None)
    return add_events(document, memory, base, memories, options, overrides=overrides)


def _cancel_remotely(document: Document, model: str, settings: Recipe, memories: MemoryLibrary, as_json: bool) -> None:
    from lift.remote.remote_absorbing import cancel_remotely
    from lift.remote.remote_model import remote_name

    said = cancel_remotely(document, remote_name(model) or "", settings, memories)
    if as_json:
        write_json({"cancelled": said})
    else:
        stdout().print(said, markup=False)


def _confirm(yes: bool, as_json: bool) -> Callable[[Estimate], bool]:
    """Ask for the price, unless --yes has answered already; where nobody can be asked, that is said."""

    def confirm(estimate: Estimate) -> bool:
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            raise UsageError(f"expected --yes where nobody can be asked; {estimate}")
        return typer.confirm("Upload it and start the job?", default=False, err=True)

    return confirm


def _refuse_beside(context: typer.Context, option: str, *parameters: str) -> None:
    """Some ways to absorb leave nothing to choose for other options, so giving these is a mistake."""
    for each in parameters:
        if _given(context, each):
            other = {"overrides": "set"}.get(each, each).replace("_", "-")
            raise UsageError(f"expected {option} without --{other}, got both; leave --{other} out")


def _given(context: typer.Context, parameter: str) -> bool:
    """Whether the command line names it."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _report(finished: Finished, as_json: bool) -> None:
    from lift.absorbing.recall_report import recorded_report

    memory = finished.memory
    report = finished.report or recorded_report(memory)
    if as_json:
        write_json(
            {
                "name": memory.name,
                "title": memory.manifest.title,
                "directory": str(memory.directory),
                "reused": finished.reused,
                "remarks": list(finished.remarks),
                "left_out": list(memory.document.warnings),
                "seconds": round(finished.seconds, 3),
                "predicted_seconds": round(finished.predicted_s, 3),
                "adapter_bytes": _adapter_bytes(finished),
                "generation": memory.manifest.generation,
                "recall_history": [point.model_dump() for point in memory.manifest.recall_history],
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
        took = "nothing was trained: this was absorbed before in the same way"
    else:
        took = format_seconds(finished.seconds)
        if finished.predicted_s:
            took += f" (predicted {format_seconds(finished.predicted_s)})"
    print_facts(
        [
            ("memory", memory.name),
            ("time", took),
            ("adapter", format_bytes(_adapter_bytes(finished))),
            ("recalled", format_recall(len(report.recalled), len(report.probed))),
        ]
    )
    for said in (*memory.document.warnings, *finished.remarks):
        remark(said)
    print_forgotten(report, memory.document)
    stdout().print(f'\nAsk it:  lift ask {_quoted(memory.name)} "..."', markup=False)


def _adapter_bytes(finished: Finished) -> int:
    files = finished.memory.manifest.files
    return sum(record.size_bytes for path, record in files.items() if path.startswith("adapter/"))


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
