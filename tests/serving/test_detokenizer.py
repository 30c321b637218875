"""The text of an answer as it is shown: its pieces are the answer, and nothing is shown that is taken back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.models.control_tokens import decode_content
from lift.serving.detokenizer import IncrementalDetokenizer
from lift.serving.request import TokenInfo

TEXTS = st.text(st.sampled_from("ab é😀"), max_size=12)


def spoken(
    tokenizer: Any, ids: list[int], stops: tuple[str, ...], strip: bool
) -> tuple[list[str], IncrementalDetokenizer]:
    """Pieces of the text of these tokens, one by one until a stop text; no piece is empty."""
    stream, deltas = IncrementalDetokenizer(tokenizer, stops, strip=strip), []
    for token in ids:
        deltas.append(stream.append(token))
        if stream.stopped:
            break
    else:
        deltas.append(stream.close())
    shown = [delta.text for delta in deltas if delta is not None]
    assert all(shown)
    return shown, stream


def expected(text: str, stops: tuple[str, ...], strip: bool) -> str:
    """The shortest beginning that holds a stop text tells which ones count; the text ends at the first of them."""
    for end in range(len(text) + 1):
        found = [text[:end].index(stop) for stop in stops if stop in text[:end]]
        if found:
            text = text[: min(found)]
            break
    return text.strip() if strip else text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS, st.lists(st.text("ab ", min_size=1, max_size=3), max_size=2), st.booleans())
def test_the_pieces_are_the_text_up_to_the_first_stop(
    tiny_tokenizer: Any, before: str, behind: str, stops: list[str], strip: bool
) -> None:
    text = "".join([before, *stops, behind])
    ids = tiny_tokenizer(text)["input_ids"]
    shown, stream = spoken(tiny_tokenizer, ids, tuple(stops), strip)
    assert "".join(shown) == stream.text == expected(text, tuple(stops), strip)
    assert stream.stopped == any(stop in text for stop in stops)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 258), max_size=20))
def test_any_tokens_give_what_they_give_at_once(tiny_tokenizer: Any, ids: list[int]) -> None:
    shown, stream = spoken(tiny_tokenizer, ids, (), True)
    assert "".join(shown) == stream.text == decode_content(tiny_tokenizer, ids).strip()
    assert stream.tokens == len(ids)


def test_a_character_and_what_may_be_a_stop_are_held_back(tiny_tokenizer: Any) -> None:
    stream = IncrementalDetokenizer(tiny_tokenizer, ["END"])
    shown = [stream.append(token) for token in tiny_tokenizer("a é ENEND")["input_ids"]]
    texts = [delta.text if delta else None for delta in shown]
    assert texts == ["a", None, None, " é", None, None, None, " EN", None, None]
    assert stream.stopped
    assert stream.text == "a é EN"


@pytest.mark.parametrize("stops", [(), ("!",)])
def test_every_token_that_was_told_comes_with_a_piece(tiny_tokenizer: Any, stops: tuple[str, ...]) -> None:
    stream, deltas = IncrementalDetokenizer(tiny_tokenizer, stops), []
    ids = tiny_tokenizer("é b !" if stops else "é b  ")["input_ids"]
    infos = [TokenInfo(str(index), -1.0, ()) for index in range(len(ids))]
    for token, info in zip(ids, infos, strict=True):
        deltas.append(stream.append(token, info))
    if not stops:
        deltas.append(stream.close())
    assert [info for delta in deltas if delta for info in delta.tokens] == infos
    whole = stream.whole()
    assert whole is not None and (whole.text, list(whole.tokens)) == ("é b", infos)
