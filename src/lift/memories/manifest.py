"""memory.json: what a memory is made of, where it came from, and the hash of every other file of it.

The format version guards against a silent fault: a file written by a newer Lift, half understood.
"""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lift.errors import LibraryError
from lift.memories.identity import AbsorptionIdentity

FORMAT_VERSION = 1
MANIFEST_FILE = "memory.json"
ADAPTER_CONFIG_FILE = "adapter/adapter_config.json"
ADAPTER_STATE_FILE = "adapter/adapter_model.safetensors"
DOCUMENT_FILE = "document.txt"
PLACES_FILE = "places.jsonl"
TASKS_FILE = "tasks.jsonl"
TRAINING_FILE = "training.jsonl"
RECALL_FILE = "recall.jsonl"
_FILES = (
    ADAPTER_CONFIG_FILE,
    ADAPTER_STATE_FILE,
    DOCUMENT_FILE,
    PLACES_FILE,
    TASKS_FILE,
    TRAINING_FILE,
    RECALL_FILE,
)
# of each package its name on the index, where Lift's own is another's
_RECORDED_PACKAGES = {"lift": "lift-memory", "torch": "torch", "transformers": "transformers", "peft": "peft"}


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """Content hash (hex) and size of one file of the memory."""

    sha256: str
    size_bytes: int


class PartRecord(_Record):
    """One of several documents that were joined: where its text starts, in characters of the whole."""

    start: int
    title: str
    source: str


class DocumentRecord(_Record):
    """Which document the memory holds; `sha256` is of its text, `source` is where it was read from.

    `parts` is empty for a memory of one document.
    """

    title: str
    source: str
    sha256: str
    parts: tuple[PartRecord, ...] = ()


class BaseRecord(_Record):
    """The base model that the adapter belongs to; the fingerprint decides, the id helps to find it again."""

    id: str
    fingerprint: str


class Sizes(_Record):
    """How much went in, and how much came out."""

    document_chars: int
    document_tokens: int
    sentences: int
    tasks: int
    adapter_parameters: int


class Cost(_Record):
    """What absorbing took: wall time (and the forecast of it), optimiser steps, tokens computed, and on what device."""

    seconds: float
    predicted_s: float | None = None
    steps: int
    tokens: int
    device: str
    peak_memory_bytes: int | None = None


class RecallSummary(_Record):
    """How many of the document's sentences were probed, and how many of those the memory could be shown to know."""

    sentences: int
    probed: int
    recalled: int

    @property
    def share(self) -> float:
        """Share of the probed sentences that were recalled, 0 to 1."""
        return self.recalled / self.probed if self.probed else 0.0


class RecallPoint(_Record):
    """Recall at one moment of a memory's life.

    `what`: "absorbed", "rehearsed", or which part was asked about before and after a text was added. `seconds`: of
    work on the memory up to then.
    """

    what: str
    seconds: float
    probed: int
    recalled: int


class Manifest(_Record):
    """The content of memory.json. `files` maps each relative path ("adapter/...") of the memory to its record."""

    format_version: int = FORMAT_VERSION
    name: str
    title: str
    document: DocumentRecord
    base: BaseRecord
    recipe_name: str
    recipe: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    sizes: Sizes
    cost: Cost
    recall: RecallSummary
    recall_history: tuple[RecallPoint, ...] = ()
    generation: dict[str, Any] = {}
    absorption_key: str
    identity: AbsorptionIdentity | None = None
    created_at: datetime
    files: dict[str, FileRecord]

    @field_validator("files")
    @classmethod
    def _exactly_the_known_files(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        # a manifest may come from elsewhere: a file that it leaves out is never checked, one outside is never ours
        # a memory that is a fine-tuned model at an endpoint has no weights of its own
        if set(files) | {ADAPTER_STATE_FILE} != set(_FILES):
            raise ValueError(f"expected the files {', '.join(_FILES)}, got {', '.join(files) or 'none'}")
        return files

    def to_json(self) -> bytes:
        """The bytes of memory.json."""
        return (json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n").encode("utf-8")

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all files but memory.json itself."""
        return sum(record.size_bytes for record in self.files.values())


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the memory in `directory`.

    Raises LibraryError where it is missing, damaged, or of a newer format than this Lift knows, and OSError where the
    disk fails.
    """
    path = directory / MANIFEST_FILE
    try:
        content = path.read_bytes()
        with contextlib.suppress(ValidationError):  # in one pass; what is wrong is found out below
            manifest = Manifest.model_validate_json(content)
            if 1 <= manifest.format_version <= FORMAT_VERSION:
                return manifest
        values = json.loads(content)
        format_version = values["format_version"]
        if not isinstance(format_version, int) or format_version < 1:
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise LibraryError(
            f"expected the manifest {path}, found none; the memory is damaged: remove it and absorb the text again"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "it is not the JSON of a memory") from None
    if format_version > FORMAT_VERSION:
        raise LibraryError(
            f"{path} has format version {format_version}, this Lift reads up to {FORMAT_VERSION}; upgrade Lift"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape a memory, read without importing them."""
    versions = {}
    for package, distribution in _RECORDED_PACKAGES.items():
        try:
            versions[package] = version(distribution)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions


def _damaged(path: Path, reason: str) -> LibraryError:
    return LibraryError(f"the manifest {path} is damaged ({reason}); remove the memory and absorb the text again")
