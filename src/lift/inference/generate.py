"""Tokens in, tokens out: the scheduler, run until it is empty."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from lift.adapters.row_assignment import rows
from lift.inference.kv_cache import can_share
from lift.inference.prefix_cache import PrefixCache
from lift.inference.sampling import SamplingParams
from lift.inference.scheduler import Scheduler, SequenceState
from lift.inference.shared_prefix import order_alike

_SLOT_TOKENS = 2**40  # the batch is as large as it was asked for


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
    adapters: Sequence[str | None] | None = None,
    prefixes: PrefixCache | None = None,
    excluded: tuple[int, ...] = (),
) -> list[list[int]]:
    """Continue each prompt until an end token or `max_new_tokens`; end tokens are not returned.

    Prompts that begin alike, or of like length, are batched; what they begin with in common is read once. `temperature`
    0 is greedy; where one row is alone its tokens may come several at a time (speculative.py). `on_token(row, token)`
    is called as tokens come, `row` counting in the order of `prompts`. `adapters`: the attached adapter of each prompt,
    None: the base; without them, those that the model applies to all rows now. What `prefixes` keeps of earlier calls
    is not read again, and it is given what is read now; it is not used where `adapters` are named. `excluded` tokens
    are never generated. Raises ValueError on an empty prompt, and ModelError where the model's numbers are not finite.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("expected prompts of at least one token")
    answers: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 1:
        return answers
    share = adapters is None and can_share(model)
    order = order_alike(prompts) if share else sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    kept = prefixes.open(model) if prefixes is not None and share else None
    sampling = SamplingParams(temperature, generator=generator, excluded=excluded)
    with rows(model, []) if adapters is not None else contextlib.nullcontext() as assignment:
        scheduler = Scheduler(
            model,
            assignment,
            end_ids=end_ids,
            rows=min(batch_size, len(prompts)),
            token_budget=_SLOT_TOKENS,
            prefixes=lambda _adapter: kept,
            prefill_first=True,
        )
        for first in range(0, len(order), batch_size):
            batch = {
                SequenceState(prompts[row], adapters[row] if adapters else None, sampling, max_new_tokens): row
                for row in order[first : first + batch_size]
            }
            for output in scheduler.run(list(batch)):
                if output.sampled is not None and output.sampled.token is not None:
                    answers[batch[output.row]].append(output.sampled.token)
                    if on_token:
                        on_token(batch[output.row], output.sampled.token)
    return answers
