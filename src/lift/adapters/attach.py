"""A new or a stored adapter of any kind, attached to a model."""

from __future__ import annotations

from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.adapters.gated_memory_adapter import KIND, GatedMemoryAdapter
from lift.adapters.lora import LoraAdapter
from lift.adapters.lora_config import is_plain, read_config
from lift.adapters.peft_adapter import PeftAdapter
from lift.adapters.pissa import PissaAdapter
from lift.errors import AdapterError
from lift.packing.alora import Invocation
from lift.recipes.recipe import AdapterSettings


def create_adapter(
    model: Any, settings: AdapterSettings, seed: int, name: str = "default", *, invocation: Invocation = ()
) -> Adapter:
    """Attach a new adapter of the kind in `settings`, frozen until set_trainable, the only one that is applied.

    The same seed makes the same adapter. `invocation` is where one that is activated acts from. Raises AdapterError
    where the kind does not fit the model, or the name is taken.
    """
    if settings.kind == KIND:
        return GatedMemoryAdapter.create(model, settings, seed, name)
    if settings.kind == "dora":
        return PeftAdapter.create(model, settings, seed, name)
    kind = PissaAdapter if settings.kind == "pissa" else LoraAdapter
    return kind.create(model, settings, seed, name, invocation if settings.acts_on_answers else ())


def restore_adapter(
    model: Any, config: dict[str, Any], state: dict[str, torch.Tensor], name: str = "default"
) -> Adapter:
    """Attach an adapter from what its `stored` gave, frozen, the only one that is applied.

    Raises AdapterError, and leaves the base as it was, for a configuration of an unknown kind, a tensor that is
    missing, too many or of another shape, or a name that is taken.
    """
    if config.get("adapter") == KIND:
        return GatedMemoryAdapter.restore(model, config, state, name)
    if config.get("peft_type") == "LORA":
        kind = LoraAdapter if is_plain(read_config(config)) else PeftAdapter
        return kind.restore(model, config, state, name)
    found = config.get("adapter", config.get("peft_type"))
    raise AdapterError(f"expected an adapter of kind {KIND} or LORA, got {found!r}; absorb the document again")
