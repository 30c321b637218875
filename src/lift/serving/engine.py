"""The engine: one thread owns the base model, takes requests from a fair queue, and runs them all in one batch.

Each engine step takes waiting requests as far as there is room, gives every running row one token, and settles
what has ended. What goes wrong with one question ends that question alone.
"""

from __future__ import annotations

import threading

from lift.adapters.adapter import attached
from lift.adapters.batched_lora import keeping_room, parking
from lift.adapters.row_assignment import RowAssignment, rows
from lift.answering.answerer import stored_adapter
from lift.errors import EngineClosed, LiftError, UsageError
from lift.inference.kv_cache import keeps_tokens
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.serving.engine_loop import COUNTED, EngineLoop
from lift.serving.fair_queue import FairQueue
from lift.serving.request import Request, check_request
from lift.serving.request_handle import RequestHandle
from lift.serving.running_request import QueuedRequest

_ROWS_OF_A_QUESTION = 2  # that it reads and recalls, or answers and cites, at a time


class Engine:
    """Answers questions to the memories of `library`, and to their base model, on one resident `base`.

    At most `rows` rows run (a question whose answer is chosen among several takes two at a time), at most
    `waiting` questions wait, and at most `resident` memories are attached, beside what reads for them; the longest
    unused are detached for others. Raises UsageError for a bound that nothing fits, and for a model whose rows cannot
    come and go.
    """

    def __init__(
        self, base: BaseModel, library: MemoryLibrary, *, rows: int = 32, waiting: int = 256, resident: int = 32
    ) -> None:
        if rows < _ROWS_OF_A_QUESTION or waiting < 1 or resident < 1:
            raise UsageError(
                f"expected rows >= {_ROWS_OF_A_QUESTION}, waiting >= 1 and resident >= 1, "
                f"got {rows}, {waiting} and {resident}"
            )
        if not keeps_tokens(base.model):
            raise UsageError(
                f"expected a model that keeps keys and values by token, got {base.id}; "
                "ask its memories one by one, with `lift ask`"
            )
        self.base = base
        self.library = library
        self.resident = resident
        self._changed = threading.Condition()
        self._waiting: FairQueue[QueuedRequest] = FairQueue(waiting)
        self._counts = dict.fromkeys(COUNTED, 0)
        self._loop = EngineLoop(base, self._changed, self._waiting, self._counts, rows=rows, resident=resident)
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Begin to answer; raises EngineClosed where it was started before."""
        if self._thread is not None:
            raise EngineClosed("expected an engine that was not started before; make another one")
        self._thread = threading.Thread(target=self._run, name="lift-engine", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new questions, answer those that were taken, and after `timeout_s` give up what is not done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._loop.cut_off()
            self._thread.join()

    def submit(self, request: Request) -> RequestHandle:
        """Let a question wait for its turn; safe from any thread.

        Raises UsageError for what cannot be asked, LibraryError for a memory that is unknown or damaged,
        WrongBaseModelError for one of other weights, QueueFull where too many wait, EngineClosed where nobody answers.
        """
        check_request(request)
        memory = None
        if request.memory is not None:
            memory = self.library[request.memory]
            stored_adapter(memory, self.base)
        handle = RequestHandle(request, self._wake)
        with self._changed:
            if not self.alive:
                raise EngineClosed("expected an engine that answers, got one that is closing or not started; ask later")
            try:
                self._waiting.add(request.memory, QueuedRequest(handle, memory))
            except LiftError:
                self._counts["refused"] += 1
                raise
            self._counts["submitted"] += 1
            self._changed.notify_all()
        return handle

    def forget(self, memory_name: str) -> None:
        """The memory of that name was removed, renamed or replaced: what is kept of its document is not used again."""
        self._loop.forget(memory_name)

    def statistics(self) -> dict[str, float]:
        """Numbers for a monitor: what runs and waits now, and what was done since the start."""
        with self._changed:
            return {
                **self._loop.now(),
                "waiting": len(self._waiting),
                "resident": len(attached(self.base.model)),
                **self._counts,
            }

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            model = self.base.model
            with turn_of(model), keeping_room(model), parking(model), rows(model, []) as assignment:
                self._loop.begin(assignment)
                while self._wait(assignment):
                    self._loop.step()
        except BaseException as error:  # the callers hear of it, nobody else would
            self._failure = error
            raise
        finally:
            with self._changed:
                self._closing = True
                left = [asked.handle for asked in self._waiting.drop(lambda _asked: True)]
            for handle in [*left, *self._loop.handles()]:
                handle.finish(
                    EngineClosed(f"expected an answer, got an engine that ended ({self._failure}); ask later")
                )

    def _wait(self, assignment: RowAssignment) -> bool:
        """Wait for something to do, and leave the model to others meanwhile; False where there is nothing to come."""
        turn = turn_of(self.base.model)
        if self._loop.busy or (len(self._waiting) > 0 and not turn.is_wanted):
            return True
        with assignment.aside(), turn.released(), self._changed:
            self._changed.wait_for(lambda: len(self._waiting) > 0 or self._closing)
            return len(self._waiting) > 0 or not self._closing
