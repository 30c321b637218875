"""A name that is nearly right is answered with the one that was meant, and any other with no guess."""

from __future__ import annotations

import pytest

from lift.errors import UsageError, nearest_hint, nearest_names
from lift.evaluation.suites.suite_registry import find_suite
from lift.recipes.recipe import RecipeError, load_recipe

KNOWN = ("lease", "minutes-2024", "handbook")


@pytest.mark.parametrize(
    ("typed", "near"),
    [("leese", ["lease"]), ("LEASE", ["lease"]), ("minutes", ["minutes-2024"]), ("nosuch", []), ("x", [])],
)
def test_only_what_is_near_is_named(typed: str, near: list[str]) -> None:
    assert nearest_names(typed, KNOWN) == near


def test_a_hint_is_empty_where_nothing_is_near() -> None:
    assert nearest_hint("zzz", KNOWN) == ""
    assert nearest_hint("handbok", KNOWN) == "; the nearest is 'handbook'"


def test_an_unknown_recipe_is_not_answered_with_a_random_one() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("zebra")
    assert "nearest" not in str(caught.value)


def test_an_unknown_suite_is_not_answered_with_a_random_one() -> None:
    with pytest.raises(UsageError) as caught:
        find_suite("zebra")
    assert "nearest" not in str(caught.value)
