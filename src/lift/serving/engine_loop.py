"""The engine step: requests are taken from the fair queue, the backend steps once, ended requests are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from lift.answering.answer import Answer
from lift.inference.scheduler import SequenceState, StepOutput
from lift.models.base_model import BaseModel
from lift.serving.backend import Backend
from lift.serving.fair_queue import FairQueue
from lift.serving.request import FinishReason
from lift.serving.request_handle import RequestHandle
from lift.serving.running_request import QueuedRequest, RunningRequest

COUNTED = (
    "submitted",
    "refused",
    "completed",
    "failed",
    "cancelled",
    "timed_out",
    "prompt_tokens",
    "generated_tokens",
    "steps",
)


class EngineLoop:
    """The loop of the engine's thread. `changed` guards `waiting` and `counts`, which other threads use too.

    `forget`: lets go of what is kept of a memory's document, by its name.
    """

    def __init__(
        self,
        base: BaseModel,
        backend: Backend,
        changed: threading.Condition,
        waiting: FairQueue[QueuedRequest],
        counts: dict[str, int],
        *,
        resident: int,
        forget: Callable[[str], None],
    ) -> None:
        self._base = base
        self._backend = backend
        self._changed = changed
        self._waiting = waiting
        self._counts = counts
        self._resident = resident
        self._forget = forget
        self._running: list[RunningRequest] = []
        self._forgotten: list[str] = []
        self._cut_off = False

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return bool(self._running)

    @property
    def has_work(self) -> bool:
        """Whether anything that waits can be begun with or given up; for who holds `changed`."""
        return any(each.is_prepared or self._reason(each.handle) is not None for each in self._waiting)

    def now(self) -> dict[str, int]:
        """Numbers of what runs."""
        running = list(self._running)
        return {
            "running": len(running),
            "running_rows": sum(len(each.rows) for each in running if not each.waits),
            "kept_bytes": self._backend.kept_bytes,
            "resident": self._backend.resident,
        }

    def handles(self) -> list[RequestHandle]:
        """Of what runs."""
        return [each.handle for each in self._running]

    def forget(self, name: str) -> None:
        """Let go of that memory's document before the next turn; from any thread."""
        with self._changed:
            self._forgotten.append(name)

    def cut_off(self) -> None:
        """Give up all that runs or waits with the next turn; from any thread."""
        with self._changed:
            self._cut_off = True
            self._changed.notify_all()

    def step(self) -> None:
        """Go on by one step. What goes wrong with a question ends it, and never this."""
        self._give_up()
        self._admit()
        if self._running:
            self._step()

    def _give_up(self) -> None:
        """Take out what was cancelled, or is late."""
        with self._changed:
            unwanted = self._waiting.drop(lambda asked: self._reason(asked.handle) is not None)
            forgotten, self._forgotten = self._forgotten, []
        for name in forgotten:
            self._forget(name)
        for asked in unwanted:
            reason: FinishReason = self._reason(asked.handle) or "cancelled"
            self._count_end(reason)
            asked.handle.finish(asked.given_up(reason))
        for running in list(self._running):
            end = self._reason(running.handle)
            if end is not None:
                self._backend.abort(running.rows)
                self._running.remove(running)
                self._count_end(end)
                self._alone(running, partial(running.give_up, end))

    def _reason(self, handle: RequestHandle) -> FinishReason | None:
        if handle.cancelled or self._cut_off:
            return "cancelled"
        return "timeout" if handle.is_late() else None

    def _admit(self) -> None:
        """Add sequences while there are slots: those of running requests, then those of waiting requests."""
        waiting = [running for running in self._running if running.waits]
        joining: list[RunningRequest] = []
        while waiting and self._backend.has_room(waiting[0].rows, _rows(joining)):
            joining.append(waiting.pop(0))
        # while one that runs waits nobody comes, so the batch becomes empty in the end, and an empty one has room
        admitted = [] if waiting else self._attached(self._next_requests(joining))
        self._running += admitted
        joining += admitted
        self._backend.add(_rows(joining))
        for running in joining:
            running.waits = False

    def _next_requests(self, joining: Sequence[RunningRequest]) -> list[RunningRequest]:
        """Take prepared questions in turns, as long as rows, beside those that are joining, and adapters have room."""
        admitted: list[RunningRequest] = []
        # where others want the model, what runs is brought to its end, and then they have it
        while not (self._running and self._backend.is_wanted):
            with self._changed:
                asked = next((each for each in self._waiting if each.is_prepared), None)
            if asked is None:
                break
            try:
                running = self._prepared(asked)
            except Exception as error:
                self._take(asked)
                self._fail(asked.handle, error)
                continue
            together = [*self._running, *admitted, running]
            memories = {each.conversation.memory for each in together if each.conversation.memory}
            if len(memories) > self._resident or not self._backend.has_room(running.rows, _rows([*joining, *admitted])):
                break
            self._take(asked)
            if running.conversation.answer is not None:  # the document alone answers, no model is asked
                self._alone(running, partial(self._finish, running, running.conversation.answer))
                continue
            admitted.append(running)
        return admitted

    def _take(self, asked: QueuedRequest) -> None:
        with self._changed:
            self._waiting.take(asked)
            self._changed.notify_all()  # there is room for another to be prepared

    def _prepared(self, asked: QueuedRequest) -> RunningRequest:
        if asked.error is not None:
            raise asked.error
        assert asked.conversation is not None
        return RunningRequest(
            asked.handle,
            asked.conversation,
            self._base.tokenizer,
            shares=self._backend.shares,
            device=self._backend.device,
        )

    def _attached(self, admitted: Sequence[RunningRequest]) -> list[RunningRequest]:
        """Those whose adapters could be attached; nothing that runs is detached for them."""
        found: list[RunningRequest] = []
        with self._backend.joining([name for running in admitted for name in running.adapters]):
            for running in admitted:
                together = [*self._running, *found, running]
                loads = {name: load for each in together for name, load in each.conversation.loads}
                memories = {each.conversation.memory for each in together}
                readers = [name for name in loads if name not in memories]
                try:
                    self._backend.hold(loads, self._resident + len(readers))
                except Exception as error:
                    self._fail(running.handle, error)
                else:
                    found.append(running)
        return found

    def _step(self) -> None:
        try:
            outputs = self._backend.step()
        except Exception as error:
            # a step of all rows does not tell whose fault it was
            outputs = [StepOutput(row, error=error) for row in self._backend.rows]
            self._backend.abort(self._backend.rows)
        by_row = {row: running for running in self._running for row in running.rows}
        for each in outputs:
            if each.row in by_row:
                running = by_row[each.row]
                if not self._alone(running, partial(self._take_output, running, each)):
                    for row in running.rows:
                        by_row.pop(row, None)
        with self._changed:
            self._counts["steps"] += 1
            self._counts["generated_tokens"] += sum(each.sampled is not None for each in outputs)
        self._advance_ended([running for running in self._running if running.ended])

    def _take_output(self, running: RunningRequest, output: StepOutput) -> None:
        if output.error is not None:
            raise output.error
        if running.take(output):
            self._backend.abort([output.row])

    def _advance_ended(self, ended: Sequence[RunningRequest]) -> None:
        """Go on with what has ended, up to its next rows or its answer."""
        while ended:
            for running in ended:
                self._alone(running, partial(self._advance, running))
            ended = [running for running in self._running if running.ended]

    def _advance(self, running: RunningRequest) -> None:
        running.advance()
        answer = running.conversation.answer
        if answer is not None:
            self._running.remove(running)
            self._finish(running, answer)

    def _finish(self, running: RunningRequest, answer: Answer) -> None:
        running.finish(answer)
        with self._changed:
            self._counts["completed"] += 1
            self._counts["prompt_tokens"] += answer.prompt_tokens

    def _alone(self, running: RunningRequest, act: Callable[[], object]) -> bool:
        """Do what concerns one question; where it fails, that question fails. Whether it did not."""
        try:
            act()
        except Exception as error:
            if running in self._running:
                self._backend.abort(running.rows)
                self._running.remove(running)
            self._fail(running.handle, error)
            return False
        return True

    def _fail(self, handle: RequestHandle, error: Exception) -> None:
        with self._changed:
            self._counts["failed"] += 1
        handle.finish(error)

    def _count_end(self, reason: FinishReason) -> None:
        with self._changed:
            self._counts["timed_out" if reason == "timeout" else "cancelled"] += 1


def _rows(questions: Sequence[RunningRequest]) -> list[SequenceState]:
    return [row for running in questions for row in running.rows]
