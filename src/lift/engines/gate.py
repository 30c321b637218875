"""A gate between requests, which pass it together, and changes of the server, for which nothing is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


class Gate:
    """Many pass at once, or one changes something; who wants to change goes before those that come after."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._passing = 0
        self._wanting = 0  # to change, the one that does included
        self._is_changing = False

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Inside the block nothing is changed."""
        await self._until(lambda: not self._wanting)
        self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1
            self._wake()

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Inside the block nobody else passes or changes."""
        self._wanting += 1
        try:
            await self._until(lambda: not self._passing and not self._is_changing)
            self._is_changing = True
            try:
                yield
            finally:
                self._is_changing = False
        finally:
            self._wanting -= 1
            self._wake()

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        while not is_reached():
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(changed)
            try:
                await changed
            finally:
                self._waiting.discard(changed)

    def _wake(self) -> None:
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)
