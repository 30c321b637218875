"""Which stored adapters a resident base model holds: memories switch, the base stays loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import restore_adapter
from lift.adapters.rows import activate
from lift.errors import AdapterError

Load = Callable[[], tuple[dict[str, Any], dict[str, torch.Tensor]]]

_resident: WeakKeyDictionary[torch.nn.Module, list[str]] = WeakKeyDictionary()  # keys, the longest unused first


def attach_stored(model: torch.nn.Module, key: str, load: Load) -> Adapter:
    """The adapter of that `key` on `model`, applied to all rows, in place of all other stored ones.

    `load` gives its configuration and tensors; nothing is loaded where an adapter of that name is attached already.
    Raises AdapterError where it does not fit, and what `load` raises.
    """
    hold_stored(model, {key: load}, at_most=1)
    activate(model, key)
    return attached(model)[key]


def hold_stored(model: torch.nn.Module, loads: Mapping[str, Load], at_most: int) -> None:
    """Attach the adapters of these keys, and detach the longest unused ones so that at most `at_most` are attached.

    Only what is missing is loaded; which adapter is applied to which rows is the caller's to say afterwards. Raises
    AdapterError where more keys are wanted than `at_most` or an adapter does not fit, and what a load raises; those
    that were attached until then stay.
    """
    if len(loads) > at_most:
        raise AdapterError(f"expected at most {at_most} stored adapters at a time, got {len(loads)}; ask for fewer")
    held = [key for key in _resident.get(model, ()) if key in attached(model)]
    _resident[model] = held = [key for key in held if key not in loads] + [key for key in held if key in loads]
    for key, load in loads.items():
        if key in attached(model):
            continue
        config, state = load()
        _detach_longest_unused(model, at_most - 1)
        restore_adapter(model, config, state, key)
        held.append(key)
    _detach_longest_unused(model, at_most)


def release(model: torch.nn.Module) -> None:
    """Detach every stored adapter from `model`; the base is then as it was, bit for bit."""
    _detach_longest_unused(model, 0)
    _resident.pop(model, None)


def _detach_longest_unused(model: torch.nn.Module, kept: int) -> None:
    held = _resident.get(model, [])
    while len(held) > kept:
        key = held.pop(0)
        if key in attached(model):
            attached(model)[key].detach()
