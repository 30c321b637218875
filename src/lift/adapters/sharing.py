"""A training that shares its base model with questions: between two of its events others may use the model.

Absorbing takes minutes, and a question that comes meanwhile is not to wait for its end. So each event is computed in a
turn of its own, at the beginning of which the adapters are applied as they were at the end of the one before, whatever
was asked in between. Two trainings on one model go one after the other.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from lift.adapters.adapter import attached
from lift.errors import UsageError
from lift.models.turns import turn_of

P = ParamSpec("P")
T = TypeVar("T")


class _Claim:
    """Whether a training goes on; it may be driven, and ended, by other threads than the one that began it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: int | None = None

    def take(self) -> None:
        if self._began == threading.get_ident() and self._lock.locked():
            raise UsageError(
                "expected one training at a time on a base model, got another before the first was at its end; "
                "run the first to its end, or close it"
            )
        self._lock.acquire()
        self._began = threading.get_ident()

    def give_back(self) -> None:
        self._began = None
        self._lock.release()


_claims: WeakKeyDictionary[Any, _Claim] = WeakKeyDictionary()


def shares_its_base(events: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """Let a generator that trains on its argument `base` give up the model's turn at each yield.

    It waits for the training that goes on, if there is one, before it begins; raises UsageError where that is one of
    the same thread, which would wait for itself.
    """
    signature = inspect.signature(events)

    @functools.wraps(events)
    def shared(*args: P.args, **options: P.kwargs) -> Iterator[T]:
        model = signature.bind(*args, **options).arguments["base"].model
        with _claimed(model):
            yield from _in_turns(model, events(*args, **options))

    return shared


def takes_one_turn(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function that trains on its argument `base`, and is soon done, hold the model's turn from end to end.

    As shares_its_base, it waits for a training that goes on.
    """
    signature = inspect.signature(work)

    @functools.wraps(work)
    def alone(*args: P.args, **options: P.kwargs) -> T:
        model = signature.bind(*args, **options).arguments["base"].model
        with _claimed(model), turn_of(model):
            return work(*args, **options)

    return alone


@contextlib.contextmanager
def _claimed(model: Any) -> Iterator[None]:
    claim = _claims.setdefault(model, _Claim())
    claim.take()
    try:
        yield
    finally:
        claim.give_back()


def _in_turns(model: Any, events: Iterator[T]) -> Iterator[T]:
    """The same events, each computed in a turn."""
    turn, applied = turn_of(model), dict[str, tuple[int, ...] | None]()
    while True:
        with turn:
            _apply(model, applied)
            try:
                event = next(events)
            except StopIteration:
                return
            applied = {name: adapter.rows for name, adapter in attached(model).items()}
        try:
            yield event
        except BaseException:  # it is closed before its end
            with turn:
                _apply(model, applied)
                close = getattr(events, "close", None)  # of a generator
                if close is not None:
                    close()
            raise


def _apply(model: Any, rows: dict[str, tuple[int, ...] | None]) -> None:
    if rows:
        for name, adapter in attached(model).items():
            adapter.apply_to(rows.get(name, ()))
