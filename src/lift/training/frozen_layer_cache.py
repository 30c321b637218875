"""Activation cache of frozen layers: what those below the adapter give is computed once, and read in later epochs.

Those layers are frozen and nothing that is trained lies below them, so the state in which a token enters the adapter's
first layer depends on the tokens up to it alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.packing.forward import labelled_logits
from lift.packing.trie import Batch
from lift.training.activation_store import UNKNOWN, ActivationStore
from lift.training.model_split import ModelSplit, find_split
from lift.training.prompt_kv_cache import PromptKVCache

STORE_BYTES = 2 << 30


@contextlib.contextmanager
def caching_frozen_layers(
    model: Any, adapter: Adapter, bound_bytes: int = STORE_BYTES
) -> Iterator[FrozenLayerCache | None]:
    """Inside the block, the activation cache of `model`'s layers below `adapter`, at most `bound_bytes` on the disk.

    With an activated adapter, the keys and values of its prompts as well, which may take as much again.

    None where the adapter begins at the first layer, and where the model cannot be split: its layers are not found, or
    a short trial does not give, bit for bit, what it gives in one piece, or the disk refuses the files. The states are
    gone after the block.
    """
    split, width = (None, 0) if adapter.first_layer < 1 else find_split(model, adapter.first_layer)
    if split is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        cache = None
        with contextlib.suppress(OSError):  # a disk that refuses the files costs time, and no training
            store = stack.enter_context(ActivationStore(width, split.dtype, bound_bytes))
            keys = None
            if adapter.invocation:
                keys = stack.enter_context(PromptKVCache(split, adapter.invocation, bound_bytes))
            cache = FrozenLayerCache(split, store, keys)
        yield cache


class FrozenLayerCache:
    """The frozen layers below an adapter, and the states that are known of them."""

    def __init__(self, split: ModelSplit, store: ActivationStore, keys: PromptKVCache | None = None) -> None:
        self._split = split
        self._store = store
        self._keys = keys
        self.computed_tokens = 0  # that passed the lower layers so far

    @property
    def most_tokens(self) -> int:
        """Tokens of which all that comes again can be kept."""
        return self._store.most_rows if self._keys is None else min(self._store.most_rows, self._keys.most_tokens)

    def logits(self, batch: Batch) -> torch.Tensor:
        """As labelled_logits, [M, vocabulary], computed from the adapter's first layer on."""
        states = self.states(batch)  # [T, d]
        logits = self._keys.logits(batch, states) if self._keys is not None else None
        if logits is None:
            with self._split.upper(states):
                logits = labelled_logits(self._split.model, batch)
        return logits

    def refill(self, batch: Batch) -> None:
        """Keep what `logits` would keep of the batch, and compute nothing where that is known."""
        again = batch.recurring()
        missing = any(again[node] and row == UNKNOWN for node, row in enumerate(self._store.rows(batch)))
        with torch.no_grad():
            if self._keys is not None and self._keys.lacks(batch):
                self._keys.refill(batch, self.states(batch))
            elif missing:
                self.states(batch)

    def states(self, batch: Batch) -> torch.Tensor:
        """The states in which the T nodes enter the adapter's first layer, on the model's device. [T, d]

        Nodes that are not known are computed, together with their ancestors, and kept unless their examples are drawn
        anew for every epoch.
        """
        rows = self._store.rows(batch)
        missing = [node for node, row in enumerate(rows) if row == UNKNOWN]
        device = self._split.model.device
        if not missing:
            return self._store.read(rows).to(device)
        nodes = batch.with_ancestors(missing)
        self.computed_tokens += len(nodes)
        computed = self._split.lower(batch if len(nodes) == batch.tokens else batch.part(nodes))  # [nodes, d]
        if len(missing) == batch.tokens:
            states = computed
        else:
            place = {node: index for index, node in enumerate(nodes)}
            known = [node for node, row in enumerate(rows) if row != UNKNOWN]
            states = computed.new_empty(batch.tokens, computed.shape[1])  # [T, d]
            states[known] = self._store.read([rows[node] for node in known]).to(device)
            states[missing] = computed[[place[node] for node in missing]]
        self._store.add(batch, rows, batch.recurring(), states)
        return states
