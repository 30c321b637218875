"""An unfinished training on disk: adapter, optimiser, position; safetensors and JSON, written whole or not at all.

    DIRECTORY/position.json, tensors.safetensors, training.jsonl     the state, see Checkpoint.save
              document.sha256                                        the hash of the text that it is of
              checksums.json                                         SHA-256 and size of each of these
    DIRECTORY.new      being written
    DIRECTORY.old      the state before, while the new one takes its place
    DIRECTORY.damaged-HEX     put aside, since it did not have the content that its checksums state

Whoever opens one holds the lock of its absorption (memories/unfinished.py). A disk that refuses costs no training: the
checkpoint before stays, and saving is tried again later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save

from lift.memories.durable import sync_directory, write_directory
from lift.memories.unfinished import DOCUMENT_FILE

_TENSORS = "tensors.safetensors"
_POSITION = "position.json"
_HISTORY = "training.jsonl"
_CHECKSUMS = "checksums.json"
_FILES = (_TENSORS, _POSITION, _HISTORY, DOCUMENT_FILE)
_FRESH = ".new"
_BEFORE = ".old"
_DAMAGED = ".damaged-"


class Position(BaseModel):
    """Where a training stands: `update` updates of `epoch` are done, `step` in all, in `elapsed_s` of its budget.

    `tasks`: the number of tasks of its batch sampler (leitner_sampler.LeitnerSampler.tasks).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(0, ge=0)
    update: int = Field(0, ge=0)
    step: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0)
    elapsed_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    tasks: int = Field(0, ge=0)


@dataclass(frozen=True)
class State:
    """The state that a training goes on from.

    `leitner` is when tasks are due (leitner_sampler.LeitnerSampler.state), `correct` [N] which of all examples, step by
    step, were greedy-correct: with them the steps can be gone through again. It is empty where the clock had a say in
    the steps. `optimizer` is its own state by the number
    of the parameter. `history` has one row for each step that was done.
    """

    position: Position
    adapter: Mapping[str, torch.Tensor]
    leitner: torch.Tensor
    correct: torch.Tensor
    optimizer: Mapping[int, Mapping[str, torch.Tensor]]
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SavingFailed:
    """The state could not be saved, for the reason `why`; the training goes on, and saving is tried again later."""

    why: str

    def __str__(self) -> str:
        return (
            f"the state of the training cannot be saved ({self.why}); it goes on, and saving is tried again: make room "
            "on the library's disk"
        )


@dataclass(frozen=True)
class CheckpointDamaged:
    """A checkpoint could not be gone on from, for the reason `why`; it lies at `place` now, None where it is lost."""

    why: str
    place: Path | None

    def __str__(self) -> str:
        kept = f"; it was put aside as {self.place.name}" if self.place is not None else ""
        return f"the saved state is damaged ({self.why}), and the training starts anew{kept}"


CheckpointNotice = SavingFailed | CheckpointDamaged


class Checkpoint:
    """The state of one training in `directory`; `tell` hears of a disk that refuses, once, and of damage.

    `document_sha256`: the hash of the text that is trained.
    """

    def __init__(
        self, directory: Path, tell: Callable[[CheckpointNotice], None] | None = None, document_sha256: str = ""
    ) -> None:
        self.directory = directory
        self._document_sha256 = document_sha256
        self._tell = tell or (lambda _notice: None)
        self.problem: str | None = None  # why the last saving failed

    def save(self, state: State) -> bool:
        """Replace what is there by `state`; a crash or a disk that refuses leaves the old checkpoint or the new one.

        Returns whether it is on the disk; where it is not, `problem` says why.
        """
        fresh = self._beside(_FRESH)
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            if not fresh.parent.exists():  # a file in its place is told of by the next line that needs a directory
                fresh.parent.mkdir(parents=True, exist_ok=True)
            contents = {**_contents(state), DOCUMENT_FILE: self._document_sha256.encode("ascii")}
            write_directory(fresh, [*contents.items(), (_CHECKSUMS, _checksums(contents))])
            self._put_in_place(fresh)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)  # half of it would keep the room that others need
            before, self.problem = self.problem, (error.strerror or str(error)).lower()
            if before is None:
                self._tell(SavingFailed(self.problem))
            return False
        self.problem = None
        return True

    def load(self, restore: Callable[[State], None]) -> State | None:
        """Hand the state that is there to `restore`, and return it; None where there is none.

        One that is damaged, or that `restore` refuses with a ValueError, is put aside and told of.
        """
        with contextlib.suppress(OSError):
            if not self.directory.exists() and self._beside(_BEFORE).exists():
                self._beside(_BEFORE).rename(self.directory)  # a crash between the two renames of save
        if not self.directory.exists():
            return None
        try:
            state = _read(self.directory)
            restore(state)
            return state
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
        aside: Path | None = self._beside(_DAMAGED + secrets.token_hex(4))
        try:
            assert aside is not None
            self.directory.rename(aside)
        except OSError:
            aside = None
        self._tell(CheckpointDamaged(why, aside))
        return None

    def discard(self) -> None:
        """Remove the state that is there, if any: what it was kept for is done."""
        for directory in (self.directory, self._beside(_FRESH), self._beside(_BEFORE)):
            shutil.rmtree(directory, ignore_errors=True)

    def _put_in_place(self, fresh: Path) -> None:
        before = self._beside(_BEFORE)
        if self.directory.exists():
            shutil.rmtree(before, ignore_errors=True)
            self.directory.rename(before)
        try:
            fresh.rename(self.directory)
            sync_directory(self.directory.parent)
        except OSError:
            if not self.directory.exists() and before.exists():
                before.rename(self.directory)
            raise
        shutil.rmtree(before, ignore_errors=True)

    def _beside(self, ending: str) -> Path:
        return self.directory.with_name(self.directory.name + ending)


def _contents(state: State) -> dict[str, bytes]:
    """Name -> content of the files of a checkpoint, without their checksums."""
    tensors = {f"adapter/{key}": value.contiguous() for key, value in state.adapter.items()}
    tensors["leitner"] = state.leitner
    tensors["correct"] = state.correct
    for index, entries in state.optimizer.items():
        for key, value in entries.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).contiguous()
    return {
        # as bytes, not by save_file: a full disk is then an OSError, as everywhere else
        _TENSORS: save(tensors),
        _POSITION: state.position.model_dump_json().encode(),
        _HISTORY: "".join(json.dumps(dict(row)) + "\n" for row in state.history).encode(),
    }


def _checksums(contents: Mapping[str, bytes]) -> bytes:
    found = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in contents.items()
    }
    return json.dumps(found, indent=2).encode()


def _read(directory: Path) -> State:
    """The state in `directory`; raises OSError, ValueError, KeyError, TypeError or SafetensorError for damage."""
    checksums = json.loads((directory / _CHECKSUMS).read_bytes())
    contents = {name: (directory / name).read_bytes() for name in _FILES}
    for name, content in contents.items():
        if checksums[name] != json.loads(_checksums({name: content}))[name]:
            raise ValueError(f"{name} does not have the content that its checksum states")
    tensors = load(contents[_TENSORS])
    optimizer: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            optimizer.setdefault(int(index), {})[name] = value
    rows = contents[_HISTORY].decode("utf-8").splitlines()
    return State(
        position=Position.model_validate_json(contents[_POSITION]),
        adapter={key.removeprefix("adapter/"): value for key, value in tensors.items() if key.startswith("adapter/")},
        leitner=tensors["leitner"],
        correct=tensors["correct"],
        optimizer=optimizer,
        history=[json.loads(line) for line in rows],
    )
