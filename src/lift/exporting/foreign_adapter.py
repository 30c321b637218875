"""A LoRA that others have trained with PEFT, taken as a memory: asked, measured and served like those of Lift.

Its directory may come from a stranger: adapter_config.json and adapter_model.safetensors are read, and nothing else;
what has a meaning that a stored adapter does not need is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from lift.absorbing.preparation import prepare_document
from lift.absorbing.recall_report import RecallReport, choose_probes, probe_recall
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.attach import restore_adapter
from lift.adapters.lora_config import read_config
from lift.answering.answerer import Answerer
from lift.documents.document import Document
from lift.errors import AdapterError
from lift.exporting.plain_lora import State, plain_lora
from lift.memories.durable import read_inside
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import MAX_ADAPTER_BYTES, MAX_ADAPTER_CONFIG_BYTES, Cost, RecallSummary
from lift.memories.memory import MemoryDraft, StoredMemory
from lift.memories.row_validation import read_adapter_config
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.recipes.recipe import Recipe, load_recipe

CONFIG_FILE, STATE_FILE = "adapter_config.json", "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_MOST_PROBES = 100
RECIPE_NAME = "imported"


def import_adapter(
    directory: Path,
    base: BaseModel,
    library: MemoryLibrary,
    name: str,
    *,
    document: Document | None = None,
    replace: bool = False,
) -> StoredMemory:
    """Put the PEFT LoRA in `directory` into the library as a memory of `base`.

    With `document`, the text that it is about, questions about it are written and some of them asked for the recall
    report; without one the memory is only asked closed book. The adapter is stored as a plain LoRA where it is the
    product of two factors. Raises AdapterError for files that are no such adapter, or do not fit `base`, UsageError
    and LibraryError as MemoryLibrary.put.
    """
    if not replace:
        name = library.check_free(name)
    begun = time.perf_counter()
    config, state = read_foreign_adapter(directory)
    recipe = _recipe(config)
    text = document or Document(name, "", str(directory.absolute()))
    made = prepare_document(text, base, recipe) if document is not None else None
    tasks = [task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks] if made else []
    with turn_of(base.model):
        try:
            adapter = restore_adapter(base.model, config, state, f"import {name}")
        except AdapterError as error:
            raise _refused(directory, error) from None
        try:
            report = RecallReport((), 0)
            if made is not None:
                answerer = Answerer.of(base, adapter, text, made.sentences)
                report = probe_recall(answerer, len(made.sentences), choose_probes(tasks, _MOST_PROBES))
        finally:
            adapter.detach()
    draft = MemoryDraft(
        name=name,
        document=text,
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        recipe_name=RECIPE_NAME,
        recipe=recipe.model_dump(mode="json"),
        seeds={},
        absorption_key=_key(config, state, text, base),
        adapter_config=config,
        adapter_state=state,
        tasks=tasks,
        training=[],
        recall=report.rows(),
        recall_summary=RecallSummary(
            sentences=report.sentences, probed=len(report.probed), recalled=len(report.recalled)
        ),
        document_tokens=made.tokens if made else 0,
        sentences=len(made.sentences) if made else 0,
        cost=Cost(seconds=time.perf_counter() - begun, steps=0, tokens=0, device=str(base.device)),
    )
    return library.put(draft, replace=replace)


def read_foreign_adapter(directory: Path) -> tuple[dict[str, Any], State]:
    """The configuration and the tensors of a PEFT LoRA, plain wherever that is possible; raises AdapterError."""
    try:
        config = read_adapter_config(read_inside(directory, CONFIG_FILE, MAX_ADAPTER_CONFIG_BYTES))
        if not (directory / STATE_FILE).exists() and (directory / _PICKLE_FILE).exists():
            raise AdapterError(
                f"expected {STATE_FILE} in {directory}, got {_PICKLE_FILE}, a pickle, which can run anything when it "
                "is read; save the adapter again with safe_serialization=True"
            )
        content = read_inside(directory, STATE_FILE, MAX_ADAPTER_BYTES)
    except OSError as error:
        raise AdapterError(
            f"expected a PEFT adapter ({CONFIG_FILE} and {STATE_FILE}) in {directory}, "
            f"got one that cannot be read ({(error.strerror or str(error)).lower()})"
        ) from None
    except ValueError as error:
        raise AdapterError(f"expected an {CONFIG_FILE} in {directory}, got one that is damaged ({error})") from None
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"expected a LoRA in {directory}, got an adapter of type {config.get('peft_type')!r:.80}")
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in _tensors(directory, content).items()}
    try:
        read_config(config)
        found = plain_lora(config, state) or (config, state)
    except AdapterError as error:
        raise _refused(directory, error) from None
    if damaged := [key for key, tensor in found[1].items() if not tensor.isfinite().all()]:
        raise AdapterError(f"expected finite weights in {directory}, got others in {damaged[0]:.200}")
    return found


def _tensors(directory: Path, content: bytes) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(content)
    except SafetensorError as error:
        raise AdapterError(f"expected {STATE_FILE} of safetensors in {directory}, got {error}") from None
    kinds = {tensor.dtype for tensor in state.values()}
    if not kinds <= {torch.float32, torch.float16, torch.bfloat16}:
        raise AdapterError(f"expected floating-point factors in {directory}, got {', '.join(sorted(map(str, kinds)))}")
    return state


def _refused(directory: Path, error: AdapterError) -> AdapterError:
    said = str(error).removesuffix("; absorb again")
    return AdapterError(f"the adapter in {directory} cannot be taken as a memory: {said}")


def _recipe(config: dict[str, Any]) -> Recipe:
    """The recipe of later work on the memory: the default, with the adapter's own shape."""
    activated = bool(config.get("alora_invocation_tokens"))
    return load_recipe(
        "default",
        [
            f"adapter.kind={'dora' if config.get('use_dora') else 'lora'}",
            f"adapter.rank={config['r']}",
            f"adapter.alpha={float(config['lora_alpha'])}",
            f"adapter.activated={str(activated).lower()}",
            "adapter.upper_share=1.0",
            "tasks.cited_share=0.0",  # it has not learned to cite
        ],
    )


def _key(config: dict[str, Any], state: State, document: Document, base: BaseModel) -> str:
    digest = hashlib.sha256(json.dumps([config, document.sha256, base.fingerprint], sort_keys=True).encode())
    for key in sorted(state):
        tensor = state[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
