"""Sampling: the next token of each row of a batch, by the sampling parameters of that row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SamplingParams:
    """Temperature 0 is greedy; `top_p`: share of the odds that is drawn from, the likeliest first; 0 is greedy too.

    `generator` is what a row draws from (row_generator), None for the process's own. `top_logprobs`: how many of
    the likeliest tokens are returned with their log-probabilities; None: none, and the chosen one's neither.
    `excluded`: tokens that are never chosen; log-probabilities are those of the model without it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    top_logprobs: int | None = None
    excluded: tuple[int, ...] = ()

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature <= 0 or self.top_p <= 0


@dataclass(frozen=True)
class SampledToken:
    """A token, and under the model's own odds its log-probability and the likeliest tokens with theirs, if asked for.

    `token` is None where the model's numbers are not finite.
    """

    token: int | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


def row_generator(seed: int | None, device: torch.device) -> torch.Generator:
    """The generator that a row samples from, on the `device` of its logits: torch takes no generator of another device.

    The same seed gives the same numbers on devices of one kind; None gives others each time.
    """
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def sample(logits: torch.Tensor, samplings: Sequence[SamplingParams]) -> list[SampledToken]:
    """A token for each row of `logits`, [B, vocabulary]; equal for a row whatever the others are."""
    allowed = _without_excluded(logits, samplings)
    highest, greedy = allowed.max(-1)  # [B], [B]; an infinite or undefined number shows in the highest
    finite: list[bool] = highest.isfinite().tolist()
    tokens: list[int] = greedy.tolist()
    return [
        _sampled_token(logits[row], allowed[row], tokens[row], sampling) if finite[row] else SampledToken(None)
        for row, sampling in enumerate(samplings)
    ]


def _without_excluded(logits: torch.Tensor, samplings: Sequence[SamplingParams]) -> torch.Tensor:
    """The logits, [B, vocabulary], at the least number where a token is excluded."""
    places = [(row, token) for row, sampling in enumerate(samplings) for token in sampling.excluded]
    if not places:
        return logits
    rows, tokens = torch.tensor(places, device=logits.device).T
    return logits.index_put((rows, tokens), torch.tensor(torch.finfo(logits.dtype).min).to(logits))


def _sampled_token(logits: torch.Tensor, allowed: torch.Tensor, greedy: int, sampling: SamplingParams) -> SampledToken:
    token = greedy
    if not sampling.is_greedy:
        token = _sampled(allowed.float(), sampling)
    if sampling.top_logprobs is None:
        return SampledToken(token)
    odds = torch.log_softmax(logits.float(), dim=-1)  # [vocabulary]
    values, tokens = odds.topk(min(sampling.top_logprobs, len(odds)))
    return SampledToken(token, float(odds[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def _sampled(logits: torch.Tensor, sampling: SamplingParams) -> int:
    # a temperature next to 0 would divide to infinity, and one that float32 takes for 0 to what is no number
    temperature = max(sampling.temperature, torch.finfo(torch.float32).tiny)
    odds = torch.softmax((logits - logits.max()) / temperature, dim=-1)[None]  # [1, vocabulary]
    if sampling.top_p < 1:
        sorted_odds, tokens = odds.sort(descending=True, stable=True)
        # the token that fills the share is among them, so there is one at least, of what float32 takes for 0 too
        kept = sorted_odds.cumsum(-1) - sorted_odds < sampling.top_p
        kept[:, 0] = True
        odds = torch.zeros_like(odds).scatter(-1, tokens, sorted_odds * kept)
    return int(torch.multinomial(odds, 1, generator=sampling.generator))
