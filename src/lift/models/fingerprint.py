"""The identity of weights: a hash of the tensors in safetensors files, wherever they lie and however they are split.

Hashing is slow beside loading (a second for every 0.3 to 1.6 GB), so results are remembered in the cache directory
under the path, size and modification time of each file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from lift.errors import ModelError

WHOLE_UP_TO_BYTES = 2 << 30
SAMPLES_PER_TENSOR = 16
SAMPLE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 22


def cache_directory() -> Path:
    """Where everything that can be made again is kept: LIFT_CACHE, else the platform's user cache directory."""
    return Path(os.environ.get("LIFT_CACHE") or platformdirs.user_cache_dir("lift"))


def converted_models_directory() -> Path:
    """Where base models are kept that were converted from GGUF files."""
    return cache_directory() / "models"


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a transformers directory; raises ModelError where it has none, or lacks a shard."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelError(
            f"expected weights in {single}, found none; Lift reads safetensors only "
            "(save the model again with save_pretrained)"
        )
    try:
        files = sorted({directory / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"expected a list of weight files in {index}, got something else; copy it again") from None
    for file in files:
        if not file.is_file():
            raise ModelError(f"expected the weight file {file}, named in {index.name}, found none; copy it again")
    return files


def weights_fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 (hex) over name, dtype, shape and content of every tensor in `files`, in the order of the names.

    Weights of more than WHOLE_UP_TO_BYTES in total are hashed by evenly spaced samples of each tensor, which any
    further training changes. Raises ModelError where a file is not whole.
    """
    tensors = [(name, file, entry) for file in files for name, entry in _safetensors_entries(file).items()]
    whole = sum(entry["end"] - entry["start"] for _, _, entry in tensors) <= WHOLE_UP_TO_BYTES
    digest = hashlib.sha256(b"lift-weights-1 whole\n" if whole else b"lift-weights-1 sampled\n")
    for name, file, entry in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode() + b"\n")
        with file.open("rb") as stream:
            for start, size in _ranges(entry["start"], entry["end"], whole):
                stream.seek(start)
                digest.update(stream.read(size))
    return digest.hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 (hex) of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """The value of `compute` for `files`, computed again only after one of them moved or changed size or time."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([kind, stats]).encode()).hexdigest()
    memo = cache_directory() / "fingerprints" / f"{key[:32]}.txt"
    with suppress(OSError):
        value = memo.read_text("ascii")
        if len(value) == 64:
            return value
    value = compute()
    # A cache that cannot be written to (read-only image, full disk) costs time, never the answer.
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, delete=False) as stream:
            stream.write(value)
        os.replace(stream.name, memo)
    return value


def _safetensors_entries(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape, and the absolute byte range; the format is 8 bytes of length, a JSON header, the data."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if header_bytes > size:
                raise ValueError
            header = json.loads(stream.read(header_bytes))
        entries = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            if not start <= end <= size:
                raise ValueError
            entries[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "start": start, "end": end}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"expected whole safetensors weights, got a damaged file: {file}; copy it again") from None
    return entries


def _ranges(start: int, end: int, whole: bool) -> list[tuple[int, int]]:
    """Offset and size in bytes of what is hashed of the tensor that lies at start..end."""
    if whole or end - start <= SAMPLES_PER_TENSOR * SAMPLE_BYTES:
        return [(at, min(_BLOCK_BYTES, end - at)) for at in range(start, end, _BLOCK_BYTES)]
    step = (end - start - SAMPLE_BYTES) / (SAMPLES_PER_TENSOR - 1)
    return [(start + round(sample * step), SAMPLE_BYTES) for sample in range(SAMPLES_PER_TENSOR)]
