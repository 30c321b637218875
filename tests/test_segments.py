from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.segments import Segment, split_segments

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
