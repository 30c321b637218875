"""Low-rank adapters that PEFT computes: DoRA, and stored ones with biases, patterns of ranks or other scalings.

They are layers of PEFT's around those of the resident, frozen base; plain LoRA needs none (lora.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype

from lift.adapters.adapter import Adapter
from lift.adapters.lora_config import first_layer, new_config, read_config, storable
from lift.adapters.low_rank import change_rows
from lift.errors import AdapterError
from lift.recipes.recipe import AdapterSettings


class PeftAdapter(Adapter):
    """A low-rank adapter of each chosen matrix; its parameters are float32 whatever the base's type."""

    def __init__(self, model: Any, config: LoraConfig, name: str = "default") -> None:
        super().__init__(model, name)
        self.config = config
        self.first_layer = first_layer(config)
        # PEFT gives dots and some words in a name a meaning of its own; hexadecimal digits have none
        self._peft_name = "lift" + name.encode().hex()
        self._layers: list[Any] = []
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._row_hooks: list[torch.utils.hooks.RemovableHandle] = []

    @classmethod
    def create(cls, model: Any, settings: AdapterSettings, seed: int, name: str = "default") -> PeftAdapter:
        """Attach a new adapter; its output equals the base model's until it is trained.

        Raises AdapterError where no matrix of the model matches the targets, or a layer that the model lacks.
        """
        adapter = cls(model, new_config(model, settings), name)
        adapter._inject(seed)
        adapter._enrol()
        return adapter

    @classmethod
    def restore(
        cls, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor], name: str = "default"
    ) -> PeftAdapter:
        """Attach a stored adapter; raises AdapterError on a key that is missing or too many, or a wrong shape."""
        read = read_config(config)
        if read.alora_invocation_tokens:
            raise AdapterError("expected no alora_invocation_tokens in an adapter that is no plain LoRA; absorb again")
        adapter = cls(model, read, name)
        try:
            adapter._inject(seed=0)
            adapter.load_state(state)
        except BaseException:  # the memory may have run out half-way
            adapter._remove()
            raise
        adapter._enrol()
        return adapter

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, this adapter's alone, in a stable order, by the names that PEFT stores them by."""
        return dict(self._parameters)

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        return storable(self.config), self.trained_state()

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        if (rows is None) != (self.rows is None):
            for layer in self._layers:
                others = [active for active in layer.active_adapters if active != self._peft_name]
                _set_active(layer, [*others, self._peft_name] if rows is None else others)
        for handle in self._row_hooks:
            handle.remove()
        self._row_hooks = change_rows(self._layers, rows or (), self.invocation, self.model.device, self._add)

    def _add(self, layer: Any, output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The output of a layer, to which PEFT has added nothing, with this adapter's update.

        PEFT's own batches by adapter name refuse DoRA, which is why they are not used.
        """
        name = self._peft_name
        inputs = inputs.to(layer.lora_A[name].weight.dtype)
        changed: torch.Tensor
        if name in layer.lora_variant:
            changed = layer.lora_variant[name].forward(layer, active_adapter=name, x=inputs, result=output)
        else:
            changed = output + layer.lora_B[name](layer.lora_A[name](inputs)) * layer.scaling[name]
        return changed

    def _remove(self) -> None:
        for path, layer in list(_peft_layers(self.model)):
            layer.delete_adapter(self._peft_name)
            if not layer.lora_A:
                parent, _, child = path.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        configs = vars(self.model).get("peft_config", {})
        configs.pop(self._peft_name, None)
        if "peft_config" in vars(self.model) and not configs:
            del self.model.peft_config

    def _key(self, path: list[str]) -> str:
        key = ".".join(part for part in path if part != self._peft_name)
        return key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")

    def _inject(self, seed: int) -> None:
        """Put PEFT's layers into the model, applied to no row, frozen, and leave the global random state alone."""
        layers_before = list(_peft_layers(self.model))
        active = {path: list(layer.active_adapters) for path, layer in layers_before}
        flags = [(weight, weight.requires_grad) for _, layer in layers_before for weight in layer.parameters()]
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                # several adapters on one base are what is wanted
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                torch.manual_seed(seed)
                inject_adapter_in_model(self.config, self.model, adapter_name=self._peft_name)
        except ValueError as error:
            self._remove()
            raise AdapterError(f"the adapter does not fit {type(self.model).__name__}: {error}") from None
        cast_adapter_dtype(self.model, self._peft_name)
        for path, layer in _peft_layers(self.model):
            _set_active(layer, active.get(path, []))
        # found once: with many adapters attached a walk through the model takes long
        self._layers = [layer for _, layer in _peft_layers(self.model) if self._peft_name in layer.lora_A]
        named = ((path.split("."), weight) for path, weight in self.model.named_parameters())
        self._parameters = {self._key(path): weight for path, weight in named if self._peft_name in path}
        self.set_trainable(False)
        for weight, flag in flags:
            weight.requires_grad_(flag)


def _peft_layers(model: Any) -> Iterator[tuple[str, Any]]:
    return ((path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer))


def _set_active(layer: Any, names: list[str]) -> None:
    """Let PEFT apply these adapters to all rows, without its side effect on who takes gradients."""
    flags = [(weight, weight.requires_grad) for weight in layer.parameters()]
    layer.set_adapter(names)
    for weight, flag in flags:
        weight.requires_grad_(flag)
