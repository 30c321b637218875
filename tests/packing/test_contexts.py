import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.packing.contexts import deal_sentences, draw_ends, evidence_text, room_for_context


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 10_000))
def test_head_and_tail_pieces_fill_the_context_and_stay_in_their_ends(total: int, wanted: int, seed: int) -> None:
    head, tail = draw_ends(total, wanted, random.Random(seed))
    size = min(total, wanted)
    assert head.length_tokens + tail.length_tokens == size
    assert 0 <= head.start <= head.end <= size
    assert total - size <= tail.start < tail.end <= total


def test_every_split_of_the_context_is_drawn() -> None:
    drawn = {draw_ends(10, 4, random.Random(seed))[0].length_tokens for seed in range(200)}
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize(("total", "wanted"), [(0, 4), (4, 0)])
def test_nothing_to_draw_from_is_refused(total: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="expected tokens"):
        draw_ends(total, wanted, random.Random(0))


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 99))
def test_sentences_are_dealt_each_once_in_order(count: int, size: int, seed: int) -> None:
    dealt = deal_sentences(count, size, random.Random(seed))
    assert sorted(index for group in dealt for index in group) == list(range(count))
    assert all(group == sorted(group) and len(group) <= size for group in dealt)


def test_the_context_is_scaled_to_what_the_window_leaves() -> None:
    assert room_for_context(7800, 16 + 2048, 4096) == 4096
    assert room_for_context(4000, 16 + 2048, 4096) == 1936
    assert room_for_context(1000, 16 + 2048, 4096) == 0


def test_evidence_is_shown_in_the_order_of_the_document_and_once() -> None:
    assert evidence_text(["a", "b", "c"], [2, 0, 2]) == "a c"
