"""The task generator `openai`: any OpenAI-compatible endpoint, all requests at once, from a thread of its own.

The thread runs an event loop (method 3.2); what it gets goes into a queue without a bound, so a slow consumer loses
nothing. One failed request never ends the others (method 7, fault 6); a fault that all of them share ends them at once.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import filelock
import tenacity

from lift.endpoints.openai_endpoint import OPENAI_URL
from lift.endpoints.reply_cache import ReplyCache, request_key
from lift.endpoints.retry_policy import (
    RetryPolicy,
    TransientFault,
    UnusableReply,
    fault_of,
    is_transient,
    retry_after_s,
)
from lift.errors import GenerationError, cleaning_up
from lift.models.control_tokens import without_known_marks
from lift.recipes.recipe import GeneratorSettings
from lift.tasks.checks import doubt
from lift.tasks.generation import GenerationCounts
from lift.tasks.language_model import RETRY_TEMPERATURE, Outcome, open_reply_cache
from lift.tasks.reply_parsing import ParsedReply, Unusable, read_json, schema_for
from lift.tasks.requests import TaskRequest, instructions, material

if TYPE_CHECKING:
    import openai

THREAD_NAME = "lift-endpoint"
# As long as the official client waits: a small server works off a queue of many requests.
RETRY_POLICY = RetryPolicy(timeout_s=600.0)
CONNECT_TIMEOUT_S = 10.0
# So many requests that fail for good, none answered, and the rest is not tried.
FAULTS_TO_GIVE_UP = 3
_LOCK_POLL_S = 0.1
_ADVICE = {
    "HTTP 401": "set OPENAI_API_KEY to a valid key",
    "HTTP 403": "set OPENAI_API_KEY to a key that may use this model",
    "HTTP 404": "check generator.base_url (it usually ends in /v1) and generator.model",
    "no connection": "check that the endpoint runs, and generator.base_url",
}


class _FinalFault(Exception):
    """The endpoint gave no reply, and will not. `shared`: nor will it to other requests, for the reason `args[0]`."""

    def __init__(self, reason: str, message: str = "", shared: bool = False) -> None:
        super().__init__(reason)
        self.message = message
        self.shared = shared


def endpoint_url(settings: GeneratorSettings) -> str:
    """Where texts and the key go: generator.base_url, else OPENAI_BASE_URL, else OpenAI's own."""
    return (settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")


class EndpointWriter:
    """Writer that asks an endpoint's chat completions.

    Raises GenerationError where the package openai is missing, the address is none, or OpenAI's own gets no key.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        require_openai()
        self.settings = settings
        self.base_url = endpoint_url(settings)
        if not self.base_url.startswith(("http://", "https://")):
            raise GenerationError(
                f"expected generator.base_url to begin with http:// or https://, got {self.base_url!r}; for example "
                "http://localhost:8000/v1"
            )
        self.api_key = os.environ.get("OPENAI_API_KEY") or ("unset" if self.base_url != OPENAI_URL else "")
        if not self.api_key:
            raise GenerationError(
                f"expected a key for {self.base_url}, got none; set OPENAI_API_KEY, or generator.base_url to an "
                "endpoint that needs no key"
            )
        self.origin = f"openai:{settings.model}"
        self.place = f"{settings.model} at {self.base_url}"
        self.advice = "try another generator.model, or generator.kind rules"

    def key(self, request: TaskRequest) -> str:
        """See Writer."""
        return request_key(
            base_url=self.base_url,
            model=self.settings.model,
            messages=self.messages(request),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_output_tokens,
            schema=schema_for(request),
        )

    def messages(self, request: TaskRequest) -> list[dict[str, str]]:
        """The chat that is sent for `request`."""
        return [
            {"role": "system", "content": instructions(request)},
            {"role": "user", "content": without_known_marks(material(request))},
        ]

    def outcomes(
        self, requests: Sequence[TaskRequest], counts: GenerationCounts
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See Writer. Raises GenerationError where the first requests fail for a reason that all would meet."""
        run = _Run(self, requests, counts)
        loop = asyncio.new_event_loop()
        work = loop.create_task(run.all_requests())
        thread = threading.Thread(target=_drive, args=(loop, work, run.arrivals), name=THREAD_NAME, daemon=True)
        thread.start()
        try:
            while (arrival := run.arrivals.get()) is not None:
                if isinstance(arrival, BaseException):
                    raise arrival
                yield arrival
        finally:
            with suppress(RuntimeError):  # the loop is closed where the work is done
                loop.call_soon_threadsafe(work.cancel)
            thread.join()


_Arrivals = queue.SimpleQueue[tuple[int, Outcome] | BaseException | None]


def require_openai() -> Any:
    """The package openai; raises GenerationError where it is not installed."""
    try:
        import openai
    except ImportError:
        raise GenerationError(
            "expected the package openai for generator.kind openai, found none; "
            'install it with: pip install "lift-memory[openai]"'
        ) from None
    return openai


def _drive(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], arrivals: _Arrivals) -> None:
    """The thread: run `work` to its end; an error and then None tell the consumer."""
    asyncio.set_event_loop(loop)
    with cleaning_up(
        lambda: loop.run_until_complete(loop.shutdown_asyncgens()),
        lambda: loop.run_until_complete(loop.shutdown_default_executor()),
        loop.close,
        lambda: arrivals.put(None),
    ):
        try:
            loop.run_until_complete(work)
        except asyncio.CancelledError:
            pass  # the consumer closed the stream, and does not listen any more
        except BaseExceptionGroup as group:
            arrivals.put(group.exceptions[0])
        except Exception as error:
            arrivals.put(error)


class _Run:
    """One pass over the requests of a document, inside the thread."""

    def __init__(self, writer: EndpointWriter, requests: Sequence[TaskRequest], counts: GenerationCounts) -> None:
        self.arrivals: _Arrivals = queue.SimpleQueue()
        self._writer, self._settings = writer, writer.settings
        self._requests = requests
        self._counts = counts
        self._room = asyncio.Semaphore(self._settings.concurrency)
        self._refused: frozenset[str] = frozenset()
        self._reached = False
        self._shared: Counter[str] = Counter()
        self._not_before_s = 0.0
        self._to_ask = len(requests)

    async def all_requests(self) -> None:
        keys = [self._writer.key(request) for request in self._requests]
        with open_reply_cache() as cache:
            missing = self._out_of_cache(cache, self._requests, keys)
            if missing:
                async with _locked(cache.run_lock(keys)), self._client() as client:
                    await self._ask_all(client, cache, missing, keys)

    async def _ask_all(
        self, client: openai.AsyncOpenAI, cache: ReplyCache, requests: Sequence[TaskRequest], keys: Sequence[str]
    ) -> None:
        missing = self._out_of_cache(cache, requests, keys)  # less what another process got meanwhile
        self._to_ask = len(missing)
        async with asyncio.TaskGroup() as group:
            for request in missing:
                group.create_task(self._one(client, cache, request, keys[request.number]))

    def _out_of_cache(
        self, cache: ReplyCache, requests: Sequence[TaskRequest], keys: Sequence[str]
    ) -> list[TaskRequest]:
        """Hand on what the cache has; return the requests that it lacks."""
        missing = []
        for request in requests:
            reply = cache.get(keys[request.number])
            outcome = None if reply is None else read_json(request, reply)
            if isinstance(outcome, ParsedReply):
                self._counts.answered += 1
                self._counts.from_cache += 1
                self.arrivals.put((request.number, outcome))
            else:
                missing.append(request)
        return missing

    def _client(self) -> openai.AsyncOpenAI:
        package = require_openai()
        client: openai.AsyncOpenAI = package.AsyncOpenAI(
            api_key=self._writer.api_key,
            base_url=self._writer.base_url,
            max_retries=0,
            timeout=package.Timeout(RETRY_POLICY.timeout_s, connect=CONNECT_TIMEOUT_S),
        )
        return client

    async def _one(self, client: openai.AsyncOpenAI, cache: ReplyCache, request: TaskRequest, key: str) -> None:
        """Ask until a reply can be used or the tries are spent, and hand on what came of it."""
        temperature = self._settings.temperature
        readable: tuple[str, ParsedReply] | None = None

        async def attempt() -> None:
            nonlocal temperature, readable
            async with self._room:
                await asyncio.sleep(self._not_before_s - asyncio.get_running_loop().time())
                text, cut_off = await self._send(client, request, temperature)
            self._reached = True
            outcome = read_json(request, text)
            if isinstance(outcome, ParsedReply):
                readable = (text, outcome)
                reason = doubt(request, outcome)
            else:
                reason = "cut off" if cut_off else outcome.reason
            if reason:
                temperature = max(temperature, RETRY_TEMPERATURE)
                raise UnusableReply(reason)

        policy = replace(RETRY_POLICY, tries=self._settings.retries + 1)
        retrying = tenacity.AsyncRetrying(sleep=asyncio.sleep, before_sleep=self._note_retry, **policy.options())
        reason = ""
        try:
            await retrying(attempt)
        except TransientFault as fault:
            reason = str(fault)
        except _FinalFault as fault:
            self._note(fault)
            reason = str(fault)
        if readable is None:
            self._counts.failed[reason] += 1
            self.arrivals.put((request.number, Unusable(reason)))
            return
        cache.put(key, readable[0])
        self._counts.answered += 1
        self.arrivals.put((request.number, readable[1]))

    def _note_retry(self, state: tenacity.RetryCallState) -> None:
        """Count it; where the endpoint asked for a wait, every request waits with this one."""
        fault = fault_of(state)
        self._counts.retried[str(fault)] += 1
        if fault.retry_after_s and state.next_action:
            now_s = asyncio.get_running_loop().time()
            self._not_before_s = max(self._not_before_s, now_s + state.next_action.sleep)

    def _note(self, fault: _FinalFault) -> None:
        """Raise GenerationError where `fault` is one that every request meets."""
        if not fault.shared or self._reached:
            return
        reason = str(fault)
        self._shared[reason] += 1
        if self._shared[reason] >= min(FAULTS_TO_GIVE_UP, self._to_ask):
            raise GenerationError(
                f"expected {self._writer.base_url} to answer as {self._settings.model!r}, got {reason} "
                f"({fault.message}); {_ADVICE[reason]}"
            )

    async def _send(self, client: openai.AsyncOpenAI, request: TaskRequest, temperature: float) -> tuple[str, bool]:
        """One reply and whether it was cut off; what the endpoint does not take is left out from then on.

        Raises TransientFault or _FinalFault, each with a reason of a few words.
        """
        package = require_openai()
        create: Any = client.chat.completions.create
        while True:
            refused = self._refused
            try:
                completion = await create(
                    model=self._settings.model,
                    messages=self._writer.messages(request),
                    temperature=temperature,
                    **_optional(request, self._settings.max_output_tokens, refused),
                )
            except package.APITimeoutError:
                raise TransientFault("timeout") from None
            except package.APIConnectionError as error:
                if _is_refusal(error) and not self._reached:
                    raise _FinalFault("no connection", _one_line(error), shared=True) from None
                raise TransientFault("connection lost") from None
            except package.APIStatusError as error:
                if error.status_code in (400, 422) and (more := _named(str(error)) - refused):
                    self._refused |= more
                    continue
                raise _status_fault(error) from None
            except (package.OpenAIError, ValueError):
                raise TransientFault("not a chat completion") from None
            return _content(completion)


@asynccontextmanager
async def _locked(lock: filelock.FileLock) -> AsyncIterator[None]:
    """Hold `lock`, waiting for it in a way that can be cancelled."""
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except filelock.Timeout:
            await asyncio.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


def _optional(request: TaskRequest, max_tokens: int, refused: frozenset[str]) -> dict[str, Any]:
    """The parameters that not every endpoint takes, without the refused ones."""
    limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
    parameters: dict[str, Any] = {limit: max_tokens}
    if "response_format" not in refused:
        schema = {"name": "tasks", "strict": True, "schema": schema_for(request)}
        parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
    return parameters


def _named(message: str) -> frozenset[str]:
    """Which optional parameters an error message says are not taken."""
    found = set()
    if "response_format" in message or "json_schema" in message:
        found.add("response_format")
    if "max_completion_tokens" in message:
        found.add("max_tokens")
    return frozenset(found)


def _content(completion: Any) -> tuple[str, bool]:
    choices: Any = getattr(completion, "choices", None)
    text = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    if not isinstance(text, str):
        raise TransientFault("not a chat completion")
    return text, choices[0].finish_reason == "length"


def _status_fault(error: openai.APIStatusError) -> TransientFault | _FinalFault:
    reason = f"HTTP {error.status_code}"
    if is_transient(error):
        return TransientFault(reason, retry_after_s(error.response.headers))
    return _FinalFault(reason, _one_line(error), shared=reason in _ADVICE)


def _is_refusal(error: BaseException) -> bool:
    """Whether no connection was made: refused, or no such host."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "ConnectError":
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
