"""A text is added to a memory, which goes on from its stored adapter.

A memory may come from a stranger: its recipe says how a text is learned, never where a text or a key is sent to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from threading import Event as StopFlag
from typing import Any

from lift.absorbing.absorption_events import AbsorptionEvent, Finished, Probed
from lift.absorbing.learning import trained_tasks
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.probing import affordable_probes, ask_probes
from lift.absorbing.recall_report import RecallReport, left_out
from lift.absorbing.reopen import check_sentences, gentler, recipe_of, reopen
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorption_identity
from lift.absorbing.run_options import RunOptions
from lift.absorbing.task_writing import TaskWriter, prepared, write_tasks
from lift.adapters.sharing import shares_its_base
from lift.documents.document import Document, join_documents
from lift.errors import UsageError, cleaning_up
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import MAX_SOURCE_CHARS, printable
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.tasks.endpoint_generator import endpoint_url
from lift.tasks.generation import GenerationCounts
from lift.tasks.task import Task
from lift.training.budget import Budget

# What is known before a text is added is asked for so many times as long as that is expected to take.
_LONGEST_BEFORE = 3.0


@shares_its_base
def add_events(
    document: Document,
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
    options: RunOptions = RunOptions(),
    *,
    overrides: Sequence[str] = (),
) -> Iterator[AbsorptionEvent]:
    """Add `document` to `memory` by the memory's own recipe; a share of its old tasks is trained again with the new.

    `overrides` ("generator.key=value") change who writes the tasks. An endpoint that the memory names is asked only
    where they, or OPENAI_BASE_URL, name it too: UsageError else.
    Recall of what it knew is asked before and after, with the same probes (Probed events, and the memory's
    recall_history). A text that the memory holds already is not trained again. Raises what absorb_events raises, and
    WrongBaseModelError.
    """
    budget = options.begin()
    memory.check_base(base.id, base.fingerprint, base.identity)
    recipe = choose_recipe(memory, overrides)
    with library.unfinished.alone(memory.manifest.absorption_key):
        yield from _add_alone(budget, document, memory, base, library, recipe, options.stop)


def _add_alone(
    budget: Budget,
    document: Document,
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
    recipe: Recipe,
    stop: StopFlag | None,
) -> Iterator[AbsorptionEvent]:
    """Add as the only one that changes the memory."""
    old = memory.manifest
    parts = [old.absorption_key, "into", document.sha256, document.title]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    known = memory.document.split()
    hashes = {part.sha256 for part in known}
    added = [part for part in document.split() if part.sha256 not in hashes]
    if not added:
        yield Finished(memory, None, budget.elapsed_s, 0.0, reused=True)
        return
    joined = join_documents([memory.document, *added], title=old.title)
    made = prepare_document(joined, base, recipe)
    check_sentences(memory, made)
    start = joined.parts[len(known)].start
    resolved = resolve(recipe, base)
    session = reopen(memory, base, resolved, budget, stop)
    with cleaning_up(session.close):
        old_probes, old_s = affordable_probes(session, made, memory.tasks)
        before = yield from ask_probes(session, made, old_probes, longest_s=_LONGEST_BEFORE * old_s)
        history = [*old.recall_history, session.point("known before adding", before)]
        yield Probed(**history[-1].model_dump())
        writer = TaskWriter(made, base, recipe, start)
        with session.adapter.disabled():  # the generator may be the base model itself
            fresh = yield from write_tasks(made, writer, budget)
        replayed = _sample(memory.tasks, recipe.update.replay_share, recipe.training.seed)
        preparation = prepare(made, [*replayed, *fresh], base, resolved, start=start)
        yield prepared(made, fresh, writer)
        new_probes, new_s = affordable_probes(session, made, fresh)
        schedule = session.schedule(preparation, old_s + new_s)
        yield schedule.planned
        yield from session.train(schedule.preparation.sampler, gentler(resolved.recipe), schedule=schedule)
        session.round_to_stored()
        after = yield from ask_probes(session, made, old_probes)
        new = yield from ask_probes(session, made, new_probes)
    for what, found in (("known after adding", after), ("added", new)):
        history.append(session.point(what, found))
        yield Probed(**history[-1].model_dump())
    report = RecallReport((*after.probes, *new.probes), len(made.sentences))
    # what the training had time for, and what is held out
    kept = set(trained_tasks(schedule.preparation.tasks, schedule.preparation.sampler))
    draft = session.draft(
        made,
        name=memory.name,
        key=key,
        identity=absorption_identity(joined, base, resolved, budget.seconds),
        tasks=[*memory.tasks, *(task for task in fresh if task in kept)],
        report=report,
        history=history,
        generation=_all_counts(old.generation, writer.counts),
        predicted_s=schedule.predicted_s,
    )
    changed = library.put(draft, replace=True)
    remarks = left_out([*old_probes, *new_probes], report)
    yield Finished(changed, report, budget.elapsed_s, schedule.predicted_s, reused=False, remarks=remarks)


def choose_recipe(memory: StoredMemory, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a text is added to `memory` by: the memory's own, with `overrides` of who writes the tasks.

    Raises UsageError for other overrides, and where the text and the API key would go to an endpoint that the memory
    alone names; RecipeError for overrides that are not valid.
    """
    for override in overrides:
        if not override.strip().startswith("generator."):
            raise UsageError(
                f"expected --into with --set generator.key=value alone, since the memory {memory.name!r} has a recipe "
                f"of its own, got --set {override}; leave it out, or absorb the text as a memory of its own"
            )
    recipe = recipe_of(memory, overrides)
    _check_endpoint(memory, recipe, overrides)
    return recipe


def _check_endpoint(memory: StoredMemory, recipe: Recipe, overrides: Sequence[str]) -> None:
    """Raise UsageError where the text and the API key would go to an endpoint that the memory alone names."""
    if recipe.generator.kind != "openai":
        return
    named = {override.partition("=")[0].strip() for override in overrides}
    url = endpoint_url(recipe.generator)
    if "generator.base_url" in named or os.environ.get("OPENAI_BASE_URL", "").rstrip("/") == url:
        return
    shown = printable(url, MAX_SOURCE_CHARS)
    raise UsageError(
        f"the memory {memory.name!r} has its questions written at {shown}, an endpoint that you have not named; if you "
        f"trust it with this text and your API key, add --set generator.base_url={shown}, else "
        "--set generator.kind=rules"
    )


def _sample(tasks: Sequence[Task], share: float, seed: int) -> list[Task]:
    trained = [task for task in tasks if not task.held_out]
    return random.Random(seed).sample(trained, round(share * len(trained)))


def _all_counts(before: Mapping[str, Any], now: GenerationCounts) -> Mapping[str, Any]:
    """The generation of all the memory's tasks, those before this session among them."""
    total = GenerationCounts(**before)
    total.add(now)
    return total.as_dict()
