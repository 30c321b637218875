"""No text steers the terminal: not of a document, a name, a title, a question, an answer, a file's name or an error."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_drafts import make_draft

import lift.cli
from lift.cli.terminal_text import printable_json, printable_line, printable_text
from lift.documents.document import Document, Place
from lift.memories.library import MemoryLibrary
from lift.tasks.task import Task

DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# C0, DEL, C1 and directions; and what they do in a terminal: title, clear, colour, hyperlink, in 7 and in 8 bits
HOSTILE = (
    "\x1b]0;owned\x07 \x1b[2J\x1b[31m \x1b]8;;http://x\x1b\\ \x9b2J \x9d0;owned\x9c \r\b\x7f\x85 \u202egnp.exe\u2066"
)
_ANY = st.text(st.characters() | st.sampled_from(HOSTILE + DIRECTIONS + "\n\t\ud800\udcff"))


def steering(text: str) -> set[str]:
    """The characters of a text that a terminal obeys, or that show it otherwise than it is."""
    return {
        char
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t") or char in DIRECTIONS
    }


@given(_ANY)
def test_what_is_shown_steers_nothing_and_is_else_unchanged(text: str) -> None:
    shown = printable_text(text)
    assert not steering(shown)
    assert printable_text(shown) == shown
    assert "\n" not in printable_line(text) and not steering(printable_line(text))
    if not steering(text):
        assert shown == text


@given(st.recursive(_ANY | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(_ANY, inner)))
def test_json_that_is_shown_steers_nothing_and_means_the_same(value: object) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert not steering(shown)
    assert json.loads(shown) == value


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryLibrary:
    """A memory whose text and rows were written by somebody who means ill."""
    monkeypatch.setenv("LIFT_HOME", str(tmp_path / "library"))
    monkeypatch.setenv("COLUMNS", "200")
    library = MemoryLibrary(tmp_path / "library")
    text = f"It begins {HOSTILE}. It ends."
    library.put(
        make_draft(
            "ill",
            document=Document(
                f"A title {DIRECTIONS}", text, f"source {DIRECTIONS}", (Place(0, 1, f"place {HOSTILE}"),)
            ),
            tasks=[Task(f"Which {HOSTILE}?", f"it {HOSTILE}", (0,), "rules:subject", 0.5, held_out=True)],
            recall=[
                {
                    "sentence": 0,
                    "question": f"Which {HOSTILE}?",
                    "expected": f"it {HOSTILE}",
                    "answer": f"no {HOSTILE}",
                    "recalled": False,
                }
            ],
        )
    )
    return library


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "--json"],
        ["show", "ill"],
        ["show", "ill", "--json"],
        ["show", "ill", "--source"],
        ["verify"],
        ["rename", "ill", HOSTILE],
        ["show", HOSTILE],
        ["remove", HOSTILE, "--yes"],
        ["remove", "ill", "--everything", "--yes"],
        ["backup", f"/nowhere/{HOSTILE}"],
        ["restore", f"/nowhere/{HOSTILE}"],
        ["clean"],
        ["clean", HOSTILE],
        ["ask", HOSTILE, HOSTILE],
        ["ask", "ill", HOSTILE, "--model", f"/nowhere/{HOSTILE}"],
        ["absorb", f"/nowhere/{HOSTILE}"],
        ["absorb", f"/nowhere/{HOSTILE}", "--json"],
        ["plan", f"/nowhere/{HOSTILE}"],
        ["import", f"/nowhere/{HOSTILE}", "--name", "other", "--model", f"/nowhere/{HOSTILE}"],
        ["export", "ill", "--to", HOSTILE, "out"],
        ["recipes", "show", HOSTILE],
        ["serve", "--host", HOSTILE],
        ["serve", "--new-key", HOSTILE, "--api-key-file", f"/nowhere/{HOSTILE}"],
        ["list", HOSTILE],
        [HOSTILE],
        ["absorb", "--recipe", HOSTILE, __file__],
        ["absorb", "--set", f"{HOSTILE}=1", __file__],
    ],
    ids=str,
)
def test_no_command_lets_a_text_steer_the_terminal(
    library: MemoryLibrary, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lift.cli.run(command)
    told = capsys.readouterr()
    assert told.out + told.err
    assert not steering(told.out + told.err)


def test_a_file_with_an_ill_name_and_text_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (f"{HOSTILE.replace('/', '')}.txt", "half \udcff.txt"):
        (tmp_path / name).write_bytes(b"\x00\x01 no text at all \xff" * 20)
        lift.cli.run(["absorb", str(tmp_path / name)])
    told = capsys.readouterr()
    assert told.err and not steering(told.out + told.err)
