"""The suites by name."""

from __future__ import annotations

from lift.errors import UsageError, nearest_hint
from lift.evaluation.suites import longbench, longbench2, loogle, narrativeqa, niah, qa, qmsum, ruler, squad
from lift.evaluation.suites.suite import Suite


def find_suite(name: str) -> Suite:
    """The suite of that name; raises UsageError naming the nearest."""
    suites = {suite.name: suite for suite in all_suites()}
    if name in suites:
        return suites[name]
    raise UsageError(f"expected a suite of {', '.join(suites)}, got {name!r}{nearest_hint(name, suites)}")


def all_suites() -> list[Suite]:
    """Every suite, in the order that they are listed in."""
    modules = (qa, squad, loogle, qmsum, narrativeqa, longbench, longbench2, niah, ruler)
    return [module.SUITE for module in modules]
