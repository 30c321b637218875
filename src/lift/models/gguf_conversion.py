"""A GGUF file -> a transformers directory in the cache, made once, whole or not at all.

Weights are dequantised to float32: float16 would change 42 % of SmolLM2's weights (by up to 5e-4 of their value) and
save no time, since a float32 file is mapped into memory and not read. A copy is a directory with the marker
`complete.json`, written last and holding size, time and hash of every file. Copies that miss it or do not match it
are made again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from lift.errors import ModelError
from lift.models.fingerprint import (
    converted_models_directory,
    file_sha256,
    remembered,
    weight_files,
    weights_fingerprint,
)
from lift.models.quiet import quiet_transformers
from lift.models.turns import loading

FORMAT_VERSION = 1
MARKER = "complete.json"
# Above this, the float32 copy would fill disks, and the model runs in bfloat16 on an accelerator anyway.
FLOAT32_UP_TO_PARAMETERS = 3_000_000_000

# llama.cpp splits text into single digits before anything else for these vocabularies (llama-vocab.cpp, the case of
# LLAMA_VOCAB_PRE_TYPE_SMOLLM); transformers does not, and would then join "\n\n5" in other tokens than in training.
_DIGIT_SPLITTING_VOCABULARIES = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}

# What parsers raise on bytes that are not what they should be.
_PARSE_ERRORS = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, RuntimeError, OverflowError,
    AssertionError, MemoryError, struct.error, OSError, ImportError,
)  # fmt: skip


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a GGUF file."""

    architecture: str
    vocabulary: str | None
    parameters: int


def converted_copy(
    gguf: Path,
    *,
    expected_sha256: str | None = None,
    repair: str = "get the file again",
    on_progress: Callable[[str], None] | None = None,
    verify: bool = False,
) -> Path:
    """The directory in the cache that holds `gguf` as a transformers model, converted now if it is not there.

    With `expected_sha256` a whole copy is used without reading `gguf` at all. `repair` says in errors what to do about
    a wrong file. `verify` hashes the copy in full. Safe to call from several processes at once. Raises ModelError
    where the file is broken, cannot be converted, or there is no space for the copy.
    """
    sha256 = expected_sha256 or remembered("sha256", [gguf], lambda: file_sha256(gguf))
    directory = converted_models_directory() / f"{sha256[:16]}-{FORMAT_VERSION}"
    if is_whole(directory, verify=verify):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _locked(directory, on_progress):
            if not is_whole(directory, verify=verify):
                _remove_remains(directory)
                if expected_sha256 and (found := file_sha256(gguf)) != expected_sha256:
                    raise ModelError(f"expected SHA-256 {expected_sha256} of {gguf}, got {found}; {repair}")
                _convert(gguf, directory, repair, on_progress)
    except OSError as error:
        raise ModelError(
            f"expected to write the converted model to {directory.parent}, got {error}; "
            "set LIFT_CACHE to a directory that can be written to"
        ) from error
    return directory


def is_whole(directory: Path, *, verify: bool = False) -> bool:
    """Whether a converted copy has every file at its size; contents are hashed with `verify` or after a new mtime."""
    moved = False
    try:
        marker = json.loads((directory / MARKER).read_text("utf-8"))
        for name, known in marker["files"].items():
            file = directory / name
            stat = file.stat()
            if stat.st_size != known["size_bytes"]:
                return False
            changed = stat.st_mtime_ns != known["mtime_ns"]
            if (verify or changed) and file_sha256(file) != known["sha256"]:
                return False
            moved, known["mtime_ns"] = moved or changed, stat.st_mtime_ns
        whole = bool(marker["files"]) and isinstance(marker["fingerprint"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if whole and moved:
        # A cache that was copied elsewhere is hashed once, not on every load; read-only ones are, and still work.
        with suppress(OSError):
            _write_json(directory / MARKER, marker)
    return whole


def copy_fingerprint(directory: Path) -> str:
    """The fingerprint of a whole copy's weights, as its marker states it."""
    return str(json.loads((directory / MARKER).read_text("utf-8"))["fingerprint"])


def is_converted_copy(directory: Path) -> bool:
    """Whether Lift has made this directory, in its cache, of a GGUF file."""
    return directory.resolve().parent == converted_models_directory().resolve() and is_whole(directory)


def read_header(gguf: Path) -> GgufHeader:
    """The metadata of `gguf`; raises ModelError where it is not a GGUF file or is cut off."""
    with gguf.open("rb") as stream:
        if (magic := stream.read(4)) != b"GGUF":
            raise ModelError(f"expected a GGUF file, got {gguf}, which begins with {magic!r}; give another file")
    import gguf as gguf_format

    try:
        reader = gguf_format.GGUFReader(gguf)
        architecture = reader.fields["general.architecture"].contents()
        vocabulary = reader.fields.get("tokenizer.ggml.pre")
        return GgufHeader(
            architecture=str(architecture),
            vocabulary=str(vocabulary.contents()) if vocabulary else None,
            parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        )
    except _PARSE_ERRORS as error:
        raise ModelError(
            f"expected a whole GGUF file, got {gguf}, which is damaged or cut off ({_first_line(error)}); "
            "get the file again"
        ) from error


@contextmanager
def _locked(directory: Path, on_progress: Callable[[str], None] | None) -> Iterator[None]:
    lock = filelock.FileLock(f"{directory}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if on_progress:
            on_progress("waiting for another process that is preparing this model")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_remains(directory: Path) -> None:
    """Delete a damaged copy, and what killed conversions left; only the holder of the lock may do so."""
    for path in [directory, *directory.parent.glob(f"{directory.name}.*")]:
        if path.is_dir():
            shutil.rmtree(path)


def _convert(gguf: Path, directory: Path, repair: str, on_progress: Callable[[str], None] | None) -> None:
    header = read_header(gguf)
    bytes_per_parameter = 4 if header.parameters <= FLOAT32_UP_TO_PARAMETERS else 2
    needed_bytes = header.parameters * bytes_per_parameter
    free_bytes = shutil.disk_usage(directory.parent).free
    if free_bytes < needed_bytes * 1.05:
        raise ModelError(
            f"expected {needed_bytes / 1e9:.1f} GB free in {directory.parent} for the converted model, "
            f"got {free_bytes / 1e9:.1f} GB; free some, or set LIFT_CACHE to another disk"
        )
    if on_progress:
        on_progress(f"preparing {gguf.name} for first use ({needed_bytes / 1e6:.0f} MB, once)")
    temporary = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        _save_as_transformers(gguf.absolute(), temporary, header, float32=bytes_per_parameter == 4, repair=repair)
        _write_marker(temporary, weights_fingerprint(weight_files(temporary)))
        _sync(temporary)
        os.rename(temporary, directory)
        _sync(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if on_progress:
        on_progress(f"prepared {gguf.name}")


def _save_as_transformers(gguf: Path, directory: Path, header: GgufHeader, *, float32: bool, repair: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.float32 if float32 else torch.bfloat16
    # The (still empty) target stands for the model's directory: beside the GGUF file may lie a configuration,
    # tokenizer or adapter of another model, which transformers would mix in.
    source: dict[str, Any] = {"gguf_file": str(gguf), "local_files_only": True}
    try:
        # The dequantiser's progress bar has no switch of its own; it writes to stderr.
        with loading(), quiet_transformers(), redirect_stderr(io.StringIO()):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory, dtype=dtype, output_loading_info=True, **source
            )
            model, report = loaded
            tokenizer: Any = AutoTokenizer.from_pretrained(directory, **source)
            _mend_splitting(tokenizer, header.vocabulary)
            if report["missing_keys"]:
                missing = ", ".join(sorted(report["missing_keys"])[:3])
                raise ModelError(f"expected all weights in {gguf}, got none for {missing}; {repair}")
            # These say "quantised" and would be saved; the weights no longer are.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    except _PARSE_ERRORS as error:
        raise ModelError(
            f"expected a GGUF file that can be converted, got {gguf} of architecture {header.architecture!r} "
            f"({_first_line(error)}); give the model as a transformers directory instead"
        ) from error


def _mend_splitting(tokenizer: Any, vocabulary: str | None) -> None:
    if vocabulary in _DIGIT_SPLITTING_VOCABULARIES:
        from tokenizers import pre_tokenizers

        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _write_marker(directory: Path, fingerprint: str) -> None:
    files = {}
    for path in sorted(path for path in directory.iterdir() if path.name != MARKER):
        stat = path.stat()
        files[path.name] = {
            "size_bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": file_sha256(path),
        }
    marker = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "files": files}
    _write_json(directory / MARKER, marker)


def _write_json(path: Path, value: Any) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=2) + "\n")
    os.replace(stream.name, path)


def _sync(directory: Path) -> None:
    """Bring a directory's files and entries to the disk, so that a rename never outlives them."""
    for path in [*directory.iterdir(), directory]:
        if path.is_file() or path == directory:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
