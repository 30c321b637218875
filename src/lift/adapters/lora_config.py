"""The settings of a low-rank adapter in PEFT's words: new ones, those that are read from a file, and what they match.

A file may come from a stranger. PEFT takes some settings for regular expressions, modules to import and files to load:
here names are plain, and whatever has a meaning that a stored adapter does not need is as PEFT has it.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from lift.errors import AdapterError
from lift.packing.alora import Invocation
from lift.recipes.recipe import AdapterSettings

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn")
_MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc")
# settings that say which matrices a plain LoRA has, their rank and scaling, and from where on they act. Any other
# changes what the factors mean
_PLAIN = {"r", "lora_alpha", "target_modules", "layers_to_transform", "layers_pattern", "alora_invocation_tokens"}
# settings of a stored adapter that may differ from PEFT's own, and those that say where it comes from
_READ = _PLAIN | {"lora_dropout", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "lora_bias"}
_READ |= {"fan_in_fan_out"}
_ORIGIN = {"auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "peft_version", "revision"}
_ORIGIN |= {"peft_type", "task_type"}
_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
# One that begins with anything and repeats nothing else is matched in linear time.
_PATTERN = re.compile(r"(\.\*)?[\w.\\|()-]{1,500}", re.ASCII)
_LARGEST_RANK = 1 << 16


def new_config(model: Any, settings: AdapterSettings, invocation: Invocation = ()) -> LoraConfig:
    """The settings of a new adapter on `model`, of the kind, shape and matrices that a recipe asks for.

    Raises AdapterError where no matrix of the model matches the targets, or for a layer that the model lacks.
    """
    targets = _matching_targets(model, settings.targets)
    count = model.config.get_text_config().num_hidden_layers
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=targets,
        layers_to_transform=_matching_layers(count, settings.layers_of(count)),
        use_dora=settings.kind == "dora",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        alora_invocation_tokens=list(invocation) or None,
    )


def read_config(config: dict[str, Any]) -> LoraConfig:
    """The settings in an adapter_config.json; raises AdapterError for any that is not Lift's."""
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
    for name in ("rank_pattern", "alpha_pattern"):
        pattern_of = getattr(read, name)
        if not isinstance(pattern_of, dict) or not all(map(_is_positive, pattern_of.values())):
            raise AdapterError(f"expected numbers above 0 by matrix as {name}, got {pattern_of!r:.80}; absorb again")
    if not _is_positive(read.lora_alpha):
        raise AdapterError(f"expected a lora_alpha above 0, got {read.lora_alpha!r:.80}; absorb again")
    return read


def is_plain(config: LoraConfig) -> bool:
    """Whether the update of every matrix is (alpha / r) B A, of the matrices whose names are listed."""
    usual = LoraConfig()
    settings = {field.name for field in fields(LoraConfig)} - _PLAIN - _ORIGIN - {"runtime_config"}
    listed = isinstance(config.target_modules, set | list) and config.r > 0
    return listed and all(getattr(config, name) == getattr(usual, name) for name in settings)


def first_layer(config: LoraConfig) -> int:
    """The first layer of the model with an adapter, counted from 0."""
    layers = config.layers_to_transform
    return min([layers] if isinstance(layers, int) else layers or [0])


def storable(config: LoraConfig) -> dict[str, Any]:
    """The adapter_config.json: sets as lists, enumerations as their values, objects left out."""
    settings: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    settings.update(init_lora_weights=True, inference_mode=True)
    plain = {key: getattr(value, "value", value) for key, value in settings.items()}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
    return {key: value for key, value in plain.items() if isinstance(value, str | int | float | list | dict | None)}


def matching_layers(model: Any, config: LoraConfig) -> dict[str, Any]:
    """The model's own linear layers that are meant, by their path without adapters, whatever is wrapped around them.

    Raises AdapterError where there is none.
    """
    found = {path: layer for path, layer in _linear_layers(model).items() if check_target_module_exists(config, path)}
    if not found:
        raise AdapterError(
            f"the adapter does not fit {type(model).__name__}: expected matrices that are called "
            f"{sorted(config.target_modules or ())}, got none; use the base model that it was trained on"
        )
    return found


def _linear_layers(model: Any) -> dict[str, Any]:
    linear = ((path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {path.removesuffix(".base_layer"): module for path, module in linear}


def _matching_targets(model: Any, wanted: str) -> list[str]:
    leaves = {path.rsplit(".", 1)[-1] for path in _linear_layers(model)}
    names = {"attention": _ATTENTION, "mlp": _MLP, "all-linear": _ATTENTION + _MLP}[wanted]
    targets = sorted(leaves.intersection(names))
    if not targets:
        raise AdapterError(
            f"expected matrices for adapter.targets={wanted!r} in {type(model).__name__}, got {sorted(leaves)}; "
            "choose other targets"
        )
    return targets


def _matching_layers(count: int, wanted: tuple[int, ...]) -> list[int] | None:
    if not wanted:
        return None
    if outside := [layer for layer in wanted if not 0 <= layer < count]:
        raise AdapterError(f"expected adapter.layers from 0 to {count - 1}, got {outside}; leave those out")
    return sorted(set(wanted))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_plain_value(value: Any) -> bool:
    """Whether it is a name, a number or nothing, or a list or a table of such."""
    if isinstance(value, dict):
        return all(_is_plain_value(key) and _is_plain_value(each) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return all(_is_plain_value(each) for each in value)
    if isinstance(value, str):
        return bool(_NAME.fullmatch(value))
    return value is None or (isinstance(value, bool | int | float) and math.isfinite(value))
