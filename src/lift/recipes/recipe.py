"""A recipe: a declarative, versioned description of one way to absorb."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lift.config import Settings, apply_overrides
from lift.errors import RecipeError


class SegmentSettings(Settings):
    """Raw text windows, trained by language modelling (method 1.1)."""

    weight: float = Field(0.0, ge=0, description="weight of a segment's mean token loss; 0 leaves them out")
    length_tokens: int = Field(2048, ge=8, description="l, tokens of a window")
    step_tokens: int = Field(768, ge=1, description="s, a window starts this many tokens after the one before")

    @model_validator(mode="after")
    def _no_gap(self) -> Self:
        if self.step_tokens > self.length_tokens:
            raise ValueError("step_tokens must not be larger than length_tokens, or text is left out")
        return self


class TaskSettings(Settings):
    """Auxiliary tasks (method 1.2, 3.1)."""

    weight: float = Field(1.0, ge=0, description="weight of a task's mean token loss; 0 leaves tasks out")
    per_sentence: int = Field(20, ge=1, le=500, description="at most this many tasks a sentence")
    held_back_per_sentence: int = Field(1, ge=0, le=20, description="tasks a sentence kept for the recall report")


class ContextSettings(Settings):
    """Contextualised training: some tasks are also asked with a part of the document in the prompt (method 1.3)."""

    share: float = Field(0.5, ge=0, le=10, description="contextualised tasks an epoch, as a share of the tasks")
    sentences: int = Field(4, ge=1, description="sentences of a context: the evidence and others of the document")


class AdapterSettings(Settings):
    """What is trained."""

    kind: Literal["lora", "pissa", "dora"] = Field("lora", description="which adapter")
    rank: int = Field(32, ge=1, description="r, rank of the update of each matrix")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / rank")
    targets: Literal["all-linear", "attention", "mlp"] = Field("all-linear", description="which matrices of a layer")


class TrainingSettings(Settings):
    """The schedule."""

    epochs: int = Field(8, ge=1, description="epochs over segments and tasks together")
    segment_epochs: int = Field(0, ge=0, description="two-stage: epochs over segments alone before that")
    learning_rate: float = Field(5e-4, gt=0, description="peak rate of AdamW")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="how the rate falls to zero")
    warmup_share: float = Field(0.03, ge=0, lt=1, description="share of the training in which the rate rises")
    batch_tokens: int = Field(384, ge=16, description="tokens computed a step, shared prefixes counted once")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second moment")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(0, ge=0, description="of tasks, adapter and order")


class Recipe(Settings):
    """One way to absorb."""

    name: str = Field(description="what it is called")
    version: int = Field(1, ge=1, description="rises when its settings change")
    description: str = Field("", description="what it is for, with its source")
    segments: SegmentSettings = SegmentSettings()
    tasks: TaskSettings = TaskSettings()
    context: ContextSettings = ContextSettings()
    adapter: AdapterSettings = AdapterSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.segments.weight and not self.tasks.weight:
            raise ValueError("segments.weight and tasks.weight are both 0, so there is nothing to train")
        if self.training.segment_epochs and not self.segments.weight:
            raise ValueError("training.segment_epochs needs segments.weight above 0")
        return self

    def digest(self) -> str:
        """Hash of every setting that can change a memory."""
        values = self.model_dump(exclude={"name", "version", "description"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of the recipes that come with Lift."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("lift.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name: str | Recipe = "default", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that TOML file, with "section.key=value" overrides applied.

    Raises RecipeError for an unknown name (with the nearest), an unknown key (likewise), or a value out of range.
    """
    if isinstance(name, Recipe):
        values = name.model_dump()
    elif name in recipe_names():
        values = tomllib.loads(resources.files("lift.recipes").joinpath(f"{name}.toml").read_text("utf-8"))
        values.setdefault("name", name)
    elif name.endswith(".toml") and Path(name).is_file():
        try:
            values = tomllib.loads(Path(name).read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name} is not a valid TOML file: {error}") from None
        values.setdefault("name", Path(name).stem)
    else:
        nearest = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.0)
        raise RecipeError(f"no recipe {name!r}; the nearest known one is {nearest[0]!r} (lift recipes lists them all)")
    origin = values["name"] if isinstance(values.get("name"), str) else str(name)
    return Recipe.parse(apply_overrides(values, overrides), f"recipe {origin}")
