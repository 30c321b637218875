"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event as StopFlag
from typing import Any

from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.adapters.resident import release
from lift.adapters.starting_point import find_starting_point, start_adapter
from lift.documents.document import Document
from lift.errors import BudgetError, DocumentError, LibraryError
from lift.events import AbsorptionEvent, Finished, Fitting, Prepared, Probed, Probing, Writing
from lift.memories.identity import AbsorptionIdentity
from lift.memories.library import Library
from lift.memories.manifest import RecallPoint
from lift.memories.memory import Memory
from lift.memories.names import normal_name
from lift.models.base_model import BaseModel
from lift.preparation import Outline, TaskWriter, followed, nothing_to_train, outline, prepare, prepare_stream
from lift.recall import PROBE_BATCH, choose_probes
from lift.recipes.recipe import RECIPE_VERSION, Recipe
from lift.session import SAVING_S, Session
from lift.tasks.rules.generate import RULES_VERSION
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.attention_distillation import distill_attention
from lift.training.curriculum import TRAINING_VERSION, Curriculum
from lift.training.loop import CHECKPOINT_EVERY_S

_STREAMED_PROBE_SHARE = 0.08
_SAY_EVERY_S = 1.0


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
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> Iterator[AbsorptionEvent]:
    """Absorb `document` and put the memory into `library`, yielding what happens as it happens.

    `budget_s` bounds the whole of it, from `started` (time.monotonic, default now) to the recall report. A document
    that was absorbed before with the same model, recipe and budget is not trained again: its memory is returned (and
    copied under the new name, if one is asked for). When `stop` is set, the state is saved after the current step and
    InterruptedAbsorption is raised; `resume` goes on from there, or, where the process was killed, from what is saved
    about every `checkpoint_every_s` seconds: the training that is kept counts towards the budget, what was lost does
    not. Raises DocumentError, GenerationError, BudgetError, LibraryError.
    """
    started = time.monotonic() if started is None else started
    identity = absorption_identity(document, base, recipe, budget_s)
    key = identity.key
    name = _free_name(library, name, identity) if name else None
    if (known := absorbed_before(library, key, name)) is not None:
        library.clear_checkpoint(key)  # left there by a crash right after the memory was put
        yield Finished(known, None, time.monotonic() - started, 0.0, reused=True)
        return
    name = name or library.free_name(document.title)
    made = outline(document, base, recipe)
    if (like := like_memory(library, identity)) is not None:
        made = replace(made, warnings=(*made.warnings, like.sentence))
    writer = TaskWriter(made, base, recipe)
    release(base.model)
    session = Session(base, start_adapter(base, recipe.adapter, recipe.training.seed), recipe, started, budget_s)
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
        yield Probing(len(learned.probes))
        session.keep_share()
        adapter = session.round_to_stored()
        report = session.probe(document, made.sentences, learned.probes)
    finally:
        session.adapter.detach()
    point = session.point("absorbed", report)
    draft = session.draft(
        made,
        name=name if name not in library else library.free_name(name),  # taken by another process meanwhile
        key=key,
        identity=identity,
        adapter=adapter,
        tasks=learned.tasks,
        report=report,
        history=[point],
        generation=writer.counts.as_dict(),
        predicted_s=learned.predicted_s,
    )
    memory = library.put(draft)
    library.clear_checkpoint(key)
    yield Finished(memory, report, session.elapsed_s, learned.predicted_s, reused=False)


def absorbed_before(library: Library, key: str, name: str | None) -> Memory | None:
    """The memory that came of the absorption `key`, under `name` where one is asked for (copied then), or None."""
    known = library.find(key, name)
    if known is not None and name is not None and name != known.name:
        return library.copy(known.name, name)
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
        tasks = yield from write_tasks(made, writer)
    preparation = prepare(made, tasks, session.base, recipe)
    yield prepared(made, tasks, writer)
    yield from _fit_attention(session, made)
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    schedule = session.schedule(preparation, probing_s + SAVING_S)
    yield schedule.planned
    curriculum = schedule.preparation.curriculum
    goal = RecallGoal(session, made, probes, curriculum) if recipe.training.until_recall and probes else None
    yield from session.train(
        curriculum,
        recipe.training,
        expected_s=schedule.expected_s,
        seconds=schedule.training_s,
        enough=goal.reached if goal else None,
        **options,
    )
    if session.budget_s is not None and curriculum.epochs and not session.steps:
        raise _no_time(session)  # the measuring itself may have used it up
    if goal and goal.point:
        yield Probed(**goal.point.model_dump())
    return _Learned(schedule.preparation.tasks, probes, schedule.predicted_s)


def _learn_streaming(
    session: Session, made: Outline, writer: TaskWriter, options: dict[str, Any]
) -> Generator[AbsorptionEvent, None, _Learned]:
    """Training begins with the first tasks, while later ones are still being written (method 3.2)."""
    yield prepared(made, (), writer, streaming=True)
    yield from _fit_attention(session, made)
    curriculum = prepare_stream(made, writer, session.base, session.recipe)
    training_s = session.remaining_s(SAVING_S + _STREAMED_PROBE_SHARE * (session.budget_s or 0.0))
    if training_s is not None and training_s <= 0:
        raise _no_time(session)
    try:
        yield from session.train(
            curriculum, session.recipe.training, expected_s=training_s or 0.0, seconds=training_s, **options
        )
    finally:
        curriculum.close()
    tasks = curriculum.written
    if not session.steps:
        raise DocumentError(nothing_to_train(made, session.recipe))
    probes, probing_s = session.affordable_probes(made.document, made.sentences, tasks)
    return _Learned(tasks, probes, session.elapsed_s + probing_s + SAVING_S)


def _no_time(session: Session) -> BudgetError:
    least_s = session.elapsed_s + 2 * SAVING_S
    return BudgetError(f"a budget of {session.budget_s:g} s leaves no time to train; expected at least {least_s:.0f} s")


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
        if self._epochs < self._due or self._curriculum.spacing.known_share < share:
            return False
        report = self._session.probe(self._made.document, self._made.sentences, self._probes)
        if report.share >= share:
            self.point = self._session.point("reached in training", report)
            return True
        self._due = 2 * self._epochs
        return False


def write_tasks(made: Outline, writer: TaskWriter) -> Generator[AbsorptionEvent, None, TaskFile]:
    """The tasks of a generator, with Writing every second that a language model takes (rules write all at once)."""
    tasks = TaskFile()
    begun = said = time.monotonic()
    for piece in writer.stream():
        tasks.extend(piece.tasks)
        now, counts = time.monotonic(), writer.counts
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
    return Prepared(
        title=made.document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=len(tasks) - held_back,
        held_back=held_back,
        language=made.language,
        warnings=made.warnings,
        generation=writer.counts.as_dict(),
        streaming=streaming,
    )


def _fit_attention(session: Session, made: Outline) -> Iterator[AbsorptionEvent]:
    """Fit a Gated Memory to the attention of a reader of the document, where the recipe asks for it (method 2.3)."""
    settings = session.recipe.attention
    if settings.epochs and isinstance(session.adapter, GatedMemoryAdapter):
        for fit in distill_attention(session.base, session.adapter, made.document.text, settings):
            yield Fitting(fit.epoch, settings.epochs, fit.error)


def absorption_key(document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None) -> str:
    """The key under which a library finds the memory of an absorption again."""
    return absorption_identity(document, base, recipe, budget_s).key


def absorption_identity(
    document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None
) -> AbsorptionIdentity:
    """Identity of an absorption: the same text, base, start, settings, budget and code give the same memory."""
    titles = [document.title, *(part.title for part in document.split())]
    start = find_starting_point(base, recipe.adapter)
    return AbsorptionIdentity(
        text=document.sha256,
        titles=hashlib.sha256(json.dumps(titles).encode()).hexdigest(),
        weights=base.fingerprint,
        base=base.identity,
        recipe=followed(recipe, start).digest(),
        starting_point=start.digest if start is not None else None,
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


def like_memory(library: Library, identity: AbsorptionIdentity) -> LikeMemory | None:
    """The memory of the same text that differs in the fewest things, None where there is none, or one that does not."""
    like = min(_like_memories(library, identity), key=lambda each: len(each.differences), default=None)
    return like if like is not None and like.differences else None


def _like_memories(library: Library, identity: AbsorptionIdentity) -> list[LikeMemory]:
    found = []
    for summary in library.summaries():
        made = summary.manifest.identity if summary.manifest is not None else None
        if made is not None and made.text == identity.text:
            found.append(LikeMemory(summary.name, made.differences(identity)))
    return found


def _free_name(library: Library, name: str, identity: AbsorptionIdentity) -> str:
    """As Library.check_free; of a memory of that name and the same text it is said why it is not used again."""
    try:
        return library.check_free(name, identity.key)
    except LibraryError as error:
        named = [like for like in _like_memories(library, identity) if like.name == normal_name(name)]
        if not named or not named[0].differences:
            raise
        raise LibraryError(f"{error}; {named[0].sentence}") from None
