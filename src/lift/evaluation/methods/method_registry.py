"""The methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lift.errors import UsageError, nearest_hint
from lift.evaluation.methods import (
    bm25,
    closed_book,
    finetune_raw,
    full,
    hybrid,
    lift,
    oracle,
    truncated,
    tuned,
    wrong_document,
)
from lift.evaluation.methods import embedding_retrieval as embeddings
from lift.evaluation.methods.method import Method


def find_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names; "NAME@RECIPE" is one with a memory of that recipe. Raises UsageError."""
    known = {method.name: method for method in all_methods()}
    found: dict[str, Method] = {}
    for name in names:
        bare, _, recipe = name.partition("@")
        if bare not in known:
            raise UsageError(f"expected methods of {', '.join(known)}, got {bare!r}{nearest_hint(bare, known)}")
        method = known[bare]
        if recipe and method.memory == "none":
            raise UsageError(f"the method {bare} uses no memory, so {name!r} cannot have a recipe")
        found[name] = replace(method, name=name, recipe=recipe, is_baseline=False) if recipe else method
    if not found:
        raise UsageError("expected at least one method, got none")
    return list(found.values())


def all_methods() -> list[Method]:
    """Every method, in the order that tables list them in."""
    reading = (closed_book, truncated, full, bm25, embeddings, hybrid, oracle, finetune_raw)
    return [*(module.METHOD for module in reading), *tuned.METHODS, *lift.METHODS, wrong_document.METHOD]
