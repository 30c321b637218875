"""Which stored adapter is attached to which resident base model: memories switch, the base stays loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lift.adapters.lora import LoraAdapter

_attached: WeakKeyDictionary[torch.nn.Module, tuple[str, LoraAdapter]] = WeakKeyDictionary()


def attach_stored(
    model: torch.nn.Module, key: str, load: Callable[[], tuple[dict[str, Any], dict[str, torch.Tensor]]]
) -> LoraAdapter:
    """The adapter of that `key` on `model`, detaching any other; `load` gives its configuration and tensors.

    Nothing is loaded where it is attached already. Raises AdapterError where it does not fit, and what `load` raises.
    """
    current = _attached.get(model)
    if current is not None and current[0] == key:
        return current[1]
    config, state = load()
    release(model)
    adapter = LoraAdapter.restore(model, config, state)
    _attached[model] = (key, adapter)
    return adapter


def release(model: torch.nn.Module) -> None:
    """Detach the stored adapter from `model`, if there is one; the base is then as it was, bit for bit."""
    current = _attached.pop(model, None)
    if current is not None:
        current[1].detach()
