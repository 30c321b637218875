"""Memories of a tiny random model that is loaded from files, with held-out questions, to be exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from memory_drafts import make_draft

from lift.adapters.attach import create_adapter
from lift.adapters.row_assignment import activate
from lift.documents.document import Document
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import invocation_of
from lift.recipes.recipe import AdapterSettings
from lift.tasks.task import Task

TEXT = "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1902."
QUESTIONS = ["Who founded the museum?", "How many lenses does it own?", "When did the tower burn?"]
FORMS: dict[str, dict[str, Any]] = {
    "activated": {"kind": "lora", "rank": 3, "alpha": 6.0, "activated": True},
    "plain": {"kind": "lora", "rank": 4, "alpha": 4.0, "layers": (1,)},
    "dora": {"kind": "dora", "rank": 2},
    "gated": {"kind": "gated-memory"},
}


def make_memory(
    library: MemoryLibrary, base: BaseModel, form: str, seed: int = 0, name: str | None = None, **changes: Any
) -> StoredMemory:
    """A memory whose adapter changes answers at random."""
    settings = AdapterSettings(**FORMS[form])
    invocation = invocation_of(base.tokenizer) if settings.acts_on_answers else ()
    adapter = create_adapter(base.model, settings, seed, invocation=invocation)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    config, state = adapter.stored()
    adapter.detach()
    activate(base.model, None)
    draft = make_draft(
        name or form,
        str(seed),
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        adapter_config=config,
        adapter_state=state,
        document=Document("The museum", TEXT, "museum.md"),
        tasks=[Task(question, "42", (0,), "rules", 1.0, held_out=True) for question in QUESTIONS],
    )
    return library.put(dataclasses.replace(draft, **changes))


def answer_logits(base: BaseModel, memory: StoredMemory, prompt: list[int]) -> torch.Tensor:
    """Next-token logits behind a prompt with the memory's adapter on everything that it acts on. [vocabulary]"""
    from lift.adapters.resident import attach_stored, release
    from lift.packing.alora import PromptForward, forward_context

    attach_stored(base.model, "checked", lambda: (memory.adapter_config, memory.load_adapter_state()))
    try:
        with torch.inference_mode(), forward_context(PromptForward([prompt], [len(prompt)], len(prompt))):
            found: torch.Tensor = base.model(torch.tensor([prompt])).logits[0, -1]
    finally:
        activate(base.model, None)
        release(base.model)
    return found


def export_files(directory: Path) -> list[str]:
    """All files of an export, relative."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
