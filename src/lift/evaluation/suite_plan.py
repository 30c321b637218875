"""The plan of an evaluation: suites with their data, methods, recipe and budget, from options or from a plan file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from lift.config import Settings
from lift.errors import UsageError
from lift.evaluation.methods.method import Method
from lift.evaluation.suites.suite import SuiteSettings
from lift.recipes.recipe import PromptName, Recipe, load_recipe

DEFAULT_METHODS = (
    "closed-book",
    "truncated",
    "full",
    "bm25",
    "lift:none",
    "lift:truncated",
    "lift:evidence",
    "lift:auto",
    "wrong-document",
)


class SuitePlan(SuiteSettings):
    """One suite of a run. `label` is what its lines are called, where the name alone is not enough."""

    name: str = Field(description="which suite")
    label: str = Field("", description="what it is called in the results; empty: its name")
    budget_s: float | None = Field(None, gt=0, description="seconds that each absorption may take")
    methods: tuple[str, ...] = Field((), description="methods; empty: those of the run")
    prompt: PromptName | None = Field(None, description="the words around a question; left out: the suite's own")
    chat: bool | None = Field(None, description="whether the chat template is used; left out: as the words have it")
    system: str = Field("", description="what the system says in front of each question")
    answer_tokens: int = Field(0, ge=0, description="longest answer; 0: as the suite has it")

    @property
    def title(self) -> str:
        """The name of its lines."""
        return self.label or self.name

    @property
    def settings(self) -> SuiteSettings:
        """The settings of the suite itself: those settings that were given."""
        given = self.model_fields_set & set(SuiteSettings.model_fields)
        return SuiteSettings(**{name: getattr(self, name) for name in given})


class RecipeVariant(Settings):
    """A recipe with some of its settings changed, under a name of its own."""

    recipe: str = Field(description="the recipe that it is made of")
    overrides: tuple[str, ...] = Field((), description="section.key=value of the recipe")


class RunPlan(Settings):
    """A whole evaluation. `overrides` are settings, as section.key=value, of the recipe and of those of methods.

    A method NAME@RECIPE names a recipe, a file, or one of `recipes`. Baselines are not changed.
    """

    suite: tuple[SuitePlan, ...] = Field(min_length=1, description="the suites, in order")
    methods: tuple[str, ...] = Field(DEFAULT_METHODS, min_length=1, description="methods")
    recipe: str = Field("default", description="how memories are absorbed")
    overrides: tuple[str, ...] = Field((), description="section.key=value of the recipe")
    recipes: dict[str, RecipeVariant] = Field({}, description="recipes with changed settings, by name")
    window_tokens: int = Field(0, ge=0, description="longest prompt of every method; 0: that of the model or recipe")
    retrieved_sentences: int = Field(3, ge=1, description="sentences that retrieval brings")
    timed_questions: int = Field(3, ge=0, description="questions of each document that are asked alone, for the time")

    def load_recipe(self, method: Method) -> Recipe:
        """The recipe of a method's memories, with the settings that the run changes; raises RecipeError."""
        name = method.recipe or self.recipe
        overrides = () if method.is_baseline else self.overrides
        if (variant := self.recipes.get(name)) is None:
            return load_recipe(name, overrides)
        changed = load_recipe(variant.recipe, [*variant.overrides, *overrides])
        return changed.model_copy(update={"name": name})

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        titles = [suite.title for suite in self.suite]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"two suites are called {', '.join(twice)}; give each a label of its own")
        return self


def load_plan(path: Path, data: Path | None = None) -> RunPlan:
    """Read a plan file (TOML, or JSON as a run leaves it); its data paths are relative to `data`, else to the file.

    Raises UsageError where it cannot be read, RecipeError for its settings.
    """
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"the plan {path} cannot be read ({error}); expected a TOML file") from None
    plan = RunPlan.parse(values, f"plan {path.name}")
    return located(plan, data or path.parent)


def located(plan: RunPlan, home: Path | None = None) -> RunPlan:
    """The plan with every data path absolute, relative ones below `home`, else below the current directory."""
    suites = [
        suite.model_copy(update={"data": ((home or Path()) / suite.data).absolute()}) if suite.data else suite
        for suite in plan.suite
    ]
    return plan.model_copy(update={"suite": tuple(suites)})
