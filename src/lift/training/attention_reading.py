"""The attention of the base model that reads a document: the exact m*, log Z_o, a and log Z_i (method 2.1).

A sequence is laid out as a prompt is, `head, document, window`: the head of every prompt (the start of the chat
template), the document, and what comes after it. Outside is the document alone. The head counts as inside, since every
prompt has it and many heads rest on the first tokens of a sequence: counted as document, that rest would be learnt as
if it were knowledge.

A document that is longer than the model's window is read in pieces, side by side: each piece alone behind the head,
then one window behind all of them. At every layer the attentions over the pieces are merged exactly (merge_attention),
and all go on from the merged result, so a window token has one query, not one for each piece. Every piece stands
directly before the window: Gated Memory ignores positions, and so each piece has its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from lift.adapters.adapter import attached
from lift.adapters.attention_sites import AttentionSite, attention_sites
from lift.adapters.gated_memory import attention_gate, merge_attention, mix
from lift.errors import AdapterError, cleaning_up
from lift.packing.log_sum_exp import attention_with_log_sum, explicit_mask, implementations

_NAME = "lift_attention_reading"
_MOST_WINDOW_TOKENS = 4096  # bounds what is kept of a long window; a layer then has queries enough
_PASSAGE_TOKENS = 128
_SCORES_AT_ONCE = 1 << 25  # 128 MiB of float32


@dataclass(frozen=True)
class Layout:
    """Document tokens [start, end) of each piece, all of one length, and of each passage of the window.

    The last piece starts early where the length does not divide the document; its first `repeated_tokens` tokens stand
    in the piece before and are read, but not attended to again.
    """

    pieces: tuple[tuple[int, int], ...]
    repeated_tokens: int
    passages: tuple[tuple[int, int], ...]

    @property
    def window_tokens(self) -> int:
        return sum(end - start for start, end in self.passages)


def lay_out(document_tokens: int, limit_tokens: int) -> Layout:
    """Pieces and window of a document, so that a piece and the window have at most `limit_tokens` tokens.

    The window is the document over again, so that it asks for all that is to be remembered and none of it is lost to
    the window. Where there is no room for that it is at least a quarter of the limit, in passages spread evenly over
    the document. Raises ValueError for an empty document, or a limit below 2 tokens.
    """
    if document_tokens < 1 or limit_tokens < 2:
        raise ValueError(f"expected a document and room for 2 tokens, got {document_tokens} and {limit_tokens} tokens")
    room = max(limit_tokens - document_tokens, limit_tokens // 4, 1)
    window = min(document_tokens, room, _MOST_WINDOW_TOKENS)
    length = min(document_tokens, limit_tokens - window)
    count = -(-document_tokens // length)
    starts = [min(index * length, document_tokens - length) for index in range(count)]
    repeated = (count - 1) * length - starts[-1]
    return Layout(tuple((start, start + length) for start in starts), repeated, _spread(document_tokens, window))


def _spread(document_tokens: int, window_tokens: int) -> tuple[tuple[int, int], ...]:
    """Passages of `window_tokens` tokens in all, in order, with gaps between them that are equal but for rounding."""
    count = -(-window_tokens // _PASSAGE_TOKENS)
    gaps = document_tokens - window_tokens
    cuts = [window_tokens * index // count for index in range(count + 1)]
    skipped = [gaps * (index + 1) // (count + 1) for index in range(count)]
    return tuple((skip + cuts[index], skip + cuts[index + 1]) for index, skip in enumerate(skipped))


@dataclass(frozen=True, eq=False)
class AttentionReading:
    """One attention at the N tokens of the window, on the CPU, in float32 (float64 for a float64 model).

    `query` [N, H, d] before rotary positions; `recalled` m* and `attended` a [N, H, d]; `log_sum_outside` log Z_o and
    `log_sum_inside` log Z_i [N, H]. A token that the layer does not let see the document has the lowest log Z_o.
    """

    site: AttentionSite
    query: torch.Tensor
    recalled: torch.Tensor
    log_sum_outside: torch.Tensor
    attended: torch.Tensor
    log_sum_inside: torch.Tensor

    @property
    def full(self) -> torch.Tensor:
        """Attention over everything, g m* + (1 - g) a with g = sigmoid(log Z_o - log Z_i). [N, H, d]"""
        return mix(self.attended, self.recalled, attention_gate(self.log_sum_outside, self.log_sum_inside))

    def at(self, rows: torch.Tensor, device: torch.device) -> AttentionReading:
        """The reading at these tokens of the window, in float32 on `device`; `rows` are indices. [n]"""
        parts = (self.query, self.recalled, self.log_sum_outside, self.attended, self.log_sum_inside)
        return AttentionReading(self.site, *(part[rows].to(device, torch.float32) for part in parts))

    @property
    def sees_document(self) -> torch.Tensor:
        """Where the mask of the layer lets a token attend to the document. [N], boolean"""
        return self.log_sum_outside[:, 0] > torch.finfo(self.log_sum_outside.dtype).min / 2


@torch.no_grad()
def read_attention(
    model: Any, head: Sequence[int], document: Sequence[int], layout: Layout, layers: tuple[int, ...] = ()
) -> list[AttentionReading]:
    """The attention of these layers (all where empty) of the bare base model at each window token.

    Every token is computed once, P pieces at a time; the window once for each piece. Held while it runs: the keys and
    values of the whole document, document tokens x layers x 2 x key heads x d x bytes of the model's type, and what is
    returned, N x H x (3 d + 2) x 4 bytes a layer. Raises AdapterError where the model's attention cannot be read.
    """
    device = model.get_input_embeddings().weight.device
    rows = [[*head, *document[start:end]] for start, end in layout.pieces]
    window = [token for start, end in layout.passages for token in document[start:end]]
    pieces_ids = torch.tensor(rows, device=device)  # [P, S]
    window_ids = torch.tensor(window, device=device).expand(len(rows), -1)  # [P, N]
    pieces, end = pieces_ids.shape
    mask = torch.ones(pieces, end + len(window), dtype=torch.long, device=device)  # [P, S + N]
    mask[-1, len(head) : len(head) + layout.repeated_tokens] = 0
    positions = torch.arange(end, end + len(window), device=device).expand(pieces, -1)  # [P, N]
    decoder = model.base_model  # without the language-modelling head: no logits are wanted
    sites = attention_sites(model)
    with contextlib.ExitStack() as stack:
        for adapter in attached(model).values():
            stack.enter_context(adapter.disabled())
        cache = decoder(pieces_ids, use_cache=True).past_key_values
        reader = stack.enter_context(_reading(model, sites, _Reader(len(head), end, end + len(window))))
        decoder(window_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    kept = [site for site in sites if not layers or site.layer in layers]
    return [AttentionReading(site, reader.queries[site.module], *reader.parts[site.module]) for site in kept]


class _Reader:
    """The reading under way: where the document lies in a row, [start, end) of `total`, and what was read so far."""

    def __init__(self, start: int, end: int, total: int) -> None:
        self.start, self.end, self.total = start, end, total
        self.queries: dict[torch.nn.Module, torch.Tensor] = {}
        self.parts: dict[torch.nn.Module, tuple[torch.Tensor, ...]] = {}

    def outside(self, keys: int, device: torch.device) -> torch.Tensor:
        """Which of a layer's keys are the document's; a sliding layer has only the last of them. [keys], boolean"""
        positions = torch.arange(self.total - keys, self.total, device=device)
        return (positions >= self.start) & (positions < self.end)


_under_way: WeakKeyDictionary[torch.nn.Module, _Reader] = WeakKeyDictionary()


@contextlib.contextmanager
def _reading(model: Any, sites: Sequence[AttentionSite], reader: _Reader) -> Iterator[_Reader]:
    """Inside the block `model` computes attention by `_attention`, which tells `reader`."""
    config = model.config
    before = implementations(config)
    handles: list[torch.utils.hooks.RemovableHandle] = []
    model.set_attn_implementation(_NAME)

    def stop_reading() -> None:
        for handle in handles:
            handle.remove()
        for site in sites:
            _under_way.pop(site.module, None)

    with cleaning_up(stop_reading, lambda: model.set_attn_implementation(before)):
        used = {getattr(site.module, "config", config)._attn_implementation for site in sites}
        if used != {_NAME}:
            raise AdapterError(
                f"attention.epochs needs a model whose attention can be chosen, and {type(model).__name__} keeps "
                f"{sorted(map(str, used))}; set attention.epochs=0"
            )
        for site in sites:

            def keep_query(_projection: Any, _args: Any, projected: torch.Tensor, site: AttentionSite = site) -> None:
                query = site.query(projected[0])  # [N, H, d]; the same in every row
                reader.queries[site.module] = query.to(torch.promote_types(query.dtype, torch.float32)).cpu()

            handles.append(site.query_projection.register_forward_hook(keep_query))
            _under_way[site.module] = reader
        yield reader


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention outside and inside apart, and the two merged, the same for all P rows; transformers calls it."""
    reader = _under_way.get(module)
    odd = [name for name in ("s_aux", "position_bias") if others.get(name) is not None]
    if reader is None or odd:
        raise AdapterError(
            f"attention.epochs does not know the {odd[0] if odd else 'place'} of {type(module).__name__}; "
            "set attention.epochs=0"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    outside = reader.outside(key.shape[2], key.device)  # [keys]
    keys_outside, values_outside = key[:, :, outside], value[:, :, outside]  # [P, K, o, d]
    keys_inside, values_inside = key[:1, :, ~outside], value[:1, :, ~outside]  # [1, K, i, d]
    rows, heads, tokens, _ = query.shape
    block = max(1, _SCORES_AT_ONCE // (rows * heads * key.shape[2]))
    blocks = []
    for queries, mask in zip(torch.split(query, block, 2), torch.split(attention_mask, block, -2), strict=True):
        recalled, log_outside = attention_with_log_sum(
            queries, keys_outside, values_outside, mask[..., outside], scaling, softcap
        )  # [P, H, t, d], [P, H, t]
        # a sliding layer may hold no key of the document at all, whose log-sum is -inf
        log_outside = log_outside.clamp(min=torch.finfo(log_outside.dtype).min)
        recalled, log_outside = merge_attention(recalled.unbind(0), log_outside.unbind(0))  # [H, t, d], [H, t]
        attended, log_inside = attention_with_log_sum(
            queries[:1], keys_inside, values_inside, mask[:1, ..., ~outside], scaling, softcap
        )  # [1, H, t, d], [1, H, t]
        blocks.append((recalled, log_outside, attended[0], log_inside[0]))
    recalled, log_outside, attended, log_inside = (
        torch.cat(parts, dim=1).transpose(0, 1) for parts in zip(*blocks, strict=True)
    )  # [N, H, d], [N, H], [N, H, d], [N, H]
    reader.parts[module] = tuple(part.cpu() for part in (recalled, log_outside, attended, log_inside))
    full = mix(attended, recalled, attention_gate(log_outside, log_inside))  # [N, H, d]
    return full.to(query.dtype).expand(rows, tokens, heads, -1), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, explicit_mask)
