"""Prompt KV cache: keys and values in front of the invocation, where an activated adapter does not act, read once.

An activated adapter (packing/alora.py) leaves the prompt to the base, so what its answers attend to there is the
same in every epoch. A batch is trained on its answers and invocations alone: they are the queries, and what stands
before them is laid into the model's cache, without gradient. The gradient is that of the whole batch, since nothing
that is trained has a part in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch
from transformers import DynamicCache

from lift.packing.alora import Invocation, PlainTextForward, forward_context
from lift.packing.forward import trie_mask
from lift.packing.trie import Batch
from lift.training.activation_store import UNKNOWN, ActivationStore
from lift.training.model_split import ModelSplit


class PromptKVCache:
    """Keys and values of the layers from a split on, for the nodes that an adapter with `invocation` does not act on.

    At most `bound_bytes` of them lie in a temporary file, gone at the end of the `with` block.
    """

    def __init__(self, split: ModelSplit, invocation: Invocation, bound_bytes: int) -> None:
        self._split = split
        self._invocation = invocation
        sides = split.keys_and_values_of_trial()
        self._shapes = [(side.shape[1], side.shape[3]) for side in sides]  # heads and their width
        width = sum(map(math.prod, self._shapes))
        self._store = ActivationStore(width, sides[0].dtype, bound_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._store.__exit__(kind, error, None)

    @property
    def most_tokens(self) -> int:
        """Tokens whose keys and values can be kept."""
        return self._store.most_rows

    def logits(self, batch: Batch, states: torch.Tensor) -> torch.Tensor | None:
        """Logits [M, vocabulary] at the labelled positions, with gradient; `states`, [T, d], enter the layers.

        None where something is to be predicted that the adapter does not act on.
        """
        acted = self._acted(batch)  # [T]
        if acted is None:
            return None
        before, own = (~acted).nonzero().flatten(), acted.nonzero().flatten()  # [C], [A]
        model = self._split.model
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._by_layer(self._kept(batch, before.tolist(), states))):
            cache.update(keys, values, self._split.first + index)
        order = torch.cat([before, own])  # [C + A]
        place = torch.full((batch.tokens,), -1).scatter_(0, own, torch.arange(len(own)))  # [T]
        with self._split.upper(states[own]), forward_context(None):
            logits: torch.Tensor = model(
                input_ids=batch.ids[own][None].to(model.device),
                position_ids=batch.positions[own][None].to(model.device),
                attention_mask=trie_mask(model, batch, lambda mask: mask[:, :, own][..., order]),  # [1, 1, A, C + A]
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=place[batch.logit_positions].to(model.device),
            ).logits[0]  # [M, vocabulary]
        return logits

    def lacks(self, batch: Batch) -> bool:
        """Whether `logits` would keep something of the batch that is not known yet."""
        acted = self._acted(batch)
        if acted is None:
            return False
        again, rows = batch.recurring(), self._store.rows(batch)
        return any(again[node] and rows[node] == UNKNOWN for node in (~acted).nonzero().flatten().tolist())

    def refill(self, batch: Batch, states: torch.Tensor) -> None:
        """Keep what `logits` would keep of the batch; `states` as there."""
        acted = self._acted(batch)
        if acted is not None:
            self._kept(batch, (~acted).nonzero().flatten().tolist(), states)

    def _acted(self, batch: Batch) -> torch.Tensor | None:
        """The nodes that the adapter acts on, None where something is to be predicted that it does not act on. [T]"""
        acted: torch.Tensor = batch.alora_mask(self._invocation)[0]  # [T]
        return acted if bool(acted[batch.logit_positions].all()) else None

    def _kept(self, batch: Batch, before: Sequence[int], states: torch.Tensor) -> torch.Tensor:
        """Keys and values of the nodes `before` side by side, computed where they are not known. [C, width]"""
        rows = self._store.rows(batch)
        missing = [node for node in before if rows[node] == UNKNOWN]
        if not missing:
            return self._store.read([rows[node] for node in before]).to(states.device)
        nodes = batch.with_ancestors(missing)
        with forward_context(PlainTextForward(len(nodes))):
            sides = self._split.keys_and_values(batch.part(nodes), states[nodes])  # [1, K, T, d] each
        computed = torch.cat([side[0].transpose(0, 1).flatten(1) for side in sides], dim=1)  # [nodes, width]
        found = computed.new_empty(batch.tokens, computed.shape[1])  # [T, width]
        known = [node for node in before if rows[node] != UNKNOWN]
        if known:
            found[known] = self._store.read([rows[node] for node in known]).to(states.device)
        found[nodes] = computed
        again, wanted = batch.recurring(), set(before)
        self._store.add(batch, rows, [again[node] and node in wanted for node in range(batch.tokens)], found)
        return found[list(before)]

    def _by_layer(self, kept: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """[C, width] -> keys and values [1, K, C, d] of each layer."""
        parts = torch.split(kept, list(map(math.prod, self._shapes)), dim=1)
        sides = [
            part.view(len(kept), *shape).transpose(0, 1)[None] for part, shape in zip(parts, self._shapes, strict=True)
        ]
        return list(zip(sides[::2], sides[1::2], strict=True))
