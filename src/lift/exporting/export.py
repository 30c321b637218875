"""A memory as a directory for another program: adapters, prompt, replayed questions and how to start, or none of it.

    DIR/README.md                       start commands
        export.json                     what was exported, of which memory, on which base model
        prompt.json, chat_template.jinja
        replay.jsonl                    held-out questions with the memory's own greedy answers
        adapters/NAME-HASH/             PEFT's layout; for llama.cpp NAME-HASH.gguf
        adapters/reader-HASH/           the warm start, which reads evidence
        model/ or model-HASH.gguf       merged: the model of its own

Names hold a hash of the content: programs know an adapter, and what they keep of prompts, by its path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lift.answering.answerer import reader_adapter, trained_form
from lift.errors import ExportError
from lift.exporting.conversion import Conversion
from lift.exporting.gguf_files import write_gguf_lora, write_merged_gguf
from lift.exporting.gguf_names import GgufNames, base_gguf
from lift.exporting.merged_model import write_merged_model
from lift.exporting.peft_files import content_hash, write_peft_adapter
from lift.exporting.plain_lora import State, lora_paths, plain_lora
from lift.exporting.prompt_notes import PromptNotes
from lift.exporting.readme import describe
from lift.exporting.replay import MEMORY, READER, Replayer, ReplayRow
from lift.exporting.targets import Target, adapter_form, check_target
from lift.memories.durable import sync_directory, write_file
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel

DEFAULT_QUESTIONS = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in a path that stands in commands and addresses


@dataclass(frozen=True)
class ExportedAdapter:
    """An adapter of an export: `path` is relative to its directory; `rank` and `modules` are what programs ask for."""

    role: str
    path: str
    rank: int
    modules: tuple[str, ...]
    invocation: tuple[int, ...]


@dataclass(frozen=True)
class Export:
    """The content of an exported directory. `base_files`: where the base model lay when it was exported.

    `model`: of a merged memory, the path of the model, relative to the directory. `conversion`: of a memory that was
    made a plain LoRA for this export.
    """

    directory: Path
    target: Target
    memory: str
    title: str
    base_id: str
    base_fingerprint: str
    base_files: str
    base_gguf: str | None
    window_tokens: int
    adapters: tuple[ExportedAdapter, ...]
    model: str | None
    prompt: PromptNotes
    replay: tuple[ReplayRow, ...]
    conversion: Conversion | None = None

    def adapter(self, role: str) -> ExportedAdapter | None:
        """The adapter of that role, "memory" or "reader", where there is one."""
        return next((each for each in self.adapters if each.role == role), None)

    def record(self) -> dict[str, Any]:
        """The content of export.json."""
        return {
            "target": self.target,
            "memory": self.memory,
            "title": self.title,
            "base": {"id": self.base_id, "fingerprint": self.base_fingerprint},
            "window_tokens": self.window_tokens,
            "model": self.model,
            "adapters": [asdict(each) for each in self.adapters],
            "replayed_questions": len(self.replay),
            "conversion": self.conversion.record() if self.conversion is not None else None,
        }


def export_memory(
    memory: StoredMemory,
    base: BaseModel,
    target: Target,
    directory: Path,
    *,
    questions: int = DEFAULT_QUESTIONS,
    as_gguf: bool = False,
    gguf: Path | None = None,
    conversion: Conversion | None = None,
) -> Export:
    """Write a memory into `directory` for the program `target`, whole or not at all.

    At most `questions` held-out questions are answered for replay.jsonl, by `base` as it is loaded. `as_gguf`: a merged
    model as a GGUF file. `gguf`: the base model as llama.cpp reads it, by default the file that it was loaded from.
    `conversion`: how `memory` was made of another one, for the record. Raises ExportError for a directory that holds
    something, for what the program cannot take, and where the disk refuses; WrongBaseModelError and LibraryError as
    open_memory.
    """
    form = adapter_form(memory.adapter_config)
    check_target(memory.name, form, target, as_gguf=as_gguf)
    check_empty(directory)
    if gguf is not None and not gguf.is_file():
        raise ExportError(f"expected the base model as a GGUF file, got {gguf}, which is not there; give another")
    source = gguf or base_gguf(base)
    if as_gguf and source is None:
        raise ExportError(
            f"expected the base model as a GGUF file to merge {memory.name!r} into, got {base.id}; give it with "
            "--base-gguf FILE, or export to merged without --gguf and convert that with llama.cpp's own scripts"
        )
    replayer = Replayer(memory, base)
    with replayer.opened():
        replay = tuple(replayer.record(questions))
    with _written_whole(directory) as place:
        adapters, model = _write_weights(place, memory, base, target, source if as_gguf else None)
        notes = PromptNotes.of(base, trained_form(memory))
        export = Export(
            directory=directory.absolute(),
            target=target,
            memory=memory.name,
            title=memory.manifest.title,
            base_id=base.id,
            base_fingerprint=base.fingerprint,
            base_files=str(base.model.name_or_path),
            base_gguf=str(source) if source else None,
            window_tokens=base.window_tokens,
            adapters=adapters,
            model=model,
            prompt=notes,
            replay=replay,
            conversion=conversion,
        )
        invocation = next((each.invocation for each in adapters if each.role == MEMORY), ())
        texts = {
            "export.json": json.dumps(export.record(), indent=2, ensure_ascii=False) + "\n",
            "prompt.json": json.dumps(notes.record(base.tokenizer, invocation), indent=2, ensure_ascii=False) + "\n",
            "replay.jsonl": "".join(row.to_json() for row in replay),
            "README.md": describe(export),
        }
        if notes.chat_template:
            texts["chat_template.jinja"] = notes.chat_template
        for name, text in texts.items():
            write_file(place / name, text.encode("utf-8"))
    return export


def _write_weights(
    place: Path, memory: StoredMemory, base: BaseModel, target: Target, merged_into: Path | None
) -> tuple[tuple[ExportedAdapter, ...], str | None]:
    found = {MEMORY: (memory.adapter_config, memory.load_adapter_state())}
    if (reader := reader_adapter(memory, base)) is not None:
        found[READER] = reader[1]()
    written = []
    model = None
    for role, stored in found.items():
        name = _UNSAFE.sub("-", memory.name).strip("-.") or MEMORY if role == MEMORY else role
        config, state = plain_lora(*stored) or stored
        if role == MEMORY and target == "merged":
            model = _write_merged(place, name, base, (config, state), merged_into)
            continue
        (place / "adapters").mkdir(exist_ok=True)
        if target == "gguf" or merged_into:
            path = place / "adapters" / "new.gguf"
            write_gguf_lora(path, config, state, GgufNames.of(base))
            final = path.with_name(f"{name}-{content_hash([path])}.gguf")
        else:
            path = place / "adapters" / "new"
            write_peft_adapter(path, config, state)
            final = path.with_name(f"{name}-{content_hash(sorted(path.iterdir()))}")
        os.rename(path, final)
        written.append(
            ExportedAdapter(
                role=role,
                path=final.relative_to(place).as_posix(),
                rank=int(config["r"]),
                modules=tuple(sorted({path.rsplit(".", 1)[-1] for path in _paths(state)})),
                invocation=tuple(config.get("alora_invocation_tokens") or ()),
            )
        )
    return tuple(written), model


def _write_merged(
    place: Path, name: str, base: BaseModel, adapter: tuple[dict[str, Any], State], merged_into: Path | None
) -> str:
    config, state = adapter
    if merged_into is not None:
        path = place / "model.gguf"
        write_merged_gguf(path, merged_into, config, state, GgufNames.of(base))
        final = path.with_name(f"{name}-{content_hash([path])}.gguf")
        os.rename(path, final)
        return final.name
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        write_peft_adapter(Path(temporary) / "adapter", config, state)
        write_merged_model(place / "model", base, Path(temporary) / "adapter")
    return "model"


def _paths(state: State) -> list[str]:
    weights = {key: tensor for key, tensor in state.items() if key.endswith((".lora_A.weight", ".lora_B.weight"))}
    return lora_paths(weights)


def check_empty(directory: Path) -> None:
    """Raise ExportError unless `directory` is new or empty."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ExportError(f"expected a new or an empty directory, got {directory}, which holds something already")
    except OSError as error:
        raise ExportError(f"expected a directory to export to, got {directory} ({error.strerror})") from None


@contextmanager
def _written_whole(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that takes its place at the end of the block, and is gone after an error."""
    temporary: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".lift-export-", dir=directory.parent))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for folder in [path for path in temporary.rglob("*") if path.is_dir()] + [temporary]:
            sync_directory(folder)
        os.rename(temporary, directory)
        temporary = directory  # gone again where its name does not reach the disk
        sync_directory(directory.parent)
        temporary = None
    except (OSError, SafetensorError) as error:  # as which safetensors' own writer tells of a disk that refuses
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ExportError(f"cannot export to {directory} ({said.lower()}); make room, or choose another") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                shutil.rmtree(temporary)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
