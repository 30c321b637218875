"""An unfinished training on disk: adapter, optimiser, position; safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_TENSORS = "tensors.safetensors"
_POSITION = "position.json"
_HISTORY = "training.jsonl"


@dataclass(frozen=True)
class Position:
    """Where a training stands: `update` updates of `epoch` are done, `step` in all, in `elapsed_s` of its budget.

    `tasks`: the number of tasks of its curriculum (spacing.Spacing.tasks).
    """

    epoch: int = 0
    update: int = 0
    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    tasks: int = 0


def save_checkpoint(
    directory: Path,
    position: Position,
    adapter: Mapping[str, torch.Tensor],
    spacing: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Replace what is in `directory`; a crash leaves the old checkpoint or the new one.

    `spacing` is when tasks are due (spacing.Spacing.state). `history` has one row for each step that was done.
    """
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"adapter/{key}": value.contiguous() for key, value in adapter.items()}
    tensors["spacing"] = spacing
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).contiguous()
    save_file(tensors, fresh / _TENSORS)
    (fresh / _POSITION).write_text(json.dumps(asdict(position)), "utf-8")
    (fresh / _HISTORY).write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    for path in (fresh / _TENSORS, fresh / _POSITION, fresh / _HISTORY, fresh):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = directory.with_name(directory.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    directory: Path, optimizer: torch.optim.Optimizer
) -> tuple[Position, dict[str, torch.Tensor], torch.Tensor, list[dict[str, Any]]] | None:
    """Position, adapter, spacing, history, and the optimiser's state put back; None where there is no checkpoint."""
    if not directory.exists():
        old = directory.with_name(directory.name + ".old")
        if not old.exists():
            return None
        old.rename(directory)  # a crash between the two renames of save_checkpoint
    position = Position(**json.loads((directory / _POSITION).read_text("utf-8")))
    tensors = load_file(directory / _TENSORS)
    adapter = {key.removeprefix("adapter/"): value for key, value in tensors.items() if key.startswith("adapter/")}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history = [json.loads(line) for line in (directory / _HISTORY).read_text("utf-8").splitlines()]
    return position, adapter, tensors["spacing"], history
