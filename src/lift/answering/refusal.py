"""Selective answering: a reader that has learned to refuse is taken at its word only where it is sure.

A small reader refuses too often what a text tells in other words, and what it would have answered is mostly right: of
its greedy refusals those are kept whose log-probability is above a threshold (selective prediction, arXiv 1901.09192,
with the threshold on the refusal itself), and for the others it is asked again without the refusal's words. Where it
refuses in words of its own then ("The lyrics do not tell."), it has neither refused surely nor answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lift.answering.abstention import abstains
from lift.answering.steps import GenerateRequest, ScoreRequest, Strategy
from lift.packing.prompts import TEXT_TELLS_NOTHING, answer_ids

REFUSAL_NATS = -0.5
_REFUSAL_END = " ".join(TEXT_TELLS_NOTHING.split()[-2:])


def declines(text: str) -> bool:
    """Whether a text says that nothing answers the question; one that is empty says nothing at all."""
    return bool(text) and abstains(text)


def refusal_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The token behind which no refusal can be said: its second one, as answers begin with its first one too."""
    return tuple(answer_ids(tokenizer, TEXT_TELLS_NOTHING)[1:2])


def kept_refusals(tokenizer: Any, requests: Sequence[GenerateRequest], texts: Sequence[str]) -> Strategy[list[str]]:
    """The texts of these requests, where one declines unsurely what its reader says in place of the refusal.

    That is empty where the reader has nothing else to say.
    """
    doubtful = [place for place, text in enumerate(texts) if declines(text)]
    if not doubtful:
        return list(texts)
    scores = yield [
        ScoreRequest(requests[place].adapter, requests[place].prompt_ids, (TEXT_TELLS_NOTHING,)) for place in doubtful
    ]
    unsure = [place for place, (score,) in zip(doubtful, scores, strict=True) if score < REFUSAL_NATS]
    if not unsure:
        return list(texts)
    excluded = refusal_tokens(tokenizer)
    again = [requests[place] for place in unsure]
    answers = yield [
        GenerateRequest(each.adapter, each.prompt_ids, each.max_new_tokens, excluded=excluded) for each in again
    ]
    found = list(texts)
    for place, answer in zip(unsure, answers, strict=True):
        found[place] = "" if answer.endswith(_REFUSAL_END) or declines(answer) else answer
    return found
