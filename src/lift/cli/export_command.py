"""`lift export` and `lift import`: memories to other programs, and adapters from them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lift.absorbing.run_options import AbsorptionOptions
from lift.cli import progress
from lift.cli.following import follow
from lift.cli.options import (
    BaseGgufOption,
    JsonOption,
    LibraryOption,
    MemoryModelOption,
    ModelOption,
    TitleOption,
    parse_duration,
    read_documents,
)
from lift.cli.output import format_recall, format_seconds, print_facts, remark, say, write_json
from lift.errors import UsageError

if TYPE_CHECKING:
    from lift.exporting.conversion import Conversion
    from lift.exporting.export import Export
    from lift.exporting.verify import AdapterVerification, Verification
    from lift.memories.library import MemoryLibrary
    from lift.memories.memory import StoredMemory
    from lift.models.base_model import BaseModel

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A memory's name, as lift list shows it.")]
_EXPORT_EPILOG = """\b
Examples:
  lift export minutes --to peft exported/minutes
  lift export minutes --to gguf exported/minutes --verify
  lift export minutes --to merged exported/minutes --gguf
  lift export plain --to vllm exported/plain --verify --program ~/vllm/bin/vllm
  lift export minutes --to vllm exported/minutes --convert --budget 5m

An Activated LoRA, the default, goes to peft and gguf. For vllm, sglang and
merged add --convert, or absorb with --recipe portable. --convert trains a
plain LoRA to answer as the memory does, and says what is kept of its recall
and what that does to other texts. The memory stays as it is."""

_IMPORT_EPILOG = """\b
Examples:
  lift import trained/lora --name contract --document contract.pdf
  lift import trained/lora --name style --model ./my-model

The base model must be the one that the adapter was trained on. Questions are
asked in Lift's own prompt."""


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    app.command("export", epilog=_EXPORT_EPILOG)(export)
    app.command("import", epilog=_IMPORT_EPILOG)(import_adapter)


def export(
    context: typer.Context,
    name: _NameArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to, a new or an empty directory.")],
    target: Annotated[
        Literal["peft", "gguf", "merged", "vllm", "sglang"],
        typer.Option("--to", metavar="T", help="peft, gguf (llama.cpp), merged (a model of its own), vllm or sglang."),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Replay held-out questions in the program, and count equal answers.")
    ] = False,
    program: Annotated[
        Path | None,
        typer.Option("--program", metavar="FILE", help="llama-server or vllm.", show_default="from the PATH"),
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", min=1, metavar="N", help="At most so many held-out questions.")
    ] = 100,
    as_gguf: Annotated[bool, typer.Option("--gguf", help="With merged: one GGUF file, for llama.cpp.")] = False,
    base_gguf: BaseGgufOption = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Make a plain LoRA of it first, which every program takes.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="With --convert: have it trained within this time, such as 5m; it is measured after that.",
            show_default="as long as the recipe takes",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="NAME", help="With --convert: keep the plain LoRA as a memory of that name."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --convert: go on from what an interrupted run has saved.")
    ] = False,
    model: MemoryModelOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a memory into a directory for another program.

    With it come the reader that answers from evidence, the prompt, how to start the program, and held-out questions
    with the memory's own answers.
    """
    from lift.exporting.targets import adapter_form, check_convertible, check_target
    from lift.memories.library import MemoryLibrary

    if not convert and (budget is not None or keep is not None or resume):
        raise UsageError("expected --budget, --keep and --resume with --convert, got them alone; add --convert")
    stop = threading.Event()
    budget_s = parse_duration(budget) if budget is not None else None
    options = AbsorptionOptions(budget_s=budget_s, started=context.obj, stop=stop, name=keep, resume=resume)
    memories = MemoryLibrary(library)
    memory, form = memories[name], adapter_form(memories[name].adapter_config)
    if convert:
        check_convertible(name, form)
    check_target(name, "lora" if convert else form, target, as_gguf=as_gguf)
    from lift.errors import ExportError
    from lift.exporting.export import check_empty, export_memory
    from lift.exporting.replay import Replayer
    from lift.exporting.verify import verify_export

    check_empty(directory)
    base = progress.load_shown_model(
        model or memory.manifest.base.id, as_json, fetch=model is not None, dtype="float32"
    )
    conversion = None
    with _place_for(memories if keep is not None else None) as place:
        if convert:
            memory, conversion = _convert(memory, base, memories, place, options, stop, as_json)
        with progress.opened_display(as_json) as display:
            display.wait("asking held-out questions")
            exported = export_memory(
                memory,
                base,
                target,
                directory,
                questions=questions,
                as_gguf=as_gguf,
                gguf=base_gguf,
                conversion=conversion,
            )
            verification = failure = None
            if verify:
                display.wait("replaying them in the program")
                try:
                    verification = verify_export(exported, Replayer(memory, base), program, say=display.say)
                except ExportError as error:  # what is exported stays
                    failure = error
    if as_json:
        record = {"directory": str(exported.directory), **exported.record()}
        write_json({**record, "verification": verification and verification.record()})
    else:
        _print(exported, verification)
    if failure is not None:
        remark(f"lift: {failure}")
    return 1 if failure is not None else 0


@contextmanager
def _place_for(library: MemoryLibrary | None) -> Iterator[MemoryLibrary]:
    """The library that a converted memory is kept in, or one that is gone after the block."""
    from lift.memories.library import MemoryLibrary

    if library is not None:
        yield library
        return
    with tempfile.TemporaryDirectory(prefix="lift-convert-") as temporary:
        yield MemoryLibrary(Path(temporary))


def _convert(
    memory: StoredMemory,
    base: BaseModel,
    memories: MemoryLibrary,
    place: MemoryLibrary,
    options: AbsorptionOptions,
    stop: threading.Event,
    as_json: bool,
) -> tuple[StoredMemory, Conversion]:
    from lift.exporting.conversion import measure_conversion
    from lift.exporting.convert import convert_events

    finished = follow(convert_events(memory, base, memories, place, options), stop, as_json)
    with progress.opened_display(as_json) as display:
        for said in finished.remarks:
            display.say(said)
        display.wait("reading other texts with it")
        return finished.memory, measure_conversion(memory, finished.memory, base)


def import_adapter(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="adapter_config.json and adapter_model.safetensors, as PEFT saves.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the memory is called.")],
    document: Annotated[
        str | None, typer.Option("--document", metavar="FILE", help="The text that the adapter is about, if any.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the memory of that name.")] = False,
    title: TitleOption = None,
    model: ModelOption = "smollm2",
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a LoRA that was trained with PEFT as a memory, so that it can be asked, measured and served.

    With the text that it is about, held-out questions tell how much of it the adapter knows.
    """
    from lift.memories.library import MemoryLibrary

    text = read_documents([document], title) if document is not None else None
    base = progress.load_shown_model(model, as_json)
    from lift.exporting import foreign_adapter

    with progress.opened_display(as_json) as display:
        display.wait("asking held-out questions" if text else "reading the adapter")
        memory = foreign_adapter.import_adapter(
            directory, base, MemoryLibrary(library), name, document=text, replace=replace
        )
    recall, origin = memory.manifest.recall, memory.adapter_config.get("base_model_name_or_path")
    if as_json:
        write_json(
            {
                "name": memory.name,
                "base": base.id,
                "trained_on": origin,
                "probed": recall.probed,
                "recalled": recall.recalled,
                "adapter_parameters": memory.manifest.sizes.adapter_parameters,
            }
        )
        return
    print_facts(
        [
            ("memory", memory.name),
            ("base model", base.id),
            ("trained on", str(origin or "not told")),
            ("adapter", f"{memory.manifest.sizes.adapter_parameters:,} parameters"),
            ("recalled", format_recall(recall.recalled, recall.probed)),
        ]
    )


def _print(exported: Export, verification: Verification | None) -> None:
    facts = [("exported", exported.memory), ("for", exported.target), ("directory", str(exported.directory))]
    facts += [(each.role, each.path) for each in exported.adapters]
    if exported.model:
        facts.append(("model", exported.model))
    if exported.conversion is not None:
        facts += _describe_conversion(exported.conversion)
    if verification is not None:
        facts.append(("replayed in", f"{verification.consumer} {verification.version}"))
        facts += [(f"  {each.adapter}", _describe(each)) for each in verification.adapters]
    print_facts(facts)
    if verification is None:
        say("\nHow to start: see README.md in it.")


def _describe_conversion(found: Conversion) -> list[tuple[str, str]]:
    """The base model, the memory and the plain LoRA side by side."""
    recalled = [format_recall(count, found.probed) for count in (found.recalled_before, found.recalled_after)]
    perplexities = [f"{each.perplexity:.2f}" for each in found.abilities]
    read = [f"{each.contained:.0%} / {each.f1:.0%}" for each in found.abilities]
    return [
        ("converted in", f"{format_seconds(found.seconds)}, {found.steps:,} steps, {found.tokens:,} tokens"),
        ("recalled", f"{recalled[0]} before, {recalled[1]} after"),
        ("perplexity", f"of an unrelated text: {_three(perplexities)}"),
        ("other questions", f"{found.base.questions} behind their paragraph, contained / F1: {_three(read)}"),
    ]


def _three(values: Sequence[str]) -> str:
    return f"{values[0]} base model, {values[1]} before, {values[2]} after"


def _describe(each: AdapterVerification) -> str:
    logits = each.largest_logit_difference
    parts = [
        f"{each.same} of {each.questions} answers are the same",
        f"judged within {each.largest_judged_difference:.3g} nats",
    ]
    if logits is not None:
        parts.append(f"logits within {logits:.2g}")
    if each.prompts is None:
        parts.append("its tokenizer did not answer")
    elif each.prompts < each.questions:
        parts.append(f"{each.questions - each.prompts} prompts are read as other tokens")
    return "; ".join(parts)
