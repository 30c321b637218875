"""`lift evaluate`: memories beside reading, retrieval and doing nothing, on a benchmark or on your own questions."""

from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lift.cli import progress
from lift.cli.options import JsonOption, ModelOption, SetOption, parse_duration, parse_tokens
from lift.cli.output import build_table, format_seconds, stdout, write_json
from lift.cli.stopping import stopped_by_signals

if TYPE_CHECKING:
    from lift.evaluation.evaluation_events import EvaluationEvent
    from lift.evaluation.run import Evaluation
    from lift.evaluation.suite_plan import RunPlan

# The suites by name, as lift.evaluation.suites lists them: --help must not import them.
SUITES = {
    "qa": "your own questions: JSONL of documents with questions and answers",
    "squad": "SQuAD or XQuAD: extractive questions on Wikipedia articles",
    "loogle": "LooGLE: short- and long-dependency questions on long documents",
    "qmsum": "QMSum: query-focused summaries of meetings",
    "narrativeqa": "NarrativeQA: questions on books and film scripts",
    "longbench": "LongBench v1: its sixteen English and five Chinese tasks, official prompts and metrics",
    "longbench2": "LongBench v2: multiple choice on long texts",
    "niah": "a needle in a haystack: a grid of lengths and depths",
    "ruler": "RULER: needles and variable tracking, generated",
}
_EPILOG = """\b
Examples:
  lift evaluate qa --data questions.jsonl --budget 5m --out report
  lift evaluate squad --data xquad_en.jsonl --limit 12 --methods full,bm25,lift:none,lift:auto --out report
  lift evaluate squad --data xquad_en.jsonl --limit 6 --budget 8m --out report \\
      --methods lift:none,lift:auto,lift:none@portable,lift:auto@portable    two recipes at equal seconds
  lift evaluate niah --lengths 1k,4k --depths 0,0.5,1 --data novel.txt --out report
  lift evaluate run plan.toml --data benchmarks --out report    several suites in one run
  lift evaluate paper --table 2 --model MODEL --data DATA --out table-2    a published table, beside its numbers
  lift evaluate compare report other-report
  lift evaluate break-even report                               run both ways, count the seconds

Killed at any point, the same command goes on. It writes results.jsonl, costs.jsonl, harms.jsonl, report.md and
report.html."""
_SUITE_EPILOG = """\b
Methods: closed-book, truncated, full, bm25, embeddings, hybrid, oracle, finetune-raw, lift:none, lift:greedy,
lift:truncated, lift:evidence, lift:auto, wrong-document; NAME@RECIPE is one with a memory of that recipe, such as
lift:none@lift-v3. --set changes these recipes too, and no baseline.
tuned:closed-book, tuned:truncated, tuned:full, tuned:bm25, tuned:embeddings, tuned:hybrid, tuned:oracle: the same
reading, by the base at the warm start of the recipe's memories."""

_PAPER_EPILOG = """\b
Tables: 2, 2-gemma, 3, 4, 5, 6 of LIFT v3; loogle-v5, niah-v5 and efficiency-v5 of LIFT v5.
Data below --data: loogle/shortdep_qa.jsonl and longdep_qa.jsonl (bigai-nlco/LooGLE), longbench/NAME.jsonl (data.zip of
THUDM/LongBench), niah/paul_graham_essays.txt (any long text)."""

_OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results and report go.")]
_DataOption = Annotated[Path | None, typer.Option("--data", metavar="PATH", help="The file or directory of the data.")]
_BudgetOption = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Time for each absorption: 90s, 10m, 1h.")
]
_QuestionsLimitOption = Annotated[
    int | None,
    typer.Option("--questions-limit", metavar="N", help="Only the first so many questions of a document."),
]
_SkipOption = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without faulty lines of the data; the report counts them.")
]
_JudgeOption = Annotated[
    str | None,
    typer.Option("--judge", metavar="MODEL", help="Let this model at OPENAI_BASE_URL judge the answers as well."),
]
_LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--judge-labels", metavar="FILE", help="Labelled answers to measure the judge on.", show_default="built in"
    ),
]
_RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The --out of an evaluation.")]


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    evaluate = typer.Typer(rich_markup_mode=None, no_args_is_help=True, epilog=_EPILOG)
    for name, summary in SUITES.items():
        evaluate.command(name, help=f"{summary[:1].upper()}{summary[1:]}.", epilog=_SUITE_EPILOG)(_suite_command(name))
    evaluate.command("run", epilog=_SUITE_EPILOG)(run_plan)
    evaluate.command("paper", epilog=_PAPER_EPILOG)(paper)
    evaluate.command("compare", epilog=_EPILOG)(compare)
    evaluate.command("report", epilog=_EPILOG)(report)
    evaluate.command("break-even", epilog=_EPILOG)(break_even)
    app.add_typer(evaluate, name="evaluate", help="Measure memories beside reading, retrieval and doing nothing.")


def _suite_command(suite: str) -> Any:
    def command(
        out: _OutOption,
        data: _DataOption = None,
        methods: Annotated[
            str | None, typer.Option("--methods", metavar="M,M", help="Methods, separated by commas.")
        ] = None,
        recipe: Annotated[
            str,
            typer.Option("--recipe", metavar="R", help="How memories are absorbed: a recipe's name or a .toml file."),
        ] = "default",
        overrides: SetOption = None,
        budget: _BudgetOption = None,
        limit: Annotated[
            int | None, typer.Option("--limit", metavar="N", help="Only the first so many documents.")
        ] = None,
        questions_limit: _QuestionsLimitOption = None,
        excerpt: Annotated[
            str | None,
            typer.Option(
                "--excerpt", metavar="TOKENS", help="Cut each text to a window of so many tokens, such as 4k."
            ),
        ] = None,
        per: Annotated[
            str | None, typer.Option("--per", metavar="U", help="squad: article or paragraph, what one memory holds.")
        ] = None,
        tasks: Annotated[
            str | None, typer.Option("--tasks", metavar="T,T", help="longbench, ruler: only these tasks.")
        ] = None,
        lengths: Annotated[
            str | None, typer.Option("--lengths", metavar="N,N", help="niah, ruler: lengths in tokens, such as 1k,8k.")
        ] = None,
        depths: Annotated[
            str | None, typer.Option("--depths", metavar="D,D", help="niah: depths as shares, such as 0,0.5,1.")
        ] = None,
        needle: Annotated[
            str | None, typer.Option("--needle", metavar="TEXT", help="niah: this needle in every text.")
        ] = None,
        question: Annotated[
            str | None, typer.Option("--question", metavar="TEXT", help="niah: what is asked about the --needle.")
        ] = None,
        keywords: Annotated[
            str | None,
            typer.Option("--keywords", metavar="W,W", help="niah: what a right answer about the --needle must hold."),
        ] = None,
        needles: Annotated[
            int | None, typer.Option("--needles", metavar="N", help="niah: needles in one text, each at its own depth.")
        ] = None,
        samples: Annotated[
            int | None, typer.Option("--samples", metavar="N", help="niah, ruler: texts for each cell of the grid.")
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="niah, ruler: what is drawn.")] = None,
        retrieved: Annotated[
            int, typer.Option("--retrieved", metavar="N", help="Sentences that retrieval brings.")
        ] = 3,
        model: ModelOption = "smollm2",
        judge: _JudgeOption = None,
        judge_labels: _LabelsOption = None,
        skip_bad: _SkipOption = False,
        as_json: JsonOption = False,
    ) -> None:
        from lift.evaluation.suite_plan import RunPlan

        settings: dict[str, Any] = {
            "name": suite,
            "data": data,
            "budget_s": parse_duration(budget) if budget else None,
            "limit": limit,
            "questions_limit": questions_limit,
            "excerpt_tokens": parse_tokens(excerpt, "--excerpt") if excerpt else None,
            "per": per,
            "tasks": _parts(tasks),
            "lengths": [parse_tokens(part, "--lengths") for part in _parts(lengths) or []] or None,
            "depths": _parts(depths),
            "needle": needle,
            "question": question,
            "keywords": _parts(keywords),
            "needles": needles,
            "samples": samples,
            "seed": seed,
        }
        values: dict[str, Any] = {
            "suite": [{key: value for key, value in settings.items() if value is not None}],
            "recipe": recipe,
            "overrides": overrides or (),
            "retrieved_sentences": retrieved,
        }
        if methods:
            values["methods"] = _parts(methods)
        plan = RunPlan.parse(values, f"lift evaluate {suite}")
        _evaluate(plan, out, model, judge, judge_labels, skip_bad, as_json)

    return command


def run_plan(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A TOML file: methods, recipe, and [[suite]] tables.")],
    out: _OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="What the plan's paths are relative to.", show_default="the plan's directory"
        ),
    ] = None,
    model: ModelOption = "smollm2",
    judge: _JudgeOption = None,
    judge_labels: _LabelsOption = None,
    skip_bad: _SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Several suites in one run, as a plan file says."""
    from lift.evaluation.suite_plan import load_plan

    _evaluate(load_plan(plan, data), out, model, judge, judge_labels, skip_bad, as_json)


def paper(
    out: _OutOption,
    table: Annotated[str, typer.Option("--table", metavar="T", help="Which published table; see below.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where the data files are, as named below.")
    ] = Path("data"),
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only the first so many documents of each suite.")
    ] = None,
    questions_limit: _QuestionsLimitOption = None,
    budget: _BudgetOption = None,
    overrides: SetOption = None,
    model: ModelOption = "smollm2",
    judge: _JudgeOption = None,
    judge_labels: _LabelsOption = None,
    skip_bad: _SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """A published table: its plan, its prompts, its judge, and its numbers next to the measured ones.

    Says what a run over all data takes on one 80-GB GPU, by arithmetic. With --judge the answers are judged twice: in
    LooGLE's words, as published, and in Lift's. Writes paper.md beside the report.
    """
    from lift.bench.paper_cost import cost_of_table
    from lift.evaluation.paper.paper_comparison import as_markdown, compare_table
    from lift.evaluation.paper.paper_table import load_table
    from lift.evaluation.run_files import load_run

    published = load_table(table)
    budget_s = parse_duration(budget) if budget else None
    plan = published.plan_on(
        data, limit=limit, questions_limit=questions_limit, budget_s=budget_s, overrides=overrides or ()
    )
    evaluation, stop = _open(plan, out, model, judge, judge_labels, skip_bad, as_json, is_paper=True)
    cost = cost_of_table(plan, evaluation.offsets, evaluation.quantization)
    _follow(evaluation, stop, as_json)
    run = load_run(out)
    cells = compare_table(published, run.results, run.costs)
    page = out / "paper.md"
    held_as = evaluation.held_as
    shown = as_markdown(published, cells, str(cost), model=str(run.description["model"]), held_as=held_as)
    page.write_text(shown, "utf-8")
    if as_json:
        told = {"cells": [cell.as_dict() for cell in cells], "cost": cost.as_dict(), "held_as": held_as}
        write_json({**told, "written": str(page)})
        return
    _finish(evaluation, as_json)
    stdout().print(shown, markup=False, soft_wrap=True, end="")
    stdout().print(f"written: {page}", markup=False, soft_wrap=True)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The --out of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The --out of another one.")],
    as_json: JsonOption = False,
) -> None:
    """Two evaluations question by question: what changed, and whether it is more than chance."""
    from lift.evaluation.report.run_comparison import compare as compare_runs
    from lift.evaluation.run_files import load_run

    comparison = compare_runs(load_run(first), load_run(second))
    if as_json:
        write_json(comparison.as_dict())
        return
    columns, *rows = comparison.rows()
    stdout().print(build_table(columns, rows, title=f"{second} beside {first}"))
    for line in comparison.remarks():
        stdout().print(line, markup=False)


def report(directory: _RunArgument, as_json: JsonOption = False) -> None:
    """Write report.md and report.html again from the results."""
    from lift.evaluation.report.write import write_report
    from lift.evaluation.run_files import load_run

    written = [str(path) for path in write_report(load_run(directory))]
    if as_json:
        write_json({"written": written})
    else:
        stdout().print("\n".join(written), markup=False)


def break_even(
    directory: _RunArgument,
    rival: Annotated[str, typer.Option("--against", metavar="M", help="The method that reads.")] = "full",
    document: Annotated[
        str | None, typer.Option("--document", metavar="ID", help="Which one.", show_default="the one that pays first")
    ] = None,
    most_questions: Annotated[
        int, typer.Option("--most-questions", metavar="N", help="Stop after so many questions in each way.")
    ] = 500,
    keeps_text: Annotated[
        bool,
        typer.Option(
            "--keep-text", help="Keep the text's keys and values between questions, as a server for it would."
        ),
    ] = False,
    model: ModelOption = "smollm2",
    as_json: JsonOption = False,
) -> None:
    """Absorb a document anew, ask as many questions as should pay for it, read for the same, and count the seconds."""
    from lift.evaluation.break_even import BreakEvenProgress, check_break_even, find_candidate
    from lift.evaluation.report.write import write_report
    from lift.evaluation.run_files import BREAK_EVEN_FILE, PLAN_FILE, load_run, write_value
    from lift.evaluation.suite_plan import load_plan

    candidate = find_candidate(load_run(directory), rival, document)
    base = progress.load_shown_model(model, as_json)
    display = progress.open_display(as_json)
    result: dict[str, Any] = {}
    display.say(f"{candidate.document}: the run says it pays after {candidate.questions} questions; absorbing it anew")
    plan = load_plan(directory / PLAN_FILE)
    for event in check_break_even(candidate, plan, base, rival, most_questions, keeps_text=keeps_text):
        if not isinstance(event, BreakEvenProgress):
            result = event
        elif event.way == "absorbing":
            display.say(f"absorbing, {format_seconds(event.seconds)} left")
        elif event.done in (0, event.total) or event.done % 20 == 0:
            asked = f" {event.done} of {event.total} questions," if event.total else ""
            display.say(f"{event.way}:{asked} {format_seconds(event.seconds)}")
    display.close()
    write_value(directory / BREAK_EVEN_FILE, result)
    write_report(load_run(directory))
    if as_json:
        write_json(result)
        return
    measured = result["measured_questions"]
    found = f"after {measured} questions" if measured else f"not within {result['measured'][-1]['questions']} questions"
    predicted = result["predicted_questions"]
    expected = f"after {predicted} questions" if predicted else "never"
    stdout().print(f"predicted: {expected}; measured: {found}", markup=False)


def _parts(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _evaluate(
    plan: RunPlan,
    out: Path,
    model: str,
    judge_model: str | None,
    judge_labels: Path | None,
    skip_bad: bool,
    as_json: bool,
) -> None:
    evaluation, stop = _open(plan, out, model, judge_model, judge_labels, skip_bad, as_json)
    _follow(evaluation, stop, as_json)
    _finish(evaluation, as_json)


def _open(
    plan: RunPlan,
    out: Path,
    model: str,
    judge_model: str | None,
    judge_labels: Path | None,
    skip_bad: bool,
    as_json: bool,
    *,
    is_paper: bool = False,
) -> tuple[Evaluation, threading.Event]:
    """The evaluation, and what stops it; `is_paper`: with the judge of the published tables beside Lift's."""
    from lift.evaluation.judge import SAMPLE_PATH, open_judge
    from lift.evaluation.paper.loogle_judge import open_loogle_judge
    from lift.evaluation.remote_reader import open_remote_reader
    from lift.evaluation.run import Evaluation

    stop = threading.Event()
    judge = open_judge(judge_model, out) if judge_model else None
    loogle_judge = open_loogle_judge(judge_model, out) if judge_model and is_paper else None
    remote = open_remote_reader(model) if model.startswith("openai:") else None
    evaluation = Evaluation(
        plan,
        out,
        progress.load_shown_model(model, as_json) if remote is None else None,
        command="lift " + shlex.join(sys.argv[1:]),
        remote=remote,
        judge=judge,
        loogle_judge=loogle_judge,
        judge_labels=judge_labels or SAMPLE_PATH,
        skip_bad=skip_bad,
        stop=stop,
    )
    return evaluation, stop


def _follow(evaluation: Evaluation, stop: threading.Event, as_json: bool) -> None:
    display = progress.open_display(as_json)
    try:
        with stopped_by_signals(stop, display.say) as safe_stops:
            safe_stops.set()
            for event in evaluation.run():
                _show(event, display)
    finally:
        display.close()


def _show(event: EvaluationEvent, display: progress.Display) -> None:
    from lift.absorbing.absorption_events import Prepared, Probing, Trained
    from lift.evaluation.evaluation_events import Answered, AskingProgress, SuiteRead

    match event:
        case SuiteRead():
            left_out = f", {event.left_out} left out by the excerpts" if event.left_out else ""
            display.say(f"{event.suite}: {event.documents} documents, {event.questions} questions{left_out}")
            for fault in event.faults:
                display.say(f"warning: {fault}")
        case AskingProgress():
            display.count(f"{event.document[:30]}: {event.method}", event.asked, event.questions, event.eta_s)
        case Answered():
            errors = f", {event.errors} errors" if event.errors else ""
            metric = event.metric.replace("f1", "F1")
            known = " (known)" if event.reused else f", {format_seconds(event.eta_s)} left"
            display.say(
                f"{event.done}/{event.total} {event.suite}, {event.document[:40]}: {event.method} "
                f"{metric} {100 * event.score:.1f} over {event.questions} questions{errors}{known}"
            )
        case _:
            if isinstance(event.event, Prepared):
                display.say(f"{event.suite}, {event.document[:40]}: absorbing it, recipe {event.recipe}")
                display.wait("measuring the speed of this machine")
            elif isinstance(event.event, Trained):
                display.step(event.event)
            elif isinstance(event.event, Probing):
                progress.show_probing(display, event.event)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _finish(evaluation: Evaluation, as_json: bool) -> None:
    from lift.evaluation.report.write import write_report
    from lift.evaluation.run_files import RESULTS_FILE, load_run

    run = load_run(evaluation.out)
    written = write_report(run)
    summary = evaluation.summary()
    if as_json:
        write_json(
            {"results": str(evaluation.out / RESULTS_FILE), "report": [str(path) for path in written], **summary}
        )
        return
    rows = [
        (
            row["suite"],
            row["method"],
            row["metric"],
            f"{100 * row['mean']:.1f}",
            str(row["questions"]),
            str(row["errors"]),
        )
        for row in summary["means"]
    ]
    stdout().print(build_table(["suite", "method", "metric", "mean %", "questions", "errors"], rows))
    if summary["abstention"]:
        refusals = [
            (row["suite"], row["method"], str(row["unanswerable"]), *map(_percent, (row["f1"], row["false_refusals"])))
            for row in summary["abstention"]
        ]
        columns = ["suite", "method", "unanswerable", "F1 of refusing %", "answerable refused %"]
        stdout().print(build_table(columns, refusals))
    if summary["faults"]:
        stdout().print(f"{summary['faults']} faults in the data were passed over; run.json names them", markup=False)
    # a path that is broken at the end of a line cannot be copied
    stdout().print("\n".join(f"written: {path}" for path in written), markup=False, soft_wrap=True)
