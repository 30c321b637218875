"""GET and DELETE /v1/models: each memory a model, with its base as parent; the base too."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel

from lift.memories.manifest import Manifest
from lift.server.access import needs, parts_of
from lift.server.failures import Refusal, documented
from lift.server.model_names import base_name, is_servable, open_memory, unknown_model

router = APIRouter(tags=["models"], responses=documented(400, 401, 403, 404, 409, 429))
ModelName = Annotated[str, Path(description="A memory's name, or the base model's.")]


class Model(BaseModel):
    """A model that can be asked. `parent`: the base of a memory, null for the base itself."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "lift"
    parent: str | None
    root: str


class ModelList(BaseModel):
    """All models."""

    object: str = "list"
    data: list[Model]


class Deleted(BaseModel):
    """The object that was deleted."""

    id: str
    object: str
    deleted: bool = True


@router.get("/v1/models", dependencies=[needs("read")])
def list_models(request: Request) -> ModelList:
    """The base model, then the memories on it; memories of other bases cannot be asked here, and are left out."""
    parts = parts_of(request)
    base = parts.engine.base
    memories = [
        _memory(summary.name, summary.manifest, base_name(base))
        for summary in parts.library.summaries()
        if summary.manifest is not None and is_servable(summary.manifest, base)
    ]
    own = [] if any(model.id == base_name(base) for model in memories) else [_base(base_name(base))]
    return ModelList(data=own + memories)


@router.get("/v1/models/{model:path}", dependencies=[needs("read")])
def get_model(request: Request, model: ModelName) -> Model:
    """One model."""
    parts = parts_of(request)
    base = base_name(parts.engine.base)
    if model not in parts.library and model == base:
        return _base(base)
    memory = open_memory(parts, model)
    if not is_servable(memory.manifest, parts.engine.base):
        raise unknown_model(model)
    return _memory(memory.name, memory.manifest, base)


@router.delete("/v1/models/{model:path}", dependencies=[needs("admin")])
def delete_model(request: Request, model: ModelName) -> Deleted:
    """Delete a memory, its adapter, text and all; the base model stays."""
    parts = parts_of(request)
    if model not in parts.library:
        if model == base_name(parts.engine.base):
            raise Refusal(400, "the base model cannot be deleted; name a memory", code="invalid_value", param="model")
        raise unknown_model(model)
    parts.library.remove(model)
    parts.engine.forget(model)
    return Deleted(id=model, object="model")


def _base(name: str) -> Model:
    return Model(id=name, created=0, parent=None, root=name)


def _memory(name: str, manifest: Manifest, base: str) -> Model:
    return Model(id=name, created=int(manifest.created_at.timestamp()), parent=base, root=base)
