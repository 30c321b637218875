"""How much a key may ask of the server: requests a minute, and how many at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lift.server.keys import Key

_LEAST_RETRY_S = 1.0
_LATEST_SHARE = 0.2  # of the latest request in what is usual


@dataclass(frozen=True)
class TooMuch(Exception):
    """A key has used up what it may; `retry_after_s` seconds from now it may ask again."""

    message: str
    code: str
    retry_after_s: float


class RateLimits:
    """Counts what each key does. A minute's requests may come at once, and are granted anew one by one.

    Used from one event loop alone. `now` gives seconds.
    """

    def __init__(self, requests_per_minute: int, concurrent: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = requests_per_minute
        self._concurrent = concurrent
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}
        self._running: Counter[str] = Counter()
        self._usual_s: dict[str, float] = {}  # how long the latest requests of a key took

    def enter(self, key: Key) -> None:
        """Count a request that begins; raises TooMuch, and then counts nothing."""
        at_once = key.concurrent or self._concurrent
        if self._running[key.name] >= at_once:
            raise TooMuch(
                f"the key {key.name!r} may have {at_once} requests running at once, and has; wait for one to end",
                "too_many_at_once",
                max(self._usual_s.get(key.name, 0.0) / at_once, _LEAST_RETRY_S),
            )
        per_minute = key.requests_per_minute or self._per_minute
        now = self._now()
        left, at = self._left.get(key.name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / 60)
        if left < 1:
            raise TooMuch(
                f"the key {key.name!r} may ask {per_minute} times a minute, and has; wait a moment",
                "rate_limit_exceeded",
                (1 - left) * 60 / per_minute,
            )
        self._left[key.name] = (left - 1, now)
        self._running[key.name] += 1

    def leave(self, key: Key, seconds: float) -> None:
        """Count a request that has ended after so many seconds, its answer sent whole or not."""
        self._running[key.name] -= 1
        usual_s = self._usual_s.get(key.name, seconds)
        self._usual_s[key.name] = usual_s + _LATEST_SHARE * (seconds - usual_s)
