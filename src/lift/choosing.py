"""Several answers to one question -> the one that reader and memory together find likeliest.

    score(a) = log P_reader(a | question, evidence) + 1/2 (log P_memory(a | question) - log P_prior(a | question))

The memory votes with what it knows of the document: how much likelier it finds an answer than a model does that has
never seen the text (the prior). An answer that is likely anyway, being short or common, gains nothing by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.adapters.rows import using
from lift.batches import pack, split_batches
from lift.losses import cross_entropy
from lift.models.base_model import BaseModel
from lift.prompts import answer_example
from lift.training.objective import labelled_logits

MEMORY_VOTE = 0.5
_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Vote:
    """Answers to one question, and who is to judge them, by the names of attached adapters; None is the base alone.

    `reader` judges behind `evidence_ids`, the prompt with the evidence; `memory` and `prior` behind `bare_ids`, the
    question alone. The first of `answers` is taken where nothing speaks for another.
    """

    answers: tuple[str, ...]
    reader: str | None
    memory: str | None
    prior: str | None
    evidence_ids: Sequence[int]
    bare_ids: Sequence[int]

    @property
    def candidates(self) -> tuple[str, ...]:
        """What was answered, each once, nothing left out but silence."""
        return tuple(dict.fromkeys(answer for answer in self.answers if answer))


def choose(base: BaseModel, votes: Sequence[Vote]) -> list[int]:
    """Which of its answers each vote is for; nothing is computed where all of them are the same."""
    open_votes = [vote for vote in votes if len(vote.candidates) > 1]
    reading = _judge(base, open_votes, [vote.reader for vote in open_votes], [vote.evidence_ids for vote in open_votes])
    bare = [vote.bare_ids for vote in open_votes]
    recalling = _judge(base, open_votes, [vote.memory for vote in open_votes], bare)
    before = _judge(base, open_votes, [vote.prior for vote in open_votes], bare)
    chosen = {
        id(vote): vote.candidates[best(*scores)]
        for vote, *scores in zip(open_votes, reading, recalling, before, strict=True)
    }
    return [vote.answers.index(chosen.get(id(vote), next(iter(vote.candidates), vote.answers[0]))) for vote in votes]


def best(reading: Sequence[float], recalling: Sequence[float], prior: Sequence[float]) -> int:
    """Which answer has the highest score, the first of equal ones; each sequence has one value an answer."""
    scores = [
        read + MEMORY_VOTE * (recalled - before)
        for read, recalled, before in zip(reading, recalling, prior, strict=True)
    ]
    return max(range(len(scores)), key=scores.__getitem__)


def _judge(
    base: BaseModel, votes: Sequence[Vote], judges: Sequence[str | None], prompts: Sequence[Sequence[int]]
) -> list[list[float]]:
    """log P of each candidate of each vote behind its prompt, by its judge; each judge is asked once for all."""
    found: list[list[float]] = [[] for _ in votes]
    for judge in dict.fromkeys(judges):
        places = [place for place, name in enumerate(judges) if name == judge]
        with using(base.model, judge):
            values = log_probabilities(
                base.model,
                base.tokenizer,
                [prompts[place] for place in places],
                [votes[place].candidates for place in places],
            )
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found


@torch.no_grad()
def log_probabilities(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[str]]
) -> list[list[float]]:
    """log P(answer and its end | prompt) of each of a prompt's answers, under whatever is applied to `model` now."""
    groups = [
        [answer_example(tokenizer, prompt, answer) for answer in wanted]
        for prompt, wanted in zip(prompts, answers, strict=True)
    ]
    found: list[float] = []
    for members in split_batches(groups, _BATCH_TOKENS):
        batch = pack(members)
        losses = cross_entropy(labelled_logits(model, batch), batch.targets.to(model.device))  # [M]
        found.extend(-float(part.sum()) for part in torch.split(losses, [each.labelled_tokens for each in members]))
    sums = iter(found)
    return [[next(sums) for _ in group] for group in groups]
