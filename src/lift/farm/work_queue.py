"""Which worker is given which documents, so that every document is absorbed once, whoever dies and when. Pure.

A worker leases a small batch, absorbs it in order and reports each document. What a dead worker had not begun goes back
to the front; the one that it was at is suspected of having killed it, leased alone from then on, and given up when it
has killed several. A document that failed is tried by another worker, where there is one. The longest go first, and
batches shrink towards the end, so that all workers end at about the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lift.errors import UsageError

MOST_DOCUMENTS_A_LEASE = 8
TRIES = 2
# A machine that is switched off takes an innocent document with it; three in a row are no accident.
KILLS = 3
# A lease is at most this part of a worker's share of what waits, so that what is left can still be divided.
_LEASE_SHARE = 0.5


@dataclass(frozen=True)
class Work:
    """A document to be absorbed: its id, and its size in any unit that its time grows with."""

    id: str
    size: float


@dataclass(frozen=True)
class Failure:
    """Why a document could not be absorbed: the kind of error, and its sentence."""

    kind: str
    sentence: str


@dataclass
class _State:
    work: Work
    failures: int = 0
    kills: int = 0
    refused_by: set[str] = field(default_factory=set)


class WorkQueue:
    """The documents of one run. Raises UsageError where two have the same id.

    `done` and `failed` hold what has ended, each document in one of them; neither changes again.
    """

    def __init__(
        self,
        works: Sequence[Work],
        *,
        most_a_lease: int = MOST_DOCUMENTS_A_LEASE,
        tries: int = TRIES,
        kills: int = KILLS,
    ) -> None:
        self._states = {work.id: _State(work) for work in works}
        if len(self._states) < len(works):
            raise UsageError(f"expected documents of different ids, got {len(works) - len(self._states)} of one twice")
        self._most_a_lease, self._tries, self._kills = most_a_lease, tries, kills
        self._fresh = deque(sorted(self._states, key=lambda id: -self._states[id].work.size))  # stable
        self._again: list[str] = []
        self._leases: dict[str, deque[str]] = {}
        self.waiting_size = sum(work.size for work in works)
        self.done: set[str] = set()
        self.failed: dict[str, Failure] = {}

    @property
    def is_finished(self) -> bool:
        """Whether every document has ended."""
        return len(self.done) + len(self.failed) == len(self._states)

    @property
    def workers(self) -> tuple[str, ...]:
        """Those that have joined and are not lost."""
        return tuple(self._leases)

    def leased(self, worker: str) -> tuple[str, ...]:
        """The documents that this worker has not reported yet, in the order in which it is absorbed."""
        return tuple(self._leases.get(worker, ()))

    def join(self, worker: str) -> None:
        """That worker can be given documents from now on."""
        self._leases.setdefault(worker, deque())

    def lease(self, worker: str) -> tuple[str, ...]:
        """The next documents for a worker that has none; none where nothing waits that it may be given.

        Raises UsageError for a worker that has not joined, or still holds some.
        """
        if self._leases.get(worker, True):
            raise UsageError(f"expected a worker that has joined and holds no document, got {worker!r}; join it first")
        taken = self._take_fresh() or self._take_again(worker)
        self._leases[worker].extend(taken)
        self.waiting_size -= sum(self._states[id].work.size for id in taken)
        return tuple(taken)

    def record_done(self, worker: str, id: str) -> bool:
        """That document is absorbed; False where the worker does not hold it, and nothing is changed then."""
        if not self._release(worker, id):
            return False
        self.done.add(id)
        return True

    def record_failure(self, worker: str, id: str, failure: Failure) -> bool:
        """That document failed there; whether it is given up now. Nothing is changed where the worker holds it not."""
        if not self._release(worker, id):
            return False
        state = self._states[id]
        state.failures += 1
        state.refused_by.add(worker)
        if state.failures >= self._tries:
            self.failed[id] = failure
            return True
        self._wait_again(id)
        return False

    def lose(self, worker: str, why: str) -> str | None:
        """That worker is dead: what it held waits again; returns the document that it was at, None for an idle one."""
        held = self._leases.pop(worker, deque())
        if not held:
            return None
        suspect = held.popleft()
        self._fresh.extendleft(reversed(held))
        self.waiting_size += sum(self._states[id].work.size for id in held)
        state = self._states[suspect]
        state.kills += 1
        if state.kills >= self._kills:
            said = f"the worker that absorbed it has died {state.kills} times ({why}); absorb it alone to see why"
            self.failed[suspect] = Failure("WorkerDied", said)
        else:
            self._wait_again(suspect)
        return suspect

    def give_up(self, failure: Failure) -> None:
        """Nothing more is leased: what waits or is held has failed so."""
        for id in self._states.keys() - self.done - self.failed.keys():
            self.failed[id] = failure
        self._fresh.clear()
        self._again.clear()
        for held in self._leases.values():
            held.clear()

    def _take_fresh(self) -> list[str]:
        if not self._fresh:
            return []
        room = _LEASE_SHARE * self.waiting_size / max(len(self._leases), 1)
        taken = [self._fresh.popleft()]
        room -= self._states[taken[0]].work.size
        while self._fresh and len(taken) < self._most_a_lease and self._states[self._fresh[0]].work.size <= room:
            taken.append(self._fresh.popleft())
            room -= self._states[taken[-1]].work.size
        return taken

    def _take_again(self, worker: str) -> list[str]:
        for place, id in enumerate(self._again):
            refused_by = self._states[id].refused_by
            if worker not in refused_by or refused_by.issuperset(self._leases):
                return [self._again.pop(place)]
        return []

    def _release(self, worker: str, id: str) -> bool:
        held = self._leases.get(worker, deque())
        if id not in held:
            return False
        held.remove(id)
        return True

    def _wait_again(self, id: str) -> None:
        self._again.append(id)
        self.waiting_size += self._states[id].work.size
