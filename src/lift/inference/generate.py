"""Tokens in, tokens out: batched greedy or sampled generation with a KV cache, speculative for a single row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.shared_prefix import PrefixSharing, can_share, last_columns, order_alike, plan_sharing, read_shared
from lift.inference.speculative import SpeculativeDecoder, can_speculate
from lift.packing.alora import PromptForward, forward_context


class BatchRows(Protocol):
    """The part of a model that depends on the row of the batch, for instance which memory it uses."""

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
    open_rows: Callable[[Sequence[int]], AbstractContextManager[BatchRows]] | None = None,
    prefixes: PrefixCache | None = None,
) -> list[list[int]]:
    """Continue each prompt until an end token or `max_new_tokens`; end tokens are not returned.

    Prompts that begin alike, or of like length, are batched, padded on the left; what they begin with in common is read
    once. `temperature` 0 is greedy; where one row is alone its tokens may come several at a time (speculative.py).
    `on_token(row, token)` is called as tokens come, `row` counting in the order of `prompts`. `open_rows` is called
    with those rows of `prompts` that make up a batch, and is told which of them go on; every row is then read for
    itself. What `prefixes` keeps of earlier calls is not read again, and it is given what is read now. Raises
    ValueError on an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("expected prompts of at least one token")
    stop = torch.tensor(sorted(set(end_ids)), device=model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    # rows of different memories differ in what they make of the same tokens
    share = open_rows is None and can_share(model)
    order = order_alike(prompts) if share else sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        opened: AbstractContextManager[BatchRows | None] = open_rows(rows) if open_rows else nullcontext()
        batch = [prompts[row] for row in rows]
        kept = prefixes.open(model) if prefixes is not None and share else None
        with opened as assigned:
            for index, token in _stream(
                model, batch, share, kept, stop, max_new_tokens, temperature, generator, assigned
            ):
                answers[rows[index]].append(token)
                if on_token:
                    on_token(rows[index], token)
    return answers


def _stream(
    model: Any,
    prompts: Sequence[Sequence[int]],
    share: bool,
    kept: Prefixes | None,
    stop: torch.Tensor,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    assigned: BatchRows | None,
) -> Iterable[tuple[int, int]]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [B, width]
    mask = torch.zeros(len(prompts), width, dtype=torch.long)  # [B, width]
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, width]
    padded = not bool(mask.all())
    sharing = plan_sharing(prompts, kept) if share else PrefixSharing(width)
    cache = read_shared(model, prompts, sharing, kept)
    ids, positions = ids[:, -sharing.own :], positions[:, -sharing.own :]  # [B, own]
    alive = list(range(len(prompts)))
    first: PromptForward | None = PromptForward(prompts, list(map(len, prompts)), sharing.own)
    if len(prompts) == 1 and temperature <= 0 and assigned is None and can_speculate(model):
        for token in _speculate(model, ids, positions, cache, stop.tolist(), max_new_tokens, first):
            yield 0, token
        return
    for _ in range(max_new_tokens):
        with forward_context(first):
            logits = model(
                input_ids=ids,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=last_columns(ids),
            ).logits[:, -1]  # [B, vocabulary]
        first = None  # behind the prompt an adapter acts on all positions
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


def _speculate(
    model: Any,
    ids: torch.Tensor,
    positions: torch.Tensor,
    cache: Any,
    stop: Sequence[int],
    max_new_tokens: int,
    first: PromptForward | None,
) -> Iterator[int]:
    """Speculative decoding of one row, [1, own] of it not in `cache` yet: propose tokens, verify them in one pass.

    `first`: the pass that reads those.
    """
    decoder = SpeculativeDecoder(model)
    proposed: list[int] = []
    left = max_new_tokens
    while left > 0:
        with forward_context(first):
            logits = model(
                input_ids=ids,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1 + len(proposed),
            ).logits[0]  # [1 + guessed, vocabulary]
        first = None
        verified: list[int] = logits.argmax(-1).tolist()
        accepted = next((index for index, token in enumerate(proposed) if token != verified[index]), len(proposed))
        if proposed:
            decoder.record_accepted(accepted)
            cache.crop(accepted - len(proposed))
        for token in verified[: accepted + 1]:
            if token in stop:
                return
            yield token
        left -= accepted + 1
        # what comes behind the last token comes free with its pass
        proposed = decoder.propose(cache, verified[accepted], left - 1, stop)
        ids = ids.new_tensor([[verified[accepted], *proposed]])  # [1, 1 + guessed]
        seen = cache.get_seq_length()
        positions = torch.arange(seen, seen + ids.shape[1], device=ids.device)[None]


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature <= 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
