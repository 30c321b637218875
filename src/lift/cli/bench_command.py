"""`lift bench`: speed, memory and cost on this machine, beside the alternatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lift.cli.bench_tables import (
    show_absorb,
    show_ask,
    show_budgets,
    show_engine_faults,
    show_growth,
    show_parity,
    show_serve,
    show_threads,
)
from lift.cli.options import (
    BaseGgufOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    RecipeOption,
    SetOption,
    parse_duration,
    parse_tokens,
    read_documents,
)
from lift.cli.output import print_facts, remark, stdout, write_json
from lift.errors import UsageError

_EPILOG = """\b
Examples:
  lift bench absorb novel.txt --recall 0.5 --limit-s 600
  lift bench absorb a.md b.md c.md --keep results --json
  lift bench absorb novel.txt --recipe fast --rates 5e-4,1e-3,2e-3 --seeds 1 --json
  lift bench ask novel.txt
  lift bench ask novel.txt --memory novel --lengths 1k,4k
  lift bench ask novel.txt --llama-python other/bin/python
  lift bench growth novel.txt --lengths 1k,4k,16k,64k,160k --plots figures
  lift bench growth novel.txt --memories none
  lift bench serve
  lift bench serve --clients 16 --memories 8 --seconds 60 --context none --json
  lift bench budgets a.md b.pdf c.txt --runs 60 --shortest 30s --longest 5m --out budgets.jsonl
  lift bench threads examples/lease.md
  lift bench parity minutes lease --peers peft,llama.cpp
  lift bench limits --shape llama-8b --lengths 8k,32k,128k
  lift bench gpu --batch-tokens 2k,4k,8k
  lift bench service service.toml --seconds 120

Progress goes to standard error. Leave the machine alone meanwhile: everything is measured in one run."""

_FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="The text: a txt, md, html, pdf, docx or epub file; - is standard input.")
]
_PlotsOption = Annotated[
    Path | None, typer.Option("--plots", metavar="DIR", help="Write pictures of the result into DIR, as SVG.")
]


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    bench = typer.Typer(rich_markup_mode=None, no_args_is_help=True, epilog=_EPILOG)
    bench.command("absorb", epilog=_EPILOG)(absorb)
    bench.command("ask", epilog=_EPILOG)(ask)
    bench.command("growth", epilog=_EPILOG)(growth)
    bench.command("serve", epilog=_EPILOG)(serve)
    bench.command("engine", epilog=_EPILOG)(engine)
    bench.command("budgets", epilog=_EPILOG)(budgets)
    bench.command("threads", epilog=_EPILOG)(threads)
    bench.command("parity", epilog=_EPILOG)(parity)
    bench.command("limits", epilog=_EPILOG)(limits)
    bench.command("gpu", epilog=_EPILOG)(gpu)
    bench.command("service", epilog=_EPILOG)(service)
    app.add_typer(bench, name="bench", help="Measure speed, memory and cost on this machine, beside the alternatives.")


def absorb(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="The texts; Trainer is tuned on the first of them.")
    ],
    recall: Annotated[
        float, typer.Option("--recall", metavar="SHARE", help="Share of the held-out questions to be recalled.")
    ] = 0.5,
    rates: Annotated[
        str, typer.Option("--rates", metavar="R,R", help="Learning rates that Trainer is tuned over.")
    ] = "2e-4,5e-4,1e-3,2e-3",
    batches: Annotated[
        str, typer.Option("--batches", metavar="N,N", help="Batch sizes that Trainer at its best is tuned over.")
    ] = "8,16,32",
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Trainings of each side.")] = 3,
    every_s: Annotated[
        float,
        typer.Option("--every-s", metavar="S", help="Seconds of training between two probes; later a tenth more."),
    ] = 5.0,
    limit_s: Annotated[
        float, typer.Option("--limit-s", metavar="S", help="Longest training; a side that needs more is stopped.")
    ] = 600.0,
    probes: Annotated[int, typer.Option("--probes", min=1, metavar="N", help="Held-out questions asked.")] = 64,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep each training's result, and go on from there.")
    ] = None,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    plots: _PlotsOption = None,
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
    documents = [read_documents([file], None) for file in files]
    from lift.bench.absorb_bench import Grid, bench_absorb, prepare_absorb
    from lift.bench.plots import plot_absorb
    from lift.bench.processes import kept_in
    from lift.bench.race import Goal
    from lift.models.load import load_model

    goal = Goal(recall, every_s, limit_s)
    base = load_model(model, on_progress=remark)
    benches = [prepare_absorb(base, document, settings, goal, probes) for document in documents]
    del base  # each training loads its own
    grid = Grid(tried_rates, tried_batches, seeds)
    result = bench_absorb(benches, grid, say=remark, **({"run": kept_in(keep)} if keep else {}))
    _give_out(result, plot_absorb, plots, show_absorb, as_json)


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
    llama_python: Annotated[
        str | None,
        typer.Option(
            "--llama-python",
            metavar="PATH",
            help="An interpreter with llama-cpp-python, to be measured beside.",
            show_default="this one, where it has it",
        ),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option("--gguf", metavar="FILE", help="What llama.cpp runs.", show_default="the base model's own file"),
    ] = None,
    plots: _PlotsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asking a memory closed book beside reading the text: time to the first token, speed, memory.

    The text is cut or repeated to each length. It is read whole (anew for each question, and with its keys and values
    kept from the question before), truncated to 1,024 tokens, and as retrieved sentences. The base model's own speed is
    measured beside llama.cpp where there is one.
    """
    sizes = _token_counts(lengths, "--lengths")
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.ask_bench import AskPlan, bench_ask, stored_memory
    from lift.bench.llama_peer import find_llama
    from lift.bench.plots import plot_ask
    from lift.memories.library import MemoryLibrary
    from lift.models.load import DEFAULT_MODEL, load_model

    kept = MemoryLibrary(library)[memory] if memory is not None else None
    stored = kept.manifest.base.id if kept is not None and model is None else None
    base = load_model(stored or model or DEFAULT_MODEL, on_progress=remark, fetch=stored is None)
    load = stored_memory(kept, base) if kept else None
    plan = AskPlan(lengths=sizes, repeats=repeats)
    llama = find_llama(base, gguf, llama_python)
    result = bench_ask(base, document.text, plan, memory=load, adapter=settings.adapter, say=remark, llama=llama)
    _give_out(result, plot_ask, plots, show_ask, as_json)


def growth(
    file: _FileArgument,
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N,N", help="Tokens of text, such as 1k,16k.")
    ] = "1k,4k,16k,64k",
    tokens_per_sentence: Annotated[
        int, typer.Option("--tokens-per-sentence", min=1, metavar="N", help="Tokens trained for each sentence.")
    ] = 16,
    train_s: Annotated[
        float,
        typer.Option("--train-s", min=0, metavar="S", help="Seconds of another training, the same for each; 0: none."),
    ] = 30.0,
    memories: Annotated[
        str, typer.Option("--memories", metavar="N,N", help="Memories of libraries that are measured too, or none.")
    ] = "1,10,100,1000,10000",
    recipe: RecipeOption = "fast",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    plots: _PlotsOption = None,
    as_json: JsonOption = False,
) -> None:
    """How time and memory of absorbing grow with the text, for the same work on each sentence, and in the same time.

    The text is cut or repeated to each length, and each is absorbed in a process of its own. Libraries of many small
    memories are made in a temporary directory, and timed.
    """
    sizes = _token_counts(lengths, "--lengths")
    counts = [] if memories == "none" else [int(count) for count in _numbers(memories, "--memories", whole=True)]
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.growth_bench import bench_growth
    from lift.bench.library_bench import NOTE, bench_library
    from lift.bench.plots import plot_growth
    from lift.models.load import load_model

    base = load_model(model, on_progress=remark)
    result = bench_growth(
        base, document, settings, sizes, tokens_per_sentence=tokens_per_sentence, train_s=train_s, say=remark
    )
    if counts:
        result["library"] = bench_library(base, settings, counts, remark)
        result["settings"]["library"] = NOTE
    _give_out(result, plot_growth, plots, show_growth, as_json)


def serve(
    clients: Annotated[int, typer.Option("--clients", min=2, metavar="N", help="Who ask at the same time.")] = 64,
    memories: Annotated[int, typer.Option("--memories", min=1, metavar="N", help="Memories that are asked.")] = 32,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="S", help="Half with all clients, a quarter with one, one the naive server."),
    ] = 120.0,
    context: Annotated[
        str, typer.Option("--context", metavar="C", help="auto: each memory reads and recalls; none: closed book.")
    ] = "auto",
    rows: Annotated[
        int, typer.Option("--rows", min=2, metavar="N", help="Answers in the making at once, as for lift serve.")
    ] = 128,
    vllm_url: Annotated[
        str | None, typer.Option("--vllm-url", metavar="URL", help="A running vLLM, to be asked as Lift's engine too.")
    ] = None,
    llama_server: Annotated[
        Path | None, typer.Option("--llama-server", metavar="FILE", help="The program, to be Lift's engine too.")
    ] = None,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Many clients of `lift serve` beside one, and beside a naive server: answers a second, waiting, and mix-ups.

    Each memory of a temporary library holds a secret word; an answer with that of another is mixed, one that did not
    come is lost. Answers that were asked for in time are waited for.
    """
    from lift.bench.serve_bench import ServePlan, bench_serve

    plan = ServePlan(clients, memories, seconds, context, rows, vllm_url, llama_server)
    plan.check()
    from lift.models.load import load_model
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    result = bench_serve(load_model(model, on_progress=remark), settings, plan, say=remark)
    if as_json:
        write_json(result)
    else:
        show_serve(result)


def engine(
    vllm: Annotated[Path, typer.Option("--vllm", metavar="FILE", help="The program vllm, as in DIR/bin/vllm.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A line of JSON for each round; the same command goes on.")
    ],
    clients: Annotated[int, typer.Option("--clients", min=2, metavar="N", help="Who ask at the same time.")] = 64,
    memories: Annotated[int, typer.Option("--memories", min=2, metavar="N", help="Memories that are asked.")] = 32,
    resident: Annotated[
        int, typer.Option("--resident", min=1, metavar="N", help="Adapters that vLLM has loaded; others are evicted.")
    ] = 16,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="Of a round.")] = 600.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Rounds, one after the other.")] = 1,
    kills: Annotated[int, typer.Option("--kills", min=0, metavar="N", help="Times that vLLM is killed.")] = 2,
    replace_every_s: Annotated[
        float, typer.Option("--replace-every", metavar="S", help="A memory gets another secret so often.")
    ] = 15.0,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Many clients of `lift serve --engine vllm` while vLLM is killed, adapters are evicted and memories replaced.

    Counts answers that are lost, mixed (another memory's secret) or stale (a secret that was replaced before the
    question). vLLM takes plain LoRA alone: --set adapter.activated=false.
    """
    from lift.bench.engine_faults_bench import FaultsPlan, bench_engine_faults

    plan = FaultsPlan(vllm, clients, memories, resident, seconds, kills, replace_every_s)
    plan.check()
    from lift.models.load import load_model
    from lift.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    result = bench_engine_faults(load_model(model, on_progress=remark), settings, plan, rounds, out, say=remark)
    if as_json:
        write_json(result)
    else:
        show_engine_faults(result)


def budgets(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="The texts, absorbed in turn.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A line of JSON for each run; the same command goes on there.")
    ],
    runs: Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Absorptions.")] = 60,
    shortest: Annotated[str, typer.Option("--shortest", metavar="TIME", help="Shortest budget.")] = "30s",
    longest: Annotated[
        str, typer.Option("--longest", metavar="TIME", help="Longest; drawn log-uniformly, so that most are short.")
    ] = "5m",
    busy: Annotated[
        int, typer.Option("--busy", min=0, metavar="N", help="Most busy processes beside them, changing at random.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of budgets and load.")] = 0,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Whether budgets are kept on a machine whose load changes at random: memories made, the latest, told times.

    Each absorption is a process of its own, timed from its start to its end. Stopped at any point, the same command
    goes on.
    """
    from lift.bench.budgets_bench import BudgetsPlan, bench_budgets
    from lift.recipes.recipe import load_recipe

    load_recipe(recipe, overrides or ())
    plan = BudgetsPlan(
        tuple(files),
        runs,
        parse_duration(shortest),
        parse_duration(longest),
        seed,
        busy,
        recipe,
        tuple(overrides or ()),
        model,
    )
    result = bench_budgets(plan, out, say=remark)
    if as_json:
        write_json(result)
    else:
        show_budgets(result)


def threads(
    file: _FileArgument,
    loads: Annotated[
        str, typer.Option("--loads", metavar="N,N", help="Numbers of busy processes beside the measured one.")
    ] = "0,1,2",
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, metavar="S", help="Length of each measurement, after a warm-up.")
    ] = 8.0,
    recipe: RecipeOption = "default",
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Training, prefill and decoding with Lift's choice of threads, beside one thread, all spinning, and all passive.

    Each setting runs in a process of its own, on idle cores and beside busy ones that this command occupies.
    """
    from lift.recipes.recipe import load_recipe

    try:
        counts = [int(part) for part in loads.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UsageError(f"expected --loads with whole numbers from 0, separated by commas, got {loads!r}")
    settings = load_recipe(recipe, overrides or ())
    document = read_documents([file], None)
    from lift.bench.threads_bench import bench_threads

    result = bench_threads(model, document, settings, loads=counts, seconds=seconds, say=remark)
    if as_json:
        write_json(result)
    else:
        show_threads(result)


def limits(
    shape: Annotated[str, typer.Option("--shape", metavar="S", help="Shape of the model: llama-8b.")] = "llama-8b",
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N,N", help="Tokens of documents, such as 8k,32k.")
    ] = "8k,32k,128k",
    rank: Annotated[int, typer.Option("--rank", min=1, metavar="N", help="Rank of the adapter, a LoRA.")] = 16,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=1, metavar="N", help="Tokens of a batch of the training.")
    ] = 8192,
    utilisation: Annotated[
        float, typer.Option("--utilisation", metavar="SHARE", help="Share of the peak that trainings reach.")
    ] = 0.4,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="R,R", help="Gigabytes and hours of these recipes; all: of every published one."
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="A", help="With --recipe: lora, pissa, dora or gated-memory.")
    ] = None,
    quantization: Annotated[
        str, typer.Option("--quantization", metavar="Q", help="With --recipe: how the base is held: none, nf4 or int8.")
    ] = "none",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="With --recipe: activations are computed twice and not kept.")
    ] = False,
    overrides: SetOption = None,
    questions: Annotated[
        int, typer.Option("--questions", min=0, metavar="N", help="With --recipe: questions about each document.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Reckon a large model on one 80-GB GPU by arithmetic alone: nothing is measured, no weights are loaded.

    Prints a table of Markdown: of a LoRA of --rank, or with --recipe of what that recipe trains. Trainings of this size
    are reported to reach 0.35 to 0.5 of the dense bfloat16 peak.
    """
    sizes = _token_counts(lengths, "--lengths")
    if not 0 < utilisation <= 1:
        raise UsageError(f"expected --utilisation with a share above 0 and up to 1, got {utilisation:g}")
    from lift.bench import limits_bench as arithmetic

    if recipe is not None:
        from lift.bench import recipe_limits

        settings = [*(overrides or ()), *([f"adapter.kind={adapter}"] if adapter else [])]
        rows = recipe_limits.limits_of_recipes(
            arithmetic.shape_of(shape),
            recipe_limits.load_recipes(recipe, settings),
            [recipe_limits.Workload(size, questions) for size in sizes],
            quantization,
            checkpointing=checkpointing,
            utilisation=utilisation,
        )
        if as_json:
            write_json(recipe_limits.as_dict(rows))
        else:
            stdout().print(recipe_limits.as_markdown(rows), markup=False, soft_wrap=True, end="")
        return
    if adapter or overrides or checkpointing or questions or quantization != "none":
        raise UsageError(
            "expected --adapter, --quantization, --checkpointing, --questions and --set with --recipe, got them alone; "
            "add --recipe"
        )
    setting = arithmetic.Setting(rank=rank, batch_tokens=batch_tokens, utilisation=utilisation)
    result = arithmetic.limits(arithmetic.shape_of(shape), sizes, setting)
    if as_json:
        write_json(result)
    else:
        stdout().print(arithmetic.as_markdown(result), markup=False, soft_wrap=True, end="")


def gpu(
    shape: Annotated[str, typer.Option("--shape", metavar="S", help="Shape of the model: llama-8b.")] = "llama-8b",
    batch_tokens: Annotated[
        str, typer.Option("--batch-tokens", metavar="N,N", help="Tokens of a batch of the training, such as 2k,8k.")
    ] = "2k,8k",
    rows: Annotated[
        int, typer.Option("--rows", min=2, metavar="N", help="Questions answered at once, beside one alone.")
    ] = 32,
    as_json: JsonOption = False,
) -> None:
    """A large model's training and answers on this machine's GPU, measured, beside what `lift bench limits` reckons.

    The weights are random, which takes the time and the memory that trained ones take. Prints tables of Markdown.
    """
    sizes = _token_counts(batch_tokens, "--batch-tokens")
    from lift.bench.gpu_bench import as_markdown, bench_gpu, find_gpu

    result = bench_gpu(shape, sizes, rows, find_gpu(), say=remark)
    if as_json:
        write_json(result)
    else:
        stdout().print(as_markdown(result), markup=False, soft_wrap=True, end="")


def parity(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Memories of one base model.")],
    peers: Annotated[
        str, typer.Option("--peers", metavar="P,P", help="Out of peft, llama.cpp and vllm.")
    ] = "peft,llama.cpp,vllm",
    llama: Annotated[
        Path | None, typer.Option("--llama-server", metavar="FILE", help="The program.", show_default="from the PATH")
    ] = None,
    vllm: Annotated[
        Path | None, typer.Option("--vllm", metavar="FILE", help="The program.", show_default="from the PATH")
    ] = None,
    base_gguf: BaseGgufOption = None,
    questions: Annotated[
        int, typer.Option("--questions", min=1, metavar="N", help="At most so many held-out questions a memory.")
    ] = 100,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare Lift's answers with those of other programs that have the same memories."""
    from lift.memories.library import MemoryLibrary

    memories = [MemoryLibrary(library)[name] for name in names]
    from lift.bench.parity_bench import PEERS, bench_parity
    from lift.models.load import load_model

    asked = [part.strip() for part in peers.split(",") if part.strip()]
    if not asked or set(asked) - PEERS.keys():
        raise UsageError(f"expected --peers out of {', '.join(PEERS)}, got {peers!r}")
    programs = {peer: {"llama.cpp": llama, "vllm": vllm}.get(peer) for peer in asked}
    base = load_model(memories[0].manifest.base.id, dtype="float32", on_progress=remark, fetch=False)
    result = bench_parity(memories, base, programs, questions=questions, gguf=base_gguf, say=remark)
    if as_json:
        write_json(result)
    else:
        show_parity(result)


def service(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .toml file with the tables [costs] and [service]; docs/scale.md.")
    ],
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="How long the service is simulated.")] = 60.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the questions.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate a service of very many memories: queues, tiers, machines and money, from measured unit costs."""
    from dataclasses import asdict

    from lift.bench.service_simulation import read_service, simulate_service

    costs, wanted = read_service(file)
    found = asdict(simulate_service(costs, wanted, seconds, seed))
    if as_json:
        write_json({"costs": asdict(costs), "service": asdict(wanted), "seconds": seconds, "seed": seed, **found})
    else:
        print_facts([(name.replace("_", " "), f"{value:,.4g}") for name, value in found.items()])


def _give_out(
    result: Mapping[str, Any],
    plot: Callable[[Mapping[str, Any]], Mapping[str, str]],
    plots: Path | None,
    show: Callable[[Mapping[str, Any]], None],
    as_json: bool,
) -> None:
    """Pictures where they are asked for, then the result itself."""
    if plots is not None:
        from lift.bench.plots import write_plots

        write_plots(plot(result), plots)
    if as_json:
        write_json(result)
    else:
        show(result)


def _token_counts(text: str, option: str) -> list[int]:
    sizes = [parse_tokens(part.strip(), option) for part in text.split(",") if part.strip()]
    if not sizes:
        raise UsageError(f"expected {option} with numbers of tokens such as 1k,4k, got {text!r}")
    return sizes


def _numbers(text: str, option: str, whole: bool = False) -> list[float]:
    try:
        numbers = [float(int(part) if whole else float(part)) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise UsageError(f"expected {option} with {'whole ' * whole}numbers above 0, separated by commas, got {text!r}")
    return numbers
