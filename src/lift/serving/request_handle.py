"""The handle of a request: its text deltas as they come, its result, and a way to cancel it.

The engine's thread writes, any thread or event loop reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from lift.errors import EngineClosed
from lift.serving.request import Completion, Request, TextDelta


class RequestHandle:
    """One question on its way. `wake` is called when it was cancelled."""

    def __init__(self, request: Request, wake: Callable[[], None] = lambda: None) -> None:
        self.request = request
        self.submitted = time.monotonic()
        self._wake = wake
        self._changed = threading.Condition()
        self._deltas: list[TextDelta] = []
        self._completion: Completion | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether the result is there, or the error."""
        return self._completion is not None or self._error is not None

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up."""
        return self._cancelled

    def is_late(self) -> bool:
        """Whether its time is over."""
        limit = self.request.deadline_s
        return limit is not None and time.monotonic() - self.submitted >= limit

    def cancel(self) -> None:
        """Give up; the result is what there was by then, with finish_reason "cancelled"."""
        self._cancelled = True
        self._wake()

    def deltas(self) -> Iterator[TextDelta]:
        """The deltas of the answer, from its beginning, as it comes; raises what went wrong."""
        given = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda given=given: len(self._deltas) > given or self.done)  # type: ignore[misc]
                new, done = self._deltas[given:], self.done
            yield from new
            given += len(new)
            if done and given == len(self._deltas):
                self._raise_error()
                return

    async def adeltas(self) -> AsyncIterator[TextDelta]:
        """As deltas(), for a coroutine: nothing of its event loop waits."""
        given = 0
        with self._listening() as news:
            while True:
                news.clear()
                new, done = self._deltas[given:], self.done
                for delta in new:
                    yield delta
                given += len(new)
                if done and given == len(self._deltas):
                    self._raise_error()
                    return
                if not new:
                    await news.wait()

    def result(self, timeout_s: float | None = None) -> Completion:
        """The whole answer, waited for; raises what went wrong, and TimeoutError where it takes longer."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout_s):
                raise TimeoutError(f"expected an answer within {timeout_s} s, got none yet; wait longer, or cancel it")
        return self._result()

    async def aresult(self) -> Completion:
        """As result(), for a coroutine."""
        with self._listening() as news:
            while not self.done:
                news.clear()
                if not self.done:
                    await news.wait()
        return self._result()

    def put(self, delta: TextDelta) -> None:
        """The answer goes on; called by the engine."""
        with self._changed:
            self._deltas.append(delta)
            self._tell()

    def finish(self, outcome: Completion | BaseException) -> None:
        """The answer, or the error, is there; called by the engine. Only the first outcome counts."""
        with self._changed:
            if self.done:
                return
            if isinstance(outcome, Completion):
                self._completion = outcome
            else:
                self._error = outcome
            self._tell()

    def _result(self) -> Completion:
        self._raise_error()
        if self._completion is None:
            raise EngineClosed("expected an answer, got none; ask again")
        return self._completion

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _listening(self) -> _Listening:
        return _Listening(self._changed, self._listeners)


class _Listening:
    """An event of the running loop that is set when something came, as long as the block lasts."""

    def __init__(self, changed: threading.Condition, listeners: list[Callable[[], None]]) -> None:
        self._changed, self._listeners = changed, listeners

    def __enter__(self) -> asyncio.Event:
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            # a loop that has ended raises it, and has nobody left to be told
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(news.set)

        self._tell = tell
        with self._changed:
            self._listeners.append(tell)
        return news

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._listeners.remove(self._tell)
