"""The contract of every kind of adapter, and the list of those attached to a model.

Several adapters may be attached to one resident base under different names. Each of them is applied to all rows of a
batch, to some, or to none (`apply_to`); an adapter that is applied to none leaves the base's output bit for bit as it
was.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from lift.errors import AdapterError, cleaning_up
from lift.packing.alora import Invocation

_serials = itertools.count()
_ATTACHED = "lift_adapters"  # kept on the model itself, so that a model that nobody holds any more is freed


class Adapter(ABC):
    """A small set of trained tensors, attached to the frozen `model` under `name` until `detach`.

    `rows` says which rows of a batch it is applied to: None is all of them, () is none. `invocation`: the tokens of a
    prompt from which on it acts (packing/alora.py); () is everywhere. `first_layer`: the first layer of the model that
    it changes, counted from 0.
    """

    def __init__(self, model: Any, name: str) -> None:
        if name in attached(model):
            raise AdapterError(f"expected a new name, got {name!r}, which is attached already; detach that one first")
        self.model = model
        self.name = name
        self.rows: tuple[int, ...] | None = ()
        self.invocation: Invocation = ()
        self.first_layer = 0
        self._serial = next(_serials)
        self._trainings = 0

    @property
    def state(self) -> tuple[int, int, int] | None:
        """Changes whenever the tensors may have, and belongs to this adapter alone; None while they are trained.

        Tensors are changed by torch's operations; what is written to a frozen one behind them, through `.data`, is not
        seen.
        """
        parameters = self.parameters()
        # some optimizers do not count what they change, hence the number of trainings; inference tensors count nothing
        if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
            return None
        return self._serial, self._trainings, sum(parameter._version for parameter in parameters)

    @abstractmethod
    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, this adapter's alone, in a stable order, by their names in the state."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters, in that order."""
        return list(self.named_parameters().values())

    def parameter_groups(self, ratio: float) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Its parameters in groups, each with the factor of its learning rate.

        `ratio` is that of B in B A (LoRA+, arXiv 2402.12354, section 4); A and all else have 1.
        """
        named = self.named_parameters().items()
        ups = [weight for key, weight in named if key.endswith(".lora_B.weight")]
        others = [weight for key, weight in named if not key.endswith(".lora_B.weight")]
        return [group for group in ((others, 1.0), (ups, ratio)) if group[0]]

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Copies of the tensors as they are trained, on the CPU (for checkpoints)."""
        return {key: weight.detach().cpu().clone() for key, weight in self.named_parameters().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put `state`, as from trained_state, into the adapter; raises AdapterError unless every tensor matches."""
        named = self.named_parameters()
        check_state(named, state)
        for key, weight in named.items():
            weight.copy_(state[key])

    @abstractmethod
    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""

    @abstractmethod
    def _switch(self, rows: tuple[int, ...] | None) -> None:
        """Change the model from applying the adapter to `self.rows` to applying it to `rows`."""

    @abstractmethod
    def _remove(self) -> None:
        """Take out of the model whatever is left of an adapter that is applied to no row."""

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the adapter, or not."""
        self._trainings += 1
        for parameter in self.parameters():
            parameter.requires_grad_(trainable)

    def apply_to(self, rows: Sequence[int] | None) -> None:
        """Apply the adapter to these rows of every batch from now on; None is all, () is none.

        Raises AdapterError where the kind cannot share a batch.
        """
        wanted = None if rows is None else tuple(rows)
        if wanted != self.rows:
            self._switch(wanted)
            self.rows = wanted

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The output of the model without this adapter inside the block: the base's own, bit for bit."""
        before = self.rows
        self.apply_to(())
        with cleaning_up(lambda: self.apply_to(before)):
            yield

    def detach(self) -> None:
        """Put the base model back as it was before the adapter was attached, bit for bit.

        Nothing happens where it is not attached (any more), whoever else has its name by then.
        """
        present = attached(self.model)
        if present.get(self.name) is not self:
            return
        self.apply_to(())
        self._remove()
        del present[self.name]
        vars(self.model)[_ATTACHED] = present
        if not present:
            del vars(self.model)[_ATTACHED]

    def _enrol(self) -> None:
        """Freeze the base, switch the other adapters off, and apply this one to all rows."""
        others = attached(self.model)
        trained = {id(parameter) for other in others.values() for parameter in other.parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in trained:
                parameter.requires_grad_(False)
        for other in others.values():
            other.apply_to(())
        vars(self.model)[_ATTACHED] = {**others, self.name: self}
        self.apply_to(None)


def attached(model: Any) -> dict[str, Adapter]:
    """The adapters attached to `model` by name, in the order in which they were attached."""
    return dict(vars(model).get(_ATTACHED, {}))


def applied_state(model: Any) -> tuple[tuple[int, int, int], ...] | None:
    """The state that `model` reads prompts in, beside its base: equal while every row is read in the same way.

    None where rows of a batch differ in their adapters, or an adapter is in training. One that is activated does not
    count: what stands in front of its invocation is the base's (applied_invocation).
    """
    applied = [adapter for adapter in attached(model).values() if adapter.rows != () and not adapter.invocation]
    states = [adapter.state for adapter in applied if adapter.rows is None]
    known = [state for state in states if state is not None]
    return tuple(known) if len(known) == len(applied) else None


def applied_invocation(model: Any) -> Invocation:
    """The invocation of the adapter that is applied to all rows; () where none is, or it acts everywhere."""
    found = (adapter.invocation for adapter in attached(model).values() if adapter.rows is None)
    return next((invocation for invocation in found if invocation), ())


def check_state(expected: Mapping[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    """Raise AdapterError unless `state` has the keys and the shapes of `expected`, no more and no fewer."""
    missing, surplus = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or surplus:
        raise AdapterError(
            f"the adapter does not fit the model: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(surplus)} too many {surplus[:2]}; use the base model that it was trained on"
        )
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise AdapterError(
                f"{key}: expected shape {tuple(tensor.shape)}, got {tuple(state[key].shape)}; "
                "use the base model that it was trained on"
            )
