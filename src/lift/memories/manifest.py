"""memory.json: what a memory is made of, where it came from, and the hash of every other file of it.

Its last line is the hash of all the lines before it, so that a flipped bit in the manifest is noticed as one elsewhere
is. It guards against faults, not against a stranger, who can write any hash. The format version guards against a
silent fault: a file written by a newer Lift, half understood. A manifest may come
from a stranger: all of it is judged here, when it is read and before it is written, and nothing that is made of it can
be a path, a control character for a terminal, or a number out of range.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from lift.documents.document import Omission, omission_warnings
from lift.errors import LibraryError
from lift.memories.durable import ForeignFileError, read_inside
from lift.memories.identity import AbsorptionIdentity
from lift.memories.key_index import KEY_PATTERN
from lift.memories.memory_names import is_valid_name
from lift.recipes.recipe import Recipe

FORMAT_VERSION = 3
MANIFEST_FILE = "memory.json"
ADAPTER_CONFIG_FILE = "adapter/adapter_config.json"
ADAPTER_STATE_FILE = "adapter/adapter_model.safetensors"
DOCUMENT_FILE = "document.txt"
PLACES_FILE = "places.jsonl"
TASKS_FILE = "tasks.jsonl"
TRAINING_FILE = "training.jsonl"
RECALL_FILE = "recall.jsonl"
_MIB = 1 << 20
MAX_ADAPTER_CONFIG_BYTES = _MIB
MAX_ADAPTER_BYTES = 16384 * _MIB
# The largest that each file is read as: far above what a text of a million sentences makes, far below any memory.
_MAX_BYTES = {
    ADAPTER_CONFIG_FILE: MAX_ADAPTER_CONFIG_BYTES,
    ADAPTER_STATE_FILE: MAX_ADAPTER_BYTES,
    DOCUMENT_FILE: 1024 * _MIB,
    PLACES_FILE: 1024 * _MIB,
    TASKS_FILE: 8192 * _MIB,
    TRAINING_FILE: 4096 * _MIB,
    RECALL_FILE: 4096 * _MIB,
}
MAX_MANIFEST_BYTES = 16 * _MIB
MAX_TITLE_CHARS = 1_000
MAX_SOURCE_CHARS = 4_096
_MOST_PARTS = 10_000
MOST_OMISSIONS = 10_000
_MOST_POINTS = 100_000
# the last line, with the hash of the JSON that is left without it
_SEAL = re.compile(rb',\n  "manifest_sha256": "([0-9a-f]{64})"\n}\n\Z')
# of each package its name on the index, where Lift's own is another's
_RECORDED_PACKAGES = {"lift": "lift-memory", "torch": "torch", "transformers": "transformers", "peft": "peft"}


def most_bytes(path: str) -> int | None:
    """The largest that the file `path` of a memory may be, in bytes; None for one that no memory has."""
    return _MAX_BYTES.get(path)


def printable(text: str, most_chars: int) -> str:
    """`text` as a manifest may hold it: in one line, without control characters and halves of characters, cut."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if _is_control(char) else char for char in whole)[:most_chars]


def _is_control(char: str) -> bool:
    # Cc: the terminal's own; Zl, Zp: line ends; Cs: halves of characters
    return unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")


def _without_control(text: str) -> str:
    if not (text.isascii() and text.isprintable()) and any(_is_control(char) for char in text):
        raise ValueError("expected text without control characters")
    return text


def _named(name: str) -> str:
    if not is_valid_name(name):
        raise ValueError("expected a name that a memory may have")
    return name


Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Line = Annotated[str, StringConstraints(max_length=MAX_TITLE_CHARS), AfterValidator(_without_control)]
Source = Annotated[str, StringConstraints(max_length=MAX_SOURCE_CHARS), AfterValidator(_without_control)]
_Word = Annotated[str, StringConstraints(max_length=200), AfterValidator(_without_control)]
_Reasons = Annotated[dict[_Word, Count], Field(max_length=1_000)]


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """Content hash (hex) and size of one file of the memory."""

    sha256: Sha256
    size_bytes: Count


class PartRecord(_Record):
    """One of several documents that were joined: where its text starts, in characters of the whole."""

    start: Count
    title: Line
    source: Source


class OmissionRecord(_Record):
    """Parts of the original that are not in the text: their kind, page, file, and how many they are."""

    kind: Line
    page: Count | None = None
    file: Source | None = None
    count: Annotated[int, Field(ge=1, lt=1 << 53)] = 1


class DocumentRecord(_Record):
    """Which document the memory holds; `sha256` is of its text, `source` is where it was read from.

    `parts` is empty for a memory of one document. `language` is the ISO 639 code that its sentences are split by.
    `omissions`: what of the original is not in the text.
    """

    title: Line
    source: Source
    sha256: Sha256
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2,8}$")] = "en"
    parts: Annotated[tuple[PartRecord, ...], Field(max_length=_MOST_PARTS)] = ()
    omissions: Annotated[tuple[OmissionRecord, ...], Field(max_length=2 * MOST_OMISSIONS)] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """As Document.warnings."""
        return omission_warnings([Omission(each.kind, each.page, each.file, each.count) for each in self.omissions])

    @field_validator("parts")
    @classmethod
    def _in_order(cls, parts: tuple[PartRecord, ...]) -> tuple[PartRecord, ...]:
        starts = [part.start for part in parts]
        if starts and (starts[0] != 0 or any(later <= earlier for earlier, later in pairwise(starts))):
            raise ValueError("expected parts that begin at 0, each behind the one before")
        return parts


class BaseRecord(_Record):
    """The base model that the adapter belongs to; the fingerprint decides, the id helps to find it again."""

    id: Source
    fingerprint: Sha256


class Sizes(_Record):
    """How much went in, and how much came out."""

    document_chars: Count
    document_tokens: Count
    sentences: Count
    tasks: Count
    adapter_parameters: Count


class Cost(_Record):
    """The cost of absorbing: wall time (and its forecast), optimiser steps, tokens computed, and on what device."""

    seconds: Seconds
    predicted_s: Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)] | None = None
    steps: Count
    tokens: Count
    device: Source
    peak_memory_bytes: Count | None = None


class RecallSummary(_Record):
    """How many of the document's sentences were probed, and how many of those the memory could be shown to know."""

    sentences: Count
    probed: Count
    recalled: Count

    @model_validator(mode="after")
    def _recalled_of_probed(self) -> Self:
        if self.recalled > self.probed:
            raise ValueError("expected no more recalled than probed")
        return self

    @property
    def share(self) -> float:
        """Share of the probed sentences that were recalled, 0 to 1."""
        return self.recalled / self.probed if self.probed else 0.0


class RecallPoint(_Record):
    """Recall at one moment of a memory's life.

    `what`: "absorbed", "rehearsed", or which part was asked about before and after a text was added. `seconds`: of
    work on the memory up to then.
    """

    what: Line
    seconds: Seconds
    probed: Count
    recalled: Count


class GenerationRecord(_Record):
    """Counts of the task generator's requests, tasks and rejections (tasks.generation.GenerationCounts)."""

    requests: Count = 0
    answered: Count = 0
    from_cache: Count = 0
    failed: _Reasons = {}
    retried: _Reasons = {}
    kept: Count = 0
    rejected: _Reasons = {}


class Manifest(_Record):
    """The content of memory.json. `files` maps each relative path ("adapter/...") of the memory to its record."""

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    name: Annotated[str, AfterValidator(_named)]
    title: Line
    document: DocumentRecord
    base: BaseRecord
    recipe_name: Line
    recipe: dict[str, Any]
    seeds: Annotated[dict[_Word, Count], Field(max_length=100)]
    versions: Annotated[dict[_Word, _Word], Field(max_length=100)]
    sizes: Sizes
    cost: Cost
    recall: RecallSummary
    recall_history: Annotated[tuple[RecallPoint, ...], Field(max_length=_MOST_POINTS)] = ()
    generation: dict[str, Any] = {}
    absorption_key: Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
    identity: AbsorptionIdentity | None = None
    created_at: AwareDatetime
    files: dict[str, FileRecord]

    @field_validator("recipe")
    @classmethod
    def _is_recipe(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        return Recipe.model_validate(recipe).model_dump(mode="json", exclude_unset=True)

    @field_validator("generation")
    @classmethod
    def _are_counts(cls, generation: dict[str, Any]) -> dict[str, Any]:
        return GenerationRecord.model_validate(generation).model_dump(mode="json", exclude_unset=True)

    @field_validator("created_at")
    @classmethod
    def _in_our_time(cls, created_at: AwareDatetime) -> AwareDatetime:
        if not 1970 <= created_at.year < 3000:  # in local time, the very first and last of the calendar are none
            raise ValueError("expected a time between 1970 and 3000")
        return created_at

    @field_validator("files")
    @classmethod
    def _exactly_the_known_files(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        # a manifest may come from elsewhere: a file that it leaves out is never checked, one outside is never ours
        # a memory that is a fine-tuned model at an endpoint has no weights of its own
        if set(files) | {ADAPTER_STATE_FILE} != set(_MAX_BYTES):
            got = printable(", ".join(files), MAX_TITLE_CHARS) or "none"
            raise ValueError(f"expected the files {', '.join(_MAX_BYTES)}, got {got}")
        for path, record in files.items():
            if record.size_bytes > _MAX_BYTES[path]:
                raise ValueError(f"expected {path} of at most {_MAX_BYTES[path]:,} bytes, got {record.size_bytes:,}")
        return files

    @property
    def adapter_id(self) -> str:
        """The identity of the adapter: of its tensors and of its configuration, which says what they mean."""
        hashes = [self.files[path].sha256 for path in (ADAPTER_CONFIG_FILE, ADAPTER_STATE_FILE)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of memory.json, the hash of themselves in the last line."""
        return seal_manifest(self.model_dump(mode="json"))

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all files but memory.json itself."""
        return sum(record.size_bytes for record in self.files.values())


def seal_manifest(values: Mapping[str, Any]) -> bytes:
    """The bytes of a memory.json of these values, the hash of themselves in the last line."""
    body = (json.dumps(dict(values), ensure_ascii=False, indent=2) + "\n").encode("utf-8")
    sha256 = hashlib.sha256(body).hexdigest()
    return body.removesuffix(b"\n}\n") + f',\n  "manifest_sha256": "{sha256}"\n}}\n'.encode()


def _unsealed(content: bytes) -> tuple[bytes, bool | None]:
    """The JSON without its last line, and whether that was the hash of it; None where there is no such line."""
    sealed = _SEAL.search(content)
    if sealed is None:
        return content, None
    body = content[: sealed.start()] + b"\n}\n"
    return body, hashlib.sha256(body).hexdigest().encode() == sealed[1]


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the memory in `directory`.

    Raises LibraryError where it is missing, damaged, or of another format than this Lift's, and OSError where the disk
    fails.
    """
    path = directory / MANIFEST_FILE
    try:
        content = read_inside(directory, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise LibraryError(
            f"expected the manifest {path}, found none; the memory is damaged: remove it and absorb the text again"
        ) from None
    except ForeignFileError as error:
        raise _damaged(path, f"it is {error.strerror}") from None
    return parse_manifest(content, path)


def parse_manifest(sealed: bytes, place: object) -> Manifest:
    """The manifest of these bytes, which lie at `place`; raises LibraryError as read_manifest."""
    try:
        content, is_whole = _unsealed(sealed)
        with contextlib.suppress(ValidationError):  # in one pass; what is wrong is found out below
            if is_whole and (manifest := Manifest.model_validate_json(content)).format_version == FORMAT_VERSION:
                return manifest
        values = json.loads(content)
        format_version = values["format_version"]
        if not isinstance(format_version, int) or format_version < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(place, "it is not the JSON of a memory") from None
    if is_whole is False or (format_version == FORMAT_VERSION and not is_whole):
        raise _damaged(place, "it does not have the content that its last line, a hash, states")
    if format_version < FORMAT_VERSION:
        raise LibraryError(
            f"{place} has format version {format_version}, this Lift reads {FORMAT_VERSION}; absorb its text again"
        )
    if format_version > FORMAT_VERSION:
        raise LibraryError(
            f"{place} has format version {format_version}, this Lift reads up to {FORMAT_VERSION}; upgrade Lift"
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _damaged(place, first_problem(error)) from None


def build_manifest(**values: Any) -> Manifest:
    """A manifest of what is to be written; raises LibraryError, naming the value, where it may not be."""
    try:
        return Manifest(**values)
    except ValidationError as error:
        raise LibraryError(
            f"expected a memory that can be written down, got one that cannot ({first_problem(error)}); "
            "please report it"
        ) from None


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, with where it stands."""
    first = error.errors()[0]
    key = printable(".".join(str(part) for part in first["loc"]), 200)
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said[:1].lower()}{said[1:]}"[:500]


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape a memory, read without importing them."""
    return {package: _installed_version(distribution) for package, distribution in _RECORDED_PACKAGES.items()}


@functools.cache
def _installed_version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed as a package"


def _damaged(path: object, reason: str) -> LibraryError:
    return LibraryError(f"the manifest {path} is damaged ({reason}); remove the memory and absorb the text again")
