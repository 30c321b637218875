"""Which model a name means: a memory of the library, or the base that they all sit on."""

from __future__ import annotations

from pathlib import PurePath

from fastapi.concurrency import run_in_threadpool

from lift.memories.manifest import Manifest
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.server.access import Parts
from lift.server.failures import Refusal


def base_name(base: BaseModel) -> str:
    """The base model's name over HTTP: where it lies on this machine is nobody's business."""
    return PurePath(base.id).name if PurePath(base.id).is_absolute() else base.id


def is_servable(manifest: Manifest, base: BaseModel) -> bool:
    """Whether the engine can answer from that memory: it was trained on the very base that is loaded."""
    made = manifest.identity
    fits = made is None or made.base.misfit(base.identity) is None
    return fits and manifest.base.fingerprint == base.fingerprint


def open_memory(parts: Parts, name: str) -> StoredMemory:
    """The memory called `name`; raises Refusal where there is none, LibraryError where it is damaged."""
    if name not in parts.library:
        raise unknown_model(name)
    return parts.library[name]


def unknown_model(name: str) -> Refusal:
    """The sentence about a name that is no model's."""
    return Refusal(
        404, f"there is no model {name[:100]!r}; GET /v1/models lists them", code="model_not_found", param="model"
    )


async def memory_asked(parts: Parts, model: str) -> str | None:
    """The memory that `model` names, None for the base; a memory goes before the base of the same name."""
    if await run_in_threadpool(parts.library.__contains__, model):
        return model
    if model == base_name(parts.engine.base):
        return None
    raise unknown_model(model)
