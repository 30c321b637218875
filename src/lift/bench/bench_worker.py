"""The process of one job: `python -m lift.bench.bench_worker JOB RESULT`, both files of JSON.

A job has a `kind`, a `model`, a `recipe` and a `document` (its title and text), and what its kind needs beside:

absorb   `tasks`, `seed`, `probes`, `recall`, `every_s`, `limit_s`, and `options` of Trainer, null for Lift
growth   `tokens_per_sentence`, and `train_s`, 0 for no training of a given time
threads  `seconds` for each kind of work
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lift.bench.growth_bench import absorb_some
from lift.bench.race import Goal
from lift.bench.side import run_side
from lift.bench.threads_bench import measure_threads
from lift.bench.trainer_side import TrainerOptions
from lift.documents.document import Document
from lift.errors import LiftError, UsageError
from lift.models.load import load_model
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task


def perform(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do the job in this process; raises LiftError, UsageError for a kind that there is not."""
    if job["kind"] not in ("absorb", "growth", "threads"):
        raise UsageError(
            f"expected a job of kind absorb, growth or threads, got {job['kind']!r}; see lift.bench.bench_worker"
        )
    base = load_model(job["model"])
    recipe = Recipe.parse(job["recipe"], "recipe of the job")
    document = Document(job["document"]["title"], job["document"]["text"], "the text of the job")
    if job["kind"] == "growth":
        return absorb_some(base, document, recipe, int(job["tokens_per_sentence"]), float(job["train_s"])).as_dict()
    if job["kind"] == "threads":
        return measure_threads(base, document, recipe, float(job["seconds"]))
    tasks = [Task(**{**row, "evidence": tuple(row["evidence"])}) for row in job["tasks"]]
    options = TrainerOptions(**job["options"]) if job["options"] is not None else None
    run = run_side(
        base, document, tasks, recipe, seed=job["seed"], probes=job["probes"], goal=Goal.of(job), options=options
    )
    return run.as_dict()


def main(order: str, outcome: str) -> int:
    """Do the job in the file `order` and write what came of it, or {"error": ...}, into `outcome`."""
    try:
        result = perform(json.loads(Path(order).read_text("utf-8")))
    except LiftError as error:
        result = {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"unexpected {type(error).__name__} in a process of the benchmark: {error}"}
    Path(outcome).write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), "utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
