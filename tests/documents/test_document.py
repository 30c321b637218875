"""Several documents as one, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_drafts import make_draft

from lift.answering.answer import Answer, Evidence
from lift.cli.output import answer_record, print_support
from lift.documents.document import Document, Omission, Place, join_documents
from lift.documents.sentences import split_sentences
from lift.memories.library import MemoryLibrary
from lift.server.engine_answers import evidence_fields

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


def shown_places(*documents: Document) -> list[str]:
    """What is said of the last sentence of each document in a memory of them all."""
    joined = join_documents(documents)
    ends = [part.start for part in joined.parts[1:]] + [len(joined.text) + 1]
    return [str(joined.place_at(end - 3)) for end in ends]


def agreement(source: str, title: str = "Agreement", heading: str | None = "Fees") -> Document:
    places = (Place(0, heading=title), *([Place(12, 2, heading)] if heading else []))
    return Document(title, f"# {title[:8]}\n\nThe fee is told in {source}.", source, places)


def test_documents_of_one_title_are_told_apart_by_their_files() -> None:
    assert shown_places(agreement("2019/north.docx"), agreement("2019/south.docx"), PLAIN) == [
        "north.docx, page 2, “Fees”",
        "south.docx, page 2, “Fees”",
        "“Letter”",
    ]
    assert shown_places(agreement("a.md", "agreement"), agreement("b.md", "Agreement", "Term")) == [
        "a.md, page 2, “Fees”",
        "b.md, page 2, “Term”",
    ]


def test_equal_pages_and_headings_of_other_titles_are_told_apart_too() -> None:
    assert shown_places(
        agreement("a.md", "Boathouse"), agreement("b.md", "Workshop"), agreement("c.md", "Barn", "Term")
    ) == [
        "a.md, page 2, “Fees”",
        "b.md, page 2, “Fees”",
        "page 2, “Term”",
    ]


def test_files_of_one_name_are_told_apart_by_their_directories_and_else_by_their_number() -> None:
    assert shown_places(agreement("x/old/deal.md"), agreement("x\\new\\deal.md"), agreement("note.md")) == [
        "old/deal.md, page 2, “Fees”",
        "new/deal.md, page 2, “Fees”",
        "note.md, page 2, “Fees”",
    ]
    assert shown_places(agreement("deal.md"), agreement("x/deal.md"), agreement("deal.md")) == [
        "deal.md (1), page 2, “Fees”",
        "x/deal.md, page 2, “Fees”",
        "deal.md (2), page 2, “Fees”",
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab/\\.", max_size=6), min_size=2, max_size=5))
def test_no_two_documents_of_one_title_and_heading_have_the_same_place(sources: list[str]) -> None:
    shown = shown_places(*(agreement(source) for source in sources))
    assert len(set(shown)) == len(sources)


def test_the_file_stands_in_printed_answers_in_json_and_over_http(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = join_documents([agreement("2019/north.docx"), agreement("2019/south.docx")])
    library = MemoryLibrary(tmp_path / "library")
    document = library.put(make_draft("both", document=joined)).document
    assert document == joined
    sentences = split_sentences(document.text)
    told = next(sentence for sentence in sentences if "south" in sentence.text)
    evidence = Evidence(told.index, told.text, document.place_at(told.start))
    answer = Answer("south", "none", (evidence,), True, False, 1, 0.0)
    print_support(answer)
    assert "south.docx, page 2, “Fees”" in " ".join(capsys.readouterr().out.split())
    assert answer_record("Where?", answer)["evidence"][0]["file"] == "south.docx"
    assert evidence_fields(evidence)["place"] == {"page": 2, "heading": "Fees", "file": "south.docx"}


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_sentences_of_the_whole_are_those_of_the_parts(texts: list[str]) -> None:
    parts = [Document(f"T{number}", text, f"{number}.txt") for number, text in enumerate(texts)]
    joined = join_documents(parts, "All")
    expected: list[tuple[str, int]] = []
    for part, split in zip(joined.parts, joined.split(), strict=True):
        expected += [(each.text, part.start + each.start) for each in split_sentences(split.text)]
    assert [(each.text, each.start) for each in split_sentences(joined.text)] == expected


def test_what_was_left_out_is_told_by_kind_and_page() -> None:
    omissions = (Omission("page without text", 2), Omission("image", 3), Omission("page without text", 9))
    document = Document("T", "text", "a.pdf", omissions=omissions)
    assert document.warnings == (
        "2 pages without text were left out (pages 2 and 9).",
        "1 image was left out (page 3).",
    )
    joined = join_documents([document, Document("U", "more", "b.pdf")])
    assert joined.warnings[1] == "a.pdf: 1 image was left out (page 3)."


def test_kinds_of_omissions_have_their_plural() -> None:
    kinds = ["hidden panel", "list of teasers", "text box", "chapter that does not open"]
    document = Document("T", "text", "a", omissions=tuple(Omission(kind) for kind in kinds for _ in range(2)))
    assert document.warnings == (
        "2 hidden panels were left out.",
        "2 lists of teasers were left out.",
        "2 text boxes were left out.",
        "2 chapters that do not open were left out.",
    )
