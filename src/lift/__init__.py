"""Lift writes a long text into a small adapter of a language model, and asks it about the text closed book.

    documents     any file -> Document -> sentences; retrieval finds the sentences that a question is about
    tasks         sentences -> questions and answers that are right by construction
    packing       question, task or segment -> tokens -> packed tensors, their forward pass and losses
    adapters      what is trained: LoRA, PiSSA, DoRA, Gated Memory; warm start, batched LoRA
    training      the one loop, its batch sampler and its objective
    models        loading base models
    inference     tokens in, tokens out: scheduler, KV cache, prefill, sampling, speculative decoding
    memories      the library: adapters on disk, with all that made them
    answering     memory (+ part of the document) -> answer with its evidence
    serving       the engine that answers many requests in one batch
    absorbing     document + base model + recipe -> memory: plan, run, later updates, recall report
    remote        the same behind a fine-tuning endpoint
    jobs          a durable queue of absorptions
    farm          many documents absorbed on many machines (Ray), into a directory or an object store
    engines       servers of other programs that answer for Lift: vLLM, llama.cpp
    evaluation    memories beside reading, retrieval and doing nothing; bench: speed, bytes and cost

The names below are imported on first use, so that `import lift` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lift.models.telemetry import switch_off_telemetry
from lift.models.threads import bound_spinning

if TYPE_CHECKING:
    from lift.api import Library, Memory, absorb, ask_many, load_model
    from lift.documents.read import read_document
    from lift.errors import LiftError
    from lift.recipes.recipe import load_recipe

__version__ = "0.1.0"
__all__ = ["Library", "LiftError", "Memory", "absorb", "ask_many", "load_model", "load_recipe", "read_document"]

_HOMES = {
    "Library": "lift.api",
    "LiftError": "lift.errors",
    "Memory": "lift.api",
    "absorb": "lift.api",
    "ask_many": "lift.api",
    "load_model": "lift.api",
    "load_recipe": "lift.recipes.recipe",
    "read_document": "lift.documents.read",
}


bound_spinning()  # before anything imports torch
switch_off_telemetry()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lift' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
