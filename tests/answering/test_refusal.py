"""A reader's refusal counts where the reader is sure of it; else it is asked again without the refusal's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lift.answering.refusal import REFUSAL_NATS, kept_refusals, refusal_tokens
from lift.answering.steps import GenerateRequest, ModelRequest, ScoreRequest, run_strategies
from lift.models.base_model import BaseModel
from lift.packing.prompts import TEXT_TELLS_NOTHING, answer_ids


def asked(
    base: BaseModel, texts: Sequence[str], sureness: float, second: str = "1907"
) -> tuple[list[str], list[ModelRequest]]:
    """What is kept of the texts by a reader that says `second` where it may not refuse, and what was wanted for it."""
    wanted: list[ModelRequest] = []

    def fulfil(requests: Sequence[ModelRequest]) -> list[Any]:
        wanted.extend(requests)
        return [[sureness] * len(each.answers) if isinstance(each, ScoreRequest) else second for each in requests]

    requests = [GenerateRequest("reader", (number,), 8) for number in range(len(texts))]
    (found,) = run_strategies([kept_refusals(base.tokenizer, requests, texts)], fulfil)
    return found, wanted


def test_an_answer_costs_nothing_more(tiny_model: BaseModel) -> None:
    assert asked(tiny_model, ["1911", ""], 0.0) == (["1911", ""], [])


@pytest.mark.parametrize(("nearer", "kept"), [(0.01, TEXT_TELLS_NOTHING), (-0.01, "1907")])
def test_a_refusal_counts_where_the_reader_is_sure_of_it(tiny_model: BaseModel, nearer: float, kept: str) -> None:
    found, wanted = asked(tiny_model, ["1911", TEXT_TELLS_NOTHING], REFUSAL_NATS + nearer)
    assert found == ["1911", kept]
    assert wanted[0] == ScoreRequest("reader", (1,), (TEXT_TELLS_NOTHING,))
    again = [GenerateRequest("reader", (1,), 8, refusal_tokens(tiny_model.tokenizer))]
    assert wanted[1:] == (again if nearer < 0 else [])


@pytest.mark.parametrize("second", ["The lyrics do not tell.", "It does not tell.", "It is not mentioned in the text."])
def test_a_refusal_in_other_words_is_no_answer(tiny_model: BaseModel, second: str) -> None:
    found, _ = asked(tiny_model, [TEXT_TELLS_NOTHING], REFUSAL_NATS - 1, second)
    assert found == [""]


def test_no_refusal_can_be_said_without_its_second_token(tiny_model: BaseModel) -> None:
    (token,) = refusal_tokens(tiny_model.tokenizer)
    assert token == answer_ids(tiny_model.tokenizer, TEXT_TELLS_NOTHING)[1]
