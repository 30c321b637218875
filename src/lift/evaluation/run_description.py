"""run.json: what an evaluation ran, on which model and machine, with what left out."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lift.evaluation import excerpts
from lift.evaluation.methods.method import Method
from lift.evaluation.suite_plan import RunPlan
from lift.evaluation.suite_reading import SuiteRecords
from lift.memories.manifest import installed_versions


def describe_suite(read: SuiteRecords) -> dict[str, Any]:
    """One suite: its settings, how much of it there was, and what was wrong with its data."""
    excerpted = read.plan.excerpt_tokens > 0
    settings = read.plan.model_dump(mode="json", exclude_defaults=True, exclude={"label"})
    if read.plan.data is not None:
        settings["data"] = read.plan.data.name
    return {
        "name": read.plan.title,
        "settings": settings,
        "documents": len(read.records),
        "questions": read.questions,
        "left_out": read.left_out,
        "excerpt_rule": excerpts.RULE if excerpted else None,
        "metrics": list(dict.fromkeys(name for record in read.records for name in record.asking.metrics)),
        "faults": [str(fault) for fault in read.faults],
    }


def describe_run(
    plan: RunPlan,
    methods: Mapping[str, Method],
    suites: list[dict[str, Any]],
    *,
    command: str,
    model: str,
    fingerprint: str,
    notes: Sequence[str],
    seconds: float,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole run. `before`: the description of an earlier run in the same directory, whose suites stay."""
    named = {suite["name"] for suite in suites}
    earlier = [suite for suite in before.get("suites", []) if suite["name"] not in named]
    absorbing = [method for method in methods.values() if method.memory != "none"]
    recipes = {method.recipe or plan.recipe: plan.load_recipe(method).model_dump(mode="json") for method in absorbing}
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    return {
        "command": command,
        "model": model,
        "fingerprint": fingerprint,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": installed_versions(),
        "started": before.get("started") or began.isoformat(timespec="seconds"),
        "seconds": before.get("seconds", 0.0) + seconds,
        "suites": [*earlier, *suites],
        "methods": {**before.get("methods", {}), **{name: method.summary for name, method in methods.items()}},
        "recipes": {**before.get("recipes", {}), **recipes},
        "retrieved_sentences": plan.retrieved_sentences,
        "notes": list(notes),
        "judge": before.get("judge"),
    }
