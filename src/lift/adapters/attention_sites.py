"""Where a model's attentions are, found by structure: queries leave a projection, heads enter the output projection.

A site is a module with an output projection (o_proj, out_proj or dense) and a query projection (q_proj, or qkv_proj
whose first columns are the queries). Nothing depends on the class of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from lift.errors import AdapterError

_QUERY = ("q_proj", "qkv_proj")
_OUTPUT = ("o_proj", "out_proj", "dense")
_QUERY_NORM = ("q_norm", "q_layernorm")


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """One attention: its `path` and `layer` (from 0) in the model, the base's own projections, H heads of size d."""

    path: str
    layer: int
    module: torch.nn.Module
    query_projection: Any
    output_projection: Any
    query_norm: Any
    heads: int
    head_dim: int

    def query(self, projected: torch.Tensor) -> torch.Tensor:
        """Queries before rotary positions, normalised where the model does so. [..., columns] -> [..., H, d]"""
        width = self.heads * self.head_dim
        flat = projected[..., :width]  # [..., H d]; keys and values stand behind the queries of a fused projection
        norm = self.query_norm
        if norm is not None and norm.weight.shape == (width,) and self.heads > 1:
            flat, norm = norm(flat), None  # one norm over all heads (OLMo 2)
        query = flat.reshape(*flat.shape[:-1], self.heads, self.head_dim)  # [..., H, d]
        return query if norm is None else torch.as_tensor(norm(query))


def attention_sites(model: Any, layers: tuple[int, ...] = ()) -> list[AttentionSite]:
    """The attentions of these layers (all where empty), in the order of the model.

    Raises AdapterError where the model has none, lacks a layer, or has attentions of another structure.
    """
    found = [
        _site(path, layer, module)
        for layer, (path, module) in enumerate(
            (path, module)
            for path, module in model.named_modules()
            if _child(module, _QUERY) is not None
            and _child(module, _OUTPUT) is not None
            and getattr(module, "is_causal", True)
        )
    ]
    if not found:
        leaves = {path.rsplit(".", 1)[-1] for path, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        raise AdapterError(
            f"expected attentions with q_proj or qkv_proj, and o_proj, in {type(model).__name__}, "
            f"got {sorted(leaves)}; choose a low-rank adapter"
        )
    present = {site.layer for site in found}
    if missing := sorted(set(layers) - present):
        raise AdapterError(f"expected adapter.layers among {sorted(present)}, got {missing}; leave those out")
    return [site for site in found if not layers or site.layer in layers]


def _site(path: str, position: int, module: Any) -> AttentionSite:
    query, output = _child(module, _QUERY), _child(module, _OUTPUT)
    columns = output.in_features
    head_dim = getattr(module, "head_dim", 0) or columns // module.config.num_attention_heads
    heads = columns // head_dim
    fused = getattr(module, "q_proj", None) is None
    queries_fit = query.out_features > columns if fused else query.out_features == columns
    norm = _child(module, _QUERY_NORM)
    norm_fits = norm is None or getattr(norm, "weight", None) is not None
    if heads * head_dim != columns or not queries_fit or not norm_fits:
        raise AdapterError(
            f"{path}: expected {heads} queries of {head_dim} for {columns} columns of attention output, "
            f"got a projection of {query.out_features} and {type(norm).__name__}; choose a low-rank adapter"
        )
    layer = getattr(module, "layer_idx", None)
    return AttentionSite(path, position if layer is None else layer, module, query, output, norm, heads, head_dim)


def _child(module: Any, names: tuple[str, ...]) -> Any:
    """The first child of one of these names, without the layers that PEFT has put around it."""
    child = next((found for name in names if (found := getattr(module, name, None)) is not None), None)
    return child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
