"""A published table as one plan: its suites, methods and recipes, in the paper's own words, and the numbers it has."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lift.config import Settings
from lift.errors import DataError, UsageError, nearest_hint
from lift.evaluation.suite_plan import RunPlan, located
from lift.evaluation.suites.suite_registry import find_suite


class ExpectedCell(Settings):
    """Published numbers of one row or column: per cent by method, or seconds (PaperTable.scored_by).

    `kind` is the class of questions, `document` the id of the document that they are of; empty: all.
    """

    suite: str = Field(description="the suite's label")
    kind: str = Field("", description="class of the questions")
    document: str = Field("", description="id of the document")
    values: dict[str, float] = Field({}, description="published number by method")


class PaperTable(Settings):
    """A published table: what to run, on which base it was, and its numbers."""

    name: str = Field("", description="how it is asked for")
    title: str = Field(description="what it is, with its source")
    base: str = Field(description="the base model that was published")
    quantization: Literal["none", "nf4", "int8"] = Field("none", description="how that was held")
    scored_by: Literal["judge", "metric", "seconds"] = Field(description="what the published numbers are")
    plan: RunPlan = Field(description="the evaluation")
    expected: tuple[ExpectedCell, ...] = Field((), description="the published numbers")

    def plan_on(
        self,
        data: Path,
        *,
        limit: int | None = None,
        questions_limit: int | None = None,
        budget_s: float | None = None,
        overrides: Sequence[str] = (),
    ) -> RunPlan:
        """The evaluation with its data below `data`, of the first `limit` documents and questions of each suite.

        `overrides` are settings for all recipes. Raises DataError where files are missing, naming each and where it
        goes.
        """
        plan = located(self.plan, data)
        missing = [suite for suite in plan.suite if suite.data is not None and not suite.data.exists()]
        if missing:
            places = ", ".join(dict.fromkeys(str(suite.data) for suite in missing))
            told = "; ".join(dict.fromkeys(find_suite(suite.name).data or "any text" for suite in missing))
            raise DataError(
                f"expected the data of table {self.name} at {places}, found nothing there; {told}, under these names"
            )
        changes = {"limit": limit, "questions_limit": questions_limit, "budget_s": budget_s}
        given = {name: value for name, value in changes.items() if value is not None}
        suites = [suite.model_validate({**suite.model_dump(exclude_unset=True), **given}) for suite in plan.suite]
        return plan.model_copy(update={"suite": tuple(suites), "overrides": (*plan.overrides, *overrides)})


def table_names() -> list[str]:
    """The published tables that there are plans of: "2" for Table 2 of v3, others by their own names."""
    entries = resources.files("lift.evaluation.paper").iterdir()
    found = sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))
    return [name.removeprefix("table-") for name in found]


def load_table(name: str) -> PaperTable:
    """The plan of that table; raises UsageError for an unknown one, with those there are."""
    names = table_names()
    if name not in names:
        raise UsageError(f"expected --table {', '.join(names)}, got {name!r}{nearest_hint(name, names)}")
    directory = resources.files("lift.evaluation.paper")
    file = next(each for each in (f"table-{name}.toml", f"{name}.toml") if directory.joinpath(each).is_file())
    values: dict[str, Any] = tomllib.loads(directory.joinpath(file).read_text("utf-8"))
    return PaperTable.parse({"name": name, **values}, f"table {name}")
