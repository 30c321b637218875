"""Which stored adapter a resident base model uses: memories switch, the base stays loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import restore_adapter
from lift.adapters.rows import activate

_resident: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def attach_stored(
    model: torch.nn.Module, key: str, load: Callable[[], tuple[dict[str, Any], dict[str, torch.Tensor]]]
) -> Adapter:
    """The adapter of that `key` on `model`, detaching the one before; `load` gives its configuration and tensors.

    Nothing is loaded where an adapter of that name is attached already. Raises AdapterError where it does not fit,
    and what `load` raises.
    """
    if key not in attached(model):
        config, state = load()
        release(model)
        restore_adapter(model, config, state, key)
        _resident[model] = key
    activate(model, key)
    return attached(model)[key]


def release(model: torch.nn.Module) -> None:
    """Detach the stored adapter from `model`, if there is one; the base is then as it was, bit for bit."""
    key = _resident.pop(model, None)
    if key is not None and key in attached(model):
        attached(model)[key].detach()
