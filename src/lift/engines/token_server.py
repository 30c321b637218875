"""The protocol of a server of another program: tokens in, tokens out, with an adapter that it is told to load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from lift.adapters.resident import Load
from lift.errors import EngineError
from lift.inference.sampling import SampledToken, SamplingParams
from lift.memories.memory import StoredMemory


class ServerGone(EngineError):
    """The server cannot be reached, or went away before it had answered; the same request may be made again."""


class BrokenOff(ServerGone):
    """The server was reached, and went away before it had answered: by chance, or because of that very request."""


class AdapterGone(EngineError):
    """The server does not know an adapter that was loaded, as after its restart; it is to be loaded again."""


@dataclass(frozen=True)
class Continuation:
    """A continuation of `prompt` that a server is asked for, with the adapter it calls `adapter`, None: the base model.

    It ends at one of `end_ids`, or after `max_tokens`. `seed` where it samples.
    """

    adapter: str | None
    prompt: Sequence[int]
    max_tokens: int
    sampling: SamplingParams
    end_ids: Sequence[int]
    seed: int


class TokenServer(Protocol):
    """A server; its coroutines run in one event loop. `window_tokens`: of a prompt with its answer, when `opened`."""

    name: str
    url: str
    version: str
    window_tokens: int

    @property
    def resident(self) -> int:
        """Adapters that it has loaded for Lift."""
        ...

    def check_memory(self, memory: StoredMemory) -> None:
        """Raise UsageError, with the way out, for a memory whose form it has no place for; from any thread."""
        ...

    async def open(self) -> None:
        """Reach it, and refuse a model whose tokens differ from the base model's; raises EngineError."""
        ...

    async def check_health(self) -> None:
        """Raise EngineError where it does not answer, or says that it is not ready."""
        ...

    async def close(self) -> None:
        """Let go of it, and end what was started for it."""
        ...

    def keep(self, at_most: int) -> None:
        """How many adapters it may have loaded, beside those that are in use."""
        ...

    def adapter(self, key: str | None, load: Load | None) -> AbstractAsyncContextManager[str | None]:
        """Inside the block the adapter `key` is loaded; the name that it has there, None for the base model.

        Raises EngineError, ServerGone, and what `load` raises.
        """
        ...

    def generate(self, wanted: Continuation) -> AsyncGenerator[SampledToken, None]:
        """The tokens as they come, the end token among them; raises EngineError, ServerGone and AdapterGone."""
        ...

    async def score(self, adapter: str | None, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """log P of the tokens `answer` behind `prompt`, in nats; raises as generate."""
        ...
