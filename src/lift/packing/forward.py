"""A packed batch through the model: what it is called with, and logits where something is to be predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lift.packing.alora import forward_context
from lift.packing.tree_attention import tree_attention
from lift.packing.trie import Batch

_SLIDING, _FULL = "sliding_attention", "full_attention"  # as configurations of transformers call them


def labelled_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits [M, vocabulary] at the labelled positions of the batch."""
    with forward_context(batch), batch_inputs(model, batch) as inputs:
        logits: torch.Tensor = model(
            **inputs, logits_to_keep=batch.logit_positions.to(model.device), use_cache=False
        ).logits[0]  # [M, vocabulary]
    return logits


@contextlib.contextmanager
def batch_inputs(model: Any, batch: Batch) -> Iterator[dict[str, Any]]:
    """The arguments of the model inside the block: ids and positions [1, T], and the mask of the trie."""
    mask = trie_mask(model, batch)
    inputs = {
        "input_ids": batch.ids[None].to(model.device),
        "position_ids": batch.positions[None].to(model.device),
        "attention_mask": mask,
    }
    if _hiding_window(model, batch) is None:
        with tree_attention(model, batch, mask):
            yield inputs
    else:
        yield inputs


def trie_mask(model: Any, batch: Batch, part: Callable[[torch.Tensor], torch.Tensor] = lambda mask: mask) -> Any:
    """`part` of the additive mask [1, 1, T, T] of the batch, on the model's device.

    Where a sliding window hides some of the batch, and not all layers have one, a mask for each type of layer.
    """

    def mask(window_tokens: int | None) -> torch.Tensor:
        return part(batch.attention_mask(model.dtype, window_tokens)).to(model.device)

    window_tokens = _hiding_window(model, batch)
    if window_tokens is None or _layer_types(model) == {_SLIDING}:
        return mask(window_tokens)
    return {_FULL: mask(None), _SLIDING: mask(window_tokens)}


def _hiding_window(model: Any, batch: Batch) -> int | None:
    """The sliding window of the model, where it is shorter than the longest path of the batch."""
    window_tokens = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    if window_tokens is None or _SLIDING not in _layer_types(model) or int(batch.positions.max()) < window_tokens:
        return None
    return int(window_tokens)


def _layer_types(model: Any) -> set[str]:
    """Of a model that names none all layers have its window, if it has one."""
    return set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or [_SLIDING])
