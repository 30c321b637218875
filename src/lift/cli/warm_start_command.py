"""`lift warm-start`: tune the warm start that memories of a model begin at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lift.cli import progress
from lift.cli.options import JsonOption, LibraryOption, ModelOption
from lift.cli.output import format_bytes, format_seconds, print_facts, remark, write_json
from lift.errors import UsageError

_EPILOG = """\b
Examples:
  lift warm-start questions.jsonl --out my-start
  lift warm-start wiki.jsonl stories.jsonl --out my-start --licence "CC BY-SA 4.0"
  lift absorb minutes.pdf --set adapter.warm_start=my-start
  lift absorb others/ --name sft --recipe lift-v0-sft       pre-LIFT SFT: segments and tasks of other documents, and
  lift warm-start --memory sft --out sft-start              memories begin at what was learned there

A line of a file: {"title", "source", "context", "questions": [{"question", "answers": [..], "evidence": [..], "type"}]}
Use other documents than those that you will absorb, with questions that people asked, of several sources: each source
gets an equal part. No answers: the document does not tell, and the model learns to say so. A run that was stopped goes
on where it was when the same command is given again."""

_SAY_EVERY_STEPS = 25
_OF_FILES = {"model": "--model", "overrides": "--set", "skip_bad": "--skip-bad"}
_OF_MEMORY = {"library": "--library"}


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("warm-start", epilog=_EPILOG)(warm_start)


def warm_start(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the warm start goes.")],
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="JSONL of documents with questions and answers.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="NAME", help="Instead of files: make this memory, a LoRA, the warm start."),
    ] = None,
    library: LibraryOption = None,
    model: ModelOption = "smollm2",
    licence: Annotated[
        str,
        typer.Option("--licence", metavar="L", help="The licence of the documents; it is kept."),
    ] = "not stated",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting as section.key=value, such as training.epochs=3."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out faulty lines, and say which.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Teach a small model to answer briefly from what it reads, on other documents than those to absorb.

    What is made is where memories begin (adapter.warm_start). One comes with Lift for smollm2; make one for a model
    of your own.
    """
    from lift.absorbing.warm_start_tuning import ReaderSettings, tune_reader, tuning_checkpoint
    from lift.adapters.warm_start import WarmStart
    from lift.config import apply_overrides
    from lift.evaluation.records import Record
    from lift.evaluation.suite_plan import SuitePlan
    from lift.evaluation.suite_reading import read_suite

    if (memory is None) == (not data):
        raise UsageError("expected files of questions or --memory NAME, and not both; give one of them")
    _refuse_without_effect(context, memory is not None)
    if memory is not None:
        from lift.absorbing.warm_start_tuning import warm_start_of
        from lift.memories.library import MemoryLibrary

        made = warm_start_of(MemoryLibrary(library)[memory], licence)
        made.write(out)
        if as_json:
            write_json({"out": str(out), "digest": made.digest, "documents": len(made.about.documents)})
        else:
            print_facts([("warm start", str(out)), ("use it", f"lift absorb FILE --set adapter.warm_start={out}")])
        return
    values: dict[str, Any] = ReaderSettings().model_dump()
    settings = ReaderSettings.parse(apply_overrides(values, overrides or ()), "settings of lift warm-start")
    base = progress.load_shown_model(model, as_json)
    records: list[Record] = []
    for path in data or ():
        read = read_suite(SuitePlan.parse({"name": "qa", "data": path}, str(path)), lambda _text: [], skip_bad=skip_bad)
        records.extend(read.records)
        for fault in read.faults:
            remark(f"left out: {fault}")
    checkpoint = tuning_checkpoint(out, base, records, settings, tell=lambda notice: remark(str(notice)))
    found: list[WarmStart] = []
    begun, first = time.monotonic(), None
    for step in tune_reader(base, records, settings, licence, found, checkpoint):
        first = step.progress if first is None else first
        if not as_json and step.step % _SAY_EVERY_STEPS == 0 and step.progress > first:
            left_s = (time.monotonic() - begun) * (1 - step.progress) / (step.progress - first)
            said = f"{100 * step.progress:.0f} %, epoch {step.epoch + 1}, loss {step.loss:.3f}"
            remark(f"{said}, about {format_seconds(left_s)} left")
    point = found[0]
    point.write(out)
    checkpoint.discard()
    questions = sum(len(record.questions) for record in records)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in point.state.values())
    if as_json:
        write_json(
            {
                "out": str(out),
                "digest": point.digest,
                "documents": len(records),
                "questions": questions,
                "bytes": size_bytes,
            }
        )
        return
    print_facts(
        [
            ("warm start", str(out)),
            ("documents", f"{len(records):,}, {questions:,} questions"),
            ("size", format_bytes(size_bytes)),
            ("use it", f"lift absorb FILE --set adapter.warm_start={out}"),
        ],
        title="Tuned",
    )


def _refuse_without_effect(context: typer.Context, of_memory: bool) -> None:
    """Raise UsageError for an option that only the other of the two ways has."""
    way, unused = ("--memory", _OF_FILES) if of_memory else ("files of questions", _OF_MEMORY)
    for parameter, option in unused.items():
        source = context.get_parameter_source(parameter)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"expected {way} without {option}, got both; leave {option} out")
