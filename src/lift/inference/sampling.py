"""The next token of each row of a batch, drawn as that row wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drawing:
    """Temperature 0 is greedy; `top_p`: share of the odds that is drawn from, the likeliest first; 0 is greedy too.

    `generator` is what a row draws from (row_generator), None for the process's own. `told`: how many of the likeliest
    tokens are to be told with their log-probabilities; None: none, and the chosen one's neither.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    told: int | None = None


@dataclass(frozen=True)
class Drawn:
    """A token, and under the model's own odds its log-probability and the likeliest tokens with theirs, if told.

    `token` is None where the model's numbers are not finite.
    """

    token: int | None
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


def row_generator(seed: int | None, device: torch.device) -> torch.Generator:
    """What a row whose logits are on `device` draws from: torch draws from no generator of another device.

    The same seed gives the same numbers on devices of one kind; None gives others each time.
    """
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def draw(logits: torch.Tensor, drawings: Sequence[Drawing]) -> list[Drawn]:
    """A token for each row of `logits`, [B, vocabulary]; equal for a row whatever the others are."""
    highest, greedy = logits.max(-1)  # [B], [B]; an infinite or undefined number shows in the highest
    finite: list[bool] = highest.isfinite().tolist()
    tokens: list[int] = greedy.tolist()
    return [
        _drawn(logits[row], tokens[row], drawing) if finite[row] else Drawn(None)
        for row, drawing in enumerate(drawings)
    ]


def _drawn(logits: torch.Tensor, greedy: int, drawing: Drawing) -> Drawn:
    token = greedy
    if drawing.temperature > 0 and drawing.top_p > 0:
        token = _sampled(logits.float(), drawing)
    if drawing.told is None:
        return Drawn(token)
    odds = torch.log_softmax(logits.float(), dim=-1)  # [vocabulary]
    values, tokens = odds.topk(min(drawing.told, len(odds)))
    return Drawn(token, float(odds[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def _sampled(logits: torch.Tensor, drawing: Drawing) -> int:
    # a temperature next to 0 would divide to infinity, and one that float32 takes for 0 to what is no number
    temperature = max(drawing.temperature, torch.finfo(torch.float32).tiny)
    odds = torch.softmax((logits - logits.max()) / temperature, dim=-1)[None]  # [1, vocabulary]
    if drawing.top_p < 1:
        sorted_odds, tokens = odds.sort(descending=True, stable=True)
        # the token that fills the share is among them, so there is one at least, of what float32 takes for 0 too
        kept = sorted_odds.cumsum(-1) - sorted_odds < drawing.top_p
        kept[:, 0] = True
        odds = torch.zeros_like(odds).scatter(-1, tokens, sorted_odds * kept)
    return int(torch.multinomial(odds, 1, generator=drawing.generator))
