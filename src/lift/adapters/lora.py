"""Plain LoRA on a resident base: two factors a matrix, beside the model's own linear layers.

A new one and a stored one are the same: each may be trained, stored, and applied to all rows, to some or to none.
Files are as PEFT reads and writes them. No layers are put into the model: that takes a second a memory, and every walk
through the model takes longer with each of them. What has more than two factors a matrix is left to PEFT
(peft_adapter.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig

from lift.adapters.adapter import Adapter, check_state
from lift.adapters.batched_lora import apply_to_rows, forget_rows
from lift.adapters.lora_config import first_layer, matching_layers, new_config, read_config, storable
from lift.adapters.low_rank import LowRank, add_low_rank, apply_to_all, change_rows
from lift.packing.alora import Invocation
from lift.recipes.recipe import AdapterSettings


class LoraAdapter(Adapter):
    """A low-rank update of each chosen matrix; its factors are float32 whatever the base's type.

    With an invocation it acts from there on (Activated LoRA). On some rows of a batch a frozen one is applied together
    with all others (batched_lora.py).
    """

    def __init__(
        self, model: Any, config: LoraConfig, layers: Mapping[str, Any], state: Mapping[str, torch.Tensor], name: str
    ) -> None:
        super().__init__(model, name)
        self.invocation = tuple(config.alora_invocation_tokens or ())
        self._config = config
        self.first_layer = first_layer(config)
        self._factors = dict[str, torch.nn.Parameter]()
        self._updates = dict[Any, LowRank]()  # of the same factors, by the layer whose output they are added to
        for path, layer in layers.items():
            down, up = (self._add_factor(key, state[key], layer.weight.device) for key in factor_keys(path))
            self._updates[layer] = LowRank(down, up, config.lora_alpha / config.r, self.invocation)
        self._row_hooks: list[torch.utils.hooks.RemovableHandle] = []

    def _add_factor(self, key: str, factor: torch.Tensor, device: torch.device) -> torch.nn.Parameter:
        own = factor.to(device, torch.float32, copy=True)
        self._factors[key] = torch.nn.Parameter(own, requires_grad=False)
        return self._factors[key]

    @classmethod
    def create(
        cls, model: Any, settings: AdapterSettings, seed: int, name: str = "default", invocation: Invocation = ()
    ) -> LoraAdapter:
        """Attach a new adapter; its output equals the base model's until it is trained.

        Raises AdapterError where no matrix of the model matches the targets, or for a layer that the model lacks.
        """
        config = new_config(model, settings, invocation)
        layers = matching_layers(model, config)
        generator = torch.Generator().manual_seed(seed)
        state = dict[str, torch.Tensor]()
        for path, layer in layers.items():
            state.update(zip(factor_keys(path), _initial_factors(layer, config.r, generator), strict=True))
        adapter = cls(model, config, layers, state, name)
        adapter._enrol()
        return adapter

    @classmethod
    def restore(
        cls, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor], name: str = "default"
    ) -> LoraAdapter:
        """Attach a stored adapter whose configuration is_plain.

        Raises AdapterError on a key that is missing or too many, or a wrong shape, and where no matrix is meant.
        """
        read = read_config(config)
        layers = matching_layers(model, read)
        shapes = {}
        for path, layer in layers.items():
            down, up = factor_keys(path)
            shapes[down] = torch.empty(read.r, layer.in_features, device="meta")
            shapes[up] = torch.empty(layer.out_features, read.r, device="meta")
        check_state(shapes, state)
        adapter = cls(model, read, layers, state, name)
        adapter._enrol()
        return adapter

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained factors, A and B of each matrix, by their names in the state."""
        return dict(self._factors)

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the adapter, or not."""
        # a trained adapter updates its rows itself, a frozen one together with others
        with self.disabled():
            forget_rows(self.model, self.name)
            super().set_trainable(trainable)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put `state`, as from trained_state, into the adapter; raises AdapterError unless every tensor matches."""
        # what was read of the tensors for rows of a batch is read anew
        with self.disabled():
            forget_rows(self.model, self.name)
            super().load_state(state)

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        return storable(self._config), self.trained_state()

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        alone = rows if any(factor.requires_grad for factor in self.parameters()) else ()
        apply_to_all(self.model, self.name, self._updates if rows is None else {})
        apply_to_rows(self.model, self.name, () if alone else rows or (), self._updates)
        for handle in self._row_hooks:
            handle.remove()
        self._row_hooks = change_rows(self._updates, alone or (), self.invocation, self.model.device, self._add)

    def _add(self, layer: Any, output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return add_low_rank(output, inputs, self._updates[layer])

    def _remove(self) -> None:
        forget_rows(self.model, self.name)


def factor_keys(path: str) -> tuple[str, str]:
    """The names of A and B of the matrix at that path, as PEFT stores them."""
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def round_to_layer(layer: Any, factor: torch.Tensor) -> torch.Tensor:
    """A new factor in the type of the layer's weight, where that is no type of quantised ones, as PEFT makes it."""
    return factor.to(layer.weight.dtype) if layer.weight.is_floating_point() else factor


def _initial_factors(layer: Any, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random A [r, in], uniform as torch.nn.Linear has it, and B [out, r] of zeros: what PEFT makes of that seed."""

    def draw(rows: int, columns: int) -> torch.Tensor:
        return torch.nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5), generator=generator)

    draw(rank, layer.in_features)  # PEFT draws both factors first, and then A anew
    draw(layer.out_features, rank)
    down = draw(rank, layer.in_features)
    return round_to_layer(layer, down), torch.zeros(layer.out_features, rank)
