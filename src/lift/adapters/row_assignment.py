"""Row assignment: the attached adapter that a model uses, one for every row, or one for each row of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lift.adapters.adapter import attached
from lift.adapters.batched_lora import parking
from lift.errors import AdapterError, cleaning_up


def activate(model: Any, name: str | None) -> None:
    """Use the adapter of that name for all rows, and no other; None is the base model.

    Raises AdapterError where no adapter of that name is attached.
    """
    _check_names(model, [name])
    for adapter in attached(model).values():
        adapter.apply_to(())
    if name is not None:
        attached(model)[name].apply_to(None)


@contextlib.contextmanager
def restoring(model: Any) -> Iterator[None]:
    """After the block the model uses its adapters as before; those attached meanwhile are applied to no row."""
    before = {name: adapter.rows for name, adapter in attached(model).items()}

    def restore() -> None:
        for name, adapter in attached(model).items():
            adapter.apply_to(before.get(name, ()))

    with cleaning_up(restore):
        yield


@contextlib.contextmanager
def using(model: Any, name: str | None) -> Iterator[None]:
    """Inside the block as after activate; then the model uses its adapters as before."""
    with restoring(model):
        activate(model, name)
        yield


class RowAssignment:
    """The adapter of each row of the batch, while rows of it end."""

    def __init__(self, model: Any, names: Sequence[str | None]) -> None:
        _check_names(model, names)
        self.model = model
        self.names = list(names)
        self._is_aside = False

    def assign(self, names: Sequence[str | None]) -> None:
        """Go on with a batch that has these rows, in this order; AdapterError for a name that is not attached."""
        _check_names(self.model, names)
        self.names = list(names)
        if not self._is_aside:
            self.apply()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Inside the block the model uses no adapter, and is free for other batches and for adapters to come and go.

        What was read of this batch's memories is kept, and behind the block they have their rows again, as they are
        assigned by then.
        """
        with parking(self.model):
            self._is_aside = True
            with cleaning_up(self._come_back):
                for adapter in attached(self.model).values():
                    adapter.apply_to(())
                yield

    def _come_back(self) -> None:
        self._is_aside = False
        self.apply()

    def apply(self) -> None:
        """Tell every attached adapter its rows."""
        for name, adapter in attached(self.model).items():
            adapter.apply_to([row for row, wanted in enumerate(self.names) if wanted == name])

    def check_batch(self, _model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise AdapterError unless the batch has one row a name; a hook in front of the model's forward."""
        if self._is_aside:
            return
        inputs = next((kwargs[key] for key in ("input_ids", "inputs_embeds") if kwargs.get(key) is not None), None)
        inputs = args[0] if inputs is None else inputs
        if len(inputs) != len(self.names):
            raise AdapterError(
                f"expected a batch of {len(self.names)} rows, one for each adapter that was named, got {len(inputs)}; "
                "tell the row assignment which rows are kept"
            )


@contextlib.contextmanager
def rows(model: Any, names: Sequence[str | None]) -> Iterator[RowAssignment]:
    """Inside the block, row i of every batch uses the adapter names[i], whatever its kind; None is the base model.

    Stored LoRA adapters are applied together (batched_lora.py), the others each by itself. Where rows of the batch end
    before others, `keep` of the assignment says which go on. Afterwards the model uses the adapters as before. Raises
    AdapterError for a name that is not attached, for a batch of another size, and for PiSSA in training, which changes
    the base of all rows.
    """
    assignment = RowAssignment(model, names)
    with restoring(model):
        handle = model.register_forward_pre_hook(assignment.check_batch, with_kwargs=True)
        try:
            assignment.apply()
            yield assignment
        finally:
            handle.remove()


def _check_names(model: Any, names: Sequence[str | None]) -> None:
    present = attached(model)
    unknown = sorted({name for name in names if name is not None and name not in present})
    if unknown:
        raise AdapterError(f"expected names of attached adapters {sorted(present)}, got {unknown}; attach them first")
