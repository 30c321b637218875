"""Preparation: waiting questions are made ready for the engine by threads beside its own.

A question is searched for in its document and tokenised, a long document is parted into sentences and tokenised at its
first question; that takes milliseconds or seconds, and no running answer stands still for it. Memories take turns here
as they do in the queue, and one memory has one thread at a time, so what is slow about a memory delays that one alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from lift.memories.memory import StoredMemory
from lift.serving.conversation import Conversation
from lift.serving.fair_queue import FairQueue
from lift.serving.request import Request
from lift.serving.running_request import QueuedRequest

_THREADS = 2
_MOST_READY = 64  # that wait for the engine: what they hold of documents and tokens is bounded


class QuestionPreparation:
    """Prepares what waits in `waiting` by `begin`, until it is closed. `changed` guards the queue, and is told."""

    def __init__(
        self,
        begin: Callable[[Request, StoredMemory | None], Conversation],
        changed: threading.Condition,
        waiting: FairQueue[QueuedRequest],
    ) -> None:
        self._begin = begin
        self._changed = changed
        self._waiting = waiting
        self._under_way: dict[Hashable, QueuedRequest] = {}  # by memory
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"lift-preparation-{number}", daemon=True)
            for number in range(_THREADS)
        ]

    def start(self) -> None:
        """Begin to prepare."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Prepare nothing more; what is under way is left to itself."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                asked = self._next()
                if self._closing or asked is None:
                    return
                self._under_way[asked.handle.request.memory] = asked
            self._prepare(asked)
            with self._changed:
                del self._under_way[asked.handle.request.memory]
                self._changed.notify_all()

    def _prepare(self, asked: QueuedRequest) -> None:
        try:
            asked.conversation = self._begin(asked.handle.request, asked.memory)
        except Exception as error:  # it is its caller's, and told to nobody else
            asked.error = error

    def _next(self) -> QueuedRequest | None:
        """The next in turn that nobody prepares; None where enough are ready."""
        if sum(each.is_prepared for each in self._waiting) >= _MOST_READY:
            return None
        wanted = (each for each in self._waiting if not each.is_prepared and not each.handle.cancelled)
        return next((each for each in wanted if each.handle.request.memory not in self._under_way), None)
