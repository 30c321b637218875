"""Whether budgets are kept: documents absorbed with budgets drawn at random, on a machine whose load changes at random.

Each absorption is a process of its own, and is timed from outside. A line of JSON is kept for each, so that an
interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lift.bench.random_load import RandomLoad
from lift.errors import DataError, UsageError
from lift.evaluation.run_files import read_rows
from lift.training.budget import check_budget

# After so many times its budget, and a minute, an absorption is ended: it has lost.
_PATIENCE = 3.0
_PATIENCE_S = 60.0
# The shares of an absorption after which the remaining time that it told is compared with what came.
_TOLD_AT = (0.25, 0.5, 0.75)
_NEEDED = ("run", "file", "budget_s", "seconds", "late_share", "memory")


@dataclass(frozen=True)
class BudgetsPlan:
    """`runs` absorptions of `files` in turn, with budgets between `shortest_s` and `longest_s`, log-uniform.

    `most_busy`: the most busy processes beside them. Raises UsageError, BudgetError for what cannot be run.
    """

    files: tuple[str, ...]
    runs: int = 60
    shortest_s: float = 30.0
    longest_s: float = 300.0
    seed: int = 0
    most_busy: int = 3
    recipe: str = "default"
    overrides: tuple[str, ...] = ()
    model: str = "smollm2"

    def __post_init__(self) -> None:
        check_budget(self.shortest_s)
        if self.longest_s < self.shortest_s:
            raise UsageError(
                f"expected --longest of {self.shortest_s:g} s or more, as --shortest is, got {self.longest_s:g} s"
            )
        if not self.files or self.runs < 1 or self.most_busy < 0:
            raise UsageError(
                f"expected files, runs and busy processes, got {self.runs} runs of {len(self.files)} files"
            )

    def jobs(self) -> Iterator[dict[str, Any]]:
        """The runs, the same for the same plan."""
        for run in range(self.runs):
            sampled = random.Random(f"{self.seed}/{run}").uniform(math.log(self.shortest_s), math.log(self.longest_s))
            yield {
                "run": run,
                "file": self.files[run % len(self.files)],
                "budget_s": round(math.exp(sampled), 1),
                "recipe": self.recipe,
                "overrides": list(self.overrides),
                "model": self.model,
            }


class AbsorbFunction(Protocol):
    """Does one job and returns its result, and the seconds it took from outside."""

    def __call__(self, job: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Never raises for a job that fails: its result then has an `error`."""
        ...


def in_own_process(job: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Run `python -m lift.bench.budgeted_absorption` on the job, with a library that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        order, outcome = Path(directory) / "job.json", Path(directory) / "result.json"
        order.write_text(json.dumps({**job, "library": str(Path(directory) / "library")}), "utf-8")
        command = [sys.executable, "-W", "ignore", "-m", "lift.bench.budgeted_absorption", str(order), str(outcome)]
        begun = time.monotonic()
        try:
            status: int | str = subprocess.run(
                command, stdout=subprocess.DEVNULL, check=False, timeout=_PATIENCE * job["budget_s"] + _PATIENCE_S
            ).returncode
        except subprocess.TimeoutExpired:
            status = "no end"
        seconds = time.monotonic() - begun
        if not outcome.is_file():
            return {"error": f"expected a result, got {status} of the process"}, seconds
        result: dict[str, Any] = json.loads(outcome.read_text("utf-8"))
        return result, seconds


def bench_budgets(
    plan: BudgetsPlan, out: Path, *, say: Callable[[str], None], absorbing: AbsorbFunction = in_own_process
) -> dict[str, Any]:
    """Do what of `plan` is not in `out` yet, a line for each run; returns the summary of all.

    Raises DataError where `out` is damaged, or of another plan.
    """
    known = _known_rows(plan, out)
    jobs = [job for job in plan.jobs() if job["run"] not in known]
    if jobs:
        out.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(out)
        with RandomLoad(plan.most_busy, f"{plan.seed}/load/{len(known)}") as load:
            for job in jobs:
                load.mean_and_restart()
                result, seconds = absorbing(job)
                row = _row(job, result, seconds, load.mean_and_restart())
                with out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                known[row["run"]] = row
                say(_said(row, plan.runs))
    return {
        "plan": {"runs": plan.runs, "files": list(plan.files), "seed": plan.seed},
        **summary_of(list(known.values())),
    }


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Memories made, the latest, the median used share of the budget, the errors of the told remaining time."""
    ordered = sorted(rows, key=lambda row: row["run"])
    told: dict[str, float | None] = {}
    for share in _TOLD_AT:
        errors = [abs(row["eta_errors"][str(share)]) for row in rows if row["eta_errors"].get(str(share)) is not None]
        told[str(share)] = statistics.median(errors) if errors else None
    return {
        "runs": len(rows),
        "memories": sum(bool(row["memory"]) for row in rows),
        "latest_share": max((row["late_share"] for row in rows), default=0.0),
        "late": sum(row["late_share"] > 0.05 for row in rows),
        "used_share": statistics.median(1 + row["late_share"] for row in rows) if rows else 0.0,
        "eta_errors": told,
        "rows": ordered,
    }


def _row(job: Mapping[str, Any], result: Mapping[str, Any], seconds: float, load: float) -> dict[str, Any]:
    etas = result.get("etas", ())
    return {
        **{key: job[key] for key in ("run", "file", "budget_s", "recipe", "overrides", "model")},
        "seconds": round(seconds, 2),
        "late_share": round(seconds / job["budget_s"] - 1, 4),
        "memory": bool(result.get("memory")),
        "eta_errors": {str(share): _told_error(etas, share, seconds) for share in _TOLD_AT},
        "load": round(load, 2),
        "error": result.get("error"),
        **{key: value for key, value in result.items() if key not in ("etas", "memory", "error")},
    }


def _told_error(etas: Sequence[Sequence[float]], share: float, seconds: float) -> float | None:
    """By which share of the whole time the told end was wrong at that share of it; None before the first step."""
    before = [(at, eta) for at, eta in etas if at <= share * seconds]
    if not before:
        return None
    at, eta = before[-1]
    return round((at + eta - seconds) / seconds, 4)


def _known_rows(plan: BudgetsPlan, out: Path) -> dict[int, dict[str, Any]]:
    planned = {job["run"]: job for job in plan.jobs()}
    known = {}
    for row in read_rows(out):
        job = planned.get(row.get("run", -1))
        if job is None or any(row.get(key) != value for key, value in job.items()) or not set(_NEEDED) <= row.keys():
            raise DataError(f"{out}: expected the runs of this plan, got those of another; give another --out")
        known[row["run"]] = row
    return known


def _end_last_line(out: Path) -> None:
    """Take away what a crash has left of a line."""
    if out.is_file():
        whole, _, rest = out.read_bytes().rpartition(b"\n")
        if rest:
            out.write_bytes(whole + b"\n" if whole else b"")


def _said(row: Mapping[str, Any], runs: int) -> str:
    came = "a memory" if row["memory"] else f"NO memory ({row['error']})"
    return (
        f"run {row['run'] + 1} of {runs}: {Path(row['file']).name}, {row['seconds']:.1f} s of {row['budget_s']:g} s, "
        f"{came}, {row['load']:.1f} busy processes beside it"
    )
