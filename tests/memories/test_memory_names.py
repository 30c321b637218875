"""Which names are allowed, and which are suggested."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lift.errors import UsageError
from lift.memories.memory_names import check_name, first_free_name, folded, is_valid_name, suggest_name

NAMES = st.text(min_size=1, max_size=120)


@pytest.mark.parametrize(
    "name", ["a", "minutes", "Minutes 2024", "v1.2_final-3", "протокол", "会議録", "हिन्दी", "_x", "7"]
)
def test_ordinary_names_in_any_script_are_allowed(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            " ",
            ".",
            "..",
            ".hidden",
            "-x",
            " x",
            "x ",
            "x.",
            "a/b",
            "a\\b",
            "../x",
            "a\nb",
            "a\0b",
            "a:b",
            "~",
            "a*",
        ],
        *["~", "a*", "CON", "nul.txt", "Com1", "x" * 101, "é" * 101, "会" * 67],
        *["cafe\u0301", "\u0301x", "a\u202eb", "\udce9"],
    ],
)
def test_other_names_are_refused_with_one_that_would_do(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    suggestion = str(caught.value).rsplit("for example ", 1)[1].strip("'")
    assert is_valid_name(suggestion)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Minutes, March 2024", "minutes-march-2024"),
        ("  The  “Annual”   Report!! ", "the-annual-report"),
        ("Протокол № 7", "протокол-no-7"),
        ("", "memory"),
        ("???", "memory"),
        ("CON", "memory-con"),
        ("word " * 40, "-".join(["word"] * 12)),
    ],
)
def test_suggested_names(title: str, name: str) -> None:
    assert suggest_name(title) == name


@given(st.text())
@example("İ" * 200)
@example("\u0301")
@example("ﷺ" * 30)
def test_every_suggestion_is_a_valid_name(title: str) -> None:
    check_name(suggest_name(title))


@given(NAMES.map(suggest_name), st.integers(1, 12))
@example("ı", 2)
@example("straße", 3)
def test_free_names_are_valid_and_differ_by_more_than_case(name: str, count: int) -> None:
    taken: list[str] = []
    for _ in range(count):
        free = first_free_name(name, [other.upper() for other in taken])
        check_name(free)
        taken.append(free)
    assert len({folded(other) for other in taken}) == count
    assert taken[0] == name


def test_free_names_of_the_longest_name_stay_short_enough() -> None:
    name = "x" * 100
    assert first_free_name(name, [name]) == "x" * 98 + "-2"
    check_name(first_free_name("会" * 66, ["会" * 66]))


def test_letters_that_differ_only_in_case_fold_to_the_same() -> None:
    letters = [char for char in map(chr, range(0xD800)) if char.lower() != char.upper()]
    assert len(letters) > 2000
    assert [char for char in letters if not folded(char) == folded(char.upper()) == folded(char.lower())] == []


@given(st.text(max_size=20))
def test_spellings_that_a_file_system_may_confuse_fold_to_the_same(name: str) -> None:
    assert folded(unicodedata.normalize("NFD", name)) == folded(name)
