"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event as StopFlag
from typing import Any

from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.adapters.resident import release
from lift.adapters.starting_point import find_starting_point, start_adapter
from lift.budget import Budget, Clock, check_budget
from lift.documents.document import Document
from lift.errors import DocumentError
from lift.events import AbsorptionEvent, Finished, Fitting, Prepared, Probed, Writing
from lift.memories.library import Library
from lift.memories.manifest import RecallPoint
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.preparation import Outline, TaskWriter, nothing_to_train, outline, prepare, prepare_stream
from lift.recall import PROBE_BATCH, RecallReport, choose_probes
from lift.recipes.recipe import Recipe
from lift.session import Session
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.attention_distillation import distill_attention
from lift.training.curriculum import Curriculum
from lift.training.loop import CHECKPOINT_EVERY_S

_STREAMED_PROBE_SHARE = 0.08
_SAY_EVERY_S = 1.0
_UNFINISHED = (
    "an interrupted run of this absorption is kept, and this one begins anew and will overwrite it; "
    "stop, and give --resume to go on from there"
)
# Of what is left of a budget, what writing tasks may take, and fitting the attention.
_WRITING_SHARE = 0.35
_FITTING_SHARE = 0.35


def absorb_events(
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: Library,
    *,
    name: str | None = None,
    budget_s: float | None = None,
    resume: bool = False,
    replace: bool = False,
    stop: StopFlag | None = None,
    started: float | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    clock: Clock = time.monotonic,
) -> Iterator[AbsorptionEvent]:
    """Absorb `document` and put the memory into `library`, yielding what happens as it happens.

    `budget_s` bounds the whole of it, from `started` (by `clock`, default now) to the stored memory, and always ends in
    one: what does not fit is left out, the questions of the recall report too, and it is said what was. A document
    that was absorbed before with the same model, recipe and budget is not trained again: its memory is returned (and
    copied under the new name, if one is asked for). When `stop` is set, the state is saved after the current step and
    InterruptedAbsorption is raised; `resume` goes on from there, or, where the process was killed, from what is saved
    about every `checkpoint_every_s` seconds: the training that is kept counts towards the budget, what was lost does
    not. With `replace` the memory takes the place of another one called `name`, which stands until then. Raises
    DocumentError, GenerationError, LibraryError, and BudgetError for a budget below the smallest.
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
    )


def absorb_within(
    budget: Budget,
    document: Document,
    base: BaseModel,
    recipe: Recipe,
    library: Library,
    *,
    name: str | None = None,
    resume: bool = False,
    replace: bool = False,
    stop: StopFlag | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> Iterator[AbsorptionEvent]:
    """As absorb_events, within a budget that may be a part of a larger one, and is then as short as it is."""
    key = absorption_key(document, base, recipe, budget.seconds)
    name = library.check_free(name, key, replace=replace) if name else None
    if (known := absorbed_before(library, key, name, replace=replace)) is not None:
        library.clear_checkpoint(key)  # left there by a crash right after the memory was put
        yield Finished(known, None, budget.elapsed_s, 0.0, reused=True)
        return
    name = name or library.free_name(document.title)
    made = outline(document, base, recipe)
    if not resume and library.checkpoint_path(key).exists():
        made = dataclasses.replace(made, warnings=(*made.warnings, _UNFINISHED))
    writer = TaskWriter(made, base, recipe)
    release(base.model)
    session = Session(base, start_adapter(base, recipe.adapter, recipe.training.seed), recipe, budget)
    options: dict[str, Any] = {
        "checkpoint": library.checkpoint_path(key),
        "checkpoint_every_s": checkpoint_every_s,
        "resume": resume,
        "stop": stop,
    }
    try:
        if recipe.generator.stream:
            learned = yield from _learn_streaming(session, made, writer, options)
        else:
            learned = yield from _learn(session, made, writer, options)
        session.keep_share()
        adapter = session.round_to_stored()
        report = yield from session.probing(document, made.sentences, learned.probes)
    finally:
        session.adapter.detach()
    point = session.point("absorbed", report)
    draft = session.draft(
        made,
        # taken by another process meanwhile
        name=name if replace or name not in library else library.free_name(name),
        key=key,
        adapter=adapter,
        tasks=learned.tasks,
        report=report,
        history=[point],
        generation=writer.counts.as_dict(),
        predicted_s=learned.predicted_s,
    )
    memory = library.put(draft, replace=replace)
    library.clear_checkpoint(key)
    yield Finished(
        memory, report, session.elapsed_s, learned.predicted_s, reused=False, remarks=left_out(learned.probes, report)
    )


def left_out(probes: Sequence[Task], report: RecallReport, held_back: bool = True) -> tuple[str, ...]:
    """What is said where a budget had no time for the questions of the recall report."""
    if probes and len(report.probes) == len(probes):
        return ()
    if not report.probes:
        return ("no held-back question was asked: the budget left no time for it",) if held_back else ()
    return (f"{len(report.probes)} of {len(probes)} held-back questions were asked: the budget left no more time",)


def absorbed_before(library: Library, key: str, name: str | None, *, replace: bool = False) -> Memory | None:
    """The memory that came of the absorption `key`, under `name` where one is asked for (copied then), or None."""
    known = library.find(key, name)
    if known is not None and name is not None and name != known.name:
        return library.copy(known.name, name, replace=replace)
    return known


@dataclass(frozen=True)
class _Learned:
    """What a training has used: all its tasks, the probes that there is time for, and the forecast of its end."""

    tasks: Sequence[Task]
    probes: Sequence[Task]
    predicted_s: float


def _learn(
    session: Session, made: Outline, writer: TaskWriter, options: dict[str, Any]
) -> Generator[AbsorptionEvent, None, _Learned]:
    """All tasks first, then the training."""
    recipe = session.recipe
    with session.adapter.disabled():  # the generator may be the base model itself
        tasks = yield from write_tasks(made, writer, session.budget)
    preparation = prepare(made, tasks, session.base, recipe)
    yield prepared(made, tasks, writer)
    yield from _fit_attention(session, made)
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    schedule = session.schedule(preparation, probing_s)
    yield schedule.planned
    curriculum = schedule.preparation.curriculum
    goal = RecallGoal(session, made, probes, curriculum) if recipe.training.until_recall and probes else None
    yield from session.train(
        curriculum, recipe.training, schedule=schedule, enough=goal.reached if goal else None, **options
    )
    if goal and goal.point:
        yield Probed(**goal.point.model_dump())
    return _Learned(trained_tasks(tasks, curriculum), probes, schedule.predicted_s)


def trained_tasks(tasks: Sequence[Task], curriculum: Curriculum) -> Sequence[Task]:
    """All tasks but those that the curriculum has never had time for."""
    if curriculum.widest_limit is None:  # a recipe of segments alone trains on none of them, and keeps them all
        return tasks
    within = set(curriculum.tasks_within(curriculum.widest_limit))
    return TaskFile(task for number, task in enumerate(tasks) if task.held_back or number in within)


def _learn_streaming(
    session: Session, made: Outline, writer: TaskWriter, options: dict[str, Any]
) -> Generator[AbsorptionEvent, None, _Learned]:
    """Training begins with the first tasks, while later ones are still being written (method 3.2)."""
    yield prepared(made, (), writer, streaming=True)
    yield from _fit_attention(session, made)
    curriculum = prepare_stream(made, writer, session.base, session.recipe)
    session.probing_s = _STREAMED_PROBE_SHARE * (session.budget.seconds or 0.0)
    try:
        yield from session.train(curriculum, session.recipe.training, **options)
    finally:
        curriculum.close()
    tasks = curriculum.written
    if not session.steps:
        raise DocumentError(nothing_to_train(made, session.recipe))
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    return _Learned(tasks, probes, session.elapsed_s + probing_s + session.saving_s)


class RecallGoal:
    """Whether a training has the recall that its recipe asks for; `point` is where it had, None before.

    The held-back questions are asked when that share of the tasks was right in training, since they are harder, and
    after each time in vain only after twice as many epochs as before.
    """

    def __init__(self, session: Session, made: Outline, probes: Sequence[Task], curriculum: Curriculum) -> None:
        self.point: RecallPoint | None = None
        self._session = session
        self._made = made
        self._probes = choose_probes(probes, PROBE_BATCH)
        self._curriculum = curriculum
        self._epochs = 0
        self._due = 1

    def reached(self) -> bool:
        """To be asked after each epoch."""
        share = self._session.recipe.training.until_recall
        self._epochs += 1
        if not self._session.has_time_to_probe:
            return False
        if self._epochs < self._due or self._curriculum.spacing.known_share < share:
            return False
        report = self._session.probe(self._made.document, self._made.sentences, self._probes)
        if report.share >= share:
            self.point = self._session.point("reached in training", report)
            return True
        self._due = 2 * self._epochs
        return False


def write_tasks(made: Outline, writer: TaskWriter, budget: Budget) -> Generator[AbsorptionEvent, None, TaskFile]:
    """The tasks of a generator, with Writing every second that a language model takes (rules write all at once).

    Of a budget they may take a share; what is not written by then is left out, once there is anything to train on.
    """
    tasks = TaskFile()
    begun = said = budget.clock()
    ends_at = begun + _WRITING_SHARE * budget.left_s()
    trained = False
    for piece in writer.stream():
        tasks.extend(piece.tasks)
        trained = trained or any(not task.held_back for task in piece.tasks)
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


def prepared(made: Outline, tasks: Sequence[Task], writer: TaskWriter, *, streaming: bool = False) -> Prepared:
    """The event that tells what a document was split into."""
    held_back = sum(task.held_back for task in tasks)
    warnings = made.warnings
    if not streaming and writer.position is not None and writer.position < len(made.sentences):
        warnings += (
            f"the budget left time for questions about {writer.position:,} of {len(made.sentences):,} sentences; "
            "more time teaches more",
        )
    if not held_back and not streaming:
        warnings = (*warnings, "no question is held back from the training, so there will be no recall report")
    return Prepared(
        title=made.document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=len(tasks) - held_back,
        held_back=held_back,
        language=made.language,
        warnings=warnings,
        generation=writer.counts.as_dict(),
        streaming=streaming,
    )


def _fit_attention(session: Session, made: Outline) -> Iterator[AbsorptionEvent]:
    """Fit a Gated Memory to the attention of a reader of the document, where the recipe asks for it (method 2.3)."""
    settings = session.recipe.attention
    if settings.epochs and isinstance(session.adapter, GatedMemoryAdapter):
        ends_at = session.budget.clock() + _FITTING_SHARE * session.budget.left_s()
        for fit in distill_attention(session.base, session.adapter, made.document.text, settings):
            yield Fitting(fit.epoch, settings.epochs, fit.error)
            if session.budget.clock() > ends_at:
                break


def absorption_key(document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None) -> str:
    """Identity of an absorption: the same text, titles, weights, start, settings and budget give the same memory."""
    titles = [part.title for part in document.split()]
    start = find_starting_point(base, recipe.adapter)
    begun_at = start.digest if start is not None else None
    parts = [document.sha256, document.title, titles, base.fingerprint, recipe.digest(), begun_at, budget_s]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
