"""Ctrl-C: the first one asks for a safe stop, the next one interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stopped_by_signals(stop: threading.Event, say: Callable[[str], None]) -> Iterator[threading.Event]:
    """While the yielded event is set, the first Ctrl-C (or SIGTERM) sets `stop`; any other one interrupts at once."""
    safe_stops = threading.Event()

    def on_signal(_number: int, _frame: Any) -> None:
        if not safe_stops.is_set() or stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping as soon as it is safe to; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield safe_stops
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield safe_stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
