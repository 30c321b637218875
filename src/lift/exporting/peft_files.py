"""An adapter as PEFT's two files, and the hash of files that stands in the names of what is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lift.exporting.plain_lora import State
from lift.memories.durable import write_file

_HASH_DIGITS = 12


def write_peft_adapter(directory: Path, config: dict[str, Any], state: State) -> None:
    """Write `directory` with adapter_config.json and adapter_model.safetensors, as PEFT reads them."""
    from safetensors.torch import save

    directory.mkdir()
    tensors = {f"base_model.model.{key}": tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    write_file(directory / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode("utf-8"))
    write_file(directory / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))


def content_hash(paths: Sequence[Path], digits: int = _HASH_DIGITS) -> str:
    """The first hexadecimal digits of a SHA-256 of the contents of these files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:digits]
