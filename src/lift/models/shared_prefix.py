"""What the prompts of a batch begin with in common is read once: one pass of one row, laid into the cache of all rows.

A batch is padded on the left. Its last columns, `own` of them, are read row by row; what stands left of them comes from
passes of one row each, and each row gets it shifted by its own padding. Prefix and rest so stand where they would
stand if the batch were read in one piece: nothing is padded between them, and sliding windows see what they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LEAST_TOKENS = 32  # what prompts must have in common
_PASS_TOKENS = 32  # what a pass costs beside its tokens; measured: 27 with SmolLM2-135M on one core
_CACHED_ALIKE = (DynamicLayer, DynamicSlidingWindowLayer)
_ROPES_BY_LENGTH = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Sharing:
    """`own`: columns at the end that every row reads itself. `groups`: rows whose columns before come from one pass."""

    own: int
    groups: tuple[tuple[int, ...], ...] = ()


def can_share(model: Any) -> bool:
    """Whether the model keeps keys and values by token, that do not depend on how much was read in the same pass.

    It is not so for recurrent layers, and for rotary positions whose frequencies follow the longest position.
    """
    ropes = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = {ropes.get("rope_type"), *(each.get("rope_type") for each in ropes.values() if isinstance(each, dict))}
    by_token = all(type(layer) in _CACHED_ALIKE for layer in DynamicCache(config=model.config).layers)
    return by_token and not kinds & _ROPES_BY_LENGTH


def order_alike(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Rows in an order whose batches have much in common: prompts that begin alike together, the others by length."""
    groups = [sorted(group, key=lambda row: (len(prompts[row]), row)) for group in _begin_alike(prompts)]
    together = sorted((group for group in groups if len(group) > 1), key=lambda group: (len(prompts[group[-1]]), group))
    alone = sorted((group for group in groups if len(group) == 1), key=lambda group: (len(prompts[group[0]]), group))
    return [row for group in together + alone for row in group]


def plan_sharing(prompts: Sequence[Sequence[int]]) -> Sharing:
    """What the prompts of one batch read together, so that the fewest tokens are read; maybe nothing.

    Rows share in groups that begin alike, or all of them share what they all begin with. In the first case a row that
    is alone in its group is read in a pass of its own, so that it does not hold up the others.
    """
    width = max(map(len, prompts))
    best, least = Sharing(width), len(prompts) * width
    groups = _begin_alike(prompts)
    for candidate in (groups, [[row for group in groups for row in group]]):
        common = {tuple(group): _common_tokens(prompts, group) for group in candidate if len(group) > 1}
        if not common or min(common.values()) < LEAST_TOKENS:
            continue
        # at least one token: the answer begins behind it
        own = max(1, *(len(prompts[row]) - tokens for group, tokens in common.items() for row in group))
        read = [tuple(group) for group in candidate if len(_longest(prompts, group)) > own]
        tokens = sum(len(_longest(prompts, group)) - own + _PASS_TOKENS for group in read) + len(prompts) * own
        if tokens < least:
            best, least = Sharing(own, tuple(read)), tokens
    return best


def read_shared(model: Any, prompts: Sequence[Sequence[int]], sharing: Sharing) -> DynamicCache:
    """The cache of the batch [B, width - own] after the columns that are not the rows' own; empty where all are.

    What stands left of a prompt is zero, and is to be masked. Each group's own cache is freed layer by layer.
    """
    cache = DynamicCache(config=model.config)
    readings = [_read(model, _longest(prompts, group)[: -sharing.own]) for group in sharing.groups]
    columns = max(map(len, prompts)) - sharing.own
    for index in range(len(readings[0].layers) if readings else 0):
        layers: list[Any] = [reading.layers.pop(0) for reading in readings]
        keys = layers[0].keys.new_zeros(len(prompts), *_shape(layers[0].keys, columns))  # [B, K, columns, d]
        values = layers[0].values.new_zeros(len(prompts), *_shape(layers[0].values, columns))
        for group, layer in zip(sharing.groups, layers, strict=True):
            for row in group:
                seen = max(0, len(prompts[row]) - sharing.own)
                keys[row, :, columns - seen :] = layer.keys[0, :, :seen]
                values[row, :, columns - seen :] = layer.values[0, :, :seen]
        cache.update(keys, values, index)
    return cache


def _read(model: Any, tokens: Sequence[int]) -> DynamicCache:
    # without the model's configuration layers with a window keep all keys: rows need windows that end earlier
    cache = DynamicCache()
    ids = torch.tensor([list(tokens)], device=model.device)  # [1, T]
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _shape(states: torch.Tensor, columns: int) -> tuple[int, int, int]:
    return states.shape[1], columns, states.shape[3]


def _begin_alike(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in the order of their tokens, cut where less than half of the longer of two neighbours is common."""
    groups: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: tuple(prompts[row])):
        if groups:
            before = groups[-1][-1]
            longer = max(len(prompts[row]), len(prompts[before]))
            if _common_tokens(prompts, (before, row)) >= max(LEAST_TOKENS, longer / 2):
                groups[-1].append(row)
                continue
        groups.append([row])
    return groups


def _common_tokens(prompts: Sequence[Sequence[int]], ordered: Sequence[int]) -> int:
    """Tokens that rows in the order of their tokens begin with in common: those of the first and the last."""
    first, last = prompts[ordered[0]], prompts[ordered[-1]]
    pairs = enumerate(zip(first, last, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(first), len(last)))


def _longest(prompts: Sequence[Sequence[int]], group: Sequence[int]) -> Sequence[int]:
    return max((prompts[row] for row in group), key=len)
