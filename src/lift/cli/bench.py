"""`lift bench`: speed, memory and cost on this machine, beside the alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lift.cli.options import (
    JsonOption,
    LibraryOption,
    ModelOption,
    RecipeOption,
    SetOption,
    parse_tokens,
    read_documents,
)
from lift.cli.output import build_table, format_bytes, format_seconds, print_facts, remark, stdout, write_json
from lift.errors import UsageError

_EPILOG = """\b
Examples:
  lift bench absorb novel.txt --recall 0.5 --limit-s 600
  lift bench absorb novel.txt --recipe fast --rates 5e-4,1e-3,2e-3 --seeds 1 --json
  lift bench ask novel.txt
  lift bench ask novel.txt --memory novel --lengths 1k,4k
  lift bench growth novel.txt --lengths 1k,4k,16k,64k

Progress goes to standard error. Leave the machine alone meanwhile: everything is measured in one run."""

_FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="The text: a txt, md, html, pdf, docx or epub file; - is standard input.")
]


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    bench = typer.Typer(rich_markup_mode=None, no_args_is_help=True, epilog=_EPILOG)
    bench.command("absorb", epilog=_EPILOG)(absorb)
    bench.command("ask", epilog=_EPILOG)(ask)
    bench.command("growth", epilog=_EPILOG)(growth)
    app.add_typer(bench, name="bench", help="Measure speed, memory and cost on this machine, beside the alternatives.")


def absorb(
    file: _FileArgument,
    recall: Annotated[
        float, typer.Option("--recall", metavar="SHARE", help="Share of the held-back questions to be recalled.")
    ] = 0.5,
    rates: Annotated[
        str, typer.Option("--rates", metavar="R,R", help="Learning rates that Trainer is tuned over.")
    ] = "2e-4,5e-4,1e-3,2e-3",
    batches: Annotated[
        str, typer.Option("--batches", metavar="N,N", help="Batch sizes that Trainer at its best is tuned over.")
    ] = "8,16,32",
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Trainings of each side.")] = 3,
    every_s: Annotated[
        float, typer.Option("--every-s", metavar="S", help="Seconds of training between two probes.")
    ] = 5.0,
    limit_s: Annotated[
        float, typer.Option("--limit-s", metavar="S", help="Longest training; a side that needs more is stopped.")
    ] = 600.0,
    probes: Annotated[int, typer.Option("--probes", min=1, metavar="N", help="Held-back questions asked.")] = 64,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Absorbing with Lift beside transformers.Trainer with PEFT: seconds until a recall is reached.

    Both train the same adapter on the same examples. The learning rate of Trainer is tuned, and its best is reported,
    as anyone would write it and with its quickest options. Each training runs in a process of its own.
    """
    if not 0 < recall <= 1:
        raise UsageError(f"expected --recall with a share above 0 and up to 1, got {recall:g}")
    if every_s <= 0 or limit_s <= 0:
        raise UsageError(f"expected --every-s and --limit-s above 0, got {every_s:g} and {limit_s:g}")
    tried_rates = _numbers(rates, "--rates")
    tried_batches = [int(batch) for batch in _numbers(batches, "--batches", whole=True)]
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.absorb import Grid, bench_absorb, prepare_absorb
    from lift.bench.race import Goal
    from lift.models.load import load_model

    goal = Goal(recall, every_s, limit_s)
    bench = prepare_absorb(load_model(model, on_progress=remark), document, settings, goal, probes)
    grid = Grid(tried_rates, tried_batches, seeds)
    result = bench_absorb(bench, grid, say=remark)
    if as_json:
        write_json(result)
    else:
        _show_absorb(result)


def ask(
    file: _FileArgument,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="NAME",
            help="A memory of the library to ask.",
            show_default="an untrained one of the recipe's shape, which is as fast",
        ),
    ] = None,
    library: LibraryOption = None,
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N,N", help="Tokens of text, such as 1k,8k.")
    ] = "1k,4k,8k",
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, metavar="N", help="Measurements of each; the median counts.")
    ] = 3,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="Base model.", show_default="the memory's, else smollm2"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Asking a memory closed book beside reading the text: time to the first token, speed, memory.

    The text is cut or repeated to each length. It is read whole, truncated to 1,024 tokens, and as retrieved sentences.
    """
    sizes = _lengths(lengths)
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.ask import AskPlan, bench_ask, stored_memory
    from lift.memories.library import Library
    from lift.models.load import DEFAULT_MODEL, load_model

    kept = Library(library)[memory] if memory is not None else None
    base = load_model(model or (kept.manifest.base.id if kept else DEFAULT_MODEL), on_progress=remark)
    load = stored_memory(kept, base) if kept else None
    plan = AskPlan(lengths=sizes, repeats=repeats)
    result = bench_ask(base, document.text, plan, memory=load, adapter=settings.adapter, say=remark)
    if as_json:
        write_json(result)
    else:
        _show_ask(result)


def growth(
    file: _FileArgument,
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N,N", help="Tokens of text, such as 1k,16k.")
    ] = "1k,4k,16k,64k",
    tokens_per_sentence: Annotated[
        int, typer.Option("--tokens-per-sentence", min=1, metavar="N", help="Tokens trained for each sentence.")
    ] = 16,
    recipe: RecipeOption = "fast",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """How time and memory of absorbing grow with the text, for the same work on each sentence.

    The text is cut or repeated to each length, and each is absorbed in a process of its own.
    """
    sizes = _lengths(lengths)
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.growth import bench_growth
    from lift.models.load import load_model

    base = load_model(model, on_progress=remark)
    result = bench_growth(base, document, settings, sizes, tokens_per_sentence=tokens_per_sentence, say=remark)
    if as_json:
        write_json(result)
    else:
        _show_growth(result)


def _lengths(text: str) -> list[int]:
    sizes = [parse_tokens(part.strip(), "--lengths") for part in text.split(",") if part.strip()]
    if not sizes:
        raise UsageError(f"expected --lengths with numbers of tokens such as 1k,4k, got {text!r}")
    return sizes


def _numbers(text: str, option: str, whole: bool = False) -> list[float]:
    try:
        numbers = [float(int(part) if whole else float(part)) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise UsageError(f"expected {option} with {'whole ' * whole}numbers above 0, separated by commas, got {text!r}")
    return numbers


def _show_absorb(result: Mapping[str, Any]) -> None:
    text, recall = result["text"], f"{result['recall']:.0%}"
    _show_machine(result)
    lines, facts = [], []
    for row in result["rows"]:
        compared = result["speedup"].get(row["side"])
        lines.append(
            (
                row["side"],
                *_reached(row),
                f"{row['real_tokens_per_s']:.0f}",
                f"{row['needed_share']:.0%}",
                format_bytes(row["peak_bytes"]),
                _times(compared["seconds"]) if compared else "",
            )
        )
        facts.append((row["side"], _details(row, text["recipe"])))
    columns = ["side", "seconds", "spread", "tokens/s", "of bound", "memory", "Lift quicker"]
    title = f"Seconds of training until {recall} of {text['probes']} held-back questions are answered closed book"
    stdout().print(build_table(columns, lines, title=title))
    print_facts(facts)
    for note in [f"{text['text_tokens']:,} tokens of text, {text['examples']:,} examples an epoch", *result["notes"]]:
        stdout().print(f"- {note}", markup=False)


def _reached(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["reached"] < row["seeds"]:
        return f"not in {row['trained_s']['most']:.0f}", f"{row['reached']} of {row['seeds']}"
    seconds = row["reached_s"]
    return f"{seconds['median']:.1f}", f"{seconds['least']:.1f}-{seconds['most']:.1f}"


def _details(row: Mapping[str, Any], recipe: str) -> str:
    options = row["options"]
    how = f"{options['layout']}, batch {options['batch']}, rate {options['rate']:g}" if options else f"recipe {recipe}"
    return (
        f"{how}; {row['labelled_tokens_per_s']:.0f} tokens with loss a second, {row['computed_tokens_per_s']:.0f} "
        f"positions computed a second at {row['done_share']:.0%} of the bound"
    )


def _times(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "not known"
    return f"{'at least ' if ratio['at_least'] else ''}{ratio['times']:.1f}x"


def _show_ask(result: Mapping[str, Any]) -> None:
    _show_machine(result)
    lines = []
    for row in result["rows"]:
        way = {"none": "closed book", "full": "full text"}.get(row["context"], row["context"])
        if not row["fits"]:
            lines.append((f"{row['length']:,}", way, "too long", "", "", ""))
            continue
        ratio = result["speedup"]["first_token"].get(row["context"], {}).get(str(row["length"]))
        lines.append(
            (
                f"{row['length']:,}",
                way,
                f"{row['prompt_tokens']:,}",
                format_seconds(row["first_token_s"]),
                f"{row['tokens_per_s']:.1f}",
                f"{ratio:.1f}x" if ratio else "",
            )
        )
    columns = ["text", "asked", "prompt", "first token", "then tokens/s", "memory is sooner"]
    title = (
        f"One question at a time, closed book to a memory ({result['memory']}) or reading; text and prompt in tokens"
    )
    stdout().print(build_table(columns, lines, title=title))
    facts = [
        (f"{each['questions']} at once", f"{each['questions_per_s']:.2f} questions/s closed book")
        for each in result["in_flight"]
    ]
    for row in result["rows"]:
        if row["context"] == "full":
            facts.append(
                (
                    f"{row['length']:,} tokens",
                    f"{format_bytes(row['bytes'])} of keys and values, or a memory of "
                    f"{format_bytes(result['adapter_bytes'])}",
                )
            )
    switch = result["switch"]
    facts.append(("another memory", f"{format_seconds(switch['from_file_s'])} from its file"))
    facts.append(("", f"{1000 * switch['attached_s']:.1f} ms where it is attached already"))
    print_facts(facts)


def _show_growth(result: Mapping[str, Any]) -> None:
    _show_machine(result)
    lines = [
        (
            f"{row['tokens']:,}",
            f"{row['sentences']:,}",
            f"{row['tasks']:,}",
            format_seconds(row["prepare_s"]),
            format_seconds(row["train_s"]),
            format_seconds(row["seconds"]),
            format_bytes(row["peak_bytes"]),
        )
        for row in result["rows"]
    ]
    columns = ["tokens", "sentences", "questions", "preparing", "training", "together", "memory"]
    title = f"{result['settings']['tokens_per_sentence']} tokens trained for each sentence"
    stdout().print(build_table(columns, lines, title=title))
    named = {"prepare_s": "preparing", "train_s": "training", "seconds": "together", "peak_bytes": "memory"}
    print_facts(
        (named[key], "one length only" if slope is None else f"grows as tokens to the power of {slope:.2f}")
        for key, slope in result["slope"].items()
    )


def _show_machine(result: Mapping[str, Any]) -> None:
    machine = result["machine"]
    stdout().print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {machine['device']}",
        markup=False,
    )
