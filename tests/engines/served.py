"""Memories that other programs can answer from, on a tiny random model, with a reader of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adapters.test_warm_start import SETTINGS, tuned
from memory_drafts import make_draft

from lift.adapters.attach import create_adapter
from lift.adapters.row_assignment import activate
from lift.documents.document import Document
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import invocation_of
from lift.recipes.recipe import AdapterSettings

QUESTIONS = ["Who founded the mill?", "How many wheels does it have?", "When did it burn, and who saw it?"]
CONTEXTS = ["none", "evidence", "auto", "truncated"]


def write_reader(base: BaseModel, directory: Path) -> Path:
    """A warm start that reads, tuned for a moment."""
    quick = SETTINGS.model_copy(
        update={"training": SETTINGS.training.model_copy(update={"epochs": 1}), "adapter": AdapterSettings(rank=2)}
    )
    tuned(base, settings=quick)[0].write(directory)
    activate(base.model, None)
    return directory


def put_served(
    library: MemoryLibrary,
    base: BaseModel,
    number: int,
    *,
    reader: Path | str = "none",
    activated: bool = False,
    seed: int = -1,
    cites: bool = False,
    replace: bool = False,
    changed: dict[str, Any] | None = None,
    **changes: Any,
) -> StoredMemory:
    """A memory that answers like no other, acting on everything unless `activated`; `changed` of its configuration."""
    seed = number if seed < 0 else seed
    settings = AdapterSettings(kind="lora", rank=2 + number % 3, alpha=4.0, activated=activated)
    invocation = invocation_of(base.tokenizer) if activated else ()
    adapter = create_adapter(base.model, settings, seed, invocation=invocation)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    config, state = adapter.stored()
    config |= changed or {}
    adapter.detach()
    activate(base.model, None)
    text = f"Bo Finch {seed} founded the mill. It has {4 + seed} wheels. Ada saw it burn in 19{10 + seed}."
    draft = make_draft(
        f"mill {number}",
        f"{number} {seed}",
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        adapter_config=config,
        adapter_state=state,
        document=Document(f"Mill {number}", text, "test"),
        recipe={
            "name": "served",
            "adapter": {"warm_start": str(reader)},
            "tasks": {"cited_share": 0.2 if cites else 0.0},
        },
        **changes,
    )
    return library.put(draft, replace=replace)
