"""Later work on a memory: a text added to it, and its forgotten sentences rehearsed until enough is recalled.

Both go on from the stored adapter and put the new memory in the place of the old one with a single rename: whatever
happens before that leaves the old memory as it was. A memory may come from a stranger: its recipe says how a text is
learned, never where a text or a key is sent to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Event as StopFlag
from typing import Any

from lift.absorbing.absorb import absorb_within, absorption_identity, left_out, prepared, trained_tasks, write_tasks
from lift.absorbing.absorption_events import AbsorptionEvent, Finished, Probed
from lift.absorbing.preparation import Preparation, PreparedDocument, TaskWriter, prepare, prepare_document
from lift.absorbing.recall_report import RecallReport
from lift.absorbing.resolved_recipe import ResolvedRecipe, resolve
from lift.absorbing.session import Session
from lift.adapters.attach import restore_adapter
from lift.adapters.resident import release
from lift.adapters.sharing import shares_its_base
from lift.config import apply_overrides
from lift.documents.document import Document, join_documents
from lift.errors import InterruptedAbsorption, LibraryError, UsageError, cleaning_up
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import MAX_SOURCE_CHARS, RecallPoint, printable
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, TrainingSettings
from lift.tasks.endpoint_generator import endpoint_url
from lift.tasks.generation import GenerationCounts
from lift.tasks.task import Task
from lift.training.budget import Budget, Clock, check_budget

# Of a budget that ends in rehearsals, the share of the first absorption.
_FIRST_PASS_SHARE = 0.6
# What is known before a text is added is asked for so many times as long as that is expected to take.
_LONGEST_BEFORE = 3.0
# Rounds of rehearsal without a better recall after which more of them are not worth their time.
_PATIENCE_ROUNDS = 3


@shares_its_base
def add_events(
    document: Document,
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
    *,
    overrides: Sequence[str] = (),
    budget_s: float | None = None,
    stop: StopFlag | None = None,
    started: float | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Add `document` to `memory` by the memory's own recipe; a share of its old tasks is trained again with the new.

    `overrides` ("generator.key=value") change who writes the tasks. An endpoint that the memory names is asked only
    where they, or OPENAI_BASE_URL, name it too: UsageError else.
    Recall of what it knew is asked before and after, with the same probes (Probed events, and the memory's
    recall_history). A text that the memory holds already is not trained again. Raises what absorb_events raises, and
    WrongBaseModelError.
    """
    check_budget(budget_s)
    budget = Budget(budget_s, clock() if started is None else started, clock)
    memory.check_base(base.id, base.fingerprint, base.identity)
    recipe = choose_recipe(memory, overrides)
    with library.unfinished.alone(memory.manifest.absorption_key):
        yield from _add_alone(budget, document, memory, base, library, recipe, stop)


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
    key = _key(old.absorption_key, "into", document.sha256, document.title)
    known = memory.document.split()
    hashes = {part.sha256 for part in known}
    added = [part for part in document.split() if part.sha256 not in hashes]
    if not added:
        yield Finished(memory, None, budget.elapsed_s, 0.0, reused=True)
        return
    joined = join_documents([memory.document, *added], title=old.title)
    made = prepare_document(joined, base, recipe)
    _check_sentences(memory, made)
    start = joined.parts[len(known)].start
    resolved = resolve(recipe, base)
    session = _reopened(memory, base, resolved, budget)
    with cleaning_up(session.close):
        old_probes, old_s = session.affordable_probes(joined, made.sentences, memory.tasks)
        before = yield from session.probing(joined, made.sentences, old_probes, longest_s=_LONGEST_BEFORE * old_s)
        history = [*old.recall_history, session.point("known before adding", before)]
        yield _probed(history[-1])
        writer = TaskWriter(made, base, recipe, start)
        with session.adapter.disabled():  # the generator may be the base model itself
            fresh = yield from write_tasks(made, writer, budget)
        replayed = _sample(memory.tasks, recipe.update.replay_share, recipe.training.seed)
        preparation = prepare(made, [*replayed, *fresh], base, resolved, start=start)
        yield prepared(made, fresh, writer)
        new_probes, new_s = session.affordable_probes(joined, made.sentences, fresh)
        schedule = session.schedule(preparation, old_s + new_s)
        yield schedule.planned
        yield from session.train(
            schedule.preparation.sampler,
            _gentler(resolved.recipe),
            schedule=schedule,
            stop=stop,
        )
        adapter = session.round_to_stored()
        after = yield from session.probing(joined, made.sentences, old_probes)
        new = yield from session.probing(joined, made.sentences, new_probes)
    for what, found in (("known after adding", after), ("added", new)):
        history.append(session.point(what, found))
        yield _probed(history[-1])
    report = RecallReport((*after.probes, *new.probes), len(made.sentences))
    kept = _still_trained(schedule.preparation)
    draft = session.draft(
        made,
        name=memory.name,
        key=key,
        identity=absorption_identity(joined, base, resolved, budget.seconds),
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


@shares_its_base
def rehearse_events(
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
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
    UsageError for a share outside 0..1 or a memory without held-out tasks, and InterruptedAbsorption after `stop`
    (what was reached is kept).
    """
    _check_share(until)
    check_budget(budget_s)
    budget = Budget(budget_s, clock() if started is None else started, clock)
    yield from _rehearse_within(budget, memory, base, library, until, stop)


def _check_share(until: float) -> None:
    if not 0 < until <= 1:
        raise UsageError(f"expected a recall to reach between 0 and 100 %, got {100 * until:g} %")


def _rehearse_within(
    budget: Budget, memory: StoredMemory, base: BaseModel, library: MemoryLibrary, until: float, stop: StopFlag | None
) -> Iterator[AbsorptionEvent]:
    """As rehearse_events, within a budget of which a part may be used."""
    memory.check_base(base.id, base.fingerprint, base.identity)
    with library.unfinished.alone(memory.manifest.absorption_key):
        yield from _rehearse_alone(budget, memory, base, library, until, stop)


def _rehearse_alone(
    budget: Budget,
    memory: StoredMemory,
    base: BaseModel,
    library: MemoryLibrary,
    until: float,
    stop: StopFlag | None,
) -> Iterator[AbsorptionEvent]:
    """Rehearse as the only one that changes the memory."""
    recipe, old = _recipe_of(memory), memory.manifest
    if all(not task.held_out for task in memory.tasks):
        raise UsageError(
            f"expected held-out questions to know what {memory.name!r} has forgotten, got none; absorb the text again "
            "with tasks.held_out_per_sentence above 0"
        )
    made = prepare_document(memory.document, base, recipe)
    _check_sentences(memory, made)
    resolved = resolve(recipe, base)
    session = _reopened(memory, base, resolved, budget)
    stopped = False
    with cleaning_up(session.close):
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
            shorter = _round_recipe(resolved, rounds)
            preparation = prepare(made, tasks, base, shorter)
            try:
                yield from session.train(preparation.sampler, shorter.recipe.training, stop=stop)
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
    draft = session.draft(
        made,
        name=memory.name,
        key=old.absorption_key,
        identity=old.identity,
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


@shares_its_base
def absorb_until_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
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
    _check_share(until)
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
    yield from _rehearse_within(Budget(budget_s, started, clock), finished.memory, base, library, until, stop)


def _still_trained(preparation: Preparation) -> set[Task]:
    """The tasks that the training had time for, and those that are held out."""
    return set(trained_tasks(preparation.tasks, preparation.sampler))


def _reopened(memory: StoredMemory, base: BaseModel, resolved: ResolvedRecipe, budget: Budget) -> Session:
    """A session that goes on from the stored adapter, in full precision."""
    release(base.model)
    state = {key: value.float() for key, value in memory.load_adapter_state().items()}
    adapter = restore_adapter(base.model, memory.adapter_config, state)
    return Session(base, adapter, resolved, budget, before=memory)


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
    recipe = _recipe_of(memory, overrides)
    _check_endpoint(memory, recipe, overrides)
    return recipe


def _recipe_of(memory: StoredMemory, overrides: Sequence[str] = ()) -> Recipe:
    return Recipe.parse(apply_overrides(memory.manifest.recipe, overrides), f"the recipe of the memory {memory.name!r}")


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


def _check_sentences(memory: StoredMemory, made: PreparedDocument) -> None:
    """Raise LibraryError where tasks are about sentences that the text does not have, as it is split now."""
    last = max((max(task.evidence) for task in memory.tasks), default=-1)
    if last >= len(made.sentences):
        raise LibraryError(
            f"the memory {memory.name!r} has questions about sentence {last + 1:,} of a text of "
            f"{len(made.sentences):,}; absorb the text again"
        )


def _gentler(recipe: Recipe) -> TrainingSettings:
    """The recipe's training at a lower rate: an adapter that knows something has it to lose."""
    rate = recipe.training.learning_rate * recipe.update.learning_rate_multiplier
    return recipe.training.model_copy(update={"learning_rate": rate})


def _round_recipe(resolved: ResolvedRecipe, number: int) -> ResolvedRecipe:
    """A short, gentler training of its own, on tasks alone, even where the text was absorbed by segments alone."""
    recipe, training = resolved.recipe, _gentler(resolved.recipe)
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
    return resolved.change(training=shorter, segments=segments, tasks=tasks)


def _to_rehearse(tasks: Sequence[Task], report: RecallReport, share: float, seed: str) -> list[Task]:
    """All tasks of the forgotten sentences, and a sample of the others that is not larger than these."""
    forgotten = set(report.forgotten)
    trained = [task for task in tasks if not task.held_out]
    wanted = [task for task in trained if task.evidence[0] in forgotten]
    others = [task for task in trained if task.evidence[0] not in forgotten]
    count = min(round(share * len(others)), len(wanted))
    return [*wanted, *random.Random(seed).sample(others, count)]


def _sample(tasks: Sequence[Task], share: float, seed: int) -> list[Task]:
    trained = [task for task in tasks if not task.held_out]
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
