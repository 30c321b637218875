"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event as StopFlag
from typing import Any

from lift.absorbing.absorption_events import (
    AbsorptionEvent,
    Finished,
    Fitting,
    Prepared,
    Probed,
    WaitingForOther,
    Writing,
)
from lift.absorbing.preparation import (
    PreparedDocument,
    TaskWriter,
    nothing_to_train,
    prepare,
    prepare_document,
    prepare_stream,
)
from lift.absorbing.recall_report import PROBE_BATCH, RecallReport, choose_probes
from lift.absorbing.resolved_recipe import ResolvedRecipe, resolve
from lift.absorbing.session import Session
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.adapters.resident import release
from lift.adapters.sharing import shares_its_base
from lift.documents.document import Document
from lift.errors import BusyAbsorptionError, DocumentError, InterruptedAbsorption, LibraryError, cleaning_up
from lift.memories.identity import AbsorptionIdentity
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import RecallPoint
from lift.memories.memory import StoredMemory
from lift.memories.memory_names import normal_name
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.recipes.recipe import RECIPE_VERSION, Recipe
from lift.tasks.rules.rule_generator import RULES_VERSION
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.attention_distillation import distill_attention
from lift.training.batch_sampler import TRAINING_VERSION, BatchSampler
from lift.training.budget import Budget, Clock, check_budget
from lift.training.training_loop import CHECKPOINT_EVERY_S

_STREAMED_PROBE_SHARE = 0.08
_SAY_EVERY_S = 1.0
_LOCK_POLL_S = 0.25
_UNFINISHED = (
    "an interrupted run of this absorption is kept, and this one begins anew and will overwrite it; "
    "stop, and give --resume to go on from there"
)
# Of what is left of a budget, what writing tasks may take, and fitting the attention.
_WRITING_SHARE = 0.35
_FITTING_SHARE = 0.35


@shares_its_base
def absorb_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    *,
    name: str | None = None,
    budget_s: float | None = None,
    resume: bool = False,
    replace: bool = False,
    stop: StopFlag | None = None,
    started: float | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    wait_for_others: bool = False,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Absorb `document` and put the memory into `library`, yielding what happens as it happens.

    `budget_s` bounds the whole of it, from `started` (by `clock`, default now) to the stored memory, and always ends in
    one: what does not fit is left out, the questions of the recall report too, and it is said what was. A document
    that was absorbed before with the same model, recipe and budget is not trained again: its memory is returned (and
    copied under the new name, if one is asked for). When `stop` is set, the state is saved after the current step and
    InterruptedAbsorption is raised; `resume` goes on from there, or, where the process was killed, from what is saved
    about every `checkpoint_every_s` seconds: the training that is kept counts towards the budget, what was lost does
    not. With `replace` the memory takes the place of another one called `name`, which stands until then. Where
    somebody else absorbs the same in the same way, BusyAbsorptionError is raised at once, or with `wait_for_others` the
    end of that is waited for, outside the budget. Raises DocumentError, GenerationError, TrainingError, LibraryError,
    and BudgetError for a budget below the smallest.
    """
    check_budget(budget_s)
    budget = Budget(budget_s, clock() if started is None else started, clock)
    yield from absorb_within(
        budget,
        document,
        base,
        recipe,
        library,
        name=name,
        resume=resume,
        replace=replace,
        stop=stop,
        checkpoint_every_s=checkpoint_every_s,
        wait_for_others=wait_for_others,
    )


def absorb_within(
    budget: Budget,
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    *,
    name: str | None = None,
    resume: bool = False,
    replace: bool = False,
    stop: StopFlag | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    wait_for_others: bool = False,
) -> Iterator[AbsorptionEvent]:
    """As absorb_events, within a budget that may be a part of a larger one, and is then as short as it is."""
    resolved = resolve(recipe, base)
    identity = absorption_identity(document, base, resolved, budget.seconds)
    key = identity.key
    name = _free_name(library, name, identity, replace=replace) if name else None
    if (known := absorbed_before(library, key, name, replace=replace)) is not None:
        library.unfinished.clear(key)  # left there by a crash right after the memory was put
        yield Finished(known, None, budget.elapsed_s, 0.0, reused=True)
        return
    asked = budget.clock()
    with (yield from _alone(base, library, key, wait_for_others, stop)):
        budget = dataclasses.replace(budget, started=budget.started + budget.clock() - asked)
        options = {"checkpoint_every_s": checkpoint_every_s, "resume": resume, "stop": stop}
        yield from _absorb_alone(budget, document, base, resolved, library, name, identity, replace, options)


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
    name: str | None,
    identity: AbsorptionIdentity,
    replace: bool,
    options: dict[str, Any],
) -> Iterator[AbsorptionEvent]:
    """Absorb as the only one under that identity."""
    key = identity.key
    if (known := absorbed_before(library, key, name, replace=replace)) is not None:  # just put by another process
        yield Finished(known, None, budget.elapsed_s, 0.0, reused=True)
        return
    name = name or library.free_name(document.title)
    recipe = resolved.recipe
    made = prepare_document(document, base, recipe)
    if not options["resume"] and library.unfinished.path(key).exists():
        made = dataclasses.replace(made, warnings=(*made.warnings, _UNFINISHED))
    if (like := like_memory(library, identity)) is not None:
        made = dataclasses.replace(made, warnings=(*made.warnings, like.sentence))
    writer = TaskWriter(made, base, recipe)
    release(base.model)
    session = Session(base, resolved.create_adapter(base), resolved, budget)
    options = {"checkpoint": library.unfinished.path(key), **options}
    with cleaning_up(session.close):
        if recipe.generator.stream:
            learned = yield from _learn_streaming(session, made, writer, options)
        else:
            learned = yield from _learn(session, made, writer, options)
        session.keep_share()
        adapter = session.round_to_stored()
        report = yield from session.probing(document, made.sentences, learned.probes)
    point = session.point("absorbed", report)
    draft = session.draft(
        made,
        # taken by another process meanwhile
        name=name if replace or name not in library else library.free_name(name),
        key=key,
        identity=identity,
        adapter=adapter,
        tasks=learned.tasks,
        report=report,
        history=[point],
        generation=writer.counts.as_dict(),
        predicted_s=learned.predicted_s,
    )
    memory = library.put(draft, replace=replace)
    library.unfinished.clear(key)
    yield Finished(
        memory, report, session.elapsed_s, learned.predicted_s, reused=False, remarks=left_out(learned.probes, report)
    )


def left_out(probes: Sequence[Task], report: RecallReport, held_out: bool = True) -> tuple[str, ...]:
    """The remarks where a budget had no time for the questions of the recall report."""
    if probes and len(report.probes) == len(probes):
        return ()
    if not report.probes:
        return ("no held-out question was asked: the budget left no time for it",) if held_out else ()
    return (f"{len(report.probes)} of {len(probes)} held-out questions were asked: the budget left no more time",)


def absorbed_before(
    library: MemoryLibrary, key: str, name: str | None, *, replace: bool = False
) -> StoredMemory | None:
    """The memory that came of the absorption `key`, under `name` where one is asked for (copied then), or None."""
    known = library.find(key, name)
    if known is not None and name is not None and name != known.name:
        return library.copy(known.name, name, replace=replace)
    return known


@dataclass(frozen=True)
class _Learned:
    """The result of a training: all its tasks, the probes that there is time for, and the forecast of its end."""

    tasks: Sequence[Task]
    probes: Sequence[Task]
    predicted_s: float


def _learn(
    session: Session, made: PreparedDocument, writer: TaskWriter, options: dict[str, Any]
) -> Generator[AbsorptionEvent, None, _Learned]:
    """All tasks first, then the training."""
    recipe = session.recipe
    with session.adapter.disabled():  # the generator may be the base model itself
        tasks = yield from write_tasks(made, writer, session.budget)
    preparation = prepare(made, tasks, session.base, session.resolved)
    yield prepared(made, tasks, writer)
    yield from _fit_attention(session, made)
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    schedule = session.schedule(preparation, probing_s)
    yield schedule.planned
    sampler = schedule.preparation.sampler
    goal = RecallGoal(session, made, probes, sampler) if recipe.training.until_recall and probes else None
    yield from session.train(
        sampler, recipe.training, schedule=schedule, enough=goal.reached if goal else None, **options
    )
    if goal and goal.point:
        yield Probed(**goal.point.model_dump())
    return _Learned(trained_tasks(tasks, sampler), probes, schedule.predicted_s)


def trained_tasks(tasks: Sequence[Task], sampler: BatchSampler) -> Sequence[Task]:
    """All tasks but those that the batch sampler has never had time for."""
    if sampler.widest_limit is None:  # a recipe of segments alone trains on none of them, and keeps them all
        return tasks
    within = set(sampler.tasks_within(sampler.widest_limit))
    return TaskFile(task for number, task in enumerate(tasks) if task.held_out or number in within)


def _learn_streaming(
    session: Session, made: PreparedDocument, writer: TaskWriter, options: dict[str, Any]
) -> Generator[AbsorptionEvent, None, _Learned]:
    """Training begins with the first tasks, while later ones are still being written (method 3.2)."""
    yield prepared(made, (), writer, streaming=True)
    yield from _fit_attention(session, made)
    sampler = prepare_stream(made, writer, session.base, session.resolved)
    session.probing_s = _STREAMED_PROBE_SHARE * (session.budget.seconds or 0.0)
    with cleaning_up(sampler.close):
        yield from session.train(sampler, session.recipe.training, **options)
    tasks = sampler.written
    if not session.steps:
        raise DocumentError(nothing_to_train(made, session.recipe))
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    return _Learned(tasks, probes, session.elapsed_s + probing_s + session.saving_s)


class RecallGoal:
    """Whether a training has the recall that its recipe asks for; `point` is where it had, None before.

    The held-out questions are asked when that share of the tasks was right in training, since they are harder, and
    after each time in vain only after twice as many epochs as before.
    """

    def __init__(self, session: Session, made: PreparedDocument, probes: Sequence[Task], sampler: BatchSampler) -> None:
        self.point: RecallPoint | None = None
        self._session = session
        self._made = made
        self._probes = choose_probes(probes, PROBE_BATCH)
        self._sampler = sampler
        self._epochs = 0
        self._due = 1

    def reached(self) -> bool:
        """To be asked after each epoch."""
        share = self._session.recipe.training.until_recall
        self._epochs += 1
        if not self._session.has_time_to_probe:
            return False
        if self._epochs < self._due or self._sampler.leitner.known_share < share:
            return False
        report = self._session.probe(self._made.document, self._made.sentences, self._probes)
        if report.share >= share:
            self.point = self._session.point("reached in training", report)
            return True
        self._due = 2 * self._epochs
        return False


def write_tasks(
    made: PreparedDocument, writer: TaskWriter, budget: Budget
) -> Generator[AbsorptionEvent, None, TaskFile]:
    """The tasks of a generator, with Writing every second that a language model takes (rules write all at once).

    Of a budget they may take a share; what is not written by then is left out, once there is anything to train on.
    """
    tasks = TaskFile()
    begun = said = budget.clock()
    ends_at = begun + _WRITING_SHARE * budget.left_s()
    trained = False
    for piece in writer.stream():
        tasks.extend(piece.tasks)
        trained = trained or any(not task.held_out for task in piece.tasks)
        now, counts = budget.clock(), writer.counts
        if now > ends_at and trained:
            break
        if counts.requests and now - said >= _SAY_EVERY_S:
            said = now
            left = len(made.sentences) - piece.position
            yield Writing(
                sentences_done=piece.position,
                sentences=len(made.sentences),
                kept=len(tasks),
                failed=sum(counts.failed.values()),
                rejected=sum(counts.rejected.values()),
                eta_s=(now - begun) * left / max(piece.position - writer.skipped, 1),
            )
    return tasks


def prepared(made: PreparedDocument, tasks: Sequence[Task], writer: TaskWriter, *, streaming: bool = False) -> Prepared:
    """The event that tells what a document was split into."""
    held_out = sum(task.held_out for task in tasks)
    warnings = made.warnings
    if not streaming and writer.position is not None and writer.position < len(made.sentences):
        warnings += (
            f"the budget left time for questions about {writer.position:,} of {len(made.sentences):,} sentences; "
            "more time teaches more",
        )
    if not held_out and not streaming:
        warnings = (*warnings, "no question is held out from the training, so there will be no recall report")
    return Prepared(
        title=made.document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=len(tasks) - held_out,
        held_out=held_out,
        language=made.language,
        warnings=warnings,
        generation=writer.counts.as_dict(),
        streaming=streaming,
    )


def _fit_attention(session: Session, made: PreparedDocument) -> Iterator[AbsorptionEvent]:
    """Fit a Gated Memory to the attention of a reader of the document, where the recipe asks for it (method 2.3)."""
    settings = session.recipe.attention
    if settings.epochs and isinstance(session.adapter, GatedMemoryAdapter):
        ends_at = session.budget.clock() + _FITTING_SHARE * session.budget.left_s()
        for fit in distill_attention(session.base, session.adapter, made.document.text, settings):
            yield Fitting(fit.epoch, settings.epochs, fit.error)
            if session.budget.clock() > ends_at:
                break


def absorption_identity(
    document: Document, base: BaseModel, resolved: ResolvedRecipe, budget_s: float | None
) -> AbsorptionIdentity:
    """Identity of an absorption: the same text, base, start, settings, budget and code give the same memory."""
    titles = [document.title, *(part.title for part in document.split())]
    recipe, start = resolved.recipe, resolved.warm_start
    return AbsorptionIdentity(
        text=document.sha256,
        titles=hashlib.sha256(json.dumps(titles).encode()).hexdigest(),
        weights=base.fingerprint,
        base=base.identity,
        recipe=recipe.digest(),
        warm_start=start.digest if start is not None else None,
        budget_s=budget_s,
        rules_version=RULES_VERSION if recipe.generator.kind == "rules" else None,
        training_version=TRAINING_VERSION,
        recipe_version=RECIPE_VERSION,
    )


@dataclass(frozen=True)
class LikeMemory:
    """A memory of the same text that was made otherwise."""

    name: str
    differences: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Why it is not used again."""
        return f"the memory {self.name!r} of the same text is not used again: {', '.join(self.differences)}"


def like_memory(library: MemoryLibrary, identity: AbsorptionIdentity) -> LikeMemory | None:
    """The memory of the same text that differs in the fewest things, None where there is none, or one that does not."""
    like = min(_like_memories(library, identity), key=lambda each: len(each.differences), default=None)
    return like if like is not None and like.differences else None


def _like_memories(library: MemoryLibrary, identity: AbsorptionIdentity) -> list[LikeMemory]:
    found = []
    for summary in library.summaries():
        made = summary.manifest.identity if summary.manifest is not None else None
        if made is not None and made.text == identity.text:
            found.append(LikeMemory(summary.name, made.differences(identity)))
    return found


def _free_name(library: MemoryLibrary, name: str, identity: AbsorptionIdentity, *, replace: bool = False) -> str:
    """As MemoryLibrary.check_free; of a memory of that name and the same text it is said why it is not used again."""
    try:
        return library.check_free(name, identity.key, replace=replace)
    except LibraryError as error:
        named = [like for like in _like_memories(library, identity) if like.name == normal_name(name)]
        if not named or not named[0].differences:
            raise
        raise LibraryError(f"{error}; {named[0].sentence}") from None
