"""The machine by what bounds a language model on it: matrix products and reading of weights a second, and memory.

Timed in about two seconds with matrices of random numbers; no model is loaded.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lift.models.device import stopwatch
from lift.models.load import default_device_and_dtype
from lift.models.threads import adjust_threads

# Rows of a product: the tokens of a training batch (the recipes have 384 to 512).
_ROWS = 384
# Numbers of a matrix that is multiplied with; a larger one is multiplied no faster.
_MOST_NUMBERS = 1 << 23
# Bytes that are read for the bandwidth, more than caches hold.
_READ_BYTES = 256 << 20
# Hidden sizes from the smallest known model's to that of 8 billion parameters; others lie between.
HIDDEN_SIZES = (576, 1024, 2048, 4096)
_TRIAL_S = 0.4
_MEMORY = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CONTAINER_USE = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True)
class MachineSpeed:
    """`flops_per_s`: of products with matrices of so many inputs (a model's hidden size). `bytes_per_s`: of reading
    weights for one token. `memory_bytes`: free on `device`, in its memory or, for a processor, in that of the machine.
    """

    device: str
    dtype: str
    number_bytes: int
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: Mapping[int, float]

    @property
    def on_processor(self) -> bool:
        """Whether it is no GPU that computes."""
        return self.device.startswith("cpu")

    def flops_at(self, hidden: int) -> float:
        """Operations a second at that hidden size, between two that were timed on a line over its logarithm."""
        sizes = sorted(self.flops_per_s)
        after = bisect_left(sizes, hidden)
        if after == 0 or after == len(sizes):
            return self.flops_per_s[sizes[min(after, len(sizes) - 1)]]
        low, high = sizes[after - 1], sizes[after]
        share = math.log(hidden / low) / math.log(high / low)
        return (1 - share) * self.flops_per_s[low] + share * self.flops_per_s[high]


def measure_machine_speed(hidden_sizes: Iterable[int] = HIDDEN_SIZES) -> MachineSpeed:
    """Time this machine on the device, in the type and with the threads that load_model and a training would use."""
    device, dtype = default_device_and_dtype()
    if device.type == "cpu":
        adjust_threads()
    with torch.inference_mode():
        flops = {hidden: _flops_per_s(hidden, device, dtype) for hidden in sorted(set(hidden_sizes))}
        read = _read_bytes_per_s(device, dtype)
    return MachineSpeed(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        number_bytes=dtype.itemsize,
        memory_bytes=free_memory_bytes(device),
        bytes_per_s=read,
        flops_per_s=flops,
    )


def free_memory_bytes(device: torch.device) -> int:
    """Memory that a model may take now: of a CUDA device, else of the machine within the limit of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = _MEMORY.read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(free, int(_CONTAINER_LIMIT.read_text("ascii")) - int(_CONTAINER_USE.read_text("ascii")))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return free


def _flops_per_s(hidden: int, device: torch.device, dtype: torch.dtype) -> float:
    """Of the product of a batch with a matrix of a layer, forward and backward to its inputs."""
    outputs = min(4 * hidden, _MOST_NUMBERS // hidden)
    batch = torch.randn(_ROWS, hidden, device=device).to(dtype)  # [R, in]
    weight = torch.randn(outputs, hidden, device=device).to(dtype)  # [out, in]
    seconds = _mean_s(lambda: (batch @ weight.T) @ weight, device)
    return 4 * _ROWS * hidden * outputs / seconds


def _read_bytes_per_s(device: torch.device, dtype: torch.dtype) -> float:
    width = 4096
    weight = torch.ones(_READ_BYTES // width // dtype.itemsize, width, device=device, dtype=dtype)  # [out, in]
    token = torch.ones(1, width, device=device, dtype=dtype)  # [1, in]
    return _READ_BYTES / _mean_s(lambda: token @ weight.T, device)


def _mean_s(compute: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Mean seconds of several tries, as a training on a machine with other work sees them.

    The first is left out: what is loaded once is loaded then.
    """
    now = stopwatch(device)
    compute()
    begun, tries, seconds = now(), 0, 0.0
    while seconds < _TRIAL_S:
        compute()
        tries += 1
        seconds = now() - begun
    return seconds / tries
