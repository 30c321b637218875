"""How many threads torch computes with, and how they wait: all cores while they are idle, fewer beside other work.

A team of OpenMP threads ends every parallel region at a barrier. Where another process holds one of the cores, the
whole team waits until the kernel lets the last of its threads run; and threads that spin at the barrier meanwhile burn
the very time that it needs. On two cores with one other busy process, two spinning threads train at 22 tokens/s, one
thread at 360. On idle cores two threads are a fifth quicker than one (docs/results.md, `lift bench threads`).

So waiting threads spin for microseconds only (`bound_spinning`, before torch is imported), and the number of threads
follows the cores that other processes leave free (`ThreadGovernor`). A user's own OMP_NUM_THREADS, OMP_WAIT_POLICY,
GOMP_SPINCOUNT and torch.set_num_threads win.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Iterations of libgomp's waiting loop; its own default is 300,000. Measured: docs/results.md.
SPIN_ITERATIONS = 10_000
# The kernel counts time in ticks of 10 ms, so a shorter look says little.
WINDOW_S = 0.5
# A thread beside a core that is a little busy is still worth having.
_SPARE_CORE_SHARE = 0.3
# Two looks in a row must agree before threads are added: a team that is one too large costs more than one too small.
_LOOKS_BEFORE_MORE = 2
_STAT = Path("/proc/stat")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# /proc/stat, fields of a line "cpuN": user, nice, system, idle, iowait, irq, softirq, steal
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads that wait for each other sleep after microseconds, unless `environment` says how they wait.

    To be called before torch is imported: libgomp reads its environment once, as it is loaded.
    """
    if "OMP_WAIT_POLICY" not in environment and "GOMP_SPINCOUNT" not in environment:
        environment["GOMP_SPINCOUNT"] = str(SPIN_ITERATIONS)


@dataclass(frozen=True)
class ProcessorTimes:
    """Processor seconds at one moment: of all processes on the cores that this one may use, and of this one."""

    at_s: float
    all_busy_s: float
    own_busy_s: float


def read_processor_times() -> ProcessorTimes | None:
    """The kernel's counts of now; None on a system that has no /proc/stat."""
    try:
        lines = _STAT.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    mine = {f"cpu{core}" for core in usable_cores()}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in mine:
            ticks += sum(int(fields[index]) for index in _BUSY_FIELDS if index < len(fields))
    return ProcessorTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def usable_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def core_limit() -> int:
    """How many cores this process may use at once: those it may run on, within the quota of its container."""
    cores = len(usable_cores())
    try:
        quota, period = _QUOTA.read_text("ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores


def free_cores(before: ProcessorTimes, now: ProcessorTimes, cores: int) -> float:
    """Cores that other processes left free between two moments, 0 to `cores`."""
    seconds = now.at_s - before.at_s
    others_s = (now.all_busy_s - before.all_busy_s) - (now.own_busy_s - before.own_busy_s)
    return min(max(cores - others_s / seconds, 0.0), float(cores))


class ThreadGovernor:
    """Keeps the number of torch's threads at the number of cores that other processes leave free.

    `most`: the largest number. `read` gives the processor times, `get` and `set_threads` are torch's. A count that
    somebody else has set is left alone from then on. Safe in threads: torch's count belongs to the calling thread, so
    each computing thread calls `adjust` for itself.
    """

    def __init__(
        self,
        most: int,
        *,
        get_threads: Callable[[], int],
        set_threads: Callable[[int], None],
        read: Callable[[], ProcessorTimes | None] = read_processor_times,
        cores: int | None = None,
        began: ProcessorTimes | None = None,
    ) -> None:
        self._most = most
        self._cores = cores or core_limit()
        self._get, self._set = get_threads, set_threads
        self._read = read
        self._lock = threading.Lock()
        self._applied = threading.local()
        self._last = began or read()
        self._wanted = min(most, self._cores)
        self._looks_for_more = 0
        self._stopped = self._last is None or self._wanted < 1

    @property
    def wanted(self) -> int:
        """The number of threads that the free cores carry, as last seen."""
        return self._wanted

    def adjust(self) -> None:
        """Look at the load, at most every WINDOW_S, and set the calling thread's count where it has changed."""
        if self._stopped:
            return
        applied = getattr(self._applied, "count", None)
        if applied is not None and self._get() != applied:
            self._stopped = True  # the user's own torch.set_num_threads wins
            return
        self._look()
        if applied != self._wanted:
            self._set(self._wanted)
            self._applied.count = self._wanted

    def _look(self) -> None:
        last = self._last
        if last is None or time.monotonic() - last.at_s < WINDOW_S or not self._lock.acquire(blocking=False):
            return
        try:
            now = self._read()
            if now is None or now.at_s - last.at_s < WINDOW_S:
                return
            carried = int(free_cores(last, now, self._cores) + _SPARE_CORE_SHARE)
            target = min(max(carried, 1), self._most)
            self._looks_for_more = self._looks_for_more + 1 if target > self._wanted else 0
            if target < self._wanted or self._looks_for_more >= _LOOKS_BEFORE_MORE:
                self._wanted, self._looks_for_more = target, 0
            self._last = now
        finally:
            self._lock.release()


# Read as Lift is imported, so that the first look already knows what the machine did while the model was loaded.
_BEGAN = read_processor_times()


def govern_threads(model: Any) -> None:
    """Have every forward pass of `model`, on a processor, adjust the threads of the thread that computes it.

    Nothing is done where the user's environment sets OMP_NUM_THREADS.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        governor = _process_governor()
        model.register_forward_pre_hook(lambda *_: governor.adjust())


def adjust_threads() -> None:
    """Have the calling thread compute with as many threads as a governed model would; see govern_threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        _process_governor().adjust()


@functools.cache
def _process_governor() -> ThreadGovernor:
    import torch

    return ThreadGovernor(
        torch.get_num_threads(), get_threads=torch.get_num_threads, set_threads=torch.set_num_threads, began=_BEGAN
    )
