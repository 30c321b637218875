"""One memory on disk: what is written for it, and an opened one, which reads each file when it is first asked for.

    NAME/memory.json                           the manifest, see manifest.py
         adapter/adapter_config.json           PEFT's own layout: PEFT, vLLM and others load the directory as it is
         adapter/adapter_model.safetensors
         document.txt, places.jsonl            the text, and where in the original its parts stood
         tasks.jsonl, training.jsonl, recall.jsonl

Every file is checked against its size and hash in the manifest before anything is made of it: an adapter with one
flipped bit still runs. What is made of it is checked as well (row_validation.py): hash and file may come from the same
stranger.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lift.documents.document import Document, DocumentPart, Omission, grouped_omissions
from lift.documents.language import document_language
from lift.errors import LibraryError, WrongBaseModelError
from lift.memories.durable import open_inside, read_inside
from lift.memories.identity import AbsorptionIdentity
from lift.memories.manifest import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_STATE_FILE,
    DOCUMENT_FILE,
    MANIFEST_FILE,
    MAX_SOURCE_CHARS,
    MAX_TITLE_CHARS,
    MOST_OMISSIONS,
    PLACES_FILE,
    RECALL_FILE,
    TASKS_FILE,
    TRAINING_FILE,
    BaseRecord,
    Cost,
    DocumentRecord,
    FileRecord,
    Manifest,
    OmissionRecord,
    PartRecord,
    RecallPoint,
    RecallSummary,
    Sizes,
    build_manifest,
    installed_versions,
    printable,
    read_manifest,
)
from lift.memories.row_validation import (
    read_adapter_config,
    read_places,
    read_probes,
    read_steps,
    read_tasks,
    read_text,
)
from lift.models.base_identity import BaseIdentity
from lift.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

# PEFT's files name tensors as its wrapper module sees them; in memory they are named as the bare model sees them.
_PEFT_PREFIX = "base_model.model."
_Read = TypeVar("_Read")


@dataclass(frozen=True, kw_only=True)
class MemoryDraft:
    """Everything that absorbing yields, before it is written.

    `recipe` is the whole recipe, `training` has one row a step, `recall` one row a probe. `adapter_state` is named as
    the bare base model names its modules, and empty for a model at an endpoint. `recall_history` is how recall went
    over the memory's life, `generation` what its task generator asked, got and rejected. `absorption_key` identifies
    document, base model, recipe and budget: the same key means the same memory. `identity` tells what it was made of;
    a model at an endpoint has none.
    """

    name: str
    document: Document
    base_id: str
    base_fingerprint: str
    recipe_name: str
    recipe: Mapping[str, Any]
    seeds: Mapping[str, int]
    absorption_key: str
    adapter_config: Mapping[str, Any]
    adapter_state: Mapping[str, Tensor]
    tasks: Sequence[Task]
    training: Sequence[Mapping[str, Any]]
    recall: Sequence[Mapping[str, Any]]
    recall_summary: RecallSummary
    recall_history: Sequence[RecallPoint] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)
    document_tokens: int
    sentences: int
    cost: Cost
    identity: AbsorptionIdentity | None = None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file of the memory as (relative path, content), memory.json last, one in the process at a time.

        Raises LibraryError for weights that are not finite, and for what no manifest may say.
        """
        records: dict[str, FileRecord] = {}
        for path, content in self._contents():
            records[path] = FileRecord(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            yield path, content
        yield MANIFEST_FILE, self._manifest(records).to_json()

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        yield ADAPTER_CONFIG_FILE, (json.dumps(dict(self.adapter_config), indent=2) + "\n").encode("utf-8")
        if self.adapter_state:
            _check_finite(self.name, self.adapter_state)
            yield ADAPTER_STATE_FILE, _tensors_to_bytes(self.adapter_state)
        yield DOCUMENT_FILE, self.document.text.encode("utf-8")
        rows = ({"start": each.start, "page": each.page, "heading": each.heading} for each in self.document.places)
        yield PLACES_FILE, _to_lines(rows)
        yield TASKS_FILE, _to_lines(asdict(task) for task in self.tasks)
        yield TRAINING_FILE, _to_lines(self.training)
        yield RECALL_FILE, _to_lines(self.recall)

    def _manifest(self, files: dict[str, FileRecord]) -> Manifest:
        title = printable(self.document.title, MAX_TITLE_CHARS)
        return build_manifest(
            name=self.name,
            title=title,
            document=DocumentRecord(
                title=title,
                source=printable(self.document.source, MAX_SOURCE_CHARS),
                sha256=files[DOCUMENT_FILE].sha256,
                parts=tuple(
                    PartRecord(
                        start=part.start,
                        title=printable(part.title, MAX_TITLE_CHARS),
                        source=printable(part.source, MAX_SOURCE_CHARS),
                    )
                    for part in self.document.parts
                ),
                language=document_language(self.document),
                omissions=tuple(
                    OmissionRecord(
                        kind=printable(each.kind, MAX_TITLE_CHARS),
                        page=each.page,
                        file=None if each.file is None else printable(each.file, MAX_SOURCE_CHARS),
                        count=each.count,
                    )
                    for each in grouped_omissions(self.document.omissions, MOST_OMISSIONS)
                ),
            ),
            base=BaseRecord(id=self.base_id, fingerprint=self.base_fingerprint),
            recipe_name=self.recipe_name,
            recipe=dict(self.recipe),
            seeds=dict(self.seeds),
            versions=installed_versions(),
            sizes=Sizes(
                document_chars=len(self.document.text),
                document_tokens=self.document_tokens,
                sentences=self.sentences,
                tasks=len(self.tasks),
                adapter_parameters=sum(tensor.numel() for tensor in self.adapter_state.values()),
            ),
            cost=self.cost,
            recall=self.recall_summary,
            recall_history=tuple(self.recall_history),
            generation=dict(self.generation),
            absorption_key=self.absorption_key,
            identity=self.identity,
            created_at=datetime.now(UTC).replace(microsecond=0),
            files=files,
        )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file of a memory."""

    memory: str
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.memory}/{self.file}: {self.what}"


class StoredMemory:
    """An opened memory. Reading any part of it raises LibraryError where its file is missing or changed."""

    def __init__(self, name: str, directory: Path, manifest: Manifest) -> None:
        self.name = name
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path, name: str | None = None) -> StoredMemory:
        """Open the memory in `directory`; raises LibraryError where its manifest is missing, damaged or too new.

        It is called `name`, else as the directory is: a directory that was copied or renamed by hand goes by its new
        name, whatever its manifest says.
        """
        name = name or directory.name
        try:
            manifest = read_manifest(directory)
        except OSError as error:
            raise LibraryError(
                f"the memory in {directory} cannot be read ({error.strerror}); check its disk and its permissions"
            ) from error
        return cls(name, directory, manifest if manifest.name == name else manifest.model_copy(update={"name": name}))

    def __repr__(self) -> str:
        return f"Memory({self.name!r}, {str(self.directory)!r})"

    @cached_property
    def document(self) -> Document:
        """The document, with its title, source and places as they were read."""
        record = self.manifest.document
        content, rows = self._read(DOCUMENT_FILE), self._read(PLACES_FILE)
        text = self._parsed(DOCUMENT_FILE, lambda: read_text(content, record))
        places = self._parsed(PLACES_FILE, lambda: read_places(rows, len(text)))
        parts = tuple(DocumentPart(part.start, part.title, part.source) for part in record.parts)
        omissions = tuple(Omission(each.kind, each.page, each.file, each.count) for each in record.omissions)
        return Document(record.title, text, record.source, places, parts, omissions, record.language)

    @cached_property
    def tasks(self) -> list[Task]:
        """Every task, those that were held out to probe recall among them."""
        content = self._read(TASKS_FILE)
        return self._parsed(TASKS_FILE, lambda: read_tasks(content, self.manifest.sizes))

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """One row a step."""
        content = self._read(TRAINING_FILE)
        return self._parsed(TRAINING_FILE, lambda: read_steps(content))

    @cached_property
    def recall(self) -> list[dict[str, Any]]:
        """One row a probe."""
        content = self._read(RECALL_FILE)
        return self._parsed(RECALL_FILE, lambda: read_probes(content, self.manifest.sizes))

    @cached_property
    def adapter_config(self) -> dict[str, Any]:
        """PEFT's description of the adapter."""
        content = self._read(ADAPTER_CONFIG_FILE)
        return self._parsed(ADAPTER_CONFIG_FILE, lambda: read_adapter_config(content))

    def load_adapter_state(self) -> dict[str, Tensor]:
        """The adapter's tensors on the CPU, named as the bare base model names its modules; not kept here."""
        content = self._read(ADAPTER_STATE_FILE)
        state = self._parsed(ADAPTER_STATE_FILE, lambda: _bytes_to_tensors(content))
        _check_finite(self.name, state)
        return state

    def check_base(self, model_id: str, fingerprint: str, identity: BaseIdentity | None = None) -> None:
        """Raise WrongBaseModelError unless `fingerprint` is that of the weights the adapter was trained on.

        Nor may tokenizer and chat template be others than those. The id may differ, since the same weights can lie at
        another place, and so may the number types: a memory moves between machines.
        """
        base, made = self.manifest.base, self.manifest.identity
        misfit = made.base.misfit(identity) if made is not None and identity is not None else None
        if fingerprint == base.fingerprint and misfit is not None:
            raise WrongBaseModelError(
                f"the memory {self.name!r} was made with {misfit} than {model_id} has, "
                f"though the weights are the same; use --model {base.id}, or absorb the text again"
            )
        if fingerprint != base.fingerprint:
            raise WrongBaseModelError(
                f"the memory {self.name!r} belongs to the base model {base.id} (weights {base.fingerprint[:12]}), "
                f"got {model_id} (weights {fingerprint[:12]}); use --model {base.id}, or absorb the text again"
            )

    def copied_files(self, name: str) -> Iterator[tuple[str, bytes]]:
        """Every file of a copy that is called `name`, checked; as MemoryDraft.files."""
        for path in self.manifest.files:
            yield path, self._read(path)
        yield MANIFEST_FILE, self.manifest.model_copy(update={"name": name}).to_json()

    def problems(self) -> list[Problem]:
        """Compare size and hash of every file with the manifest, and name files that do not belong here."""
        found = []
        for path, record in self.manifest.files.items():
            try:
                with open_inside(self.directory, path) as descriptor:
                    size_bytes = os.fstat(descriptor).st_size
                    if size_bytes != record.size_bytes:
                        said = f"expected {record.size_bytes} bytes, got {size_bytes}"
                        found.append(Problem(self.name, path, said))
                        continue
                    with open(descriptor, "rb", closefd=False) as stream:
                        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError:
                found.append(Problem(self.name, path, "missing"))
                continue
            except OSError as error:
                found.append(Problem(self.name, path, f"cannot be read ({error.strerror})"))
                continue
            if sha256 != record.sha256:
                found.append(Problem(self.name, path, f"expected SHA-256 {record.sha256[:12]}, got {sha256[:12]}"))
        if self.manifest.document.sha256 != self.manifest.files[DOCUMENT_FILE].sha256:
            found.append(Problem(self.name, MANIFEST_FILE, "states two different hashes of the document"))
        return found + [Problem(self.name, path, "does not belong to the memory") for path in self._surplus()]

    def _surplus(self) -> list[str]:
        """Files that do not belong to the memory; none where it has just been taken away."""
        expected = {MANIFEST_FILE, *self.manifest.files}
        found = []
        for folder, _, names in os.walk(self.directory, onerror=_unless_gone):
            # hidden files are left by file managers everywhere, and nothing of a memory is hidden
            paths = [Path(folder, name).relative_to(self.directory).as_posix() for name in names if name[0] != "."]
            found += [path for path in paths if path not in expected]
        return sorted(found)

    def _parsed(self, path: str, parse: Callable[[], _Read]) -> _Read:
        try:
            return parse()
        except ValueError as error:
            raise LibraryError(
                f"{path} of the memory {self.name!r} is damaged ({printable(str(error), MAX_TITLE_CHARS)}); remove the "
                "memory and absorb the text again"
            ) from None

    def _read(self, path: str) -> bytes:
        record = self.manifest.files[path]
        try:
            content = read_inside(self.directory, path, record.size_bytes)
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
        else:
            if hashlib.sha256(content).hexdigest() == record.sha256:
                return content
            what = "does not have the content that its manifest states"
        if self._was_replaced():
            raise LibraryError(
                f"the memory {self.name!r} was replaced, renamed or removed while it was open; open it again"
            )
        raise LibraryError(
            f"{path} of the memory {self.name!r} {what}; "
            f"run `lift verify {self.name!r}`, then remove the memory and absorb the text again"
        )

    def _was_replaced(self) -> bool:
        try:
            return read_manifest(self.directory).files != self.manifest.files
        except OSError:
            return False
        except LibraryError:
            return not self.directory.exists()


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise LibraryError(
            f"{error.filename}: expected a folder that can be read, got {error.strerror}; mend its permissions"
        ) from error


def _tensors_to_bytes(state: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    tensors = {_PEFT_PREFIX + key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    return save(tensors, metadata={"format": "pt"})


def _bytes_to_tensors(content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in state.items()}


def _check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise LibraryError for weights that would answer nonsense, here and beside it in the same batch."""
    damaged = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if damaged:
        raise LibraryError(
            f"expected finite weights in the memory {name!r}, got others in {len(damaged)} of {len(state)} tensors; "
            "absorb the text again with a lower training.learning_rate"
        )


def _to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
