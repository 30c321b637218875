"""PiSSA (arXiv 2404.02948): a LoRA that begins as the principal part of each matrix, which the base then lacks.

It is stored as the equal LoRA of twice the rank on the untouched base, B A - B0 A0 (section 3), and the base is put
back bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch

from lift.adapters.lora import LoraAdapter, factor_keys, round_to_layer
from lift.adapters.lora_config import matching_layers, new_config
from lift.errors import AdapterError
from lift.packing.alora import Invocation
from lift.recipes.recipe import AdapterSettings


class PissaAdapter(LoraAdapter):
    """A plain LoRA in training beside residual matrices; a stored one is a LoraAdapter."""

    _start: dict[str, torch.Tensor]
    _swapped_out: dict[Any, torch.Tensor]  # of each layer, whichever of the two weights it does not have now

    @classmethod
    def create(
        cls, model: Any, settings: AdapterSettings, seed: int, name: str = "default", invocation: Invocation = ()
    ) -> PissaAdapter:
        """Attach a new adapter; with it the model's output is the base's, up to rounding, until it is trained.

        `seed` has no part in it, and it acts on all tokens. Raises AdapterError as LoraAdapter.create, and for a base
        whose weights are quantised.
        """
        config = new_config(model, settings)
        layers = matching_layers(model, config)
        state, residuals = dict[str, torch.Tensor](), dict[Any, torch.Tensor]()
        for path, layer in layers.items():
            down, up, residuals[layer] = _principal_part(layer, config.r, config.lora_alpha / config.r)
            state.update(zip(factor_keys(path), (down, up), strict=True))
        adapter = cls(model, config, layers, state, name)
        adapter._start, adapter._swapped_out = adapter.trained_state(), residuals
        adapter._enrol()
        return adapter

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        config, state = super().stored()
        # the scaling alpha / r must stay what it was although the stored rank is doubled
        config.update(r=2 * config["r"], lora_alpha=2 * config["lora_alpha"])
        return config, {key: _difference(key, value, self._start[key]) for key, value in state.items()}

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        if rows:
            raise AdapterError(
                f"PiSSA adapter {self.name!r} in training changes the base of every row, so it cannot share a batch; "
                "store and restore it first"
            )
        if (rows is None) != (self.rows is None):
            for layer, weight in self._swapped_out.items():
                layer.weight.data, self._swapped_out[layer] = weight, layer.weight.data
        super()._switch(rows)


@torch.no_grad()
def _principal_part(layer: Any, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A [r, in] and B [out, r] of W's largest singular values, and what is left of W [out, in]."""
    weight = layer.weight
    if not weight.is_floating_point() or weight.shape != (layer.out_features, layer.in_features):
        raise AdapterError(
            f"expected weights that are not quantised for adapter.kind=pissa, got {weight.dtype}; use adapter.kind=lora"
        )
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    roots = torch.diag((values[:rank] / scaling).sqrt())
    down, up = roots @ right[:rank], left[:, :rank] @ roots
    residual = (weight.float() - scaling * up @ down).to(weight.dtype)
    return round_to_layer(layer, down), round_to_layer(layer, up), residual


def _difference(key: str, trained: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """B A - B0 A0 as one product: A over A0 (rows), B beside -B0 (columns)."""
    if "lora_A" in key:
        return torch.cat([trained, start], dim=0)  # [2r, in]
    return torch.cat([trained, -start], dim=1)  # [out, 2r]
