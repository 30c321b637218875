import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.documents.sentences import split_sentences
from lift.packing.segments import Segment, segments_of, split_paragraphs, split_segments
from lift.recipes.recipe import SegmentSettings

sizes = st.integers(1, 60).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@given(st.integers(0, 500), sizes)
def test_segments_cover_every_token_once_or_more_and_end_at_the_last(total: int, size: tuple[int, int]) -> None:
    length, step = size
    segments = split_segments(total, length, step)
    assert {token for segment in segments for token in range(segment.start, segment.end)} == set(range(total))
    assert all(segment.length_tokens == length for segment in segments[:-1])
    if segments:
        assert segments[-1].end == total


@given(st.integers(1, 500), sizes)
def test_segments_start_one_step_apart_and_none_lies_within_another(total: int, size: tuple[int, int]) -> None:
    segments = split_segments(total, *size)
    assert [segment.start for segment in segments] == [index * size[1] for index in range(len(segments))]
    assert all(later.end > earlier.end for earlier, later in pairwise(segments))


def test_the_papers_setting_on_a_document_of_5000_tokens() -> None:
    assert split_segments(5000, 2048, 768) == [
        Segment(0, 2048),
        Segment(768, 2816),
        Segment(1536, 3584),
        Segment(2304, 4352),
        Segment(3072, 5000),
    ]


def test_a_document_shorter_than_a_window_is_one_segment() -> None:
    assert split_segments(10, 2048, 768) == [Segment(0, 10)]


@pytest.mark.parametrize(("length", "step"), [(8, 0), (8, 9), (0, 1)])
def test_a_step_that_leaves_gaps_is_refused(length: int, step: int) -> None:
    with pytest.raises(ValueError, match="step"):
        split_segments(100, length, step)


paragraphs = st.lists(st.text("ab .\n", min_size=1, max_size=12), max_size=6)


@given(paragraphs, st.integers(1, 9), st.integers(1, 4))
def test_paragraphs_are_covered_once_and_no_segment_reaches_over_a_blank_line(
    pieces: list[str], length: int, token_chars: int
) -> None:
    text = "\n\n".join(pieces)
    offsets = [(at, min(at + token_chars, len(text))) for at in range(0, len(text), token_chars)]
    segments = split_paragraphs(text, offsets, length)
    assert [token for each in segments for token in range(each.start, each.end)] == list(range(len(offsets)))
    assert all(1 <= segment.length_tokens <= length for segment in segments)
    if token_chars == 1:
        shown = [text[segment.start : segment.end] for segment in segments]
        assert all(len({sentence.paragraph for sentence in split_sentences(piece)}) <= 1 for piece in shown)


def test_each_paragraph_is_a_segment_cut_only_where_it_is_too_long() -> None:
    text = "Title\nOne two.\n\nThree.\n \n\n  Four five six"
    offsets = [(found.start(), found.end()) for found in re.finditer(r"\s*\w+\W?", text)]
    assert [text[first:last] for first, last in offsets] == [
        "Title\n", "One ", "two.", "\n\nThree.", "\n \n\n  Four ", "five ", "six",
    ]  # fmt: skip
    assert split_paragraphs(text, offsets, 3) == [Segment(0, 3), Segment(3, 4), Segment(4, 7)]
    assert split_paragraphs(text, offsets, 2) == [
        Segment(0, 2), Segment(2, 3), Segment(3, 4), Segment(4, 6), Segment(6, 7),
    ]  # fmt: skip
    assert split_paragraphs("", [], 3) == []


def test_the_unit_of_the_recipe_decides() -> None:
    text, offsets = "a b\n\nc", [(0, 1), (1, 3), (3, 5), (5, 6)]
    windows = SegmentSettings(length_tokens=8, step_tokens=4)
    assert segments_of(text, offsets, windows) == [Segment(0, 4)]
    assert segments_of(text, offsets, windows.model_copy(update={"unit": "paragraph"})) == [
        Segment(0, 3),
        Segment(3, 4),
    ]
