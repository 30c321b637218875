"""Several documents as one, and back."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents.document import Document, Place, join_documents
from lift.sentences import split_sentences

PAGES = Document("Minutes", "First page.\nSecond page.", "minutes.pdf", (Place(0, page=1), Place(12, page=2)))
HEADINGS = Document(
    "Rules",
    "No smoking.\n\n# Dogs\n\nDogs are allowed.",
    "rules.md",
    (Place(0, heading="Rules"), Place(13, None, "Dogs")),
)
PLAIN = Document("Letter", "Dear Ada, the lens is here.", "letter.txt")
TEXTS = st.lists(
    st.text(alphabet=st.sampled_from([*"abcXYZ19 .,;:!?\n\t-–“”\"'()[]#*|é\u2028\u00a0"]), min_size=1, max_size=60),
    min_size=1,
    max_size=4,
)


def test_what_is_joined_can_be_split_again() -> None:
    joined = join_documents([PAGES, HEADINGS, PLAIN], "All")
    assert joined.title == "All"
    assert joined.source == "minutes.pdf; rules.md; letter.txt"
    assert joined.text == f"{PAGES.text}\n\n{HEADINGS.text}\n\n{PLAIN.text}"
    parts = joined.split()
    assert [(part.title, part.text, part.source) for part in parts] == [
        (each.title, each.text, each.source) for each in (PAGES, HEADINGS, PLAIN)
    ]
    assert [part.sha256 for part in parts] == [each.sha256 for each in (PAGES, HEADINGS, PLAIN)]
    assert parts[1] == HEADINGS
    assert joined.sha256 == hashlib.sha256(joined.text.encode()).hexdigest()


def test_every_place_says_which_text_it_is_in() -> None:
    joined = join_documents([PAGES, HEADINGS, PLAIN])
    shown = [
        str(joined.place_at(joined.text.index(word))) for word in ("First", "Second", "smoking", "Dogs are", "Ada")
    ]
    assert shown == ["page 1, “Minutes”", "page 2, “Minutes”", "“Rules”", "“Dogs”", "“Letter”"]
    starts = [place.start for place in joined.places]
    assert starts == sorted(set(starts))


def test_a_first_place_in_the_middle_leaves_the_title_before_it() -> None:
    late = Document("Book", "A foreword.\n\nIt began.", "book.txt", (Place(13, heading="Chapter 1"),))
    joined = join_documents([PLAIN, late])
    assert str(joined.place_at(joined.text.index("foreword"))) == "“Book”"
    assert str(joined.place_at(joined.text.index("began"))) == "“Chapter 1”"


def test_one_document_stays_as_it_is_unless_it_is_given_a_title() -> None:
    assert join_documents([PAGES]) is PAGES
    titled = join_documents([PAGES], "Archive")
    assert (titled.title, titled.text, [part.title for part in titled.parts]) == ("Archive", PAGES.text, ["Minutes"])
    assert PLAIN.split() == (PLAIN,)
    with pytest.raises(ValueError, match="at least one"):
        join_documents([])


def test_joining_what_was_joined_is_joining_all_at_once() -> None:
    once = join_documents([PAGES, HEADINGS, PLAIN], "All")
    assert join_documents([join_documents([PAGES, HEADINGS]), PLAIN], "All") == once
    assert join_documents([PAGES, join_documents([HEADINGS, PLAIN])], "All") == once
    assert join_documents(once.split(), "All") == once


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_sentences_of_the_whole_are_those_of_the_parts(texts: list[str]) -> None:
    parts = [Document(f"T{number}", text, f"{number}.txt") for number, text in enumerate(texts)]
    joined = join_documents(parts, "All")
    expected: list[tuple[str, int]] = []
    for part, split in zip(joined.parts, joined.split(), strict=True):
        expected += [(each.text, part.start + each.start) for each in split_sentences(split.text)]
    assert [(each.text, each.start) for each in split_sentences(joined.text)] == expected
