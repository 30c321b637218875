"""One adapter being trained on the resident base: its clock, its steps, the asking of probes, what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event as StopFlag
from typing import Any

import torch

from lift.absorbing.absorption_events import Planned, Probing, Trained
from lift.absorbing.planning import CALIBRATION_S, FEWEST_EPOCHS, Calibration, affordable_tasks, calibrate, shortened
from lift.absorbing.preparation import Preparation, PreparedDocument, prepare
from lift.absorbing.recall_report import (
    PROBE_BATCH,
    PROBE_TOKENS,
    Probe,
    RecallReport,
    TimeIsOver,
    choose_probes,
    passes_until,
    probe_recall,
    spread,
)
from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.adapters.adapter import Adapter
from lift.adapters.attach import restore_adapter
from lift.answering.answerer import Answerer
from lift.documents.document import Document
from lift.documents.sentences import Sentence
from lift.errors import InterruptedAbsorption, cleaning_up
from lift.memories.identity import AbsorptionIdentity
from lift.memories.manifest import Cost, RecallPoint, RecallSummary
from lift.memories.memory import MemoryDraft, StoredMemory
from lift.models.base_model import BaseModel
from lift.models.device import peak_memory_bytes, restart_peak_memory
from lift.recipes.recipe import Recipe, TrainingSettings
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler
from lift.training.budget import Budget, SpeedMeter
from lift.training.checkpoint import Checkpoint, CheckpointNotice
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective
from lift.training.pace import Pace
from lift.training.training_loop import CHECKPOINT_EVERY_S, StepRecord, train

# Writing the memory, the end of the process, and a little: on a machine as quick as when it was calibrated.
SAVING_S = 1.5
_STORED_DTYPE = torch.bfloat16
_CALIBRATION_SHARE = 0.05
# Of a budget: what asking the held-out questions may take, as planned, and at the most where the machine is slower.
_PROBE_SHARE = 0.08
_LONGEST_PROBE_SHARE = 0.15
_LONGEST_SAVING_SHARE = 0.25
_PROBE_MARGIN = 1.2
# Passes of the model that say how long a batch of questions takes, and the share of a budget that they may take.
_TIMED_PASSES = 8
_TIMED_SHARE = 0.03
_LONGEST_TIMED_S = 10.0
# A batch of questions begins where this share of the time that it is expected to take is left.
_HOPEFUL_SHARE = 0.7
# A plan is made anew where it would change what is trained by this share, but no longer at the very end.
_REPLANNED_FROM = 0.25
_REPLANNED_UNTIL = 0.9


@dataclass(frozen=True)
class Schedule:
    """A training that fits the time there is; `calibration` is of all its tasks, `limited` of those it has time for.

    `training_s`: seconds that it may take (infinity without a budget), `expected_s`: that it will.
    `predicted_s`: when all will be done, from the start.
    """

    preparation: Preparation
    calibration: Calibration
    limited: Calibration
    training_s: float
    expected_s: float
    predicted_s: float
    shortenings: tuple[str, ...]

    @property
    def planned(self) -> Planned:
        """The event that tells of it."""
        return Planned(
            self.limited.tokens_per_s,
            self.limited.epoch_tokens,
            self.preparation.sampler.epochs * self.limited.share_in(self.expected_s),
            self.predicted_s,
            self.shortenings,
        )


def _most_passes(rows: int) -> int:
    """Forward passes of one batch of so many questions, at the most.

    What their prompts share is read in one, the rest of each prompt in one where no other is as long, and then comes
    one for each token of the answers.
    """
    return 1 + rows + PROBE_TOKENS


class Session:
    """Work on one adapter within `budget`.

    `before` is the memory that the work goes on from; what the budget paid for before now is then part of its cost.
    `probing_s`: seconds of the questions that are asked after the training, at the speed of the calibration.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter,
        resolved: ResolvedRecipe,
        budget: Budget,
        before: StoredMemory | None = None,
    ) -> None:
        self.base = base
        self.adapter = adapter
        self.resolved = resolved
        self.recipe = resolved.recipe
        self.budget = budget
        self.before = before
        self.probing_s = 0.0
        self._opened = budget.started if before is None else budget.clock()
        self._resumed_s = 0.0
        self._meter = SpeedMeter()
        self._calibration: Calibration | None = None
        self._batch_s = 0.0  # of questions, when it was timed
        self._slowness = 1.0
        self.steps: list[StepRecord] = []
        interpolated = before is None and self.recipe.regularisation.wise_ft_alpha < 1
        self._beginning = adapter.trained_state() if interpolated else {}
        restart_peak_memory(base.device)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self.budget.elapsed_s

    @property
    def cost_s(self) -> float:
        """Seconds of work on the memory, those before this session and before an interruption included."""
        earlier_s = self.before.manifest.cost.seconds if self.before is not None else 0.0
        return earlier_s + self._resumed_s + self.budget.clock() - self._opened

    @property
    def is_bounded(self) -> bool:
        """Whether there is a budget."""
        return self.budget.seconds is not None

    @property
    def saving_s(self) -> float:
        """Seconds that saving takes at the recent speed of the machine."""
        return min(SAVING_S * max(self._slowness, 1.0), self.budget.share_of(_LONGEST_SAVING_SHARE))

    @property
    def reserve_s(self) -> float:
        """Seconds that are kept for what comes after the training, at the recent speed of the machine."""
        return min(self.probing_s * self._slowness, self.budget.share_of(_LONGEST_PROBE_SHARE)) + self.saving_s

    @property
    def has_time_to_probe(self) -> bool:
        """Whether a batch of questions can be asked now and enough is left for asking all at the end."""
        return self.budget.left_s(self.reserve_s) > 3 * self._batch_s * self._slowness

    def schedule(self, preparation: Preparation, probing_s: float) -> Schedule:
        """Calibrate, and fit the training into the budget; `probing_s` is what the questions after it take."""
        self.probing_s = probing_s
        calibration = self._calibrated(preparation.sampler, self.recipe)
        said = preparation.shortenings
        if self.is_bounded:
            training_s = self.budget.left_s(self.reserve_s)
            resolved, short = shortened(self.resolved, calibration.first_tokens_per_s, training_s)
            if resolved is not self.resolved:
                said += short
                preparation = prepare(
                    preparation.prepared, preparation.tasks, self.base, resolved, *said, start=preparation.start
                )
                calibration = self._calibrated(preparation.sampler, resolved.recipe)
        training_s = self.budget.left_s(self.reserve_s)
        limited, sampler = calibration, preparation.sampler
        most = sampler.most_per_sentence
        if self.is_bounded:
            affordable = calibration.tokens_in(training_s)
            most = affordable_tasks(sampler, self.recipe, affordable, calibration.epoch_tokens, FEWEST_EPOCHS)
            sampler.limit_tasks(most)
        if most < sampler.most_per_sentence:
            share = len(sampler.tasks_within(most)) / max(len(sampler.tasks_within(None)), 1)
            limited = calibration.times(share)
            said += (
                f"the budget allows {most} tasks a sentence instead of {self.recipe.tasks.per_sentence}; more time "
                "teaches more",
            )
            if limited.epoch_tokens > affordable:
                reached = 100 * affordable / limited.epoch_tokens
                said += (f"the text is larger than the budget: about {reached:.0f} % of its sentences are trained",)
        expected_s = min(limited.total_s, training_s)
        predicted_s = self.elapsed_s + expected_s + self.reserve_s
        return Schedule(preparation, calibration, limited, training_s, expected_s, predicted_s, said)

    def _calibrated(self, sampler: BatchSampler, recipe: Recipe) -> Calibration:
        limit_s = self.budget.share_of(_CALIBRATION_SHARE, CALIBRATION_S)
        found = calibrate(self.base, self.adapter, sampler, recipe, limit_s=limit_s, clock=self.budget.clock)
        self._calibration = found
        self._meter = SpeedMeter()
        self._meter.record(1000, 1000 / found.first_tokens_per_s)
        return found

    def train(
        self,
        sampler: BatchSampler,
        settings: TrainingSettings,
        *,
        schedule: Schedule | None = None,
        checkpoint: Path | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        resume: bool = False,
        stop: StopFlag | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Iterator[Trained | Planned | CheckpointNotice]:
        """Train for the batch sampler's epochs, or until what is reserved for the end of the budget.

        Where `schedule` says how much was forecast, the plan is made anew (Planned) when the machine turns so much
        slower or quicker that another number of tasks fits. `enough` is asked after each epoch and ends the training
        where it says so. When `stop` is set, the state is saved at `checkpoint`, if there is one, after the current
        step, and InterruptedAbsorption is raised. Where the disk refuses a checkpoint the training goes on, and that is
        told.
        """
        steps: list[StepRecord] = []
        fresh = 0
        notices: list[CheckpointNotice] = []
        kept = Checkpoint(checkpoint, notices.append) if checkpoint is not None else None
        ends_at = (lambda: self.budget.ends_at - self.reserve_s) if self.is_bounded else None
        pace = Pace(self.budget.clock, ends_at, self._meter)
        if schedule is not None:
            plan = schedule.limited
            pace.expect(plan.epoch_tokens, plan.first_tokens_per_s / plan.later_tokens_per_s)
        with caching_frozen_layers(self.base.model, self.adapter) as lower:
            objective = Objective(self.base.model, self.adapter, self.recipe.objective, lower)
            training = train(
                self.adapter,
                objective,
                sampler,
                settings,
                pace=pace,
                checkpoint=kept,
                checkpoint_every_s=checkpoint_every_s,
                resume=resume,
                history=steps,
            )
            with cleaning_up(training.close, lambda: self._count(steps, fresh)):  # type: ignore[attr-defined]
                epoch = sampler.epochs
                for step in training:
                    while notices:
                        yield notices.pop(0)
                    fresh += 1
                    if enough is not None and step.epoch > epoch and enough():
                        break
                    epoch = step.epoch
                    self._watch_speed(pace)
                    yield Trained(step, self._time_left_s(pace, sampler, settings))
                    if stop is not None and stop.is_set():
                        training.close()  # type: ignore[attr-defined]  # saves, which may fail and is told below
                        raise InterruptedAbsorption(f"stopped after step {step.step}; {_left_behind(kept)}")
                    if schedule is not None and self.is_bounded:
                        yield from self._replanned(schedule, sampler, pace)
            yield from notices

    def _count(self, steps: Sequence[StepRecord], fresh: int) -> None:
        """The steps of a training, of which the last `fresh` are of this session."""
        self.steps.extend(steps)
        self._resumed_s += sum(step.seconds for step in steps[: len(steps) - fresh])

    def close(self) -> None:
        """Detach the adapter, whichever it is by now."""
        self.adapter.detach()

    def _watch_speed(self, pace: Pace) -> None:
        """How many times slower the machine is now than when it was calibrated."""
        if self._calibration is not None:
            first = pace.epochs_done <= 1
            then = self._calibration.first_tokens_per_s if first else self._calibration.later_tokens_per_s
            self._slowness = pace.meter.s_per_token * then

    def _time_left_s(self, pace: Pace, sampler: BatchSampler, settings: TrainingSettings) -> float:
        """Seconds until the memory is stored: what is left to do at the recent speed, or the time there is for it."""
        work_s = pace.work_left_s(sampler.epochs)
        if settings.max_tokens:
            left_tokens = max(settings.max_tokens - pace.tokens, 0)
            work_s = min(work_s, left_tokens * pace.meter.s_per_token)
        return min(work_s, pace.left_s) + self.reserve_s

    def _replanned(self, schedule: Schedule, sampler: BatchSampler, pace: Pace) -> Iterator[Planned]:
        """Choose anew how many tasks a sentence has time for, by the recent speed, where that changes much."""
        s_per_token = pace.meter.s_per_token
        if pace.used_share() > _REPLANNED_UNTIL or not s_per_token:
            return
        now = sampler.tasks_per_sentence
        left_tokens, done = pace.left_s / s_per_token, pace.epochs_done
        if done < FEWEST_EPOCHS:
            epoch_tokens, epochs = float(schedule.calibration.epoch_tokens), FEWEST_EPOCHS - done
        else:  # what is known pauses, so that an epoch has fewer tokens than its tasks
            within = len(sampler.tasks_within(now)) or 1
            epoch_tokens = pace.epoch_tokens * len(sampler.tasks_within(None)) / within
            epochs = sampler.epochs - done
        most = affordable_tasks(sampler, self.recipe, left_tokens, epoch_tokens, epochs)
        if done >= FEWEST_EPOCHS:
            most = max(most, now)  # fewer epochs of them are then what gives way
        if abs(most - now) <= _REPLANNED_FROM * now:
            return
        sampler.limit_tasks(most)
        pace.expect(epoch_tokens * len(sampler.tasks_within(most)) / max(len(sampler.tasks_within(None)), 1))
        turned = "slower" if most < now else "quicker"
        yield Planned(
            1 / s_per_token,
            round(pace.epoch_tokens),
            done + min(pace.left_s / s_per_token / max(pace.epoch_tokens, 1.0), sampler.epochs - done),
            self.elapsed_s + min(pace.work_left_s(sampler.epochs), pace.left_s) + self.reserve_s,
            (f"the work turned out {turned} than expected: from now on {most} tasks a sentence instead of {now}",),
        )

    def keep_share(self) -> None:
        """WiSE-FT interpolation: keep the share regularisation.wise_ft_alpha of what the training has changed.

        theta_0 + share (theta - theta_0), on the line between beginning and end (WiSE-FT, arXiv 2109.01903, equation
        1): the last of the change costs other texts more than it gains for this one.
        """
        if self._beginning:
            trained, share = self.adapter.trained_state(), self.recipe.regularisation.wise_ft_alpha
            kept = {key: torch.lerp(value, trained[key], share) for key, value in self._beginning.items()}
            self.adapter.load_state(kept)

    def round_to_stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Put the adapter as it will be stored in place of the trained one; returns (config, tensors).

        What is probed is then what is stored, rounding included.
        """
        config, state = self.adapter.stored()
        state = {tensor: value.to(_STORED_DTYPE) for tensor, value in state.items()}
        self.adapter.detach()
        self.adapter = restore_adapter(self.base.model, config, state)
        return config, state

    def probe(
        self,
        document: Document,
        sentences: Sequence[Sentence],
        probes: Sequence[Task],
        *,
        longest_s: float = math.inf,
    ) -> RecallReport:
        """Ask `probes` closed book, as many of them as there is time for in `longest_s` and before saving."""
        events = self.probing(document, sentences, probes, longest_s=longest_s)
        while True:
            try:
                next(events)
            except StopIteration as stop:
                report: RecallReport = stop.value
                return report

    def probing(
        self,
        document: Document,
        sentences: Sequence[Sentence],
        probes: Sequence[Task],
        *,
        longest_s: float = math.inf,
    ) -> Generator[Probing, None, RecallReport]:
        """As probe, with Probing before the first batch of questions and after each one."""
        answerer = Answerer.of(self.base, self.adapter, document, sentences)
        clock, order = self.budget.clock, spread(probes) if self.is_bounded else list(probes)
        ends_at = min(self.budget.ends_at - self.saving_s, clock() + longest_s)
        asked: list[Probe] = []
        expected_s = self._batch_s * self._slowness
        for first in range(0, len(order), PROBE_BATCH):
            begun = clock()
            batches = math.ceil((len(order) - first) / PROBE_BATCH)
            yield Probing(len(order), len(asked), min(batches * expected_s, ends_at - begun) if expected_s else None)
            # a batch whose time is over is lost, so none begins that has little hope of ending
            if begun + _HOPEFUL_SHARE * expected_s > ends_at:
                break
            try:
                with passes_until(self.base.model, lambda _: clock() > ends_at):
                    report = probe_recall(answerer, len(sentences), order[first : first + PROBE_BATCH])
            except TimeIsOver:
                break
            asked.extend(report.probes)
            expected_s = clock() - begun
        return RecallReport(tuple(sorted(asked, key=lambda probe: probe.sentence)), len(sentences))

    def affordable_probes(
        self, document: Document, sentences: Sequence[Sentence], tasks: Sequence[Task]
    ) -> tuple[list[Task], float]:
        """The held-out tasks that a small share of the budget allows to ask, and the seconds that will take.

        The first passes of a batch are timed on the adapter as it is: a batch takes about as long, whatever is in it.
        """
        probes = choose_probes(tasks)
        if not probes:
            return [], 0.0
        clock = self.budget.clock
        begun, passes = clock(), 0
        limit_s = self.budget.share_of(_TIMED_SHARE, _LONGEST_TIMED_S)

        def is_timed(before: int) -> bool:
            nonlocal passes
            passes = before
            return before >= _TIMED_PASSES or (before > 0 and clock() - begun > limit_s)

        answerer = Answerer.of(self.base, self.adapter, document, sentences)
        try:
            with passes_until(self.base.model, is_timed):
                probe_recall(answerer, len(sentences), probes[:PROBE_BATCH])
            pass_s = (clock() - begun) / max(passes + 1, 1)
        except TimeIsOver:
            pass_s = (clock() - begun) / max(passes, 1)
        pass_s *= _PROBE_MARGIN
        self._batch_s = pass_s * _most_passes(min(len(probes), PROBE_BATCH))
        if self.is_bounded and self._batch_s:
            batches = int(self.budget.share_of(_PROBE_SHARE) / self._batch_s)
            if batches:
                probes = choose_probes(tasks, batches * PROBE_BATCH)
            else:  # a part of a batch is better than no report
                rows = int(self.budget.share_of(_LONGEST_PROBE_SHARE) / pass_s) - _most_passes(0)
                probes = choose_probes(tasks, min(rows, PROBE_BATCH)) if rows > 0 else []
                self._batch_s = pass_s * _most_passes(len(probes))
        return probes, self._batch_s * math.ceil(len(probes) / PROBE_BATCH)

    def point(self, what: str, report: RecallReport) -> RecallPoint:
        """Recall at this moment."""
        return RecallPoint(what=what, seconds=self.cost_s, probed=len(report.probed), recalled=len(report.recalled))

    def draft(
        self,
        made: PreparedDocument,
        *,
        name: str,
        key: str,
        identity: AbsorptionIdentity | None,
        adapter: tuple[Mapping[str, Any], Mapping[str, torch.Tensor]],
        tasks: Sequence[Task],
        report: RecallReport,
        history: Sequence[RecallPoint],
        generation: Mapping[str, Any],
        predicted_s: float,
    ) -> MemoryDraft:
        """Everything that is kept; the steps and costs of the memory before count too."""
        config, state = adapter
        if "peft_type" in config:
            config = {**config, "base_model_name_or_path": self.base.id}
        before = self.before
        earlier_tokens = before.manifest.cost.tokens if before is not None else 0
        training = [*(before.training if before is not None else ()), *(asdict(step) for step in self.steps)]
        return MemoryDraft(
            name=name,
            document=made.document,
            base_id=self.base.id,
            base_fingerprint=self.base.fingerprint,
            recipe_name=self.resolved.given.name,
            recipe=self.resolved.given.model_dump(mode="json"),
            seeds={"training": self.recipe.training.seed},
            absorption_key=key,
            identity=identity,
            adapter_config=config,
            adapter_state=state,
            tasks=tasks,
            training=training,
            recall=report.rows(),
            recall_summary=RecallSummary(
                sentences=report.sentences, probed=len(report.probed), recalled=len(report.recalled)
            ),
            recall_history=history,
            generation=generation,
            document_tokens=made.tokens,
            sentences=len(made.sentences),
            cost=Cost(
                seconds=self.cost_s,
                predicted_s=predicted_s,
                steps=len(training),
                tokens=sum(step.tokens for step in self.steps) + earlier_tokens,
                device=str(self.base.device),
                peak_memory_bytes=peak_memory_bytes(self.base.device),
            ),
        )


def _left_behind(checkpoint: Checkpoint | None) -> str:
    """The state to go on from after an interruption."""
    if checkpoint is None:
        return "nothing was changed"
    if checkpoint.problem is None:
        return "the same command with --resume goes on from there"
    return (
        f"the state could not be saved ({checkpoint.problem}): make room, then the same command with --resume goes on "
        "from what was saved before"
    )
