"""`lift warm-start`: tune the warm start that memories of a model begin at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lift.cli.options import JsonOption, ModelOption
from lift.cli.output import format_bytes, print_facts, remark, write_json

_EPILOG = """\b
Examples:
  lift warm-start questions.jsonl --out my-start
  lift absorb minutes.pdf --set adapter.warm_start=my-start

A line of the file: {"title", "context", "questions": [{"question", "answers": [..], "evidence": [..]}]}
Use other documents than those that you will absorb, with questions that people asked."""

_SAY_EVERY_STEPS = 25


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("warm-start", epilog=_EPILOG)(warm_start)


def warm_start(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of documents with questions and answers.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the warm start goes.")],
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
    from lift.absorbing.warm_start_tuning import ReaderSettings, tune_reader
    from lift.adapters.warm_start import WarmStart
    from lift.config import apply_overrides
    from lift.evaluation.suite_plan import SuitePlan
    from lift.evaluation.suite_reading import read_suite
    from lift.models.load import load_model

    values: dict[str, Any] = ReaderSettings().model_dump()
    settings = ReaderSettings.parse(apply_overrides(values, overrides or ()), "settings of lift warm-start")
    base = load_model(model, on_progress=None if as_json else remark)
    suite = SuitePlan.parse({"name": "qa", "data": data}, str(data))
    read = read_suite(suite, lambda _text: [], skip_bad=skip_bad)
    for fault in read.faults:
        remark(f"left out: {fault}")
    found: list[WarmStart] = []
    for step in tune_reader(base, read.records, settings, licence, found):
        if not as_json and step.step % _SAY_EVERY_STEPS == 0:
            remark(f"{100 * step.progress:.0f} %, epoch {step.epoch + 1}, loss {step.loss:.3f}")
    point = found[0]
    point.write(out)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in point.state.values())
    if as_json:
        write_json({"out": str(out), "digest": point.digest, "documents": len(read.records), "bytes": size_bytes})
        return
    print_facts(
        [
            ("warm start", str(out)),
            ("documents", f"{len(read.records):,}, {read.questions:,} questions"),
            ("size", format_bytes(size_bytes)),
            ("use it", f"lift absorb FILE --set adapter.warm_start={out}"),
        ],
        title="Tuned",
    )
