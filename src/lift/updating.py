"""Later work on a memory: a text added to it, and its forgotten sentences rehearsed until enough is recalled.

Both go on from the stored adapter and put the new memory in the place of the old one with a single rename: whatever
happens before that leaves the old memory as it was.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Event as StopFlag
from typing import Any

from lift.absorption import absorb_within, left_out, prepared, trained_tasks, write_tasks
from lift.adapters.attach import restore_adapter
from lift.adapters.resident import release
from lift.budget import Budget, Clock, check_budget
from lift.documents.document import Document, join_documents
from lift.errors import InterruptedAbsorption, UsageError
from lift.events import AbsorptionEvent, Finished, Probed
from lift.memories.library import Library
from lift.memories.manifest import RecallPoint
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.preparation import Preparation, TaskWriter, outline, prepare
from lift.recall import RecallReport
from lift.recipes.recipe import Recipe, TrainingSettings
from lift.session import Session
from lift.tasks.generation import GenerationCounts
from lift.tasks.task import Task

# Of a budget that ends in rehearsals, the share of the first absorption.
_FIRST_PASS_SHARE = 0.6
# What is known before a text is added is asked for so many times as long as that is expected to take.
_LONGEST_BEFORE = 3.0
# Rounds of rehearsal without a better recall after which more of them are not worth their time.
_PATIENCE_ROUNDS = 3


def add_events(
    document: Document,
    memory: Memory,
    base: BaseModel,
    library: Library,
    *,
    budget_s: float | None = None,
    stop: StopFlag | None = None,
    started: float | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Add `document` to `memory` by the memory's own recipe; a share of its old tasks is trained again with the new.

    Recall of what it knew is asked before and after, with the same probes (Probed events, and the memory's
    recall_history). A text that the memory holds already is not trained again. Raises what absorb_events raises, and
    WrongBaseModelError.
    """
    check_budget(budget_s)
    budget = Budget(budget_s, clock() if started is None else started, clock)
    memory.check_base(base.id, base.fingerprint)
    recipe = _recipe_of(memory)
    old = memory.manifest
    key = _key(old.absorption_key, "into", document.sha256, document.title)
    known = memory.document.split()
    hashes = {part.sha256 for part in known}
    added = [part for part in document.split() if part.sha256 not in hashes]
    if not added:
        yield Finished(memory, None, budget.elapsed_s, 0.0, reused=True)
        return
    joined = join_documents([memory.document, *added], title=old.title)
    made = outline(joined, base, recipe)
    start = joined.parts[len(known)].start
    session = _reopened(memory, base, recipe, budget)
    try:
        old_probes, old_s = session.affordable_probes(joined, made.sentences, memory.tasks)
        before = yield from session.probing(joined, made.sentences, old_probes, longest_s=_LONGEST_BEFORE * old_s)
        history = [*old.recall_history, session.point("known before adding", before)]
        yield _probed(history[-1])
        writer = TaskWriter(made, base, recipe, start)
        with session.adapter.disabled():  # the generator may be the base model itself
            fresh = yield from write_tasks(made, writer, budget)
        replayed = _sample(memory.tasks, recipe.update.replay_share, recipe.training.seed)
        preparation = prepare(made, [*replayed, *fresh], base, recipe, start=start)
        yield prepared(made, fresh, writer)
        new_probes, new_s = session.affordable_probes(joined, made.sentences, fresh)
        schedule = session.schedule(preparation, old_s + new_s)
        yield schedule.planned
        yield from session.train(
            schedule.preparation.curriculum,
            _gentler(recipe),
            schedule=schedule,
            stop=stop,
        )
        adapter = session.round_to_stored()
        after = yield from session.probing(joined, made.sentences, old_probes)
        new = yield from session.probing(joined, made.sentences, new_probes)
    finally:
        session.adapter.detach()
    for what, found in (("known after adding", after), ("added", new)):
        history.append(session.point(what, found))
        yield _probed(history[-1])
    report = RecallReport((*after.probes, *new.probes), len(made.sentences))
    kept = _still_trained(schedule.preparation)
    draft = session.draft(
        made,
        name=memory.name,
        key=key,
        adapter=adapter,
        tasks=[*memory.tasks, *(task for task in fresh if task in kept)],
        report=report,
        history=history,
        generation=_all_counts(old.generation, writer.counts),
        predicted_s=schedule.predicted_s,
    )
    changed = library.put(draft, replace=True)
    remarks = left_out([*old_probes, *new_probes], report)
    yield Finished(changed, report, session.elapsed_s, schedule.predicted_s, reused=False, remarks=remarks)


def rehearse_events(
    memory: Memory,
    base: BaseModel,
    library: Library,
    *,
    until: float,
    budget_s: float | None = None,
    stop: StopFlag | None = None,
    started: float | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Train on what the recall report says is forgotten until a share `until` of the probed sentences is recalled.

    Each round trains the tasks of the forgotten sentences and a share of the others, then asks all probes again; the
    probes themselves are never trained on, but they decide when to stop, so the recall reached is a little flattering.
    Ends at the target, at the budget, or when three rounds in a row did not help; the best round is kept. Raises
    UsageError for a share outside 0..1 or a memory without held-back tasks, and InterruptedAbsorption after `stop`
    (what was reached is kept).
    """
    if not 0 < until <= 1:
        raise UsageError(f"expected a recall to reach between 0 and 100 %, got {100 * until:g} %")
    check_budget(budget_s)
    budget = Budget(budget_s, clock() if started is None else started, clock)
    memory.check_base(base.id, base.fingerprint)
    recipe, old = _recipe_of(memory), memory.manifest
    if all(not task.held_back for task in memory.tasks):
        raise UsageError(
            f"expected held-back questions to know what {memory.name!r} has forgotten, got none; absorb the text again "
            "with tasks.held_back_per_sentence above 0"
        )
    made = outline(memory.document, base, recipe)
    session = _reopened(memory, base, recipe, budget)
    stopped = False
    try:
        probes, probing_s = session.affordable_probes(memory.document, made.sentences, memory.tasks)
        session.probing_s = 2 * probing_s  # after the last round, and of what is stored
        report = best = yield from session.probing(memory.document, made.sentences, probes)
        state = session.adapter.trained_state()
        history = [*old.recall_history, session.point("before rehearsing", report)]
        yield _probed(history[-1])
        rounds = waited = 0
        while best.share < until and waited < _PATIENCE_ROUNDS and not stopped:
            if not session.budget.left_s(session.reserve_s):
                break
            rounds += 1
            tasks = _to_rehearse(memory.tasks, report, recipe.update.replay_share, f"{recipe.training.seed}/{rounds}")
            if not tasks:
                break
            shorter = _round_recipe(recipe, rounds)
            preparation = prepare(made, tasks, base, shorter)
            try:
                yield from session.train(preparation.curriculum, shorter.training, stop=stop)
            except InterruptedAbsorption:
                stopped = True
            report = yield from session.probing(memory.document, made.sentences, probes)
            history.append(session.point("rehearsed", report))
            yield _probed(history[-1])
            waited += 1
            if len(report.recalled) > len(best.recalled):
                best, state, waited = report, session.adapter.trained_state(), 0
        session.adapter.load_state(state)
        adapter = session.round_to_stored()
        stored = yield from session.probing(memory.document, made.sentences, probes)
        report = stored if len(stored.probes) >= len(best.probes) else best  # asked before it was rounded
    finally:
        session.adapter.detach()
    draft = session.draft(
        made,
        name=memory.name,
        key=old.absorption_key,
        adapter=adapter,
        tasks=memory.tasks,
        report=report,
        history=history,
        generation=old.generation,
        predicted_s=session.elapsed_s,
    )
    changed = library.put(draft, replace=True)
    if stopped:
        raise InterruptedAbsorption("stopped; the best round is kept, and the same command goes on from it")
    took_s = session.elapsed_s
    yield Finished(changed, report, took_s, took_s, reused=False, remarks=left_out(probes, report))


def absorb_until_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: Library,
    *,
    until: float,
    name: str | None = None,
    budget_s: float | None = None,
    resume: bool = False,
    replace: bool = False,
    stop: StopFlag | None = None,
    started: float | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Absorb, then rehearse until a share `until` of the probed sentences is recalled; see both for what is raised.

    A memory of the same text that is there already is rehearsed further. With a budget, the first pass gets 60 % of it.
    """
    check_budget(budget_s)
    started = clock() if started is None else started
    first = Budget(budget_s * _FIRST_PASS_SHARE if budget_s is not None else None, started, clock)
    finished: Finished | None = None
    options: dict[str, Any] = {"resume": resume, "replace": replace, "stop": stop}
    for event in absorb_within(first, document, base, recipe, library, name=name, **options):
        if isinstance(event, Finished):
            finished = event
        else:
            yield event
    assert finished is not None, "absorb_within ends with Finished or raises"
    if finished.memory.manifest.recall.share >= until:
        yield finished
        return
    yield from rehearse_events(
        finished.memory, base, library, until=until, budget_s=budget_s, stop=stop, started=started, clock=clock
    )


def _still_trained(preparation: Preparation) -> set[Task]:
    """The tasks that the training had time for, and those that are held back."""
    return set(trained_tasks(preparation.tasks, preparation.curriculum))


def _reopened(memory: Memory, base: BaseModel, recipe: Recipe, budget: Budget) -> Session:
    """A session that goes on from the stored adapter, in full precision."""
    release(base.model)
    state = {key: value.float() for key, value in memory.load_adapter_state().items()}
    adapter = restore_adapter(base.model, memory.adapter_config, state)
    return Session(base, adapter, recipe, budget, before=memory)


def _recipe_of(memory: Memory) -> Recipe:
    return Recipe.parse(memory.manifest.recipe, f"the recipe of the memory {memory.name!r}")


def _gentler(recipe: Recipe) -> TrainingSettings:
    """The recipe's training at a lower rate: an adapter that knows something has it to lose."""
    rate = recipe.training.learning_rate * recipe.update.learning_rate_factor
    return recipe.training.model_copy(update={"learning_rate": rate})


def _round_recipe(recipe: Recipe, number: int) -> Recipe:
    """A short, gentler training of its own, on tasks alone, even where the text was absorbed by segments alone."""
    training = _gentler(recipe)
    shorter = training.model_copy(
        update={
            "epochs": recipe.update.round_epochs,
            "segment_epochs": 0,
            "max_tokens": 0,
            "seed": training.seed + number,
        }
    )
    segments = recipe.segments.model_copy(update={"weight": 0.0})
    tasks = recipe.tasks.model_copy(update={"weight": recipe.tasks.weight or 1.0})
    return recipe.model_copy(update={"training": shorter, "segments": segments, "tasks": tasks})


def _to_rehearse(tasks: Sequence[Task], report: RecallReport, share: float, seed: str) -> list[Task]:
    """All tasks of the forgotten sentences, and a sample of the others that is not larger than these."""
    forgotten = set(report.forgotten)
    trained = [task for task in tasks if not task.held_back]
    wanted = [task for task in trained if task.evidence[0] in forgotten]
    others = [task for task in trained if task.evidence[0] not in forgotten]
    count = min(round(share * len(others)), len(wanted))
    return [*wanted, *random.Random(seed).sample(others, count)]


def _sample(tasks: Sequence[Task], share: float, seed: int) -> list[Task]:
    trained = [task for task in tasks if not task.held_back]
    return random.Random(seed).sample(trained, round(share * len(trained)))


def _all_counts(before: Mapping[str, Any], now: GenerationCounts) -> Mapping[str, Any]:
    """The generation of all the memory's tasks, those before this session among them."""
    total = GenerationCounts(**before)
    total.add(now)
    return total.as_dict()


def _probed(point: RecallPoint) -> Probed:
    return Probed(point.what, point.seconds, point.probed, point.recalled)


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
