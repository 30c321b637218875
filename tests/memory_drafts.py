"""Small drafts of memories for the tests of what is kept on disk; two versions that share no content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch

from lift.documents.document import Document, Place
from lift.memories.manifest import Cost, RecallSummary
from lift.memories.memory import MemoryDraft, StoredMemory
from lift.tasks.task import Task

FINGERPRINT = "ab" * 32


def make_key(seed: object) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()


def make_draft(name: str = "minutes", version: str = "one", **changes: Any) -> MemoryDraft:
    """A draft whose every part carries `version`, so that a mixture of two versions shows."""
    text = f"Version {version} — naïve text.\r\nA line\u2028separator, and\ttabs.\n"
    draft = MemoryDraft(
        name=name,
        document=Document(f"Minutes {version}", text, f"{version}.pdf", (Place(0, page=1), Place(9, 2, "Votes"))),
        base_id="smollm2",
        base_fingerprint=FINGERPRINT,
        recipe_name="default",
        recipe={"name": "default", "training": {"epochs": 8, "learning_rate": 5e-4}},
        seeds={"training": 0},
        absorption_key=make_key(version),
        adapter_config={"peft_type": "LORA", "r": 2, "note": version},
        adapter_state={
            "model.layers.0.q_proj.lora_A.weight": torch.full((2, 4), float(len(version))),
            "model.layers.0.q_proj.lora_B.weight": torch.full((4, 2), 0.5, dtype=torch.bfloat16),
        },
        tasks=[Task(f"Which {version}?", version, (0, 3), "rules:subject", 0.5, held_out=True)],
        training=[{"step": 1, "loss": 2.5, "version": version}],
        recall=[{"sentence": 0, "question": "Which?\u2028", "expected": "it", "answer": version, "recalled": True}],
        recall_summary=RecallSummary(sentences=4, probed=2, recalled=1),
        document_tokens=17,
        sentences=4,
        cost=Cost(seconds=1.5, steps=1, tokens=100, device="cpu"),
    )
    return dataclasses.replace(draft, **changes)


def manifest_values(content: bytes) -> dict[str, Any]:
    """What a memory.json says, to be changed and sealed again (manifest.seal_manifest), as a stranger can."""
    values: dict[str, Any] = json.loads(content)
    del values["manifest_sha256"]
    return values


def version_of(memory: StoredMemory) -> str:
    """The version that all parts of `memory` carry; fails where they differ, or a hash does not fit."""
    assert memory.problems() == []
    version = memory.tasks[0].answer
    expected = make_draft(memory.name, version)
    assert memory.document == expected.document
    assert memory.adapter_config == expected.adapter_config
    assert memory.training == expected.training
    assert memory.recall == expected.recall
    assert memory.manifest.absorption_key == expected.absorption_key
    state = memory.load_adapter_state()
    assert state.keys() == expected.adapter_state.keys()
    assert all(torch.equal(state[key], expected.adapter_state[key]) for key in state)
    return version
