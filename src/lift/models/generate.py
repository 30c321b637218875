"""Tokens in, tokens out: batched greedy or sampled generation with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from transformers import DynamicCache


class Rows(Protocol):
    """What of a model depends on the row of the batch, for instance which memory it uses."""

    def keep(self, indices: Sequence[int]) -> None:
        """Only these rows of the batch go on, in this order."""
        ...


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Iterable[int],
    batch_size: int = 32,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    on_token: Callable[[int, int], None] | None = None,
    open_rows: Callable[[Sequence[int]], AbstractContextManager[Rows]] | None = None,
) -> list[list[int]]:
    """Continue each prompt until an end token or `max_new_tokens`; end tokens are not returned.

    Prompts of like length are batched, padded on the left. `temperature` 0 is greedy. `on_token(row, token)` is called
    as tokens come, `row` counting in the order of `prompts`. `open_rows` is called with those rows of `prompts` that
    make up a batch, and is told which of them go on. Raises ValueError on an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("expected prompts of at least one token")
    stop = torch.tensor(sorted(set(end_ids)), device=model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        opened: AbstractContextManager[Rows | None] = open_rows(rows) if open_rows else nullcontext()
        with opened as assigned:
            for row, token in _stream(model, rows, prompts, stop, max_new_tokens, temperature, generator, assigned):
                answers[row].append(token)
                if on_token:
                    on_token(row, token)
    return answers


def _stream(
    model: Any,
    rows: list[int],
    prompts: Sequence[Sequence[int]],
    stop: torch.Tensor,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    assigned: Rows | None,
) -> Iterable[tuple[int, int]]:
    width = max(len(prompts[row]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # [B, width]
    mask = torch.zeros(len(rows), width, dtype=torch.long)  # [B, width]
    for index, row in enumerate(rows):
        ids[index, width - len(prompts[row]) :] = torch.tensor(prompts[row])
        mask[index, width - len(prompts[row]) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, width]
    padded = not bool(mask.all())
    cache = DynamicCache(config=model.config)
    alive = list(rows)
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # [B, vocabulary]
        tokens = _choose(logits, temperature, generator)  # [B]
        ended = torch.isin(tokens, stop)  # [B]
        for row, token, end in zip(alive, tokens.tolist(), ended.tolist(), strict=True):
            if not end:
                yield row, token
        keep = (~ended).nonzero().flatten()
        if len(keep) == 0:
            return
        if len(keep) < len(alive):
            alive = [alive[index] for index in keep.tolist()]
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
            if assigned is not None:
                assigned.keep(keep.tolist())
        ids = tokens[:, None]  # [B, 1]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature <= 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
