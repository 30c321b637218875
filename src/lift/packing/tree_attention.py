"""The attention of a packed batch, computed by groups of its trie (attention_blocks.py) in any transformers model.

transformers takes an attention by name. This one is set while a batch is computed, in place of its "sdpa", and is that
wherever a layer asks for more than attention under the mask of the batch. It holds its scores, as plain products do,
and its backward pass gathers where that of plain products would scatter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lift.errors import cleaning_up
from lift.packing.attention_blocks import BlockGroup, attention_groups, cheaper_than_one_product
from lift.packing.log_sum_exp import implementations
from lift.packing.trie import Batch

_NAME = "lift_tree"
_REPLACED = "sdpa"
_BEYOND_A_MASK = ("softcap", "s_aux", "position_bias", "cache", "output_attentions")


@dataclass(frozen=True)
class _Rows:
    """Where the heads of all nodes, as rows, go in a layer with H heads, G of them for each of K key heads.

    Row t H + h is head h of node t. `queries`: [R], rows in the order [S, K, G, Lq] of each group in turn; `keys`: [N],
    rows t K + k in the order [S, K, Lk]; `outputs`: [T H], where in the order of the queries each row stands. `masks`:
    a group's additive mask [S K, G Lq, Lk].
    """

    queries: torch.Tensor
    keys: torch.Tensor
    outputs: torch.Tensor
    masks: tuple[torch.Tensor, ...]


@dataclass
class _Work:
    """The batch that is under way, and what its layers share."""

    groups: Sequence[BlockGroup]
    mask: torch.Tensor  # [1, 1, T, T]
    rows: dict[tuple[int, int, torch.dtype], _Rows] = field(default_factory=dict)

    def rows_for(self, heads: int, key_heads: int, like: torch.Tensor) -> _Rows:
        """The same for every layer of that many heads."""
        kind = heads, key_heads, like.dtype
        if kind not in self.rows:
            self.rows[kind] = _lay_out(self.groups, self.mask.shape[-1], heads, key_heads, like)
        return self.rows[kind]


_under_way: ContextVar[_Work | None] = ContextVar("lift_tree_attention", default=None)


@contextlib.contextmanager
def tree_attention(model: Any, batch: Batch, mask: torch.Tensor) -> Iterator[None]:
    """Inside the block, `model` computes attention under `mask`, that of `batch`, at the cost of what it lets through.

    The tensor itself must be what the model is called with. Nothing changes for a batch that one product serves as
    well, a model whose attention is not transformers' "sdpa", or a device other than the CPU, where small products
    cost more by their number than by their size.
    """
    before = implementations(model.config)
    wanted = {key: _NAME if name == _REPLACED else name for key, name in before.items()}
    fits = model.device.type == "cpu" and wanted != before and model._supports_attention_backend
    groups = attention_groups(batch.parents) if fits else []
    if not groups or not cheaper_than_one_product(groups, batch.tokens):
        yield
        return
    token = _under_way.set(_Work(groups, mask))
    with cleaning_up(lambda: model.set_attn_implementation(before), lambda: _under_way.reset(token)):
        model.set_attn_implementation(wanted)
        yield


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by groups under the batch's own mask; transformers calls it, and any other attention goes to its own."""
    work = _under_way.get()
    beyond = dropout > 0 or not all(others.get(name) is None or others[name] is False for name in _BEYOND_A_MASK)
    if work is None or attention_mask is not work.mask or beyond:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return result
    rows = work.rows_for(query.shape[1], key.shape[1], query)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = _GroupedAttention.apply(_as_rows(query), _as_rows(key), _as_rows(value), rows, scaling)  # type: ignore[no-untyped-call]
    return output.view(1, query.shape[2], query.shape[1], -1), None  # [1, T, H, d]


class _GroupedAttention(torch.autograd.Function):
    """Queries [T H, d], keys and values [T K, d] -> [T H, d]; padded rows are computed and never read."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: _Rows, scaling: float
    ) -> torch.Tensor:
        queries = query.index_select(0, rows.queries)  # [R, d]
        keys, values = key.index_select(0, rows.keys), value.index_select(0, rows.keys)  # [N, d]
        outputs = values.new_empty(len(queries), values.shape[-1])  # [R, d]
        weights = []
        for mask, (q, o), (k, v) in zip(
            rows.masks, _split(rows, 1, queries, outputs), _split(rows, 2, keys, values), strict=True
        ):
            scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)  # [S K, G Lq, Lk]
            weights.append(torch.softmax(scores, dim=-1))
            torch.bmm(weights[-1], v, out=o)
        ctx.save_for_backward(queries, keys, values, *weights)
        ctx.rows, ctx.scaling, ctx.nodes = rows, scaling, len(key)
        return outputs.index_select(0, rows.outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows: _Rows = ctx.rows
        queries, keys, values, *weights = ctx.saved_tensors
        spread = gradient.new_zeros(len(queries), gradient.shape[-1])  # [R, d]
        spread.index_copy_(0, rows.outputs, gradient)
        of_queries, of_keys, of_values = map(torch.empty_like, (queries, keys, values))
        for weight, (q, dq, do), (k, dk, v, dv) in zip(
            weights,
            _split(rows, 1, queries, of_queries, spread),
            _split(rows, 2, keys, of_keys, values, of_values),
            strict=True,
        ):
            torch.bmm(weight.transpose(1, 2), do, out=dv)
            of_weights = torch.bmm(do, v.transpose(1, 2))  # [S K, G Lq, Lk]
            of_scores = torch._softmax_backward_data(of_weights, weight, -1, weight.dtype)
            torch.bmm(of_scores, k, out=dq)
            torch.bmm(of_scores.transpose(1, 2), q, out=dk)
        of_query = of_queries.index_select(0, rows.outputs).mul_(ctx.scaling)  # [T H, d]
        of_key = of_keys.new_zeros(ctx.nodes, of_keys.shape[-1]).index_add_(0, rows.keys, of_keys)  # [T K, d]
        of_value = of_values.new_zeros(ctx.nodes, of_values.shape[-1]).index_add_(0, rows.keys, of_values)
        return of_query, of_key.mul_(ctx.scaling), of_value, None, None


def _split(rows: _Rows, side: int, *tensors: torch.Tensor) -> list[list[torch.Tensor]]:
    """Rows of all groups, [R, d] (side 1) or [N, d] (side 2), as views [S K, G Lq or Lk, d], for each group."""
    shapes = [(mask.shape[0], mask.shape[side]) for mask in rows.masks]
    sizes = [batch * length for batch, length in shapes]
    parts = [
        [part.view(*shape, -1) for part, shape in zip(torch.split(each, sizes), shapes, strict=True)]
        for each in tensors
    ]
    return [list(group) for group in zip(*parts, strict=True)]


def _as_rows(heads: torch.Tensor) -> torch.Tensor:
    """[1, H, T, d] -> [T H, d]"""
    return heads[0].transpose(0, 1).reshape(-1, heads.shape[-1])


def _lay_out(groups: Sequence[BlockGroup], tokens: int, heads: int, key_heads: int, like: torch.Tensor) -> _Rows:
    shared = heads // key_heads
    head = torch.arange(heads).view(key_heads, shared, 1)  # [K, G, 1]
    key_head = torch.arange(key_heads)[:, None]  # [K, 1]
    queries, keys, own, masks = [], [], [], []
    for group in groups:
        blocks, longest = group.queries.shape
        queries.append((group.queries[:, None, None] * heads + head).flatten())  # [S K G Lq]
        keys.append((group.keys[:, None] * key_heads + key_head).flatten())  # [S K Lk]
        real = torch.arange(longest) < group.counts[:, None]  # [S, Lq]
        own.append(real[:, None, None].expand(blocks, key_heads, shared, longest).flatten())
        hidden = ~group.attended()[:, None, None].expand(blocks, key_heads, shared, -1, -1)  # [S, K, G, Lq, Lk]
        additive = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, torch.finfo(like.dtype).min)
        masks.append(additive.view(blocks * key_heads, shared * longest, -1).to(like.device))
    rows = torch.cat(queries)  # [R]
    real = torch.cat(own).nonzero().flatten()  # [T H]
    outputs = torch.empty(tokens * heads, dtype=torch.long)
    outputs[rows[real]] = real
    return _Rows(rows.to(like.device), torch.cat(keys).to(like.device), outputs.to(like.device), tuple(masks))


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
