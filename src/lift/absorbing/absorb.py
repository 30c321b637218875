"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from threading import Event as StopFlag

from lift.absorbing.absorption_events import AbsorptionEvent, Finished, WaitingForOther
from lift.absorbing.learning import learn
from lift.absorbing.preparation import prepare_document
from lift.absorbing.probing import ask_probes
from lift.absorbing.recall_report import left_out
from lift.absorbing.rehearse import rehearse
from lift.absorbing.resolved_recipe import ResolvedRecipe, resolve
from lift.absorbing.reuse import absorbed_before, absorption_identity, free_name, like_memory
from lift.absorbing.run_options import AbsorptionOptions
from lift.absorbing.session import Saving, Session
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.resident import release
from lift.adapters.sharing import shares_its_base
from lift.documents.document import Document
from lift.errors import BusyAbsorptionError, InterruptedAbsorption, cleaning_up
from lift.memories.identity import AbsorptionIdentity
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.recipes.recipe import Recipe
from lift.training.budget import Budget

# Of a budget that ends in rehearsals, the share of the first absorption.
_FIRST_PASS_SHARE = 0.6
_LOCK_POLL_S = 0.25
_UNFINISHED = (
    "an interrupted run of this absorption is kept, and this one begins anew and will overwrite it; "
    "stop, and give --resume to go on from there"
)


@shares_its_base
def absorb_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    options: AbsorptionOptions = AbsorptionOptions(),
) -> Iterator[AbsorptionEvent]:
    """Absorb `document` and put the memory into `library`, yielding what happens as it happens.

    A budget always ends in a memory: what does not fit is left out, the questions of the recall report too, and it is
    said what was. A document that was absorbed before with the same model, recipe and budget is not trained again: its
    memory is returned (and copied under the new name, if one is asked for), and with `until` rehearsed further. When
    `stop` is set, the state is saved after the current step and InterruptedAbsorption is raised; the training that is
    kept counts towards the budget of the run that resumes it, what was lost does not. Where somebody else absorbs the
    same in the same way, BusyAbsorptionError is raised at once, or the end of that is waited for, outside the budget.
    Raises DocumentError, GenerationError, TrainingError, LibraryError, and what rehearse raises.
    """
    budget = first = options.begin()
    if options.until is not None and budget.seconds is not None:
        first = dataclasses.replace(budget, seconds=_FIRST_PASS_SHARE * budget.seconds)
    finished = yield from _absorb(first, document, base, recipe, library, options)
    if options.until is None or finished.memory.manifest.recall.share >= options.until:
        yield finished
    else:
        yield from rehearse(budget, finished.memory, base, library, options.until, options.stop)


def _absorb(
    budget: Budget,
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    options: AbsorptionOptions,
) -> Generator[AbsorptionEvent, None, Finished]:
    """Find the memory of the same absorption, or make it."""
    resolved = resolve(recipe, base)
    identity = absorption_identity(document, base, resolved, budget.seconds)
    key, replace = identity.key, options.replace
    name = free_name(library, options.name, identity, replace=replace) if options.name else None
    if (known := absorbed_before(library, key, name, replace=replace)) is not None:
        library.unfinished.clear(key)  # left there by a crash right after the memory was put
        return Finished(known, None, budget.elapsed_s, 0.0, reused=True)
    asked = budget.clock()
    with (yield from _alone(base, library, key, options.wait_for_others, options.stop)):
        budget = dataclasses.replace(budget, started=budget.started + budget.clock() - asked)
        known = absorbed_before(library, key, name, replace=replace)
        if known is not None:  # just put by another process
            return Finished(known, None, budget.elapsed_s, 0.0, reused=True)
        named = dataclasses.replace(options, name=name)
        return (yield from _absorb_alone(budget, document, base, resolved, library, named, identity))


def _alone(
    base: BaseModel, library: MemoryLibrary, key: str, wait: bool, stop: StopFlag | None
) -> Generator[AbsorptionEvent, None, ExitStack]:
    """Hold the lock of the absorption `key` until the stack that is returned is closed."""
    told = False
    while True:
        with ExitStack() as held:
            try:
                held.enter_context(library.unfinished.alone(key))
            except BusyAbsorptionError as busy:
                if not wait:
                    raise
                if not told:
                    yield WaitingForOther(str(busy))
                told = True
            else:
                return held.pop_all()
        with turn_of(base.model).released():  # who waits for another process keeps nobody from asking
            if stop is None:
                time.sleep(_LOCK_POLL_S)
            elif stop.wait(_LOCK_POLL_S):
                raise InterruptedAbsorption("stopped while somebody else absorbs this text; nothing was begun")


def _absorb_alone(
    budget: Budget,
    document: Document,
    base: BaseModel,
    resolved: ResolvedRecipe,
    library: MemoryLibrary,
    options: AbsorptionOptions,
    identity: AbsorptionIdentity,
) -> Generator[AbsorptionEvent, None, Finished]:
    """Absorb as the only one under that identity."""
    key, checkpoint = identity.key, library.unfinished.path(identity.key)
    name = options.name or library.free_name(document.title)
    made = prepare_document(document, base, resolved.recipe)
    if not options.resume and checkpoint.exists():
        made = dataclasses.replace(made, warnings=(*made.warnings, _UNFINISHED))
    if (like := like_memory(library, identity)) is not None:
        made = dataclasses.replace(made, warnings=(*made.warnings, like.sentence))
    writer = TaskWriter(made, base, resolved.recipe)
    release(base.model)
    session = Session(base, resolved.create_adapter(base), resolved, budget, options.stop)
    with cleaning_up(session.close):
        saving = Saving(checkpoint, options.checkpoint_every_s, options.resume, document.sha256)
        learned = yield from learn(session, made, writer, saving)
        session.keep_share()
        session.round_to_stored()
        report = yield from ask_probes(session, made, learned.probes)
    draft = session.draft(
        made,
        # taken by another process meanwhile
        name=name if options.replace or name not in library else library.free_name(name),
        key=key,
        identity=identity,
        tasks=learned.tasks,
        report=report,
        history=[session.point("absorbed", report)],
        generation=writer.counts.as_dict(),
        predicted_s=learned.predicted_s,
    )
    memory = library.put(draft, replace=options.replace)
    library.unfinished.clear(key)
    remarks = left_out(learned.probes, report)
    return Finished(memory, report, budget.elapsed_s, learned.predicted_s, reused=False, remarks=remarks)
