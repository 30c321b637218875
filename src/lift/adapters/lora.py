"""Low-rank adapters through PEFT: LoRA, PiSSA and DoRA, as a transformation of a resident, frozen base model.

Every kind is stored and loaded as what PEFT itself reads: adapter_config.json and a state of LoRA (or DoRA) tensors
that apply to the untouched base. PiSSA trains against a base whose principal part was moved into the adapter; it is
stored as the equal LoRA of twice the rank, B A - B0 A0 (PiSSA, 2404.02948, section 3), and the base is put back bit
for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from lift.errors import AdapterError
from lift.recipes.recipe import AdapterSettings

_NAME = "default"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn")
_MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc")


class LoraAdapter:
    """A low-rank adapter attached to `model` until `detach`."""

    def __init__(self, model: Any, config: LoraConfig) -> None:
        self.model = model
        self.config = config
        self._before_pissa: dict[str, torch.Tensor] = {}
        self._start: dict[str, torch.Tensor] = {}

    @classmethod
    def create(cls, model: Any, settings: AdapterSettings, seed: int) -> LoraAdapter:
        """Attach a new adapter; its output equals the base model's until it is trained.

        Raises AdapterError where no matrix of the model matches the targets.
        """
        targets = _matching_targets(model, settings.targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            init_lora_weights="pissa" if settings.kind == "pissa" else True,
            use_dora=settings.kind == "dora",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        adapter = cls(model, config)
        if settings.kind == "pissa":
            adapter._before_pissa = {
                name: module.weight.detach().clone()
                for name, module in model.named_modules()
                if name.rsplit(".", 1)[-1] in targets
            }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        if settings.kind == "pissa":
            adapter._start = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
        return adapter

    @classmethod
    def restore(cls, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor]) -> LoraAdapter:
        """Attach a stored adapter; raises AdapterError on a key that is missing or too many, or a wrong shape."""
        parsed = LoraConfig(**{**config, "inference_mode": False, "init_lora_weights": True})
        inject_adapter_in_model(parsed, model, adapter_name=_NAME)
        adapter = cls(model, parsed)
        try:
            adapter.load_state(state)
        except AdapterError:
            adapter.detach()
            raise
        return adapter

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in a stable order."""
        return [parameter for name, parameter in self.model.named_parameters() if "lora_" in name]

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the adapter, or not."""
        for parameter in self.parameters():
            parameter.requires_grad_(trainable)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The tensors as they are trained (for checkpoints)."""
        return {key: value.detach().cpu().clone() for key, value in get_peft_model_state_dict(self.model).items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put `state`, as from trained_state, into the adapter; raises AdapterError unless every tensor matches."""
        current = get_peft_model_state_dict(self.model)
        missing, surplus = sorted(set(current) - set(state)), sorted(set(state) - set(current))
        if missing or surplus:
            raise AdapterError(
                f"the adapter does not fit the model: {len(missing)} tensors missing {missing[:2]}, "
                f"{len(surplus)} too many {surplus[:2]}; use the base model that it was trained on"
            )
        wrong = [key for key in current if current[key].shape != state[key].shape]
        if wrong:
            key = wrong[0]
            raise AdapterError(f"{key}: expected shape {tuple(current[key].shape)}, got {tuple(state[key].shape)}")
        set_peft_model_state_dict(self.model, state)

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        state = self.trained_state()
        config: dict[str, Any] = self.config.to_dict()  # type: ignore[no-untyped-call]
        if self._start:
            state = {key: _difference(key, value, self._start[key]) for key, value in state.items()}
            # the scaling alpha / r must stay what it was although the stored rank is doubled
            config.update(r=2 * self.config.r, lora_alpha=2 * self.config.lora_alpha)
        config.update(init_lora_weights=True, inference_mode=True)
        return _json_ready(config), state

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model's own output, bit for bit, inside the block."""
        if self._before_pissa:
            raise AdapterError("a PiSSA adapter in training cannot be switched off; detach it first")
        layers = _layers(self.model)
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
                layer.requires_grad_(False)

    def detach(self) -> None:
        """Put the base model back as it was before the adapter was attached."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.get_base_layer())
        for name, weight in self._before_pissa.items():
            self.model.get_submodule(name).weight.data = weight
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _matching_targets(model: Any, wanted: str) -> list[str]:
    leaves = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    names = {"attention": _ATTENTION, "mlp": _MLP, "all-linear": _ATTENTION + _MLP}[wanted]
    targets = sorted(leaves.intersection(names))
    if not targets:
        raise AdapterError(
            f"expected matrices for adapter.targets={wanted!r} in {type(model).__name__}, got {sorted(leaves)}; "
            "choose other targets"
        )
    return targets


def _difference(key: str, trained: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """B A - B0 A0 as one product: A over A0 (rows), B beside -B0 (columns)."""
    if "lora_A" in key:
        return torch.cat([trained, start], dim=0)  # [2r, in]
    return torch.cat([trained, -start], dim=1)  # [out, 2r]


def _json_ready(config: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold of PEFT's settings: sets as lists, enumerations as their values, objects left out."""
    plain = {key: getattr(value, "value", value) for key, value in config.items()}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
    return {key: value for key, value in plain.items() if isinstance(value, str | int | float | list | dict | None)}
