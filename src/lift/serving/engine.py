"""The engine: one thread owns the backend, takes requests from a fair queue, and runs them all in one batch.

Requests are prepared by threads beside it (preparation.py), so that no answer waits while a long text is tokenised.
Each engine step takes prepared requests as far as there is room, gives every running row one token, and settles what
has ended. What goes wrong with one question ends that question alone.
"""

from __future__ import annotations

import threading

from lift.answering.answerer import stored_adapter
from lift.answering.steps import check_prompt_chars
from lift.errors import EngineClosed, LiftError, UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.serving.backend import Backend, LocalBackend
from lift.serving.conversation import Conversations
from lift.serving.engine_loop import COUNTED, EngineLoop
from lift.serving.fair_queue import FairQueue
from lift.serving.question_preparation import QuestionPreparation
from lift.serving.request import Request, check_request
from lift.serving.request_handle import RequestHandle
from lift.serving.running_request import QueuedRequest

_ROWS_OF_A_QUESTION = 2  # that it reads and recalls, or answers and cites, at a time
_READY_DOCUMENTS = 64
_LOOK_EVERY_S = 0.1  # whether one that is being prepared is late by now


class Engine:
    """Answers questions to the memories of `library`, and to their base model `base`, computed by `backend`.

    Without one, by the resident `base` itself, of which at most `rows` rows run (a question whose answer is chosen
    among several takes two at a time). At most `waiting` questions wait, and at most `resident` memories are attached,
    beside what reads for them; the longest unused are detached for others. Raises UsageError for a bound that nothing
    fits, and for a resident model whose rows cannot come and go.
    """

    def __init__(
        self,
        base: BaseModel,
        library: MemoryLibrary,
        *,
        rows: int = 32,
        waiting: int = 256,
        resident: int = 32,
        backend: Backend | None = None,
    ) -> None:
        if rows < _ROWS_OF_A_QUESTION or waiting < 1 or resident < 1:
            raise UsageError(
                f"expected rows >= {_ROWS_OF_A_QUESTION}, waiting >= 1 and resident >= 1, "
                f"got {rows}, {waiting} and {resident}"
            )
        self.base = base
        self.library = library
        self.resident = resident
        self._changed = threading.Condition()
        self._waiting: FairQueue[QueuedRequest] = FairQueue(waiting)
        self._counts = dict.fromkeys(COUNTED, 0)
        self._backend = backend if backend is not None else LocalBackend(base, rows)
        conversations = Conversations(base, max(resident, _READY_DOCUMENTS))
        self._preparation = QuestionPreparation(conversations.begin, self._changed, self._waiting)
        self._loop = EngineLoop(
            base,
            self._backend,
            self._changed,
            self._waiting,
            self._counts,
            resident=resident,
            forget=conversations.forget,
        )
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def check_reachable(self, timeout_s: float) -> None:
        """Raise EngineError where what computes the answers cannot be reached within so many seconds."""
        self._backend.check_reachable(timeout_s)

    def start(self) -> None:
        """Begin to answer; raises EngineClosed where it was started before."""
        if self._thread is not None:
            raise EngineClosed("expected an engine that was not started before; make another one")
        self._thread = threading.Thread(target=self._run, name="lift-engine", daemon=True)
        self._preparation.start()
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
        check_prompt_chars(len(request.kept_text), self.base.window_tokens)
        memory = None
        if request.memory is not None:
            memory = self.library[request.memory]
            stored_adapter(memory, self.base)
            self._backend.check_memory(memory)
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
                **self._counts,
            }

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            with self._backend.opened():
                while self._wait():
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
            self._preparation.close()

    def _wait(self) -> bool:
        """Wait for something to do, and leave the model to others meanwhile; False where there is nothing to come."""
        if self._loop.busy:
            return True
        with self._changed:
            if self._loop.has_work and not self._backend.is_wanted:
                return True
        with self._backend.released(), self._changed:
            while not self._loop.has_work:
                if self._closing and len(self._waiting) == 0:
                    return False
                self._changed.wait(_LOOK_EVERY_S if len(self._waiting) > 0 else None)
            return True
