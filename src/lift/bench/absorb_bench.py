"""Absorbing with Lift beside transformers.Trainer with PEFT: the seconds until a stated recall is reached.

Same model, tasks, examples, adapter shape and machine, one training at a time, each in a process of its own. Lift
trains as its recipe says. Trainer is run honestly: its learning rate (and, at its best, its batch size and layout) is
tuned on the first text and seed, and only the best is counted. Writing the tasks is the same for all and is not
counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from lift.absorbing.preparation import prepare_document
from lift.absorbing.task_writing import TaskWriter
from lift.bench.arithmetic import Spread, speedup
from lift.bench.fixed_batches import fixed_batch_sampler
from lift.bench.machine import describe_machine
from lift.bench.processes import JobRunner, in_own_process
from lift.bench.race import Goal
from lift.bench.side import SideRun
from lift.bench.trainer_side import Layout, TrainerOptions, lora_config
from lift.documents.document import Document
from lift.errors import DocumentError, UsageError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe

LIFT, TRAINER, BEST = "lift", "trainer", "trainer-best"
USUAL_BATCH = 16
NOTES = (
    "seconds of training alone: not the loading, the writing of the tasks (the same for all) or the probing",
    "all sides train on the examples of one epoch of the recipe's batch sampler, the same in every epoch. Trainer "
    "shows them as often as the recipe has epochs, weighs every label alike, and lowers its rate linearly; A and B "
    "have one rate on all sides, and the adapter acts everywhere (training.lora_plus_ratio is 1 and "
    "adapter.activated false, whatever the recipe says)",
    "trainer: random batches of 16, padded, full logits; trainer-best: the quicker of batches of like length "
    "(train_sampling_strategy) and packed ones (DataCollatorWithFlattening), by real tokens a second in a short trial, "
    "and the best of the batch sizes",
    "Trainer has no option for logits at the labels alone: use_liger_kernel needs a GPU kernel package",
    "needed share of the bound: operations for the examples' own tokens, as if nothing were shared, and for logits at "
    "labels: 4 a parameter of the frozen matrices, 2 of those below the adapter, 6 of the adapter's, beside "
    "torch.matmul at the model's shapes; attention is left out. In the details: the share that was computed",
)


@dataclass(frozen=True)
class AbsorbBench:
    """The setting that all sides share on one text; made by prepare_absorb."""

    job: Mapping[str, Any]
    facts: Mapping[str, Any]
    machine: Mapping[str, Any]
    goal: Goal


@dataclass(frozen=True)
class Grid:
    """The grid that Trainer is tuned over, the seeds that all sides run, and how long the trial of a layout takes."""

    rates: Sequence[float] = (2e-4, 5e-4, 1e-3, 2e-3)
    batches: Sequence[int] = (8, 16, 32)
    seeds: int = 3
    trial_s: float = 15.0


def prepare_absorb(base: BaseModel, document: Document, recipe: Recipe, goal: Goal, probes: int) -> AbsorbBench:
    """Write the tasks, at most `probes` of them for the recall; the model is not needed any more afterwards.

    Raises UsageError for a recipe that Trainer cannot follow, DocumentError where no task is held out.
    """
    lora_config(base.model, recipe.adapter)
    if recipe.objective.distillation:
        raise UsageError(
            f"expected a recipe without distillation, which Trainer does not have, got {recipe.name}; "
            "use --set objective.distillation=0"
        )
    one_rate = recipe.training.model_copy(update={"lora_plus_ratio": 1.0})
    everywhere = recipe.adapter.model_copy(update={"activated": False})
    recipe = recipe.model_copy(update={"training": one_rate, "adapter": everywhere})
    made = prepare_document(document, base, recipe)
    tasks = [task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks]
    examples = fixed_batch_sampler(made, tasks, base, recipe).examples()
    held_out = sum(task.held_out for task in tasks)
    if not held_out or not examples:
        raise DocumentError(
            f"{document.source}: expected tasks to train on and to hold out, got {len(examples)} and {held_out}; "
            "give a longer text"
        )
    return AbsorbBench(
        job={
            "kind": "absorb",
            "model": base.id,
            "recipe": recipe.model_dump(mode="json"),
            "document": {"title": document.title, "text": document.text},
            "tasks": [asdict(task) for task in tasks],
            "probes": probes,
        },
        facts={
            "text_tokens": made.tokens,
            "examples": len(examples),
            "tokens": sum(len(example.ids) for example in examples),
            "labelled_tokens": sum(example.labelled_tokens for example in examples),
            "epochs": recipe.training.segment_epochs + recipe.training.epochs,
            "probes": min(probes, held_out),
            "recipe": recipe.name,
            "title": document.title,
        },
        machine=describe_machine(base.device),
        goal=goal,
    )


def bench_absorb(
    benches: Sequence[AbsorbBench], grid: Grid, *, say: Callable[[str], None], run: JobRunner = in_own_process
) -> dict[str, Any]:
    """Run all sides on each text and compare; `say` is told of every training. Raises BenchError."""
    return _Comparison(benches, grid, say, run).result()


class _Comparison:
    def __init__(self, benches: Sequence[AbsorbBench], grid: Grid, say: Callable[[str], None], run: JobRunner) -> None:
        self.benches = benches
        self.bench = benches[0]
        self.grid = grid
        self.say = say
        self.run = run
        self.tried: list[dict[str, Any]] = []

    def result(self) -> dict[str, Any]:
        options, first = self._tuned()
        texts = [self._compare(options, first)]
        for bench in self.benches[1:]:
            self.bench = bench
            texts.append(self._compare(options, {}))
        return {
            "machine": dict(self.bench.machine),
            "recall": self.bench.goal.recall,
            "limit_s": self.bench.goal.limit_s,
            "texts": texts,
            "rows": [{"text": text["facts"]["title"], **row} for text in texts for row in text["rows"]],
            "trainings": self.tried,
            "speedup": {side: _over_texts([text["speedup"][side] for text in texts]) for side in (TRAINER, BEST)},
            "notes": list(NOTES),
        }

    def _tuned(self) -> tuple[dict[str, TrainerOptions | None], dict[str, SideRun]]:
        """The options of each side, and its training on the first text and seed with them."""
        first = {LIFT: self._train(LIFT, None, 0, self.bench.goal)}
        options: dict[str, TrainerOptions | None] = {LIFT: None}
        layout = self._quickest_layout()
        for side, candidates in (
            (TRAINER, [TrainerOptions("padded", USUAL_BATCH, rate) for rate in self.grid.rates]),
            (BEST, [TrainerOptions(layout, batch, rate) for batch, rate in self._pairs()]),
        ):
            options[side], first[side] = self._tune(side, candidates)
        return options, first

    def _compare(self, options: Mapping[str, TrainerOptions | None], known: Mapping[str, SideRun]) -> dict[str, Any]:
        """All sides and seeds on the text at hand; `known` are trainings of the first seed that are done."""
        runs: dict[str, list[SideRun]] = {side: [] for side in options}
        # all sides of a seed in turn, so that a machine that slows down slows all
        for seed in range(self.grid.seeds):
            for side, chosen in options.items():
                done = known.get(side) if seed == 0 else None
                runs[side].append(done or self._train(side, chosen, seed, self.bench.goal))
        return {
            "facts": dict(self.bench.facts),
            "rows": [_row(side, options[side], done) for side, done in runs.items()],
            "speedup": {side: _compared(runs[LIFT], runs[side]) for side in (TRAINER, BEST)},
        }

    def _pairs(self) -> list[tuple[int, float]]:
        return list(itertools.product(self.grid.batches, self.grid.rates))

    def _quickest_layout(self) -> Layout:
        trial = Goal(None, self.grid.trial_s, self.grid.trial_s)
        layouts: tuple[Layout, Layout] = ("by-length", "packed")
        speeds = {
            layout: self._train(BEST, TrainerOptions(layout, USUAL_BATCH, self.grid.rates[0]), 0, trial)
            for layout in layouts
        }
        return max(layouts, key=lambda layout: speeds[layout].real_tokens_per_s)

    def _tune(self, side: str, candidates: Sequence[TrainerOptions]) -> tuple[TrainerOptions, SideRun]:
        """The options that reach the recall first; where none does, those with the most recall at the end."""
        found: list[tuple[TrainerOptions, SideRun]] = []
        goal = self.bench.goal
        for options in candidates:
            run = self._train(side, options, 0, goal)
            found.append((options, run))
            if run.reached_s is not None:
                # what is not there by then is not the best: the rest of its training would tell nothing
                goal = replace(goal, limit_s=min(goal.limit_s, run.trained_s))
        return min(found, key=lambda pair: (pair[1].reached_s or float("inf"), -(pair[1].recall or 0.0)))

    def _train(self, side: str, options: TrainerOptions | None, seed: int, goal: Goal) -> SideRun:
        settings = asdict(options) if options else None
        run = SideRun(**self.run({**self.bench.job, **asdict(goal), "seed": seed, "options": settings}))
        if goal.recall is None:
            outcome = f"{run.real_tokens_per_s:.0f} tokens/s"
        elif run.reached_s is not None:
            outcome = f"recall {goal.recall:.0%} after {run.reached_s:.0f} s"
        else:
            outcome = f"recall {run.recall or 0.0:.0%} after {run.trained_s:.0f} s, not {goal.recall:.0%}"
        how = f", {options.layout}, batch {options.batch}, rate {options.rate:g}" if options else ""
        self.say(f"{side}{how}, seed {seed}: {outcome}")
        if options:
            self.tried.append(
                {
                    "text": self.bench.facts["title"],
                    "side": side,
                    "seed": seed,
                    **asdict(options),
                    "reached_s": run.reached_s,
                    "trained_s": run.trained_s,
                    "recall": run.recall,
                    "real_tokens_per_s": run.real_tokens_per_s,
                }
            )
        return run


def _row(side: str, options: TrainerOptions | None, runs: Sequence[SideRun]) -> dict[str, Any]:
    reached = [run.reached_s for run in runs if run.reached_s is not None]
    measured = (
        "real_tokens_per_s",
        "labelled_tokens_per_s",
        "computed_tokens_per_s",
        "matmul_flops_per_s",
        "needed_flops_per_token",
        "needed_share",
        "done_share",
        "peak_bytes",
    )
    return {
        "side": side,
        "options": asdict(options) if options else None,
        "seeds": len(runs),
        "reached": len(reached),
        "reached_s": asdict(Spread.of(reached)) if reached else None,
        "trained_s": asdict(Spread.of([run.trained_s for run in runs])),
        **{name: median(getattr(run, name) for run in runs) for name in measured},
        "runs": [run.as_dict() for run in runs],
    }


def _compared(ours: Sequence[SideRun], others: Sequence[SideRun]) -> dict[str, Any]:
    """Lift beside one other side, each ratio above 1 where Lift is better."""
    ratio = speedup(
        [run.reached_s for run in ours], [run.reached_s for run in others], [run.trained_s for run in others]
    )

    def ratio_of(name: str, invert: bool = False) -> float:
        own, other = (median(getattr(run, name) for run in runs) for runs in (ours, others))
        return float(other / own if invert else own / other)

    return {
        "seconds": ratio.as_dict() if ratio else None,
        "real_tokens_per_s": ratio_of("real_tokens_per_s"),
        "peak_bytes": ratio_of("peak_bytes", invert=True),
    }


def _over_texts(compared: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the texts; with the least and the most of the seconds' ratio."""
    seconds = [each["seconds"] for each in compared]
    pooled = None
    if all(seconds):
        times = asdict(Spread.of([each["times"] for each in seconds]))
        pooled = {
            "times": times["median"],
            "least": times["least"],
            "most": times["most"],
            "at_least": any(each["at_least"] for each in seconds),
        }
    rest = {name: median(each[name] for each in compared) for name in ("real_tokens_per_s", "peak_bytes")}
    return {"seconds": pooled, **rest}
