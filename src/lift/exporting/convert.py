"""A memory of any kind -> a plain LoRA that acts everywhere, distilled from it, as a run of typed events.

The memory is the teacher: behind the same prompts the plain LoRA is brought to its odds at each token of the answers to
the memory's stored tasks (training/objective.py). Questions about other texts are among them, and pieces of other texts
on which the base's own words are kept, since what acts everywhere changes how those are read. A memory that is a LoRA
already, as most are, lends its factors to begin with.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lift.absorbing.absorption_events import AbsorptionEvent, Finished, Prepared, Probed, Probing
from lift.absorbing.preparation import PreparedDocument, prepare, prepare_document
from lift.absorbing.recall_report import PROBE_BATCH, Probe, RecallReport, choose_probes, probe_recall
from lift.absorbing.reopen import check_sentences, gentler, recipe_of
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorbed_before
from lift.absorbing.run_options import AbsorptionOptions
from lift.absorbing.session import Saving, Session
from lift.adapters.adapter import Adapter
from lift.adapters.attach import restore_adapter
from lift.adapters.resident import release
from lift.adapters.sharing import shares_its_base
from lift.answering.answerer import Answerer
from lift.errors import ExportError, cleaning_up
from lift.exporting.plain_lora import State, plain_lora
from lift.exporting.targets import adapter_form, check_convertible
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import RECIPE_VERSION, Recipe, load_recipe
from lift.tasks.task import Task
from lift.training.batch_sampler import TRAINING_VERSION
from lift.training.budget import Budget

BEFORE, AFTER = "before converting", "converted"
_RECIPE = "portable"
# What is to be said is near from the beginning, other texts are not: a piece of them for every other group of tasks, at
# a weight that leaves the answers, a tenth of a batch's tokens, as much to say.
_REGULARISATION = {"kl_share": 0.5, "kl_weight": 0.2, "replay_share": 0.2}
# To be raised where the same memory and settings are converted otherwise than before.
_VERSION = 1
_TEACHER = "converted memory"
MOST_PROBES = 100
_UNFINISHED = (
    "an interrupted run of this conversion is kept, and this one begins anew and will overwrite it; "
    "stop, and give --resume to go on from there"
)


@shares_its_base
def convert_events(
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
    kept_in: MemoryLibrary,
    options: AbsorptionOptions = AbsorptionOptions(),
) -> Iterator[AbsorptionEvent]:
    """Distil `memory` into a plain LoRA and put that into `kept_in`, under `options.name` or the memory's own name.

    What a run leaves unfinished lies in `library`. The budget is from `options.started` to the trained LoRA; then up to
    MOST_PROBES held-out questions are asked of both, however long that takes, so that it is known what is kept (Probed
    events, the last two of the new memory's recall_history). The options `until`, `replace` and `wait_for_others` have
    no meaning here. Raises ExportError for a memory that cannot be converted, InterruptedAbsorption after `stop`
    (`resume` goes on), and what absorb_events raises.
    """
    budget = options.begin()
    check_convertible(memory.name, adapter_form(memory.adapter_config))
    memory.check_base(base.id, base.fingerprint, base.identity)
    if all(task.held_out for task in memory.tasks):
        raise ExportError(
            f"expected questions that the memory {memory.name!r} was trained on, to convert it by, got none; absorb "
            "its text with --recipe portable"
        )
    recipe = _recipe_for(memory)
    key = _key(memory, recipe, budget.seconds)
    name = kept_in.check_free(options.name or memory.name, key)
    if (known := absorbed_before(kept_in, key, name)) is not None:
        yield Finished(known, None, budget.elapsed_s, 0.0, reused=True)
        return
    with library.unfinished.alone(key):
        yield from _convert_alone(budget, memory, base, recipe, library, kept_in, options, key, name)


def _convert_alone(
    budget: Budget,
    memory: StoredMemory,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    kept_in: MemoryLibrary,
    options: AbsorptionOptions,
    key: str,
    name: str,
) -> Iterator[AbsorptionEvent]:
    """Convert as the only one under that key."""
    resolved = resolve(recipe, base)
    made = prepare_document(memory.document, base, recipe)
    check_sentences(memory, made)
    release(base.model)
    state = memory.load_adapter_state()
    teacher = _restore(base, memory.adapter_config, state, _TEACHER)
    with cleaning_up(teacher.detach):
        factors = _factors(memory.adapter_config, state)
        student = resolved.create_adapter(base) if factors is None else _restore(base, *factors)
        # an Activated LoRA's own factors are near already, and have something to lose
        near = adapter_form(memory.adapter_config) == "activated"
        settings = gentler(resolved.recipe) if near else resolved.recipe.training
        if near:  # in a short budget all of its questions once, not the weightiest of them several times
            trained = sum(not task.held_out for task in memory.tasks)
            resolved = resolved.change(tasks=recipe.tasks.model_copy(update={"per_document": trained}))
        session = Session(base, student, resolved, budget, options.stop, before=memory, taught_by=teacher)
        checkpoint = library.unfinished.path(key)
        saving = Saving(checkpoint, options.checkpoint_every_s, options.resume)
        with cleaning_up(session.close):
            preparation = prepare(made, memory.tasks, base, resolved)
            yield _prepared(memory, made, overwrites=checkpoint.exists() and not options.resume)
            schedule = session.schedule(preparation, probing_s=0.0)
            yield schedule.planned
            yield from session.train(schedule.preparation.sampler, settings, schedule=schedule, saving=saving)
            session.round_to_stored()
            probes = choose_probes(memory.tasks, MOST_PROBES)
            points = []
            for what, adapter in ((BEFORE, teacher), (AFTER, session.adapter)):
                report = yield from _ask(base, adapter, made, probes)
                points.append(session.point(what, report))
                yield Probed(**points[-1].model_dump())
    draft = session.draft(
        made,
        name=name,
        key=key,
        identity=None,  # no text was absorbed in this way
        tasks=memory.tasks,
        report=report,
        history=[*memory.manifest.recall_history, *points],
        generation=memory.manifest.generation,
        predicted_s=schedule.predicted_s,
    )
    converted = kept_in.put(draft)
    library.unfinished.clear(key)
    yield Finished(converted, report, budget.elapsed_s, schedule.predicted_s, reused=False)


def _recipe_for(memory: StoredMemory) -> Recipe:
    """The recipe that a memory is converted by: `portable`, in the shape of its own LoRA, citing where it cites."""
    own, portable = recipe_of(memory), load_recipe(_RECIPE)
    adapter = portable.adapter
    if adapter_form(memory.adapter_config) != "gated-memory":
        start = own.adapter.warm_start
        changes = {"kind": "lora", "activated": False}
        if start == "none" or not (start == "auto" or Path(start).is_dir()):
            changes["warm_start"] = adapter.warm_start  # the texts that are to be kept come from there
        adapter = own.adapter.model_copy(update=changes)
    tasks = portable.tasks.model_copy(update={"cited_share": own.tasks.cited_share})
    # every prompt is as the memory is asked: closed book
    context = portable.context.model_copy(update={"share": 0.0})
    regularisation = portable.regularisation.model_copy(update=_REGULARISATION)
    return portable.model_copy(
        update={"adapter": adapter, "tasks": tasks, "context": context, "regularisation": regularisation}
    )


def _key(memory: StoredMemory, recipe: Recipe, budget_s: float | None) -> str:
    """SHA-256 (hex) of all that the conversion depends on."""
    parts = [memory.manifest.adapter_id, memory.manifest.absorption_key, recipe.digest(), budget_s]
    versions = [_VERSION, TRAINING_VERSION, RECIPE_VERSION]
    return hashlib.sha256(json.dumps(["convert", *parts, *versions]).encode()).hexdigest()


def _factors(config: dict[str, Any], state: State) -> tuple[dict[str, Any], State] | None:
    """The memory's own low-rank factors as a plain LoRA that acts everywhere; None for a Gated Memory.

    Of a DoRA its direction's; how long each row is, is left to the training.
    """
    if adapter_form(config) == "gated-memory":
        return None
    low_rank = {key: value for key, value in state.items() if key.endswith((".lora_A.weight", ".lora_B.weight"))}
    plain = plain_lora({**config, "use_dora": False, "lora_bias": False}, low_rank)
    assert plain is not None  # of factors alone there is always one
    return {**plain[0], "alora_invocation_tokens": None}, plain[1]


def _restore(base: BaseModel, config: dict[str, Any], state: State, name: str = "default") -> Adapter:
    """The adapter in full precision."""
    full: dict[str, torch.Tensor] = {key: value.float() for key, value in state.items()}
    return restore_adapter(base.model, config, full, name)


def _prepared(memory: StoredMemory, made: PreparedDocument, *, overwrites: bool) -> Prepared:
    held_out = sum(task.held_out for task in memory.tasks)
    warnings = []
    if overwrites:
        warnings.append(_UNFINISHED)
    if not held_out:
        warnings.append("no question was held out, so it is not known how much of the recall is kept")
    return Prepared(
        title=made.document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=len(memory.tasks) - held_out,
        held_out=held_out,
        language=made.language,
        warnings=tuple(warnings),
        generation={},
    )


def _ask(
    base: BaseModel, adapter: Adapter, made: PreparedDocument, probes: Sequence[Task]
) -> Generator[Probing, None, RecallReport]:
    """Ask all `probes` of an attached adapter, closed book, whatever that takes."""
    answerer = Answerer.of(base, adapter, made.document, made.sentences)
    begun, found = time.monotonic(), list[Probe]()
    for first in range(0, len(probes), PROBE_BATCH):
        eta_s = (time.monotonic() - begun) / first * (len(probes) - first) if first else None
        yield Probing(len(probes), first, eta_s)
        found += probe_recall(answerer, len(made.sentences), probes[first : first + PROBE_BATCH]).probes
    return RecallReport(tuple(found), len(made.sentences))
