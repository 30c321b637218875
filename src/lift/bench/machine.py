"""The machine at hand: what it is, how fast it multiplies matrices of a model's shapes, how much memory was held."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from lift.bench.arithmetic import Matrices
from lift.memories.manifest import installed_versions
from lift.models.device import stopwatch

_PROCESSES = Path("/proc")
_STATUS = _PROCESSES / "self" / "status"
_CLEAR = Path("/proc/self/clear_refs")
_PROCESSORS = Path("/proc/cpuinfo")
_ROWS = 256
_TRIES = 10


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The description of the machine beside every measurement."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "versions": installed_versions(),
    }


def matrices_of(model: Any, adapter_parameters: int, first_layer: int = 0) -> Matrices:
    """The linear layers of a model without an adapter, for one of so many parameters that begins at `first_layer`."""
    head = model.get_output_embeddings()
    body = below = 0
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            number = next((int(part) for part in path.split(".") if part.isdigit()), first_layer)
            if number < first_layer:
                below += module.weight.numel()
            else:
                body += module.weight.numel()
    return Matrices(body, head.weight.numel() if head is not None else 0, adapter_parameters, below)


def matmul_flops_per_s(model: Any) -> float:
    """Operations a second of torch.matmul alone, in the model's type, over the shapes of its linear layers.

    Each shape with 256 rows, the best of ten tries, counted as often as the model has it: on a quiet machine a bound
    for any training that multiplies by these matrices.
    """
    shapes = Counter(tuple(module.weight.shape) for module in model.modules() if isinstance(module, torch.nn.Linear))
    weight = next(model.parameters())
    now = stopwatch(weight.device)
    flops, seconds = 0, 0.0
    for (outputs, inputs), count in shapes.items():
        left = torch.randn(_ROWS, inputs, device=weight.device).to(model.dtype)  # [256, in]
        right = torch.randn(outputs, inputs, device=weight.device).to(model.dtype)  # [out, in]
        best = float("inf")
        for _ in range(_TRIES):
            begun = now()
            torch.matmul(left, right.T)
            best = min(best, now() - begun)
        flops += 2 * _ROWS * inputs * outputs * count
        seconds += best * count
    return flops / seconds


class PeakMemory:
    """The most memory held since `restart`: the process's on a CPU, what torch has allocated on a CUDA device.

    The kernel's high-water mark is read and not getrusage's: a child process inherits that of its parent.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forget what was held before; on a system that cannot forget, the mark stays that of the whole process."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR.exists():
            _CLEAR.write_text("5")

    def bytes(self) -> int:
        """The most bytes held so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if _STATUS.exists() and (held := _high_water(_STATUS)) is not None:
            return held
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_bytes_of(process: int) -> int | None:
    """The most memory that a child process of that number has held; None where it has ended or that is not known."""
    status = _PROCESSES / str(process) / "status"
    return _high_water(status) if status.exists() else None


def _high_water(status: Path) -> int | None:
    marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(marks[0].split()[1]) * 1024 if marks else None


def _processor_name() -> str:
    if _PROCESSORS.exists():
        named = [
            line.partition(":")[2].strip() for line in _PROCESSORS.read_text().splitlines() if "model name" in line
        ]
        if named:
            return named[0]
    return platform.processor() or platform.machine()
