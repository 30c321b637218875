"""One memory on disk: what is written for it, and an opened one, which reads each file when it is first asked for.

    NAME/memory.json                           the manifest, see manifest.py
         adapter/adapter_config.json           PEFT's own layout: PEFT, vLLM and others load the directory as it is
         adapter/adapter_model.safetensors
         document.txt, places.jsonl            the text, and where in the original its parts stood
         tasks.jsonl, training.jsonl, recall.jsonl

Every file is checked against its hash in the manifest before anything is made of it: an adapter with one flipped bit
still runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift.documents.document import Document, Part, Place
from lift.errors import LibraryError, WrongBaseModelError
from lift.memories.identity import AbsorptionIdentity
from lift.memories.manifest import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_STATE_FILE,
    DOCUMENT_FILE,
    MANIFEST_FILE,
    PLACES_FILE,
    RECALL_FILE,
    TASKS_FILE,
    TRAINING_FILE,
    BaseRecord,
    Cost,
    DocumentRecord,
    FileRecord,
    Manifest,
    PartRecord,
    RecallPoint,
    RecallSummary,
    Sizes,
    installed_versions,
    read_manifest,
)
from lift.models.base_identity import BaseIdentity
from lift.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

# PEFT's files name tensors as its wrapper module sees them; in memory they are named as the bare model sees them.
_PEFT_PREFIX = "base_model.model."


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
        """Every file of the memory as (relative path, content), memory.json last, one in the process at a time."""
        records: dict[str, FileRecord] = {}
        for path, content in self._contents():
            records[path] = FileRecord(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            yield path, content
        yield MANIFEST_FILE, self._manifest(records).to_json()

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        yield ADAPTER_CONFIG_FILE, (json.dumps(dict(self.adapter_config), indent=2) + "\n").encode("utf-8")
        if self.adapter_state:
            yield ADAPTER_STATE_FILE, _tensors_to_bytes(self.adapter_state)
        yield DOCUMENT_FILE, self.document.text.encode("utf-8")
        rows = ({"start": each.start, "page": each.page, "heading": each.heading} for each in self.document.places)
        yield PLACES_FILE, _to_lines(rows)
        yield TASKS_FILE, _to_lines(asdict(task) for task in self.tasks)
        yield TRAINING_FILE, _to_lines(self.training)
        yield RECALL_FILE, _to_lines(self.recall)

    def _manifest(self, files: dict[str, FileRecord]) -> Manifest:
        title = _encodable(self.document.title)
        return Manifest(
            name=self.name,
            title=title,
            document=DocumentRecord(
                title=title,
                source=_encodable(self.document.source),
                sha256=files[DOCUMENT_FILE].sha256,
                parts=tuple(
                    PartRecord(start=part.start, title=_encodable(part.title), source=_encodable(part.source))
                    for part in self.document.parts
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


class Memory:
    """An opened memory. Reading any part of it raises LibraryError where its file is missing or changed."""

    def __init__(self, name: str, directory: Path, manifest: Manifest) -> None:
        self.name = name
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path, name: str | None = None) -> Memory:
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
        places = tuple(Place(**row) for row in self._rows(PLACES_FILE))
        parts = tuple(Part(part.start, part.title, part.source) for part in record.parts)
        return Document(record.title, self._read(DOCUMENT_FILE).decode("utf-8"), record.source, places, parts)

    @cached_property
    def tasks(self) -> list[Task]:
        """Every task, those that were held back to probe recall among them."""
        return [Task(**{**row, "evidence": tuple(row["evidence"])}) for row in self._rows(TASKS_FILE)]

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """One row a step."""
        return self._rows(TRAINING_FILE)

    @cached_property
    def recall(self) -> list[dict[str, Any]]:
        """One row a probe."""
        return self._rows(RECALL_FILE)

    @cached_property
    def adapter_config(self) -> dict[str, Any]:
        """PEFT's description of the adapter."""
        config: dict[str, Any] = json.loads(self._read(ADAPTER_CONFIG_FILE))
        return config

    @property
    def adapter_directory(self) -> Path:
        """What PEFT and servers that read PEFT's layout load."""
        return self.directory / Path(ADAPTER_STATE_FILE).parent

    def load_adapter_state(self) -> dict[str, Tensor]:
        """The adapter's tensors on the CPU, named as the bare base model names its modules; not kept here."""
        from safetensors.torch import load

        state = load(self._read(ADAPTER_STATE_FILE))
        return {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in state.items()}

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
                with (self.directory / path).open("rb") as stream:
                    size_bytes = stream.seek(0, 2)
                    stream.seek(0)
                    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError:
                found.append(Problem(self.name, path, "missing"))
                continue
            except OSError as error:
                found.append(Problem(self.name, path, f"cannot be read ({error.strerror})"))
                continue
            if size_bytes != record.size_bytes:
                found.append(Problem(self.name, path, f"expected {record.size_bytes} bytes, got {size_bytes}"))
            elif sha256 != record.sha256:
                found.append(Problem(self.name, path, f"expected SHA-256 {record.sha256[:12]}, got {sha256[:12]}"))
        if self.manifest.document.sha256 != self.manifest.files[DOCUMENT_FILE].sha256:
            found.append(Problem(self.name, MANIFEST_FILE, "states two different hashes of the document"))
        return found + [Problem(self.name, path, "does not belong to the memory") for path in self._surplus()]

    def _surplus(self) -> list[str]:
        # hidden files are left by file managers everywhere, and nothing of a memory is hidden
        here = [path.relative_to(self.directory) for path in self.directory.rglob("*") if not path.is_dir()]
        expected = {MANIFEST_FILE, *self.manifest.files}
        return sorted(
            path.as_posix() for path in here if path.as_posix() not in expected and not path.name.startswith(".")
        )

    def _rows(self, path: str) -> list[dict[str, Any]]:
        # not splitlines: JSON leaves line separators such as U+2028 as they are
        return [json.loads(line) for line in self._read(path).decode("utf-8").split("\n") if line]

    def _read(self, path: str) -> bytes:
        try:
            content = (self.directory / path).read_bytes()
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
        else:
            if hashlib.sha256(content).hexdigest() == self.manifest.files[path].sha256:
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


def _tensors_to_bytes(state: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    tensors = {_PEFT_PREFIX + key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    return save(tensors, metadata={"format": "pt"})


def _to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def _encodable(text: str) -> str:
    """Titles and sources come from file names, which need not be valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")
