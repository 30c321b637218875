"""One adapter being trained on the resident base: its clock, its steps, and the state that is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event as StopFlag
from typing import Any, Protocol

import torch

from lift.absorbing.absorption_events import Planned, Trained
from lift.absorbing.preparation import Preparation, PreparedDocument
from lift.absorbing.recall_report import RecallReport
from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.absorbing.run_clock import RunClock
from lift.absorbing.schedule import Schedule, make_schedule, replan
from lift.adapters.adapter import Adapter
from lift.adapters.attach import restore_adapter
from lift.errors import InterruptedAbsorption, cleaning_up
from lift.memories.identity import AbsorptionIdentity
from lift.memories.manifest import Cost, RecallPoint, RecallSummary
from lift.memories.memory import MemoryDraft, StoredMemory
from lift.models.base_model import BaseModel
from lift.models.device import peak_memory_bytes, restart_peak_memory
from lift.recipes.recipe import TrainingSettings
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler
from lift.training.budget import CHECKPOINT_EVERY_S, Budget
from lift.training.checkpoint import Checkpoint, CheckpointNotice
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective
from lift.training.pace import Pace
from lift.training.training_loop import StepRecord, train

_STORED_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Saving:
    """Where the state of a training is kept, if it is, how often, and whether it goes on from what is kept there.

    `document_sha256`: the hash of the text that is trained.
    """

    directory: Path | None = None
    every_s: float = CHECKPOINT_EVERY_S
    resume: bool = False
    document_sha256: str = ""


class TrainingGoal(Protocol):
    """Ends a training before its last epoch."""

    def reached(self) -> bool:
        """To be asked after each epoch."""
        ...

    def missed(self) -> None:
        """Take the answer of `reached` after an epoch before an interruption: it was not."""
        ...


class Session:
    """Work on one adapter within `budget`, or until `stop` is set.

    `before` is the memory that the work goes on from; what the budget paid for before now is then part of its cost.
    `taught_by`: as for Objective.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter,
        resolved: ResolvedRecipe,
        budget: Budget,
        stop: StopFlag | None = None,
        before: StoredMemory | None = None,
        taught_by: Adapter | None = None,
    ) -> None:
        self.base = base
        self.adapter = adapter
        self.resolved = resolved
        self.recipe = resolved.recipe
        self.clock = RunClock(budget)
        self.stop = stop
        self.before = before
        self._taught_by = taught_by
        self._opened = budget.started if before is None else budget.clock()
        self._resumed_s = 0.0
        self.steps: list[StepRecord] = []
        self.stored: tuple[dict[str, Any], dict[str, torch.Tensor]] = {}, {}
        interpolated = before is None and self.recipe.regularisation.wise_ft_alpha < 1
        self._beginning = adapter.trained_state() if interpolated else {}
        restart_peak_memory(base.device)

    @property
    def cost_s(self) -> float:
        """Seconds of work on the memory, those before this session and before an interruption included."""
        earlier_s = self.before.manifest.cost.seconds if self.before is not None else 0.0
        return earlier_s + self._resumed_s + self.clock.budget.clock() - self._opened

    def schedule(self, preparation: Preparation, probing_s: float) -> Schedule:
        """A training that fits into the budget; `probing_s` is what the questions after it take."""
        self.clock.probing_s = probing_s
        return make_schedule(self.base, self.adapter, self.resolved, self.clock, preparation, self._taught_by)

    def train(
        self,
        sampler: BatchSampler,
        settings: TrainingSettings,
        *,
        schedule: Schedule | None = None,
        saving: Saving = Saving(),
        goal: TrainingGoal | None = None,
    ) -> Iterator[Trained | Planned | CheckpointNotice]:
        """Train for the batch sampler's epochs, or until what is reserved for the end of the budget.

        Where `schedule` says how much was forecast, the plan is made anew (Planned) when the machine turns so much
        slower or quicker that another number of tasks fits. `goal` is asked after each epoch and ends the training
        where it is reached. When the run is to stop, the state is saved as `saving` says, after the current step, and
        InterruptedAbsorption is raised. Where the disk refuses a checkpoint the training goes on, and that is
        told.
        """
        steps: list[StepRecord] = []
        fresh = 0
        notices: list[CheckpointNotice] = []
        kept = None
        if saving.directory is not None:
            kept = Checkpoint(saving.directory, notices.append, saving.document_sha256)
        budget, recipe = self.clock.budget, self.recipe
        ends_at = (lambda: budget.ends_at - self.clock.reserve_s) if self.clock.is_bounded else None
        pace = Pace(budget.clock, ends_at, self.clock.meter)
        if schedule is not None:
            plan = schedule.limited
            pace.expect(plan.epoch_tokens, plan.first_tokens_per_s / plan.later_tokens_per_s)
            pace.expect_stages(plan.first_stage_share)

        def begins_epoch(step: int = -1) -> bool:
            return len(steps) + step > 0 and steps[step].epoch > steps[step - 1].epoch

        def redone(step: StepRecord) -> None:
            if goal is not None and begins_epoch(step.step - 1 - len(steps)):
                goal.missed()

        with caching_frozen_layers(self.base.model, self.adapter) as lower:
            objective = Objective(self.base.model, self.adapter, recipe.objective, lower, taught_by=self._taught_by)
            training = train(
                self.adapter,
                objective,
                sampler,
                settings,
                pace=pace,
                checkpoint=kept,
                checkpoint_every_s=saving.every_s,
                resume=saving.resume,
                history=steps,
                redone=redone,
            )
            with cleaning_up(training.close, lambda: self._count(steps, fresh)):  # type: ignore[attr-defined]
                for step in training:
                    while notices:
                        yield notices.pop(0)
                    fresh += 1
                    if goal is not None and begins_epoch() and goal.reached():
                        break
                    self.clock.watch_speed(pace)
                    yield Trained(step, self._time_left_s(pace, sampler, settings))
                    if self.stop is not None and self.stop.is_set():
                        training.close()  # type: ignore[attr-defined]  # saves, which may fail and is told below
                        raise InterruptedAbsorption(f"stopped after step {step.step}; {_left_behind(kept)}")
                    if schedule is not None and self.clock.is_bounded:
                        yield from replan(schedule, sampler, recipe, self.clock, pace)
            yield from notices

    def _count(self, steps: Sequence[StepRecord], fresh: int) -> None:
        """The steps of a training, of which the last `fresh` are of this session."""
        self.steps.extend(steps)
        self._resumed_s += sum(step.seconds for step in steps[: len(steps) - fresh])

    def close(self) -> None:
        """Detach the adapter, whichever it is by now."""
        self.adapter.detach()

    def _time_left_s(self, pace: Pace, sampler: BatchSampler, settings: TrainingSettings) -> float:
        """Seconds until the memory is stored: what is left to do at the recent speed, or the time there is for it."""
        work_s = pace.work_left_s(sampler.epochs)
        if settings.max_tokens:
            left_tokens = max(settings.max_tokens - pace.tokens, 0)
            work_s = min(work_s, left_tokens * pace.meter.s_per_token)
        return min(work_s, pace.left_s) + self.clock.reserve_s

    def keep_share(self) -> None:
        """WiSE-FT interpolation: keep the share regularisation.wise_ft_alpha of what the training has changed.

        theta_0 + share (theta - theta_0), on the line between beginning and end (WiSE-FT, arXiv 2109.01903, equation
        1): the last of the change costs other texts more than it gains for this one.
        """
        if self._beginning:
            trained, share = self.adapter.trained_state(), self.recipe.regularisation.wise_ft_alpha
            kept = {key: torch.lerp(value, trained[key], share) for key, value in self._beginning.items()}
            self.adapter.load_state(kept)

    def round_to_stored(self) -> None:
        """Put the adapter as it will be stored in place of the trained one; `stored` is its config and tensors.

        What is probed is then what is stored, rounding included.
        """
        config, state = self.adapter.stored()
        state = {tensor: value.to(_STORED_DTYPE) for tensor, value in state.items()}
        self.adapter.detach()
        self.adapter = restore_adapter(self.base.model, config, state)
        self.stored = config, state

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
        tasks: Sequence[Task],
        report: RecallReport,
        history: Sequence[RecallPoint],
        generation: Mapping[str, Any],
        predicted_s: float,
    ) -> MemoryDraft:
        """Everything that is kept; the steps and costs of the memory before count too."""
        config, state = self.stored
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
