"""The forgotten sentences of a memory are rehearsed until enough is recalled."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from threading import Event as StopFlag

from lift.absorbing.absorption_events import AbsorptionEvent, Finished, Probed
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.probing import affordable_probes, ask_probes
from lift.absorbing.recall_report import RecallReport, left_out
from lift.absorbing.reopen import check_sentences, gentler, recipe_of, reopen
from lift.absorbing.resolved_recipe import ResolvedRecipe, resolve
from lift.errors import InterruptedAbsorption, UsageError, cleaning_up
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.tasks.task import Task
from lift.training.budget import Budget

_ROUND_EPOCHS = 2  # of one round, probed at its end
# Rounds of rehearsal without a better recall after which more of them are not worth their time.
_PATIENCE_ROUNDS = 3


def rehearse(
    budget: Budget, memory: StoredMemory, base: BaseModel, library: MemoryLibrary, until: float, stop: StopFlag | None
) -> Iterator[AbsorptionEvent]:
    """Train on what the recall report says is forgotten until a share `until` of the probed sentences is recalled.

    Each round trains the tasks of the forgotten sentences and a share of the others, then asks all probes again; the
    probes themselves are never trained on, but they decide when to stop, so the recall reached is a little flattering.
    Ends at the target, at the budget, or when three rounds in a row did not help; the best round is kept. Raises
    UsageError for a memory without held-out tasks, WrongBaseModelError, and InterruptedAbsorption after `stop` (what
    was reached is kept).
    """
    memory.check_base(base.id, base.fingerprint, base.identity)
    with library.unfinished.alone(memory.manifest.absorption_key):
        yield from _rehearse_alone(budget, memory, base, library, until, stop)


def _rehearse_alone(
    budget: Budget, memory: StoredMemory, base: BaseModel, library: MemoryLibrary, until: float, stop: StopFlag | None
) -> Iterator[AbsorptionEvent]:
    """Rehearse as the only one that changes the memory."""
    recipe, old = recipe_of(memory), memory.manifest
    if all(not task.held_out for task in memory.tasks):
        raise UsageError(
            f"expected held-out questions to know what {memory.name!r} has forgotten, got none; absorb the text again "
            "with tasks.held_out_per_sentence above 0"
        )
    made = prepare_document(memory.document, base, recipe)
    check_sentences(memory, made)
    resolved = resolve(recipe, base)
    session = reopen(memory, base, resolved, budget, stop)
    stopped = False
    with cleaning_up(session.close):
        probes, probing_s = affordable_probes(session, made, memory.tasks)
        session.clock.probing_s = 2 * probing_s  # after the last round, and of what is stored
        report = best = yield from ask_probes(session, made, probes)
        state = session.adapter.trained_state()
        history = [*old.recall_history, session.point("before rehearsing", report)]
        yield Probed(**history[-1].model_dump())
        rounds = waited = 0
        while best.share < until and waited < _PATIENCE_ROUNDS and not stopped:
            if not budget.left_s(session.clock.reserve_s):
                break
            rounds += 1
            tasks = _to_rehearse(memory.tasks, report, recipe.update.replay_share, f"{recipe.training.seed}/{rounds}")
            if not tasks:
                break
            shorter = _round_recipe(resolved, rounds)
            preparation = prepare(made, tasks, base, shorter)
            try:
                yield from session.train(preparation.sampler, shorter.recipe.training)
            except InterruptedAbsorption:
                stopped = True
            report = yield from ask_probes(session, made, probes)
            history.append(session.point("rehearsed", report))
            yield Probed(**history[-1].model_dump())
            waited += 1
            if len(report.recalled) > len(best.recalled):
                best, state, waited = report, session.adapter.trained_state(), 0
        session.adapter.load_state(state)
        session.round_to_stored()
        stored = yield from ask_probes(session, made, probes)
        report = stored if len(stored.probes) >= len(best.probes) else best  # asked before it was rounded
    draft = session.draft(
        made,
        name=memory.name,
        key=old.absorption_key,
        identity=old.identity,
        tasks=memory.tasks,
        report=report,
        history=history,
        generation=old.generation,
        predicted_s=budget.elapsed_s,
    )
    changed = library.put(draft, replace=True)
    if stopped:
        raise InterruptedAbsorption("stopped; the best round is kept, and the same command goes on from it")
    took_s = budget.elapsed_s
    yield Finished(changed, report, took_s, took_s, reused=False, remarks=left_out(probes, report))


def _round_recipe(resolved: ResolvedRecipe, number: int) -> ResolvedRecipe:
    """A short, gentler training of its own, on tasks alone, even where the text was absorbed by segments alone."""
    recipe, training = resolved.recipe, gentler(resolved.recipe)
    shorter = training.model_copy(
        update={
            "epochs": _ROUND_EPOCHS,
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
