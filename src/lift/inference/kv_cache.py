"""Slot KV cache: keys and values of a batch whose sequences come and go, written in place within a token budget.

Rows are aligned at their last token: each step writes one column for all of them. What stands left of a row is zero,
and is to be masked: what is masked is multiplied by zero, so it has to be finite. A row that joins is laid into a free
place, one that leaves is overwritten by the last; nothing else is copied while the room suffices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from lift.inference.prefix_cache import Layers

_KEPT_BY_TOKEN = (DynamicLayer, DynamicSlidingWindowLayer)
_ROPES_BY_LENGTH = {"dynamic", "longrope"}
_SPARE_COLUMNS = 128  # so that the whole is moved seldom
# rows times columns whose storage is used again: fresh storage costs as much time as reading; 0.7 GB with SmolLM2-135M
_KEPT_SLOT_TOKENS = 16384


def keeps_tokens(model: Any) -> bool:
    """Whether all that the model keeps of what it read is keys and values by token."""
    return all(type(layer) in _KEPT_BY_TOKEN for layer in DynamicCache(config=model.config).layers)


def can_share(model: Any) -> bool:
    """Whether the model keeps keys and values by token, that do not depend on how much was read in the same pass.

    It is not so for recurrent layers, and for rotary positions whose frequencies follow the longest position.
    """
    ropes = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = {ropes.get("rope_type"), *(each.get("rope_type") for each in ropes.values() if isinstance(each, dict))}
    return keeps_tokens(model) and not kinds & _ROPES_BY_LENGTH


class _Extent:
    """The extent that all layers share: rows in use, the columns [first, end) that they look at, slots and columns."""

    def __init__(self) -> None:
        self.rows = self.first = self.end = 0
        self.slots = self.columns = 0


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values [slots, K, columns, d] of one layer, windows included: the mask tells what a row sees."""

    is_sliding = False  # transformers asks every layer of a cache before it builds a mask

    def __init__(self, extent: _Extent) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._extent = extent

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(self._shape(key_states))
        self.values = value_states.new_empty(self._shape(value_states))
        self.is_initialized = True
        for row in range(self._extent.rows):
            self.clear_prefix(row)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the columns behind `end`, [B, K, T, d]; all that is seen, [B, K, first:end + T, d]."""
        extent = self._extent
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._states
        end = extent.end + key_states.shape[2]
        keys[: extent.rows, :, extent.end : end] = key_states
        values[: extent.rows, :, extent.end : end] = value_states
        return keys[: extent.rows, :, extent.first : end], values[: extent.rows, :, extent.first : end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._extent.end - self._extent.first

    def get_max_length(self) -> int:
        return -1

    def write_prefix(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Begin a row with states [K, T, d], that end where the columns end."""
        if not self.is_initialized:
            self.lazy_initialization(keys[None], values[None])
        end = self._extent.end
        for layer, states in zip(self._states, (keys, values), strict=True):
            layer[row, :, : end - states.shape[1]] = 0
            layer[row, :, end - states.shape[1] : end] = states

    def clear_prefix(self, row: int) -> None:
        """Begin a row without states."""
        if self.is_initialized:
            for layer in self._states:
                layer[row, :, : self._extent.end] = 0

    def copy_row(self, source: int, target: int) -> None:
        """Overwrite one row by another."""
        if self.is_initialized:
            end = self._extent.end
            for layer in self._states:
                layer[target, :, :end] = layer[source, :, :end]

    def move(self, end: int, slots: int, columns: int) -> None:
        """Move what is seen into new storage, where it ends in column `end`; the extent still says where it is."""
        if not self.is_initialized:
            return
        extent = self._extent
        width = extent.end - extent.first
        moved = []
        for layer in self._states:
            target = layer.new_empty(slots, layer.shape[1], columns, layer.shape[3])
            target[: extent.rows, :, : end - width] = 0
            target[: extent.rows, :, end - width : end] = layer[: extent.rows, :, extent.first : extent.end]
            moved.append(target)
        self.keys, self.values = moved

    def resize(self) -> None:
        """Take the shape that the extent has now. The states are lost, their storage is used again."""
        if not self.is_initialized:
            return
        for layer in self._states:
            layer.resize_(self._shape(layer))

    def clear(self) -> None:
        """Let go of the storage."""
        self.keys = self.values = None
        self.is_initialized = False

    @property
    def _states(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _shape(self, states: torch.Tensor) -> tuple[int, ...]:
        return self._extent.slots, states.shape[1], self._extent.columns, states.shape[3]


class SlotKVCache(Cache):
    """The slot KV cache of up to `slots` sequences of `model`: its forward adds columns, `advance` keeps them.

    Storage is made for as many slots as `token_budget` allows, for one at least. Raises ValueError
    for a model that keeps other things than keys and values by token; see keeps_tokens.
    """

    def __init__(self, model: Any, slots: int, token_budget: int) -> None:
        if not keeps_tokens(model):
            raise ValueError(f"expected a model that keeps keys and values by token, got {type(model).__name__}")
        self._slots, self._token_budget = slots, token_budget
        self._extent = _Extent()
        count = len(DynamicCache(config=model.config).layers)
        self._slot_layers = [_SlotLayer(self._extent) for _ in range(count)]
        self._lengths: list[int] = []  # columns of each row, its last one is the last of all
        super().__init__(layers=list(self._slot_layers))

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, in the order of the rows."""
        return self._lengths

    @property
    def width(self) -> int:
        """Columns that the model sees: the longest row's."""
        return self._extent.end - self._extent.first

    def begin(self, layers: Layers, tokens: int) -> None:
        """Add a row of the first `tokens` tokens of these keys and values, [1, K, T, d] a layer; it may have none."""
        extent, row = self._extent, self._extent.rows
        self._reserve(row + 1, max(self.width, tokens), 0)
        for layer, (keys, values) in zip(self._slot_layers, layers, strict=bool(layers)):
            layer.write_prefix(row, keys[0, :, :tokens], values[0, :, :tokens])
        for layer in () if layers else self._slot_layers:
            layer.clear_prefix(row)
        extent.rows += 1
        self._lengths.append(tokens)
        extent.first = extent.end - max(self._lengths)

    def restart(self, rows: int, width: int, more: int) -> None:
        """Without any row, room for so many of at most `width` columns, and `more` for the model's next forwards.

        Storage is used again, as after `remove`; some columns are spare, for rows that go on to decode.
        """
        extent = self._extent
        self._release()
        extent.slots, extent.columns = rows, width + more + _SPARE_COLUMNS
        extent.first = extent.end = width
        self._lengths = []
        for layer in self._slot_layers:
            layer.resize()

    def prepare(self, tokens: int) -> None:
        """Make room for a forward pass of so many columns."""
        self._reserve(self._extent.rows, self.width, tokens)

    def advance(self, tokens: int, lengths: Sequence[int]) -> None:
        """Keep the columns that a forward pass has written; `lengths`: tokens of each row now."""
        self._extent.end += tokens
        self._lengths = list(lengths)
        self._extent.first = self._extent.end - max(self._lengths, default=0)

    def retract(self, tokens: int) -> None:
        """Forget the last columns of all rows, so many."""
        self._extent.end -= tokens
        self._lengths = [length - tokens for length in self._lengths]

    def remove(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        extent = self._extent
        last = extent.rows - 1
        if row < last:
            for layer in self._slot_layers:
                layer.copy_row(last, row)
            self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        extent.rows = last
        extent.first = extent.end - max(self._lengths, default=0)
        if not last:
            self._release()

    def row(self, row: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of a row, views [1, K, T, d] a layer."""
        end = self._extent.end
        start = end - self._lengths[row]
        found = []
        for layer in self._slot_layers:
            keys, values = layer._states
            found.append((keys[row : row + 1, :, start:end], values[row : row + 1, :, start:end]))
        return found

    def _release(self) -> None:
        """No rows: room that is no more than is often needed stays, for rows as wide as it is."""
        extent = self._extent
        extent.rows = 0
        extent.first = extent.end = max(0, extent.columns - _SPARE_COLUMNS)
        if extent.slots * extent.columns > _KEPT_SLOT_TOKENS:
            extent.first = extent.end = extent.slots = extent.columns = 0
            for layer in self._slot_layers:
                layer.clear()

    def _reserve(self, rows: int, width: int, more: int) -> None:
        """Let `rows` rows fit, `width` columns left of the end, and `more` right of it."""
        extent = self._extent
        if rows <= extent.slots and width <= extent.end and extent.end + more <= extent.columns:
            return
        needed = width + more
        slots = max(rows, min(self._slots, self._token_budget // max(needed, 1)))
        columns = needed + max(_SPARE_COLUMNS, needed // 4)
        for layer in self._slot_layers:
            layer.move(width, slots, columns)
        extent.first, extent.end = width - self.width, width
        extent.slots, extent.columns = slots, columns


class BatchCache(DynamicCache):
    """The cache of a model that keeps other things than keys and values by token, as recurrent layers do.

    Its rows begin together, are read in one pass, and none joins them; its methods are those of SlotKVCache.
    """

    def __init__(self, model: Any) -> None:
        self._config = model.config
        self.restart(0, 0, 0)

    def restart(self, _rows: int, _width: int, _more: int) -> None:
        """Without any row."""
        super().__init__(config=self._config)
        self.lengths: Sequence[int] = []
        self.width = 0

    def begin(self, _layers: Layers, _tokens: int) -> None:
        """A row of which nothing is known."""
        self.lengths = [*self.lengths, 0]

    def prepare(self, _tokens: int) -> None:
        """Room comes as it is needed."""

    def advance(self, tokens: int, lengths: Sequence[int]) -> None:
        """The columns that a forward pass has written; `lengths`: tokens of each row now."""
        self.width += tokens
        self.lengths = lengths

    def remove(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        rows = list(range(len(self.lengths)))
        rows[row] = rows[-1]
        self.lengths = [self.lengths[each] for each in rows[:-1]]
        if len(rows) > 1:
            self.reorder_cache(torch.LongTensor(rows[:-1]))  # layers of all kinds can, and batch_select_indices not
        else:
            self.restart(0, 0, 0)
