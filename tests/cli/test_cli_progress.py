"""What a command shows while it works: counted with the time left, and never in the way of what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lift.absorbing import probing as probes
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Probing
from lift.cli.output import build_table, stdout
from lift.cli.progress import describe_count, opened_display
from lift.documents.document import Document
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe

TEXT = (
    "Ada Quill founded the museum of Port Merrow in 1911. The museum owns 42 lenses. Bram Holt sells the tickets. "
    "The shop opens at nine. The keeper of the light was Clara Venn."
)


@pytest.mark.parametrize(
    ("done", "eta_s", "said"),
    [
        (0, None, "1 of 12"),
        (2, 40.3, "3 of 12, about 40 s left"),
        (11, 0.2, "12 of 12"),
        (12, None, "12 of 12"),
        (5, 75.0, "6 of 12, about 1 min 15 s left"),
        (5, 59.7, "6 of 12, about 1 min 00 s left"),
    ],
)
def test_a_count_names_the_one_that_is_worked_at_and_the_time_left(done: int, eta_s: float | None, said: str) -> None:
    assert describe_count(done, 12, eta_s) == said


def test_a_bar_leaves_what_is_printed_into_a_file_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with opened_display(as_json=False) as display:
        display.wait("loading the model")
        display.count("asking question", 1, 3, 12.0)
        print("the answer")
    assert capsys.readouterr().out == "the answer\n"


def test_held_back_questions_are_counted_while_they_are_asked(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_BATCH", 2)
    recipe = load_recipe("default", ["training.epochs=1", "tasks.per_sentence=4", "adapter.rank=2"])
    events = list(absorb_events(Document("Merrow", TEXT, "test"), tiny_model, recipe, MemoryLibrary(tmp_path)))
    probing = [event for event in events if isinstance(event, Probing)]
    assert len(probing) > 1
    assert [event.asked for event in probing] == list(range(0, probing[0].probes, 2))
    assert all(event.eta_s is not None and event.eta_s > 0 for event in probing)


def test_a_narrow_terminal_loses_nothing_of_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, word = "the-lease-of-the-upper-flat", "Rechtsschutzversicherungsgesellschaften" * 2
    stdout().print(build_table(["name", "title", "tokens", "recalled", "size"], [(name, word, "1,234", "50%", "1 MB")]))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert name in "\n".join(lines), "a name is to be typed as it stands there"
    shown = "".join("".join(lines).split())
    assert "…" not in shown
    assert "1,234" in shown
    assert sum(shown.count(letter) for letter in "RV") >= 2
