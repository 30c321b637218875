"""The device that a model computes on: waiting for it, and how much memory it has held."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch


def stopwatch(device: torch.device, clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """`clock` read after all work that was given to `device` is done: a GPU works on while the program goes ahead."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    return now


def restart_peak_memory(device: torch.device) -> None:
    """Forget what was held on a CUDA device before; a process cannot forget."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """The most memory that torch has allocated on a CUDA device; else the most that this process has held.

    None: the CUDA device that this process uses, if it uses one.
    """
    on_cuda = device.type == "cuda" if device is not None else torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if on_cuda:
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
