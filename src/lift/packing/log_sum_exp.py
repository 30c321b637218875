"""Attention that also says how much it attended to: the log of the sum of exp over its own logits.

The exact gate of Gated Memory needs log Z_i = log sum_j exp(s_j) over what a token attends to, as the attention
itself computed it: after rotary positions, scaling and soft cap, under the mask of the layer. transformers takes an
attention by name; this one is registered under its own and set on a model only while somebody watches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from lift.errors import AdapterError

_NAME = "lift_log_sum_exp"
_QUERY_BLOCK = 1024  # queries whose scores are held at once: a long prompt needs no square of its length


@dataclass
class _Watch:
    watchers: int = 0
    log_sum: torch.Tensor | None = None  # [B, H, T]


_watched: WeakKeyDictionary[torch.nn.Module, _Watch] = WeakKeyDictionary()
_replaced: WeakKeyDictionary[torch.nn.Module, tuple[int, dict[str, str]]] = WeakKeyDictionary()


def start_watching(model: Any, attentions: Sequence[torch.nn.Module]) -> None:
    """Have `model` compute attention so that `last_log_sum` of these attention modules is known after each.

    Raises AdapterError where the model does not let its attention be chosen. Each call wants one `stop_watching`.
    """
    count, before = _replaced.get(model, (0, {}))
    if not count:
        before = implementations(model.config)
        model.set_attn_implementation(_NAME)
        used = {getattr(attention, "config", model.config)._attn_implementation for attention in attentions}
        if used != {_NAME}:
            model.set_attn_implementation(before)
            raise AdapterError(
                f"adapter.gate=exact needs a model whose attention can be chosen, and {type(model).__name__} "
                f"keeps {sorted(map(str, used))}; choose adapter.gate=query"
            )
    _replaced[model] = (count + 1, before)
    for attention in attentions:
        _watched.setdefault(attention, _Watch()).watchers += 1


def stop_watching(model: Any, attentions: Sequence[torch.nn.Module]) -> None:
    """Undo one start_watching; with the last one the model's own attention is back."""
    for attention in attentions:
        _watched[attention].watchers -= 1
        if not _watched[attention].watchers:
            del _watched[attention]
    count, before = _replaced[model]
    if count > 1:
        _replaced[model] = (count - 1, before)
    else:
        del _replaced[model]
        model.set_attn_implementation(before)


def last_log_sum(attention: torch.nn.Module) -> torch.Tensor:
    """log Z_i of the forward pass that is under way in a watched attention, float32, differentiable. [B, T, H]"""
    log_sum = _watched[attention].log_sum
    if log_sum is None:
        raise AdapterError(
            f"{type(attention).__name__} did not call the attention that it was set to; choose adapter.gate=query"
        )
    return log_sum.transpose(1, 2)  # [B, T, H]


def forget_log_sum(attention: torch.nn.Module) -> None:
    """Drop what `last_log_sum` gives, and the graph behind it."""
    _watched[attention].log_sum = None


def attention_with_log_sum(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(s) v with s = softcap(scaling q.k) + mask, and log sum_j exp(s_j).

    `query` [B, H, T, d]; `key`, `value` [B, K, S, d] with H a multiple of K; `mask` broadcasts to [B, H, T, S]:
    boolean (True is attended to), additive, or None. Returns [B, H, T, d] and [B, H, T] in float32 (float64 for
    float64). A query that attends to nothing gets a finite output and the lowest log-sum.
    """
    batch, heads, tokens, _ = query.shape
    key_heads, seen = key.shape[1:3]
    group = heads // key_heads
    exact = torch.promote_types(query.dtype, torch.float32)
    key, value = key.to(exact), value.to(exact)
    # heads that share a key are laid beside each other, so that keys and values are not copied
    grouped = query.to(exact).reshape(batch, key_heads, group * tokens, -1)  # [B, K, G T, d]
    scores = (grouped @ key.transpose(-1, -2) * scaling).view(batch, heads, tokens, seen)  # [B, H, T, S]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(exact).min)
    elif mask is not None:
        scores = (scores + mask).clamp(min=torch.finfo(exact).min)
    log_sum = torch.logsumexp(scores, dim=-1)  # [B, H, T]
    weights = torch.exp(scores - log_sum[..., None])  # [B, H, T, S]
    weights = torch.nn.functional.dropout(weights, dropout, training=dropout > 0)
    output = weights.view(batch, key_heads, group * tokens, seen) @ value  # [B, K, G T, d]
    return output.view(batch, heads, tokens, -1), log_sum


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls; `others` are of no effect under an explicit mask, or refused."""
    if unknown := [name for name in ("s_aux", "position_bias") if others.get(name) is not None]:
        raise AdapterError(
            f"adapter.gate=exact does not know the {unknown[0]} of {type(module).__name__}; choose adapter.gate=query"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    pieces = [
        attention_with_log_sum(queries, key, value, mask, scaling, softcap, dropout)
        for queries, mask in _blocks(query, attention_mask)
    ]
    watch = _watched.get(module)
    if watch is not None:
        watch.log_sum = torch.cat([log_sum for _, log_sum in pieces], dim=-1)  # [B, H, T]
    output = torch.cat([output for output, _ in pieces], dim=2)  # [B, H, T, d]
    return output.to(query.dtype).transpose(1, 2).contiguous(), None  # [B, T, H, d]


def _blocks(query: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    queries = torch.split(query, _QUERY_BLOCK, dim=2)
    if mask is None or mask.shape[-2] == 1:
        return [(block, mask) for block in queries]
    return list(zip(queries, torch.split(mask, _QUERY_BLOCK, dim=-2), strict=True))


def explicit_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """The boolean mask that sdpa gets, always written out: for attentions that know no causality of their own."""
    kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    mask: torch.Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


def implementations(config: Any) -> dict[str, str]:
    """The argument that set_attn_implementation takes to put all back: of the model, and of each inside it."""
    inner = {key: getattr(config, key) for key in config.sub_configs}
    return {"": config._attn_implementation} | {
        key: part._attn_implementation for key, part in inner.items() if part is not None
    }


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, explicit_mask)
