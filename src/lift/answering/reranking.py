"""Log-linear reranking of several answers to one question, with a pointwise-mutual-information term of the memory.

    score(a) = log P_reader(a | question, shown) + w (log P_memory(a | question) - log P_prior(a | question))

The second term is the pointwise mutual information of answer and document, as the memory has it: how much likelier it
finds an answer than a model does that has never seen the text (the prior). An answer that is likely anyway, being short
or common, gains nothing by that. The reader is shown evidence from the document, once narrow and once wide, of which
the mean counts; or closed book a sentence that the memory has cited, which may be wrong, and the weight w is twice as
much then. A memory that reads the evidence itself has no second term. (w was found on other documents than those
reported on: docs/log.md.)

A reader may have learned to refuse. A memory has not, so a refusal has no second term. It wins where

    log P_reader(refusal | question, shown) > max_a score(a) + m
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lift.packing.forward import labelled_logits
from lift.packing.losses import cross_entropy
from lift.packing.prompts import answer_example
from lift.packing.trie import pack, split_batches

PMI_WEIGHT = 0.5
CITING_PMI_WEIGHT = 1.0
REFUSAL_MARGIN_NATS = 2.0
_BATCH_TOKENS = 1024


def vote(
    reading: Sequence[float],
    recalling: Sequence[float] = (),
    prior: Sequence[float] = (),
    *,
    pmi_weight: float = PMI_WEIGHT,
) -> list[float]:
    """The score of each answer, in nats; each sequence has one log-probability an answer.

    Without `recalling` and `prior` the reader alone decides.
    """
    gained = [recalled - before for recalled, before in zip(recalling, prior, strict=True)] or [0.0] * len(reading)
    return [read + pmi_weight * more for read, more in zip(reading, gained, strict=True)]


@torch.no_grad()
def log_probabilities(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[str]]
) -> list[list[float]]:
    """log P(answer and its end | prompt) of each of a prompt's answers, under whatever is applied to `model` now.

    A trie reads prompts and answers in one pass. Sequences of the scheduler, which score while others decode, need one
    for the prompts and one for the answers: measured, 1.4 to 1.7 times as long with SmolLM2-135M on one core.
    """
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
