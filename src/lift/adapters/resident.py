"""Stored adapters held by a resident base model: memories switch, the base stays loaded."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import restore_adapter
from lift.adapters.row_assignment import activate
from lift.errors import AdapterError

Load = Callable[[], tuple[dict[str, Any], dict[str, torch.Tensor]]]

_resident: WeakKeyDictionary[torch.nn.Module, list[str]] = WeakKeyDictionary()  # keys, the longest unused first
_in_use: WeakKeyDictionary[torch.nn.Module, Counter[str]] = WeakKeyDictionary()


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

    Only what is missing is loaded; which adapter is applied to which rows is the caller's to say afterwards. Those that
    are in use (holding_stored) stay, whatever their number. Raises AdapterError where more keys are wanted than
    `at_most` or an adapter does not fit, and what a load raises; those that were attached until then stay.
    """
    if len(loads) > at_most:
        raise AdapterError(f"expected at most {at_most} stored adapters at a time, got {len(loads)}; ask for fewer")
    held = [key for key in _resident.get(model, ()) if key in attached(model)]
    _resident[model] = held = [key for key in held if key not in loads] + [key for key in held if key in loads]
    for key, load in loads.items():
        if key in attached(model):
            continue
        config, state = load()
        _detach_longest_unused(model, at_most - 1, loads)
        restore_adapter(model, config, state, key)
        held.append(key)
    _detach_longest_unused(model, at_most, loads)


@contextlib.contextmanager
def holding_stored(model: torch.nn.Module, loads: Mapping[str, Load]) -> Iterator[None]:
    """Inside the block the adapters of these keys are attached, whoever else attaches and detaches some meanwhile.

    Others that nobody uses are detached for them, where there are any. Raises as hold_stored.
    """
    if loads:
        hold_stored(model, loads, at_most=len(loads))
    _in_use.setdefault(model, Counter()).update(loads.keys())
    try:
        yield
    finally:
        _in_use[model] -= Counter(loads.keys())


def release(model: torch.nn.Module) -> None:
    """Detach every stored adapter that is not in use from `model`; the base is then as it was, bit for bit."""
    _detach_longest_unused(model, 0)


def _detach_longest_unused(model: torch.nn.Module, kept: int, wanted: Collection[str] = ()) -> None:
    """Detach until so many are left, but neither those that are in use nor those that are `wanted`."""
    held, in_use = _resident.get(model, []), _in_use.get(model, ())
    for key in [key for key in held if key not in in_use and key not in wanted]:
        if len(held) <= kept:
            return
        held.remove(key)
        if key in attached(model):
            attached(model)[key].detach()
