"""Whose turn it is to use a resident base model: one thread at a time, in the order in which they came.

Which adapters a model applies is a property of the model, not of a call: two threads that used it at once would answer
from each other's memories, and no error would tell. Whatever switches adapters, or runs the model and relies on them,
therefore holds its turn. Turns of different models go on side by side.

Loading a model patches torch for the whole process (the default type of a tensor, the functions that initialise
weights), so nothing holds a turn while one is loaded.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary


class Turn:
    """A lock that a thread may take again while it holds it, and that is handed on in the order of asking."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holder: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds it."""
        return self._holder == threading.get_ident()

    @property
    def is_wanted(self) -> bool:
        """Whether another thread waits for it, or for all turns to end since it loads a model."""
        return bool(self._waiting) or _loading.is_wanted

    def __enter__(self) -> Turn:
        _loading.begin_turns(1)
        try:
            self._take(1)
        except BaseException:
            _loading.end_turns(1)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_up(1)
        _loading.end_turns(1)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Inside the block it is anybody's, however often the calling thread, which holds it, has taken it."""
        depth = self._depth
        self._give_up(depth)
        turns = _loading.end_turns()
        try:
            yield
        finally:
            _loading.begin_turns(turns)
            self._take(depth)

    def _take(self, depth: int) -> None:
        me, given = threading.get_ident(), threading.Event()
        with self._guard:
            if self._holder in (None, me):
                self._holder = me
                self._depth += depth
                return
            self._waiting.append((me, given))
        try:
            with _loading.blocked():
                given.wait()
        except BaseException:  # Ctrl-C
            with self._guard:
                if (me, given) in self._waiting:
                    self._waiting.remove((me, given))
                else:
                    self._hand_on()
            raise
        self._depth = depth

    def _give_up(self, depth: int) -> None:
        with self._guard:
            self._depth -= depth
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        self._holder, given = self._waiting.popleft() if self._waiting else (None, None)
        if given is not None:
            given.set()


class _Loading:
    """Threads that hold turns, and those that load a model, one of them at a time and while no other thread computes.

    A load waits for threads that compute alone. Those that wait themselves, for a turn or for a load, compute nothing
    and go on after it; so nobody waits in a circle.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: Counter[int] = Counter()  # by thread, those that it waits for included
        self._blocked: set[int] = set()
        self._loaders: deque[int] = deque()
        self._active: int | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether a load waits or goes on."""
        return bool(self._loaders)

    def begin_turns(self, count: int) -> None:
        """Count these turns of the calling thread; where they are its first ones, loads that wait go before."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._turns[me] > 0 or not self._loaders)
            self._turns[me] += count

    def end_turns(self, count: int | None = None) -> int:
        """Count these turns of the calling thread, or all of them, no more; returns how many."""
        me = threading.get_ident()
        with self._changed:
            ended = self._turns[me] if count is None else count
            self._turns[me] -= ended
            if not self._turns[me]:
                del self._turns[me]
            self._changed.notify_all()
        return ended

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Inside the block the calling thread waits and computes nothing; it leaves it when no load goes on."""
        me = threading.get_ident()
        with self._changed:
            self._blocked.add(me)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: self._active in (None, me))
                self._blocked.discard(me)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block no other thread computes in a turn; a thread may enter it again."""
        me = threading.get_ident()
        if self._active == me:
            yield
            return
        with self._changed:
            self._loaders.append(me)
            self._changed.notify_all()  # it computes no more, which the first of those who load may wait for
            try:
                self._changed.wait_for(self._is_next)
            except BaseException:  # Ctrl-C
                self._loaders.remove(me)
                self._changed.notify_all()
                raise
            self._active = me
        try:
            yield
        finally:
            with self._changed:
                self._loaders.remove(me)
                self._active = None
                self._changed.notify_all()

    def _is_next(self) -> bool:
        computing = self._turns.keys() - self._blocked - set(self._loaders)
        return self._active is None and self._loaders[0] == threading.get_ident() and not computing


_loading = _Loading()
_turns: WeakKeyDictionary[Any, Turn] = WeakKeyDictionary()
_new_turns = threading.Lock()


def turn_of(model: Any) -> Turn:
    """The turn of a model, one for all who use it; `with turn_of(model):` waits for it."""
    with _new_turns:
        turn = _turns.get(model)
        if turn is None:
            turn = _turns[model] = Turn()
        return turn


def loading() -> contextlib.AbstractContextManager[None]:
    """Inside the block a model may be loaded: no other thread loads one, or computes in its turn."""
    return _loading.alone()
