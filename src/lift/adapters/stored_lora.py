"""A stored plain LoRA on a resident base: two factors a matrix, added by hooks on the model's own linear layers.

Putting PEFT's layers into a model takes a second a memory, and every walk through the model takes longer with each of
them; here, attaching is reading the factors. Files stay as PEFT reads and writes them. What has more than two factors a
matrix (DoRA, biases, ranks by pattern) is left to PEFT (lora.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from lift.adapters.adapter import Adapter, check_state, first_of
from lift.adapters.batched_lora import add_low_rank, apply_to_rows, forget_rows
from lift.adapters.low_rank import LowRank, tell_applied
from lift.errors import AdapterError
from lift.packing.alora import add_in_rows_where_active, add_where_active

# which matrices, their rank and scaling, from where on they act; where the adapter comes from. Any other setting
# changes what the factors mean
_OWN = {"r", "lora_alpha", "target_modules", "layers_to_transform", "layers_pattern", "alora_invocation_tokens"}
_ORIGIN = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
_ORIGIN |= {"init_lora_weights", "runtime_config"}


def is_plain(config: LoraConfig) -> bool:
    """Whether the update of every matrix is (alpha / r) B A, of the matrices whose names are listed."""
    usual = LoraConfig()
    settings = {field.name for field in fields(LoraConfig)} - _OWN - _ORIGIN
    listed = isinstance(config.target_modules, set | list) and config.r > 0
    return listed and all(getattr(config, name) == getattr(usual, name) for name in settings)


class StoredLoraAdapter(Adapter):
    """A plain LoRA as it is stored; its factors are float32 whatever the base's type, frozen until set_trainable.

    On some rows of a batch a frozen one is applied together with all others (batched_lora.py).
    """

    def __init__(
        self,
        model: Any,
        config: Mapping[str, Any],
        factors: Mapping[str, torch.nn.Parameter],
        updates: Mapping[Any, LowRank],
        name: str,
    ) -> None:
        super().__init__(model, name)
        self._config = dict(config)
        self._factors = dict(factors)  # named as in the state that is stored
        self._updates = dict(updates)  # of the same factors, by the layer whose output they are added to
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._row_indices = torch.empty(0, dtype=torch.long)  # [rows that it is applied to by itself]

    @classmethod
    def restore(
        cls, model: Any, config: Mapping[str, Any], plain: LoraConfig, state: dict[str, torch.Tensor], name: str
    ) -> StoredLoraAdapter:
        """Attach a stored adapter; `plain` is what PEFT reads in `config`, one that is_plain.

        Raises AdapterError on a key that is missing or too many, or a wrong shape, and where no matrix is meant.
        """
        layers = {
            path: layer for path, layer in _linear_layers(model).items() if check_target_module_exists(plain, path)
        }
        if not layers:
            raise AdapterError(
                f"the adapter does not fit {type(model).__name__}: expected matrices that are called "
                f"{sorted(plain.target_modules or ())}, got none; use the base model that it was trained on"
            )
        shapes = {}
        for path, layer in layers.items():
            down, up = _keys(path)
            shapes[down] = torch.empty(plain.r, layer.in_features, device="meta")
            shapes[up] = torch.empty(layer.out_features, plain.r, device="meta")
        check_state(shapes, state)
        factors, updates = {}, {}
        invocation = tuple(plain.alora_invocation_tokens or ())
        for path, layer in layers.items():
            for key in _keys(path):
                factor = state[key].to(layer.weight.device, torch.float32, copy=True)
                factors[key] = torch.nn.Parameter(factor, requires_grad=False)
            down, up = _keys(path)
            updates[layer] = LowRank(factors[down], factors[up], plain.lora_alpha / plain.r, invocation)
        adapter = cls(model, config, factors, updates, name)
        adapter.invocation = invocation
        adapter._enrol()
        return adapter

    @property
    def first_layer(self) -> int:
        """The first layer with an adapter, counted from 0."""
        return first_of(self._config.get("layers_to_transform"))

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters, this adapter's alone, in a stable order."""
        return list(self._factors.values())

    def parameter_groups(self, ratio: float) -> list[tuple[list[torch.nn.Parameter], float]]:
        """B with `ratio` times the rate of A (LoRA+, arXiv 2402.12354, section 4)."""
        downs = [factor for key, factor in self._factors.items() if ".lora_A." in key]
        ups = [factor for key, factor in self._factors.items() if ".lora_B." in key]
        return [(downs, 1.0), (ups, ratio)]

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the adapter, or not."""
        # a trained adapter updates its rows itself, a frozen one together with others
        with self.disabled():
            forget_rows(self.model, self.name)
            super().set_trainable(trainable)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Copies of the tensors as they are trained, on the CPU (for checkpoints)."""
        return {key: factor.detach().cpu().clone() for key, factor in self._factors.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put `state`, as from trained_state, into the adapter; raises AdapterError unless every tensor matches."""
        check_state(dict(self._factors), state)
        # what was read of the tensors for rows of a batch is read anew
        with self.disabled(), torch.no_grad():
            forget_rows(self.model, self.name)
            for key, factor in self._factors.items():
                factor.copy_(state[key])

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        return dict(self._config), self.trained_state()

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        trained = any(factor.requires_grad for factor in self.parameters())
        together = bool(rows) and not trained
        apply_to_rows(self.model, self.name, rows or () if together else (), self._updates)
        tell_applied(self.model, self.name, self._updates if rows is None else {})
        for handle in self._hooks:
            handle.remove()
        alone = rows is None or (trained and rows)
        with torch.inference_mode(False):
            self._row_indices = torch.tensor(rows or (), dtype=torch.long)
        hook = self._add_to_all if rows is None else self._add_to_rows
        self._hooks = [layer.register_forward_hook(hook) for layer in self._updates if alone]

    def _add_to_all(self, layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        update = self._updates[layer]
        return add_where_active(output, args[0], update.invocation, partial(add_low_rank, update=update))

    def _add_to_rows(self, layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        indices = self._row_indices.to(output.device)

        def add(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            updated = add_low_rank(output[indices], inputs[indices], self._updates[layer])
            return output.index_copy(0, indices, updated)

        return add_in_rows_where_active(output, args[0], self.row_invocations, add)

    def _remove(self) -> None:
        forget_rows(self.model, self.name)


def _keys(path: str) -> tuple[str, str]:
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def _linear_layers(model: Any) -> dict[str, Any]:
    """The model's own linear layers by their path without adapters, whatever of PEFT's is wrapped around them."""
    linear = ((path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {path.removesuffix(".base_layer"): module for path, module in linear}
