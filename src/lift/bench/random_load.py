"""A load that changes at random: some processes of one thread each that compute as fast as they can, and do nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

# It ends by itself when the process that started it is gone.
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(200000))"
_SHORTEST_S, _LONGEST_S = 2.0, 8.0


class RandomLoad:
    """Inside the `with` block, 0 to `most` busy processes, another number every few seconds, drawn from `seed`.

    On leaving, all of them are ended and waited for.
    """

    def __init__(self, most: int, seed: str) -> None:
        self._most = most
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._changed_at = 0.0
        self._busy_s = self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="random-load", daemon=True)

    def __enter__(self) -> Self:
        self._changed_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def mean_and_restart(self) -> float:
        """How many were busy on average since this was last asked."""
        with self._lock:
            self._count()
            mean = self._busy_s / self._seconds if self._seconds else 0.0
            self._busy_s = self._seconds = 0.0
            return mean

    def _count(self) -> None:
        now = time.monotonic()
        self._busy_s += len(self._running) * (now - self._changed_at)
        self._seconds += now - self._changed_at
        self._changed_at = now

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._set(self._random.randint(0, self._most))
                self._over.wait(self._random.uniform(_SHORTEST_S, _LONGEST_S))
        finally:
            self._set(0)

    def _set(self, wanted: int) -> None:
        with self._lock:
            self._count()
            while len(self._running) < wanted:
                # its parent is this process, whichever thread starts it
                self._running.append(subprocess.Popen([sys.executable, "-S", "-c", _BUSY, str(os.getpid())]))
            while len(self._running) > wanted:
                ended = self._running.pop()
                ended.kill()
                ended.wait()
