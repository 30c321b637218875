"""Low-rank adapters through PEFT: LoRA, PiSSA and DoRA, as a transformation of a resident, frozen base model.

Every kind is stored and loaded as what PEFT itself reads: adapter_config.json and a state of LoRA (or DoRA) tensors
that apply to the untouched base. PiSSA trains against a base whose principal part was moved into the adapter; it is
stored as the equal LoRA of twice the rank, B A - B0 A0 (PiSSA, 2404.02948, section 3), and the base is put back bit
for bit. Plain LoRA from a file needs none of these layers (stored_lora.py).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from lift.adapters.adapter import Adapter, check_state, first_of
from lift.adapters.lora_training import train_as_peft, train_in_one
from lift.adapters.low_rank import LowRank, tell_applied
from lift.errors import AdapterError
from lift.packing.alora import Invocation, add_in_rows_where_active
from lift.recipes.recipe import AdapterSettings

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn")
_MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc")
# Settings of a stored adapter that may differ from PEFT's own, and those that say where it comes from.
_READ = {"r", "lora_alpha", "lora_dropout", "target_modules", "layers_to_transform", "layers_pattern", "rank_pattern"}
_READ |= {"alpha_pattern", "alora_invocation_tokens", "use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"}
_ORIGIN = {"auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "peft_version", "revision"}
_ORIGIN |= {"peft_type", "task_type"}
_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
# One that begins with anything and repeats nothing else is matched in linear time.
_PATTERN = re.compile(r"(\.\*)?[\w.\\|()-]{1,500}", re.ASCII)
_LARGEST_RANK = 1 << 16


class LoraAdapter(Adapter):
    """A low-rank adapter of each chosen matrix; its parameters are float32 whatever the base's type."""

    def __init__(self, model: Any, config: LoraConfig, name: str = "default") -> None:
        super().__init__(model, name)
        self.config = config
        # PEFT gives dots and some words in a name a meaning of its own; hexadecimal digits have none
        self._peft_name = "lift" + name.encode().hex()
        self._layers: list[Any] = []
        self._parameters: list[torch.nn.Parameter] = []
        self._row_hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._row_indices = torch.empty(0, dtype=torch.long)  # [rows that the adapter is applied to]
        self._start: dict[str, torch.Tensor] = {}
        self._swapped_out: dict[str, torch.Tensor] = {}

    @classmethod
    def create(
        cls, model: Any, settings: AdapterSettings, seed: int, name: str = "default", invocation: Invocation = ()
    ) -> LoraAdapter:
        """Attach a new adapter; its output equals the base model's until it is trained.

        With `invocation` it acts from there on (Activated LoRA).
        Raises AdapterError where no matrix of the model matches the targets, or a layer that the model lacks.
        """
        targets = _matching_targets(model, settings.targets)
        count = model.config.get_text_config().num_hidden_layers
        layers = _matching_layers(count, settings.layers_of(count))
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            layers_to_transform=layers,
            init_lora_weights="pissa" if settings.kind == "pissa" else True,
            use_dora=settings.kind == "dora",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        adapter = cls(model, config, name)
        adapter.invocation = invocation
        if settings.kind == "pissa":
            originals = _weights(model, targets)
        adapter._inject(seed)
        if settings.kind == "pissa":
            adapter._start = {key: value.clone() for key, value in adapter._peft_state().items()}
            adapter._swapped_out = {
                path: originals[path] for path, layer in _peft_layers(model) if adapter._peft_name in layer.lora_A
            }
            adapter._swap_base()  # the original weights in: the adapter is applied to no row yet
        adapter._enrol()
        return adapter

    @classmethod
    def restore(
        cls, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor], name: str = "default"
    ) -> LoraAdapter:
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

    @property
    def first_layer(self) -> int:
        """The first layer with an adapter, counted from 0."""
        return first_of(self.config.layers_to_transform)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters, this adapter's alone, in a stable order."""
        return list(self._parameters)

    def parameter_groups(self, ratio: float) -> list[tuple[list[torch.nn.Parameter], float]]:
        """B with `ratio` times the rate of A and of all else (LoRA+, arXiv 2402.12354, section 4)."""
        ups = {id(layer.lora_B[self._peft_name].weight) for layer in self._layers}
        return [
            ([weight for weight in self._parameters if id(weight) not in ups], 1.0),
            ([weight for weight in self._parameters if id(weight) in ups], ratio),
        ]

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the adapter, or not."""
        # the layers of one that is trained compute in another way
        with self.disabled():
            super().set_trainable(trainable)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Copies of the tensors as they are trained, on the CPU (for checkpoints)."""
        return {key: value.detach().cpu().clone() for key, value in self._peft_state().items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put `state`, as from trained_state, into the adapter; raises AdapterError unless every tensor matches."""
        check_state(self._peft_state(), state)
        set_peft_model_state_dict(self.model, state, adapter_name=self._peft_name)

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        state = self.trained_state()
        config: dict[str, Any] = self.config.to_dict()  # type: ignore[no-untyped-call]
        if self._start:
            state = {key: _difference(key, value, self._start[key].cpu()) for key, value in state.items()}
            # the scaling alpha / r must stay what it was although the stored rank is doubled
            config.update(r=2 * self.config.r, lora_alpha=2 * self.config.lora_alpha)
        config.update(init_lora_weights=True, inference_mode=True)
        if self.invocation:
            config.update(alora_invocation_tokens=list(self.invocation))
        return _json_ready(config), state

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        if self._swapped_out and rows:
            raise AdapterError(
                f"PiSSA adapter {self.name!r} in training changes the base of every row, so it cannot share a batch; "
                "store and restore it first"
            )
        if (rows is None) != (self.rows is None):
            for layer in self._layers:
                others = [active for active in layer.active_adapters if active != self._peft_name]
                _set_active(layer, [*others, self._peft_name] if rows is None else others)
            if self._swapped_out:
                self._swap_base()
        train_as_peft(self._layers, self._peft_name)
        plainly = rows is None and self._is_plain()
        tell_applied(self.model, self.name, self._updates() if plainly else {})
        if plainly and (self.invocation or any(weight.requires_grad for weight in self._parameters)):
            train_in_one(self._layers, self._peft_name, self.invocation)
        with torch.inference_mode(False):
            self._row_indices = torch.tensor(rows or (), dtype=torch.long, device=self.model.device)
        if bool(rows) != bool(self._row_hooks):
            for handle in self._row_hooks:
                handle.remove()
            self._row_hooks = [layer.register_forward_hook(self._add_to_rows) for layer in self._layers if rows]

    def _is_plain(self) -> bool:
        """Whether the update of every matrix is the product of two."""
        name = self._peft_name
        return all(name not in layer.lora_variant and layer.lora_B[name].bias is None for layer in self._layers)

    def _updates(self) -> dict[Any, LowRank]:
        name = self._peft_name
        return {
            layer.get_base_layer(): LowRank(
                layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], self.invocation
            )
            for layer in self._layers
        }

    def _add_to_rows(self, layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """The output of a layer with this adapter's update on its rows; PEFT adds none there. [B, T, out]

        PEFT's own batches by adapter name refuse DoRA, which is why they are not used.
        """
        name, indices = self._peft_name, self._row_indices.to(output.device)

        def add(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            base = output[indices]  # [rows, T, out]
            inputs = inputs[indices].to(layer.lora_A[name].weight.dtype)  # [rows, T, in]
            if name in layer.lora_variant:
                updated = layer.lora_variant[name].forward(layer, active_adapter=name, x=inputs, result=base)
            else:
                updated = base + layer.lora_B[name](layer.lora_A[name](inputs)) * layer.scaling[name]
            return output.index_copy(0, indices, updated.to(output.dtype))

        return add_in_rows_where_active(output, args[0], self.row_invocations, add)

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
        self._parameters = [
            weight for path, weight in self.model.named_parameters() if self._peft_name in path.split(".")
        ]
        self.set_trainable(False)
        for weight, flag in flags:
            weight.requires_grad_(flag)

    def _peft_state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(self.model, adapter_name=self._peft_name)
        return state

    def _swap_base(self) -> None:
        """Exchange the base's weights for those kept aside: PiSSA's residuals for the originals, or back."""
        for path, layer in _peft_layers(self.model):
            if path in self._swapped_out:
                weight = layer.get_base_layer().weight
                weight.data, self._swapped_out[path] = self._swapped_out[path], weight.data


def read_config(config: dict[str, Any]) -> LoraConfig:
    """The settings that PEFT reads in an adapter_config.json; raises AdapterError for any that is not Lift's.

    The file may come from a stranger. PEFT takes some settings for regular expressions, modules to import and files to
    load: names are plain here, and whatever has a meaning that a stored adapter does not need is as PEFT has it.
    """
    try:
        read = LoraConfig(**{**config, "inference_mode": False, "init_lora_weights": True})
        usual = LoraConfig()
    except (TypeError, ValueError) as error:
        raise AdapterError(f"expected the configuration of a low-rank adapter, got one that is not: {error}") from None
    for name, value in config.items():
        if name in _ORIGIN:
            continue
        if name not in _READ and getattr(read, name) != getattr(usual, name):
            raise AdapterError(f"expected {name} of a stored adapter as PEFT has it, got {value!r:.80}; absorb again")
        pattern = name == "target_modules" and isinstance(value, str) and _PATTERN.fullmatch(value)
        if not pattern and not _is_plain_value(value):
            raise AdapterError(f"expected plain names and numbers as {name}, got {value!r:.80}; absorb again")
    if not isinstance(read.r, int) or not 0 < read.r <= _LARGEST_RANK:
        raise AdapterError(f"expected a rank from 1 to {_LARGEST_RANK:,}, got {read.r!r:.80}; absorb again")
    return read


def _is_plain_value(value: Any) -> bool:
    """Whether it is a name, a number or nothing, or a list or a table of such."""
    if isinstance(value, dict):
        return all(_is_plain_value(key) and _is_plain_value(each) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return all(_is_plain_value(each) for each in value)
    if isinstance(value, str):
        return bool(_NAME.fullmatch(value))
    return value is None or (isinstance(value, bool | int | float) and math.isfinite(value))


def _peft_layers(model: Any) -> Iterator[tuple[str, Any]]:
    return ((path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer))


def _set_active(layer: Any, names: list[str]) -> None:
    """Let PEFT apply these adapters to all rows, without its side effect on who takes gradients."""
    flags = [(weight, weight.requires_grad) for weight in layer.parameters()]
    layer.set_adapter(names)
    for weight, flag in flags:
        weight.requires_grad_(flag)


def _matching_targets(model: Any, wanted: str) -> list[str]:
    leaves = {
        path.removesuffix(".base_layer").rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    names = {"attention": _ATTENTION, "mlp": _MLP, "all-linear": _ATTENTION + _MLP}[wanted]
    targets = sorted(leaves.intersection(names))
    if not targets:
        raise AdapterError(
            f"expected matrices for adapter.targets={wanted!r} in {type(model).__name__}, got {sorted(leaves)}; "
            "choose other targets"
        )
    return targets


def _weights(model: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    """Copies of the weights that match the targets, by the path of their module without adapters."""
    linear = ((path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    plain = ((path.removesuffix(".base_layer"), module) for path, module in linear)
    return {path: module.weight.detach().clone() for path, module in plain if path.rsplit(".", 1)[-1] in targets}


def _matching_layers(count: int, wanted: tuple[int, ...]) -> list[int] | None:
    if not wanted:
        return None
    if outside := [layer for layer in wanted if not 0 <= layer < count]:
        raise AdapterError(f"expected adapter.layers from 0 to {count - 1}, got {outside}; leave those out")
    return sorted(set(wanted))


def _difference(key: str, trained: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """B A - B0 A0 as one product: A over A0 (rows), B beside -B0 (columns)."""
    if "lora_A" in key:
        return torch.cat([trained, start], dim=0)  # [2r, in]
    return torch.cat([trained, -start], dim=1)  # [out, 2r]


def _json_ready(config: dict[str, Any]) -> dict[str, Any]:
    """PEFT's settings as JSON can hold them: sets as lists, enumerations as their values, objects left out."""
    plain = {key: getattr(value, "value", value) for key, value in config.items()}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
    return {key: value for key, value in plain.items() if isinstance(value, str | int | float | list | dict | None)}
