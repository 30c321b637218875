"""Fair queue of requests that wait for the model: a bounded number, and no memory's questions hold up those of another.

Memories take turns: the next question is the oldest of the memory whose turn is the longest ago. So somebody who asks
one memory a hundred questions at once waits for himself alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from lift.errors import QueueFull

_T = TypeVar("_T")
_REMEMBERED = 64  # questions whose pace tells when there is room again
_FIRST_GUESS_S = 1.0  # before any has left


class FairQueue(Generic[_T]):
    """At most `limit` things, taken in turns of their `owner`; one owner has at most half of the places, rounded up.

    Not safe between threads: who shares it holds a lock. `now` is a clock in seconds.
    """

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._now = now
        self._queues: OrderedDict[Hashable, deque[_T]] = OrderedDict()  # whose turn is next first
        # since when something has waited, or when one was taken long ago, and when others were since
        self._left: deque[float] = deque(maxlen=_REMEMBERED)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, owner: Hashable, thing: _T) -> None:
        """Let it wait; raises QueueFull where there is no place, for anybody or for this owner."""
        own = len(self._queues.get(owner, ()))
        if len(self) >= self.limit or own >= (self.limit + 1) // 2:
            retry_after_s = self.seconds_a_place() * (1 if len(self) >= self.limit else len(self._queues))
            raise QueueFull(
                f"expected at most {self.limit} questions to wait, half of them for one memory, got one more "
                f"({own} wait for this memory); ask again in {retry_after_s:.1f} s",
                retry_after_s,
            )
        if not self._queues:
            self._left.clear()
            self._left.append(self._now())
        self._queues.setdefault(owner, deque()).append(thing)

    def __iter__(self) -> Iterator[_T]:
        """Everything that waits: the owner first whose turn is next, of each owner the oldest first."""
        return (thing for queue in self._queues.values() for thing in queue)

    def take(self, thing: _T) -> None:
        """Take out one that waits; its owner's next turn is behind all others'. Raises LookupError for another."""
        owner = next((owner for owner, queue in self._queues.items() if thing in queue), None)
        queue = self._queues.get(owner, deque[_T]())
        if thing not in queue:
            raise LookupError("it does not wait")
        queue.remove(thing)
        del self._queues[owner]
        if queue:
            self._queues[owner] = queue
        self._left.append(self._now())

    def drop(self, unwanted: Callable[[_T], bool]) -> list[_T]:
        """Take out everything that is unwanted, out of turn."""
        found = [thing for queue in self._queues.values() for thing in queue if unwanted(thing)]
        if found:
            left = {owner: deque(each for each in queue if each not in found) for owner, queue in self._queues.items()}
            self._queues = OrderedDict((owner, queue) for owner, queue in left.items() if queue)
        return found

    def seconds_a_place(self) -> float:
        """In how many seconds a place becomes free, at the pace at which things were taken while some waited."""
        if not self._left:
            return _FIRST_GUESS_S
        # while none has left for longer than usual, the pace is slower than it was
        waited_s, taken = self._now() - self._left[0], len(self._left) - 1
        return max(waited_s / taken, 0.1) if taken else max(waited_s, _FIRST_GUESS_S)
