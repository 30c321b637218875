"""Adapters as files that another program reads, each at a path that holds the hash of its content.

A server knows an adapter, and what it keeps of prompts that were read with it, by name and path. Both change with the
content here, so nothing that was read with an older version can answer for a newer one. A directory is written whole
or not at all, and never changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lift.adapters.resident import Load
from lift.errors import EngineError
from lift.exporting.gguf_files import write_gguf_lora
from lift.exporting.gguf_names import GgufNames
from lift.exporting.peft_files import content_hash, write_peft_adapter
from lift.exporting.plain_lora import plain_lora
from lift.memories.durable import sync_directory
from lift.models.base_model import BaseModel

_DIGITS = 24
_MOST_KEPT = 512
_GGUF = "adapter.gguf"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter of a server: `name`, `path` (PEFT's directory, or a GGUF file), both with a hash, and its rank.

    `is_activated`: it acts behind its invocation tokens alone.
    """

    name: str
    path: Path
    rank: int
    is_activated: bool = False


class AdapterFiles:
    """The adapters below `directory` in one form; the longest unused are removed beyond `most_kept`."""

    def __init__(
        self, directory: Path, form: Literal["peft", "gguf"], base: BaseModel, most_kept: int = _MOST_KEPT
    ) -> None:
        self.directory = directory.absolute()
        self._form = form
        self._base = base
        self._most_kept = most_kept
        self._known: dict[str, AdapterFile] = {}
        self._writing = threading.Lock()

    def get(self, key: str, load: Load, in_use: Collection[str] = ()) -> AdapterFile:
        """The file of the adapter that is called `key`, written where it is not there; from any thread.

        `in_use`: names whose files stay, however long they were unused. Raises EngineError for an adapter that the
        form has no place for, or where the disk refuses, and what `load` raises.
        """
        with self._writing:
            found = self._known.get(key)
            if found is None or not found.path.exists():
                found = self._known[key] = self._write(load)
                self._prune({found.name, *in_use})
            with suppress(OSError):
                os.utime(self.directory / found.name)
            return found

    def _write(self, load: Load) -> AdapterFile:
        stored = load()
        plain = plain_lora(*stored)
        if plain is None:
            raise EngineError(
                "expected a plain LoRA, which other programs read, got a DoRA or one with biases; absorb the text with "
                "--set adapter.kind=lora, or ask it on Lift's own engine"
            )
        config, state = plain
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.directory))
            try:
                new = temporary / "adapter"
                if self._form == "gguf":
                    new.mkdir()
                    write_gguf_lora(new / _GGUF, config, state, GgufNames.of(self._base))
                else:
                    write_peft_adapter(new, config, state)
                name = f"lift-{content_hash(sorted(new.iterdir()), _DIGITS)}"
                final = self.directory / name
                if not final.exists():
                    sync_directory(new)
                    os.rename(new, final)
                    sync_directory(self.directory)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise EngineError(
                f"cannot write an adapter for the engine into {self.directory} "
                f"({(error.strerror or str(error)).lower()}); make room, or choose another with --engine-adapters"
            ) from error
        path = final / _GGUF if self._form == "gguf" else final
        return AdapterFile(name, path, int(config["r"]), bool(config.get("alora_invocation_tokens")))

    def _prune(self, in_use: Collection[str]) -> None:
        with suppress(OSError):
            found = [path for path in self.directory.iterdir() if path.name.startswith("lift-")]
            found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in found[self._most_kept :]:
                if path.name not in in_use:
                    shutil.rmtree(path, ignore_errors=True)
