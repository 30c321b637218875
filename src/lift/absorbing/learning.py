"""A prepared document is learned: its tasks are written, and trained until they are known or the time is over."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from lift.absorbing.absorption_events import AbsorptionEvent, Fitting, Probed
from lift.absorbing.preparation import PreparedDocument, nothing_to_train, prepare, prepare_stream
from lift.absorbing.probing import affordable_probes, probe
from lift.absorbing.recall_report import PROBE_BATCH, choose_probes
from lift.absorbing.session import Saving, Session
from lift.absorbing.task_writing import TaskWriter, check_written, prepared, write_tasks
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.errors import DocumentError, cleaning_up
from lift.memories.manifest import RecallPoint
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.attention_distillation import distill_attention
from lift.training.batch_sampler import BatchSampler

_STREAMED_PROBE_SHARE = 0.08
# Of what is left of a budget, what fitting the attention may take.
_FITTING_SHARE = 0.35


@dataclass(frozen=True)
class Learned:
    """The result of a training: all its tasks, the probes that there is time for, and the forecast of its end."""

    tasks: Sequence[Task]
    probes: Sequence[Task]
    predicted_s: float


def learn(
    session: Session, made: PreparedDocument, writer: TaskWriter, saving: Saving
) -> Generator[AbsorptionEvent, None, Learned]:
    """Write the tasks and train on them, side by side where the recipe says so."""
    way = _learn_streaming if session.recipe.generator.stream else _learn_written
    return (yield from way(session, made, writer, saving))


def _learn_written(
    session: Session, made: PreparedDocument, writer: TaskWriter, saving: Saving
) -> Generator[AbsorptionEvent, None, Learned]:
    """All tasks first, then the training."""
    recipe = session.recipe
    with session.adapter.disabled():  # the generator may be the base model itself
        tasks = yield from write_tasks(made, writer, session.clock.budget)
    preparation = prepare(made, tasks, session.base, session.resolved)
    yield prepared(made, tasks, writer)
    yield from _fit_attention(session, made)
    probes, probing_s = affordable_probes(session, made, tasks)
    schedule = session.schedule(preparation, probing_s)
    yield schedule.planned
    sampler = schedule.preparation.sampler
    goal = RecallGoal(session, made, probes, sampler) if recipe.training.until_recall and probes else None
    yield from session.train(sampler, recipe.training, schedule=schedule, goal=goal, saving=saving)
    if goal and goal.point:
        yield Probed(**goal.point.model_dump())
    return Learned(trained_tasks(tasks, sampler), probes, schedule.predicted_s)


def trained_tasks(tasks: Sequence[Task], sampler: BatchSampler) -> Sequence[Task]:
    """All tasks but those that the batch sampler has never had time for."""
    if sampler.widest_limit is None:  # a recipe of segments alone trains on none of them, and keeps them all
        return tasks
    within = set(sampler.tasks_within(sampler.widest_limit))
    return TaskFile(task for number, task in enumerate(tasks) if task.held_out or number in within)


def _learn_streaming(
    session: Session, made: PreparedDocument, writer: TaskWriter, saving: Saving
) -> Generator[AbsorptionEvent, None, Learned]:
    """Training begins with the first tasks, while later ones are still being written (method 3.2)."""
    yield prepared(made, (), writer, streaming=True)
    yield from _fit_attention(session, made)
    sampler = prepare_stream(made, writer.stream(), session.base, session.resolved)
    session.clock.probing_s = _STREAMED_PROBE_SHARE * (session.clock.budget.seconds or 0.0)
    with cleaning_up(sampler.close):
        yield from session.train(sampler, session.recipe.training, saving=saving)
    tasks = sampler.written
    check_written(made, tasks, writer)
    if not session.steps:
        raise DocumentError(nothing_to_train(made, session.recipe))
    probes, probing_s = affordable_probes(session, made, tasks)
    return Learned(tasks, probes, session.clock.budget.elapsed_s + probing_s + session.clock.saving_s)


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
        self._share = session.recipe.training.until_recall
        self._epochs = 0
        self._due = 1

    def reached(self) -> bool:
        """To be asked after each epoch."""
        if not self._is_to_be_probed():
            return False
        report = probe(self._session, self._made, self._probes)
        if report.share >= self._share:
            self.point = self._session.point("reached in training", report)
            return True
        self._due = 2 * self._epochs
        return False

    def missed(self) -> None:
        """As reached, of an epoch before an interruption, after which the training went on."""
        if self._is_to_be_probed():
            self._due = 2 * self._epochs

    def _is_to_be_probed(self) -> bool:
        self._epochs += 1
        if not self._session.clock.has_time_to_probe:
            return False
        return self._epochs >= self._due and self._sampler.leitner.known_share >= self._share


def _fit_attention(session: Session, made: PreparedDocument) -> Iterator[AbsorptionEvent]:
    """Fit a Gated Memory to the attention of a reader of the document, where the recipe asks for it (method 2.3)."""
    settings = session.recipe.attention
    if settings.epochs and isinstance(session.adapter, GatedMemoryAdapter):
        budget = session.clock.budget
        ends_at = budget.clock() + _FITTING_SHARE * budget.left_s()
        for fit in distill_attention(session.base, session.adapter, made.document.text, settings):
            yield Fitting(fit.epoch, settings.epochs, fit.error)
            if budget.clock() > ends_at:
                break
