"""A token server as the engine's backend: a task a sequence, retried where the server goes away and comes back.

What a sequence has said by then is put behind its prompt, and it goes on from there, so nothing is lost and nothing is
said twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from lift.adapters.resident import Load
from lift.engines.http_server import Refused
from lift.engines.token_server import AdapterGone, BrokenOff, Continuation, ServerGone, TokenServer
from lift.errors import EngineError
from lift.inference.sampling import SampledToken
from lift.inference.scheduler import SequenceState, StepOutput
from lift.memories.memory import StoredMemory

_T = TypeVar("_T")
_STEP_S = 0.01  # that a step waits for an output
_FIRST_PAUSE_S = 0.1
_STOP_S = 1.0  # that tasks are given to end in, once they are cancelled
_LONGEST_PAUSE_S = 2.0
_MOST_FAILURES = 8  # of one sequence, in a server that is there: it may be what the server dies of
WAIT_S = 180.0  # for a server that has gone away: vLLM takes more than a minute to start


class EngineConnection:
    """An open token server, whose coroutines run in a thread of their own; raises as TokenServer.open."""

    def __init__(self, server: TokenServer) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lift-engine-connection", daemon=True)
        self._thread.start()
        try:
            self.call(server.open())
        except BaseException:
            self._stop()
            raise

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of the server's, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def begin(self, work: Coroutine[Any, Any, None]) -> Any:
        """Run a coroutine without waiting; a future that may be cancelled."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Let go of the server, and end what was started for it; a second time nothing happens."""
        if not self._loop.is_closed():
            try:
                self.call(self.server.close())
            finally:
                self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_STOP_S))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class RemoteBackend:
    """As serving.backend.Backend, computed by the server behind `connection`; at most `rows` sequences at a time.

    `wait_s`: how long a sequence waits for a server that has gone away.
    """

    def __init__(
        self, connection: EngineConnection, end_ids: Iterable[int], rows: int, *, wait_s: float = WAIT_S
    ) -> None:
        self.device = torch.device("cpu")
        self.shares = False
        self._connection = connection
        self._server = connection.server
        self._end_ids = tuple(sorted(end_ids))
        self._slots = max(1, rows)
        self._wait_s = wait_s
        self._loads: dict[str, Load] = {}
        self._running: dict[SequenceState, Any] = {}
        self._outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()

    @property
    def resident(self) -> int:
        """See Backend."""
        return self._server.resident

    @property
    def kept_bytes(self) -> int:
        """The server knows, and tells nobody."""
        return 0

    @property
    def is_wanted(self) -> bool:
        """Nobody else needs to wait for it."""
        return False

    def check_memory(self, memory: StoredMemory) -> None:
        """See Backend."""
        self._server.check_memory(memory)

    def check_reachable(self, timeout_s: float) -> None:
        """See Backend; the server is asked."""
        asking = self._connection.begin(self._server.check_health())
        try:
            asking.result(timeout_s)
        except TimeoutError:
            asking.cancel()
            raise EngineError(
                f"expected {self._server.name} at {self._server.url} to say within {timeout_s:g} s that it works, got "
                "nothing; ask again later"
            ) from None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """See Backend."""
        try:
            yield
        finally:
            self.abort(self.rows)

    def released(self) -> contextlib.AbstractContextManager[object]:
        """See Backend."""
        return contextlib.nullcontext()

    def joining(self, adapters: Iterable[str]) -> contextlib.AbstractContextManager[object]:
        """See Backend; adapters come and go while others are used."""
        return contextlib.nullcontext()

    def hold(self, loads: Mapping[str, Load], at_most: int) -> None:
        """See Backend; an adapter is loaded when a sequence begins that names it."""
        self._loads = dict(loads)
        self._server.keep(at_most)

    @property
    def rows(self) -> list[SequenceState]:
        """See Backend."""
        return list(self._running)

    def has_room(self, rows: Sequence[SequenceState], joining: Sequence[SequenceState] = ()) -> bool:
        """See Backend; a sequence with a given answer needs no place."""
        decoding = [row for row in (*self._running, *joining) if not row.answer]
        return not decoding or len(decoding) + sum(not row.answer for row in rows) <= self._slots

    def add(self, rows: Sequence[SequenceState]) -> None:
        """See Backend."""
        for row in rows:
            load = self._loads.get(row.adapter) if row.adapter is not None else None
            self._running[row] = self._connection.begin(self._run(row, load))

    def abort(self, rows: Iterable[SequenceState]) -> None:
        """See Backend; the server is told by the end of the connection."""
        for row in list(rows):
            if (task := self._running.pop(row, None)) is not None:
                task.cancel()

    def step(self) -> list[StepOutput]:
        """See Backend; what has come meanwhile, waited for shortly."""
        found: list[StepOutput] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._outputs.get(timeout=_STEP_S))
            while True:
                found.append(self._outputs.get_nowait())
        told = [output for output in found if output.row in self._running]
        for output in told:
            if output.end or output.error:
                self._running.pop(output.row, None)
        return told

    def run(self, rows: Sequence[SequenceState]) -> Iterator[StepOutput]:
        """Step until these sequences have ended, added as there is room; raises the error of the first that fails."""
        waiting = deque(rows)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._slots:
                    self.add([waiting.popleft()])
                for output in self.step():
                    if output.error is not None:
                        raise output.error
                    yield output
        finally:
            self.abort(self.rows)

    async def _run(self, row: SequenceState, load: Load | None) -> None:
        """All outputs of a sequence, its error in the end where there is one."""
        given: list[int] = []
        gone_since: float | None = None
        pause_s, failures, before = _FIRST_PAUSE_S, 0, 0
        while True:
            try:
                await self._continue(row, load, given)
                return
            except (ServerGone, AdapterGone, Refused) as error:
                if len(given) > before:  # it has said more since
                    gone_since, pause_s, failures, before = None, _FIRST_PAUSE_S, 0, len(given)
                gone_since = time.monotonic() if gone_since is None else gone_since
                failures += isinstance(error, BrokenOff) or not isinstance(error, ServerGone)
                is_final = isinstance(error, Refused) and error.status < 500
                if is_final or failures > _MOST_FAILURES or time.monotonic() - gone_since > self._wait_s:
                    self._outputs.put(StepOutput(row, error=error))
                    return
            except Exception as error:  # a task nobody waits for must not fail in silence
                self._outputs.put(StepOutput(row, error=error))
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _continue(self, row: SequenceState, load: Load | None, given: list[int]) -> None:
        """Ask for what is left of a sequence; `given` grows by its tokens."""
        async with contextlib.AsyncExitStack() as stack:
            if row.adapter is not None and load is None:
                raise EngineError(f"expected an adapter that is ready for {row.adapter[:12]}, got none; ask again")
            name = await stack.enter_async_context(self._server.adapter(row.adapter, load))
            if row.answer:
                logprob = await self._server.score(name, row.prompt, row.answer)
                self._outputs.put(StepOutput(row, end="stop", logprob=logprob))
                return
            generator = row.sampling.generator
            seed = generator.initial_seed() + len(given) if generator is not None else 0
            wanted = Continuation(
                name,
                [*row.prompt, *given],
                row.max_tokens - len(given),
                row.sampling,
                self._end_ids,
                seed % 2**63,
            )
            tokens = await stack.enter_async_context(contextlib.aclosing(self._server.generate(wanted)))
            async for sampled in tokens:
                output = self._output(row, sampled, len(given))
                if sampled.token is not None and output.ending is None:
                    given.append(sampled.token)
                self._outputs.put(output)
                if output.end or output.error:
                    return
            self._outputs.put(StepOutput(row, end="stop"))  # by an end that the server does not name

    def _output(self, row: SequenceState, sampled: SampledToken, given: int) -> StepOutput:
        if sampled.token in self._end_ids:
            return StepOutput(row, end="stop", ending=sampled)
        return StepOutput(row, sampled, "length" if given + 1 >= row.max_tokens else None)
