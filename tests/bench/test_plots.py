"""The pictures of `lift bench`: of results as the benchmarks make them, and nothing without matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lift.bench.plots import plot_absorb, plot_ask, plot_growth, write_plots
from lift.errors import BenchError, UsageError

pytest.importorskip("matplotlib")

ROWS = [
    {"tokens": tokens, "prepare_s": tokens / 100, "train_s": tokens / 50, "seconds": tokens * 0.03, "held_bytes": 10**9}
    for tokens in (1000, 4000, 16000)
]
LIBRARY = [
    {"memories": count, "list_s": count / 1e4, "open_s": 0.001, "ask_s": 0.01, "put_s": 0.05} for count in (1, 100)
]
GROWTH: dict[str, Any] = {
    "rows": ROWS,
    "library": LIBRARY,
    "slope": {"prepare_s": 1.0, "train_s": 1.0, "seconds": 1.0, "held_bytes": 0.0},
}
ABSORB: dict[str, Any] = {
    "recall": 0.5,
    "rows": [
        {"side": "lift", "runs": [{"curve": [[5.0, 0.2], [10.0, 0.6]]}, {"curve": [[5.0, 0.3]]}]},
        {"side": "trainer", "runs": [{"curve": []}]},
        {"side": "trainer-best", "runs": [{"curve": [[5.0, 0.1]]}]},
    ],
}
ASK: dict[str, Any] = {
    "rows": [
        {"length": length, "context": way, "fits": fits, "first_token_s": 0.1 if fits else None}
        for length in (1024, 8192)
        for way, fits in (("none", True), ("full", length < 8192))
    ]
}


def texts(svg: str) -> list[str]:
    return [text for each in ElementTree.fromstring(svg).iter() if (text := (each.text or "").strip())]


def test_growth_shows_the_fitted_exponents_and_the_library() -> None:
    plots = plot_growth(GROWTH)
    assert plots.keys() == {"growth-seconds", "growth-memory", "library"}
    assert "together: tokens to the power of 1.00" in texts(plots["growth-seconds"])
    assert "peak: tokens to the power of 0.00" in texts(plots["growth-memory"])
    assert {"list all", "open one", "ready to answer"} <= set(texts(plots["library"]))
    assert plot_growth(GROWTH) == plots


def test_growth_of_one_length_and_no_library_has_no_fit() -> None:
    alone = {**GROWTH, "rows": ROWS[:1], "library": [], "slope": dict.fromkeys(GROWTH["slope"])}
    plots = plot_growth(alone)
    assert plots.keys() == {"growth-seconds", "growth-memory"}
    assert not [text for text in texts(plots["growth-seconds"]) if "power" in text]


def test_absorbing_has_a_curve_for_each_side_that_was_probed() -> None:
    shown = texts(plot_absorb(ABSORB)["absorb-recall"])
    assert {"Lift", "Trainer at its best"} <= set(shown)
    assert "Trainer" not in shown


def test_asking_names_the_ways_and_lengths() -> None:
    shown = texts(plot_ask(ASK)["ask-first-token"])
    assert {"closed book", "full text", "1,024", "8,192"} <= set(shown)


def test_pictures_are_written_under_their_names(tmp_path: Path) -> None:
    assert write_plots({"a": "<svg/>"}, tmp_path / "new") == [tmp_path / "new" / "a.svg"]
    assert (tmp_path / "new" / "a.svg").read_text("utf-8") == "<svg/>"
    with pytest.raises(BenchError, match="--plots"):
        write_plots({"a": "<svg/>"}, tmp_path / "new" / "a.svg")


def test_without_matplotlib_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="EXTRAS=evaluate"):
        plot_ask(ASK)
