"""Shared-prefix prefill: the common beginning of a batch's prompts is read once, and laid into the cache of all rows.

A batch is padded on the left. Its last columns, `own` of them, are read row by row; what stands left of them comes from
passes of one row each, and each row gets it shifted by its own padding. Prefix and rest so stand where they would
stand if the batch were read in one piece: nothing is padded between them, and sliding windows see what they should.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lift.inference.prefix_cache import Layers, Prefixes, common_tokens
from lift.packing.alora import PromptForward, forward_context

LEAST_TOKENS = 32  # what prompts must have in common
_PASS_TOKENS = 32  # what a pass costs beside its tokens; measured: 27 with SmolLM2-135M on one core
_CACHED_ALIKE = (DynamicLayer, DynamicSlidingWindowLayer)
_ROPES_BY_LENGTH = {"dynamic", "longrope"}


@dataclass(frozen=True)
class PrefixSharing:
    """`own`: columns at the end that every row reads itself. `groups`: rows whose columns before come from one pass."""

    own: int
    groups: tuple[tuple[int, ...], ...] = ()


def can_share(model: Any) -> bool:
    """Whether the model keeps keys and values by token, that do not depend on how much was read in the same pass.

    It is not so for recurrent layers, and for rotary positions whose frequencies follow the longest position.
    """
    ropes = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = {ropes.get("rope_type"), *(each.get("rope_type") for each in ropes.values() if isinstance(each, dict))}
    return keeps_tokens(model) and not kinds & _ROPES_BY_LENGTH


def keeps_tokens(model: Any) -> bool:
    """Whether all that the model keeps of what it read is keys and values by token."""
    return all(type(layer) in _CACHED_ALIKE for layer in DynamicCache(config=model.config).layers)


def last_columns(ids: torch.Tensor, count: int = 1) -> torch.Tensor:
    """The value of `logits_to_keep` for the last `count` columns of `ids`, [B, T], alone.

    By their indices, since a slice of the hidden states, which is not contiguous, has torch copy the matrix of the
    words for every row: measured, 5 times the time of the whole pass for 8 rows of SmolLM2-135M in bfloat16.
    """
    return torch.arange(ids.shape[1] - count, ids.shape[1], device=ids.device)


def order_alike(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Rows in an order whose batches have much in common: prompts that begin alike together, the others by length."""
    groups = [sorted(group, key=lambda row: (len(prompts[row]), row)) for group in _begin_alike(prompts)]
    together = sorted((group for group in groups if len(group) > 1), key=lambda group: (len(prompts[group[-1]]), group))
    alone = sorted((group for group in groups if len(group) == 1), key=lambda group: (len(prompts[group[0]]), group))
    return [row for group in together + alone for row in group]


def plan_sharing(prompts: Sequence[Sequence[int]], kept: Prefixes | None = None) -> PrefixSharing:
    """The tokens that the prompts of one batch read together, so that the fewest tokens are read; maybe nothing.

    Rows share in groups that begin alike, or all of them share what they all begin with. In the first case a row that
    is alone in its group is read in a pass of its own, so that it does not hold up the others. What is `kept` costs
    nothing.
    """
    width = max(map(len, prompts))
    known = [kept.known_tokens(_lasting(prompt, kept, 1)) if kept else 0 for prompt in prompts]
    best, least = PrefixSharing(width), len(prompts) * width
    groups = _begin_alike(prompts)
    for candidate in (groups, [[row for group in groups for row in group]]):
        sources = {tuple(group): _longest(prompts, group) for group in candidate}
        for own in _possible_owns(prompts, sources, known):
            read = tuple(group for group, source in sources.items() if len(prompts[source]) > own)
            missing = [len(prompts[sources[group]]) - own - known[sources[group]] for group in read]
            tokens = sum(count + _PASS_TOKENS for count in missing if count > 0) + len(prompts) * own
            if tokens < least:
                best, least = PrefixSharing(own, read), tokens
    return best


def read_shared(
    model: Any, prompts: Sequence[Sequence[int]], sharing: PrefixSharing, kept: Prefixes | None = None
) -> DynamicCache:
    """The cache of the batch [B, width - own] after the columns that are not the rows' own; empty where all are.

    What stands left of a prompt is zero, and is to be masked. Each group's own cache is freed layer by layer. With
    `kept` only what it lacks is read, and it is given what was; of a single prompt the next pass, which reads the rest.
    """
    cache = _NotingCache(config=model.config)
    sources = [prompts[_longest(prompts, group)] for group in sharing.groups]
    readings = [_read(model, source, sharing.own, kept) for source in sources]
    columns = max(map(len, prompts)) - sharing.own
    if len(prompts) == 1:
        if kept and kept.wants(len(prompts[0]), columns):
            cache.note(kept, _lasting(prompts[0], kept, 0), readings[0] if readings else [])
        for index, pair in enumerate(readings[0] if readings else ()):
            cache.begin_layer(index, *pair)
        return cache
    for index in range(len(readings[0]) if readings else 0):
        layers = [reading.pop(0) for reading in readings]  # of one group each: keys, values [1, K, T, d]
        keys, values = (states.new_zeros(len(prompts), *_shape(states, columns)) for states in layers[0])
        for group, (group_keys, group_values) in zip(sharing.groups, layers, strict=True):
            for row in group:
                seen = max(0, len(prompts[row]) - sharing.own)
                keys[row, :, columns - seen :] = group_keys[0, :, :seen]  # keys, values: [B, K, columns, d]
                values[row, :, columns - seen :] = group_values[0, :, :seen]
        cache.update(keys, values, index)
    return cache


class _NotingCache(DynamicCache):
    """A cache that hands on what the first pass adds to it, before windows are cut."""

    _kept: Prefixes | None = None

    def note(self, kept: Prefixes, tokens: Sequence[int], before: Layers) -> None:
        """Give `kept` the keys and values of `tokens` when they are read: those in `before` and the next pass's."""
        self._kept, self._tokens, self._before = kept, tokens, before
        self._added: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin_layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Begin an empty layer with these states [1, K, T, d]; a layer without a window does not copy them."""
        layer: Any = self.layers[index]
        if type(layer) is DynamicLayer:
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        else:
            layer.update(keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As any cache's."""
        if self._kept is not None:
            self._added[layer_idx] = (key_states, value_states)
            if len(self._added) == len(self.layers):
                self._hand_on(self._kept)
        states: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return states

    def _hand_on(self, kept: Prefixes) -> None:
        added = [self._added[index] for index in range(len(self.layers))]
        if self._before:
            pairs = zip(self._before, added, strict=True)
            added = [
                (torch.cat([keys, more_keys], dim=2), torch.cat([values, more_values], dim=2))
                for (keys, values), (more_keys, more_values) in pairs
            ]
        kept.keep(self._tokens, added)
        self._kept, self._before, self._added = None, (), {}


def _lasting(prompt: Sequence[int], kept: Prefixes, own: int) -> Sequence[int]:
    """The part of the prompt that may be kept and found: without its last tokens, `own` of them at least."""
    return prompt[: min(len(prompt) - own, kept.lasting_tokens(prompt))]


def _read(
    model: Any, prompt: Sequence[int], own: int, kept: Prefixes | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer for all tokens of `prompt` but the last `own`, [1, K, T, d]."""
    tokens = prompt[:-own]
    found = list(kept.find(_lasting(prompt, kept, own))) if kept else []
    known = found[0][0].shape[2] if found else 0
    if known == len(tokens):
        return found
    # without the model's configuration layers with a window keep all keys: rows need windows that end earlier
    cache = DynamicCache()
    for index, (keys, values) in enumerate(found):
        cache.update(keys, values, index)
    ids = torch.tensor([list(tokens[known:])], device=model.device)  # [1, T - known]
    with forward_context(PromptForward([prompt], [len(tokens)], ids.shape[1])):
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last_columns(ids))
    layers: list[Any] = cache.layers
    read = [(layer.keys, layer.values) for layer in layers]
    if kept and kept.wants(len(tokens), known):
        kept.keep(_lasting(prompt, kept, own), read)
    return read


def _possible_owns(
    prompts: Sequence[Sequence[int]], sources: dict[tuple[int, ...], int], known: Sequence[int]
) -> Iterator[int]:
    """Numbers of last columns that rows may read themselves; `sources`: groups, and the row that is read for each."""
    common = {group: _common_tokens(prompts, group) for group in sources if len(group) > 1}
    # a short beginning is not worth a pass, but needs none where it is known
    if any(tokens < LEAST_TOKENS and not 0 < tokens <= known[sources[group]] for group, tokens in common.items()):
        return
    # at least one token: the answer begins behind it
    own = max([1, *(len(prompts[row]) - tokens for group, tokens in common.items() for row in group)])
    if common:
        yield own
    alone = [row for group, row in sources.items() if len(group) == 1]
    if any(known[row] for row in alone):
        yield max(own, *(len(prompts[row]) - known[row] for row in alone))


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
    return common_tokens(prompts[ordered[0]], prompts[ordered[-1]])


def _longest(prompts: Sequence[Sequence[int]], group: Sequence[int]) -> int:
    """The row of the group that has the longest prompt."""
    return max(group, key=lambda row: len(prompts[row]))
