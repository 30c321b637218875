"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from threading import Event as StopFlag

import torch

from lift.adapters.lora import LoraAdapter
from lift.adapters.resident import release
from lift.answering import Answerer
from lift.documents.document import Document
from lift.errors import InterruptedAbsorption
from lift.memories.library import Library
from lift.memories.manifest import Cost, RecallSummary
from lift.memories.memory import Memory, MemoryDraft
from lift.models.base_model import BaseModel
from lift.planning import calibrate, peak_memory_bytes, prepare, thinned
from lift.recall import PROBE_BATCH, RecallReport, choose_probes, probe_recall
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task
from lift.training.loop import Step, train

_STORED_DTYPE = torch.bfloat16
_PROBE_SHARE = 0.08
_SAVING_S = 1.0
_ETA_PRIOR = 0.05


@dataclass(frozen=True)
class Prepared:
    """The document is split and its tasks are written."""

    title: str
    tokens: int
    sentences: int
    tasks: int
    held_back: int
    language: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """The calibration is done: what an epoch costs here, and when the training is expected to end."""

    tokens_per_s: float
    epoch_tokens: int
    epochs: float
    predicted_s: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """One step is done; `eta_s` seconds of training are expected to remain."""

    step: Step
    eta_s: float


@dataclass(frozen=True)
class Probing:
    """The held-back tasks are being asked."""

    probes: int


@dataclass(frozen=True)
class Finished:
    """The memory is in the library. `reused`: it was there already, and nothing was trained."""

    memory: Memory
    report: RecallReport | None
    seconds: float
    predicted_s: float
    reused: bool


AbsorptionEvent = Prepared | Planned | Trained | Probing | Finished


def absorb_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: Library,
    *,
    name: str | None = None,
    budget_s: float | None = None,
    resume: bool = False,
    stop: StopFlag | None = None,
    started: float | None = None,
) -> Iterator[AbsorptionEvent]:
    """Absorb `document` and put the memory into `library`, yielding what happens as it happens.

    `budget_s` bounds the whole of it, from `started` (time.monotonic, default now) to the recall report. A document
    that was absorbed before with the same model, recipe and budget is not trained again: its memory is returned (and
    copied under the new name, if one is asked for). When `stop` is set, the state is saved after the current step and
    InterruptedAbsorption is raised; `resume` goes on from there. Raises DocumentError, BudgetError, LibraryError.
    """
    started = time.monotonic() if started is None else started
    key = absorption_key(document, base, recipe, budget_s)
    name = library.check_free(name, key) if name else None
    if (known := library.find(key, name)) is not None:
        if name is not None and name != known.name:
            known = library.copy(known.name, name)
        yield Finished(known, None, time.monotonic() - started, 0.0, reused=True)
        return
    name = name or library.free_name(document.title)
    preparation = prepare(document, base, recipe)
    held_back = sum(task.held_back for task in preparation.tasks)
    yield Prepared(
        document.title,
        preparation.tokens,
        len(preparation.sentences),
        len(preparation.tasks) - held_back,
        held_back,
        preparation.language,
        preparation.warnings,
    )
    release(base.model)
    adapter = LoraAdapter.create(base.model, recipe.adapter, recipe.training.seed)
    try:
        calibration = calibrate(base, adapter, preparation, recipe)
        answerer = Answerer(base, adapter, document, preparation.sentences)
        probes, probing_s = _affordable_probes(answerer, preparation.tasks, budget_s)
        training_s, thin = None, preparation
        if budget_s is not None:
            reserved_s = probing_s + _SAVING_S
            training_s = budget_s - reserved_s - (time.monotonic() - started)
            thin = thinned(preparation, base, recipe, calibration.epoch_s, training_s)
            if thin is not preparation:
                calibration = calibrate(base, adapter, thin, recipe)
                training_s = budget_s - reserved_s - (time.monotonic() - started)
        epochs = float(recipe.training.epochs)
        if training_s is not None:
            epochs = min(epochs, training_s / calibration.epoch_s)
        predicted_s = time.monotonic() - started + epochs * calibration.epoch_s + probing_s + _SAVING_S
        yield Planned(
            calibration.tokens_per_s,
            calibration.epoch_tokens,
            epochs,
            predicted_s,
            thin.warnings[len(preparation.warnings) :],
        )
        checkpoint = library.checkpoint_path(key)
        steps: list[Step] = []
        training_started = time.monotonic()
        for step in train(
            base.model,
            adapter,
            thin.curriculum,
            recipe.training,
            budget_s=training_s,
            checkpoint=checkpoint,
            resume=resume,
            history=steps,
        ):
            spent_s = time.monotonic() - training_started
            # the first steps say little about the speed, so the calibration counts as one more measurement beside them
            calibrated_s = epochs * calibration.epoch_s
            full_s = (_ETA_PRIOR * calibrated_s + spent_s) / (_ETA_PRIOR + step.progress)
            yield Trained(step, full_s * (1 - step.progress))
            if stop is not None and stop.is_set():
                raise InterruptedAbsorption(
                    f"stopped after step {step.step}; the same command with --resume goes on from there"
                )
        yield Probing(len(probes))
        config, state = adapter.stored()
        state = {tensor: value.to(_STORED_DTYPE) for tensor, value in state.items()}
        adapter.detach()
        # what is probed is what is stored, rounding included
        adapter = LoraAdapter.restore(base.model, config, state)
        answerer = Answerer(base, adapter, document, preparation.sentences)
        report = probe_recall(answerer, len(preparation.sentences), probes)
    finally:
        adapter.detach()
    seconds = time.monotonic() - started
    draft = MemoryDraft(
        name=name if name not in library else library.free_name(name),  # taken by another process meanwhile
        document=document,
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        recipe_name=recipe.name,
        recipe=recipe.model_dump(),
        seeds={"training": recipe.training.seed},
        absorption_key=key,
        adapter_config={**config, "base_model_name_or_path": base.id},
        adapter_state=state,
        tasks=thin.tasks,
        training=[asdict(step) for step in steps],
        recall=report.rows(),
        recall_summary=RecallSummary(
            sentences=report.sentences, probed=len(report.probed), recalled=len(report.recalled)
        ),
        document_tokens=preparation.tokens,
        sentences=len(preparation.sentences),
        cost=Cost(
            seconds=seconds,
            predicted_s=predicted_s,
            steps=len(steps),
            tokens=sum(step.tokens for step in steps),
            device=str(base.device),
            peak_memory_bytes=peak_memory_bytes(),
        ),
    )
    memory = library.put(draft)
    library.clear_checkpoint(key)
    yield Finished(memory, report, time.monotonic() - started, predicted_s, reused=False)


def absorption_key(document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None) -> str:
    """Identity of an absorption: the same text, title, weights, settings and budget give the same memory."""
    parts = [document.sha256, document.title, base.fingerprint, recipe.digest(), budget_s]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _affordable_probes(answerer: Answerer, tasks: tuple[Task, ...], budget_s: float | None) -> tuple[list[Task], float]:
    """The held-back tasks that a small share of the budget allows to ask, and the seconds that will take.

    One batch is timed on the untrained model, whose answers are the longest: an upper bound.
    """
    probes = choose_probes(tasks)
    if not probes:
        return [], 0.0
    timed = probes[:PROBE_BATCH]
    begun = time.monotonic()
    probe_recall(answerer, len(probes), timed)
    seconds_each = (time.monotonic() - begun) / len(timed)
    if budget_s is not None:
        probes = choose_probes(tasks, max(1, int(_PROBE_SHARE * budget_s / seconds_each)))
    return probes, seconds_each * len(probes)
