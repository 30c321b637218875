"""One method on one document: what is to be done, and the hash of everything that its answers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lift.answering import strategies as routes
from lift.documents.document import Document
from lift.evaluation.memory_store import other_document
from lift.evaluation.methods.method import Method
from lift.evaluation.records import Question, Record
from lift.evaluation.suite_plan import RunPlan
from lift.evaluation.suite_reading import SuiteRecords
from lift.recipes.recipe import RECIPE_VERSION, Recipe
from lift.tasks.rules.rule_generator import RULES_VERSION
from lift.training.batch_sampler import TRAINING_VERSION

# Raised whenever the same key would stand for other answers or scores than before.
VERSION = 4


@dataclass(frozen=True)
class MethodRun:
    """`recipe`: of the memory or its warm start, else None; `other`: the document whose memory the control asks."""

    suite: SuiteRecords
    record: Record
    method: Method
    recipe: Recipe | None
    other: Document | None
    key: str

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those that are put to this method."""
        return tuple(question for question in self.record.questions if self.method.asks(question))

    @property
    def identity(self) -> tuple[str, str, str]:
        """The key of its cost: suite, document, method."""
        return (self.suite.plan.title, self.record.id, self.method.name)


def make_jobs(
    suites: Sequence[SuiteRecords],
    plan: RunPlan,
    methods: Mapping[str, Method],
    fingerprint: str,
    warm_start_digests: Callable[[Recipe], list[str | None]],
) -> Iterator[MethodRun]:
    """All jobs in the order they are done in, none without questions; `fingerprint` is the model's. Raises RecipeError.

    `warm_start_digests` names the warm start that memories of a recipe begin at, and what reads for them.
    """
    needing = {name: method for name, method in methods.items() if method.memory != "none"}
    recipes = {name: plan.load_recipe(method) for name, method in needing.items()}
    starts = {name: warm_start_digests(recipe) for name, recipe in recipes.items()}
    for suite in suites:
        for record in suite.records:
            for name in suite.plan.methods or plan.methods:
                method = methods[name]
                recipe = recipes.get(name)
                other = other_document(suite.records, record) if method.memory == "other" else None
                parts: list[Any] = [VERSION, record.digest, name, fingerprint, plan.retrieved_sentences]
                if plan.window_tokens:
                    parts.append(["window", plan.window_tokens])
                if recipe is not None:
                    parts.append(starts[name])
                if recipe is not None and method.memory != "start":
                    parts += [
                        [routes.VERSION, RULES_VERSION, TRAINING_VERSION, RECIPE_VERSION],
                        recipe.digest(),
                        suite.plan.budget_s,
                        other.sha256 if other is not None else None,
                    ]
                key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
                job = MethodRun(suite, record, method, recipe, other, key)
                if job.questions:
                    yield job
