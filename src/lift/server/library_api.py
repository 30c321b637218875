"""/api/memories: what the library holds, what each memory knows, and what can be done with it."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from lift.absorbing.recall_report import suggested_questions
from lift.documents.sentences import document_sentences
from lift.errors import UsageError
from lift.memories.manifest import ADAPTER_CONFIG_FILE, ADAPTER_STATE_FILE, Manifest, RecallPoint
from lift.memories.memory import StoredMemory
from lift.memories.memory_names import normal_name
from lift.server.access import Parts, needs, parts_of
from lift.server.bodies import Body
from lift.server.failures import documented
from lift.server.model_names import base_name, is_servable, open_memory
from lift.server.openai_models import Deleted

router = APIRouter(tags=["library"], responses=documented(400, 401, 403, 404, 409, 413, 429))
Name = Annotated[str, Path(description="A memory's name.")]
State = Literal["recalled", "forgotten", "not probed"]
SUGGESTIONS = 3
_CHUNK_BYTES = 1 << 20
_IN_MEMORY_BYTES = 1 << 24
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip archive of the adapter's directory, as PEFT lays it out.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Recall(BaseModel):
    """How many sentences were asked about, and how many of those the memory knew."""

    sentences: int
    probed: int
    recalled: int


class MemoryLine(BaseModel):
    """A memory in the list. `servable`: it sits on the model that this server has loaded."""

    name: str
    title: str
    source: str
    tokens: int
    sentences: int
    size_bytes: int
    recall: Recall
    base: str
    recipe: str
    servable: bool
    created_at: str


class DamagedMemory(BaseModel):
    """A memory that cannot be read, and why."""

    name: str
    damage: str


class MemoryList(BaseModel):
    """All memories, and those that cannot be read."""

    object: Literal["list"] = "list"
    data: list[MemoryLine]
    damaged: list[DamagedMemory]


class MemoryFacts(MemoryLine):
    """One memory: what it is made of, what it cost, how its recall went."""

    document_sha256: str
    document_chars: int
    adapter_parameters: int
    fingerprint: str
    settings: dict[str, Any]
    cost: dict[str, Any]
    recall_history: list[RecallPoint]
    versions: dict[str, str]


class Renaming(Body):
    """A memory's new name."""

    name: str = Field(min_length=1, max_length=100)


class SentenceState(BaseModel):
    """Characters `start` to `end` of the text (code points), and whether the memory was shown to know them."""

    index: int
    start: int
    end: int
    state: State


class PlaceLine(BaseModel):
    """From character `start` on, the text stood on this page, under this heading."""

    start: int
    page: int | None
    heading: str | None


class PartLine(BaseModel):
    """From character `start` on, the text is that of this document."""

    start: int
    title: str


class DocumentText(BaseModel):
    """The text of a memory, sentence by sentence."""

    title: str
    text: str
    sentences: list[SentenceState]
    places: list[PlaceLine]
    parts: list[PartLine]


class ProbeLine(BaseModel):
    """A question that was held out, asked closed book after the training."""

    sentence: int
    question: str
    expected: str
    answer: str
    recalled: bool


class RecallPage(Recall):
    """The recall report of a memory. `suggestions` are questions of it that a reader may ask."""

    probes: list[ProbeLine]
    suggestions: list[str]
    history: list[RecallPoint]


@router.get("/api/memories", dependencies=[needs("read")])
def list_memories(request: Request) -> MemoryList:
    """The memories in the order of their names."""
    parts = parts_of(request)
    lines, damaged = [], []
    for summary in parts.library.summaries():
        if summary.manifest is None:
            damaged.append(DamagedMemory(name=summary.name, damage="it cannot be read; see `lift verify`"))
        else:
            lines.append(MemoryLine(**_line(parts, summary.name, summary.manifest)))
    return MemoryList(data=lines, damaged=damaged)


@router.get("/api/memories/{name}", dependencies=[needs("read")])
def show_memory(request: Request, name: Name) -> MemoryFacts:
    """One memory."""
    return _facts(parts_of(request), open_memory(parts_of(request), name))


@router.patch("/api/memories/{name}", dependencies=[needs("admin")])
def rename_memory(request: Request, name: Name, body: Renaming) -> MemoryFacts:
    """Give a memory another name."""
    parts = parts_of(request)
    open_memory(parts, name)
    renamed = parts.library.rename(name, body.name)
    parts.engine.forget(normal_name(name))
    return _facts(parts, renamed)


@router.delete("/api/memories/{name}", dependencies=[needs("admin")])
def delete_memory(request: Request, name: Name) -> Deleted:
    """Delete a memory, its adapter, text and all."""
    parts = parts_of(request)
    open_memory(parts, name)
    parts.library.remove(name)
    parts.engine.forget(normal_name(name))
    return Deleted(id=name, object="memory")


@router.get("/api/memories/{name}/document", dependencies=[needs("read")])
def show_document(request: Request, name: Name) -> DocumentText:
    """The text, each sentence with what is known of it."""
    memory = open_memory(parts_of(request), name)
    document = memory.document
    states: dict[int, State] = {}
    for probe in memory.recall:
        known: State = "recalled" if probe["recalled"] else "forgotten"
        if states.get(probe["sentence"]) != "recalled":
            states[probe["sentence"]] = known
    return DocumentText(
        title=document.title,
        text=document.text,
        sentences=[
            SentenceState(index=each.index, start=each.start, end=each.end, state=states.get(each.index, "not probed"))
            for each in document_sentences(document)
        ],
        places=[PlaceLine(start=each.start, page=each.page, heading=each.heading) for each in document.places],
        parts=[PartLine(start=each.start, title=each.title) for each in document.parts],
    )


@router.get("/api/memories/{name}/recall", dependencies=[needs("read")])
def show_recall(request: Request, name: Name) -> RecallPage:
    """The held-out questions to the memory after its training, with its answers."""
    memory = open_memory(parts_of(request), name)
    recall = memory.manifest.recall
    return RecallPage(
        sentences=recall.sentences,
        probed=recall.probed,
        recalled=recall.recalled,
        probes=[ProbeLine.model_validate(probe) for probe in memory.recall],
        suggestions=suggested_questions(memory.recall, SUGGESTIONS),
        history=list(memory.manifest.recall_history),
    )


@router.get(
    "/api/memories/{name}/export", dependencies=[needs("read")], response_class=StreamingResponse, responses=_ZIP
)
def export(
    request: Request,
    name: Name,
    to: Annotated[
        Literal["peft"], Query(description="The layout: a directory that PEFT, vLLM and others load.")
    ] = "peft",
) -> StreamingResponse:
    """The adapter as a zip archive."""
    memory = open_memory(parts_of(request), name)
    if ADAPTER_STATE_FILE not in memory.manifest.files:
        raise UsageError(f"the memory {memory.name!r} is a model at an endpoint, which has no adapter to export")
    archive = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  # closed when it is sent
    wanted = {ADAPTER_CONFIG_FILE, ADAPTER_STATE_FILE}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path, content in memory.copied_files(memory.name):
            if path in wanted:
                packed.writestr(path.rpartition("/")[2], content)
    archive.seek(0)
    disposition = f"attachment; filename=\"memory.zip\"; filename*=UTF-8''{quote(memory.name, safe='')}.zip"
    return StreamingResponse(_sent(archive), media_type="application/zip", headers={"Content-Disposition": disposition})


def _sent(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while chunk := archive.read(_CHUNK_BYTES):
            yield chunk


def _facts(parts: Parts, memory: StoredMemory) -> MemoryFacts:
    manifest = memory.manifest
    return MemoryFacts(
        **_line(parts, memory.name, manifest),
        document_sha256=manifest.document.sha256,
        document_chars=manifest.sizes.document_chars,
        adapter_parameters=manifest.sizes.adapter_parameters,
        fingerprint=manifest.base.fingerprint,
        settings=manifest.recipe,
        cost=manifest.cost.model_dump(mode="json"),
        recall_history=list(manifest.recall_history),
        versions=manifest.versions,
    )


def _line(parts: Parts, name: str, manifest: Manifest) -> dict[str, Any]:
    servable = is_servable(manifest, parts.engine.base)
    return {
        "name": name,
        "title": manifest.title,
        # where it was read from on the machine that absorbed it is nobody's business
        "source": manifest.document.source.replace("\\", "/").rpartition("/")[2],
        "tokens": manifest.sizes.document_tokens,
        "sentences": manifest.sizes.sentences,
        "size_bytes": manifest.size_bytes,
        "recall": manifest.recall.model_dump(),
        "base": base_name(parts.engine.base) if servable else manifest.base.id.rpartition("/")[2],
        "recipe": manifest.recipe_name,
        "servable": servable,
        "created_at": manifest.created_at.isoformat(),
    }
