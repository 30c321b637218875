"""One adapter being trained on the resident base: its clock, its steps, the asking of probes, what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import Event as StopFlag
from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.adapters.attach import restore_adapter
from lift.adapters.starting_point import StartingPoint, find_starting_point
from lift.answering import Answerer
from lift.documents.document import Document
from lift.errors import InterruptedAbsorption
from lift.events import Planned, Trained
from lift.memories.identity import AbsorptionIdentity
from lift.memories.manifest import Cost, RecallPoint, RecallSummary
from lift.memories.memory import Memory, MemoryDraft
from lift.models.base_model import BaseModel
from lift.planning import Calibration, calibrate, peak_memory_bytes, thinned
from lift.preparation import Outline, Preparation, followed
from lift.recall import PROBE_BATCH, RecallReport, choose_probes, probe_recall
from lift.recipes.recipe import Recipe, TrainingSettings
from lift.sentences import Sentence
from lift.tasks.task import Task
from lift.training.curriculum import Curriculum
from lift.training.loop import CHECKPOINT_EVERY_S, Step, train
from lift.training.lower_layers import reusing_lower_layers
from lift.training.objective import Objective

SAVING_S = 1.0
_STORED_DTYPE = torch.bfloat16
_PROBE_SHARE = 0.08
_PROBE_MARGIN = 1.5
_ETA_PRIOR = 0.05


@dataclass(frozen=True)
class Schedule:
    """A training that fits the time there is: `training_s` bounds it (None: no budget), `expected_s` is the forecast.

    `preparation` has fewer tasks than were written where the time is short. `predicted_s`: when all will be done.
    """

    preparation: Preparation
    calibration: Calibration
    training_s: float | None
    expected_s: float
    predicted_s: float

    @property
    def planned(self) -> Planned:
        """The event that tells of it."""
        return Planned(
            self.calibration.tokens_per_s,
            self.calibration.epoch_tokens,
            self.preparation.curriculum.epochs * self.calibration.share_in(self.expected_s),
            self.predicted_s,
            self.preparation.shortenings,
        )


class Session:
    """Work on one adapter, from `started` (time.monotonic) on and, where `budget_s` is given, within it.

    `before` is the memory that the work goes on from; what the budget paid for before now is then part of its cost.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter,
        recipe: Recipe,
        started: float,
        budget_s: float | None,
        before: Memory | None = None,
    ) -> None:
        self.base = base
        self.adapter = adapter
        self.recipe = recipe
        self.started = started
        self.budget_s = budget_s
        self.before = before
        self._opened = started if before is None else time.monotonic()
        self._resumed_s = 0.0
        self.steps: list[Step] = []
        interpolated = before is None and recipe.fidelity.kept_change < 1
        self._beginning = adapter.trained_state() if interpolated else {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def cost_s(self) -> float:
        """Seconds of work on the memory, those before this session and before an interruption included."""
        earlier_s = self.before.manifest.cost.seconds if self.before is not None else 0.0
        return earlier_s + self._resumed_s + time.monotonic() - self._opened

    def remaining_s(self, reserved_s: float = 0.0) -> float | None:
        """What is left of the budget but for `reserved_s`; None without a budget."""
        return None if self.budget_s is None else self.budget_s - reserved_s - self.elapsed_s

    def schedule(self, preparation: Preparation, reserved_s: float) -> Schedule:
        """Calibrate, and fit the training into the budget but for `reserved_s`; raises BudgetError."""
        calibration = calibrate(self.base, self.adapter, preparation.curriculum, self.recipe)
        training_s = self.remaining_s(reserved_s)
        if training_s is not None:
            thin = thinned(preparation, self.base, self.recipe, calibration.epoch_s, training_s)
            if thin is not preparation:
                preparation = thin
                calibration = calibrate(self.base, self.adapter, preparation.curriculum, self.recipe)
                training_s = self.remaining_s(reserved_s)
        expected_s = calibration.total_s if training_s is None else min(calibration.total_s, training_s)
        return Schedule(preparation, calibration, training_s, expected_s, self.elapsed_s + expected_s + reserved_s)

    @cached_property
    def _starting_point(self) -> StartingPoint | None:
        return find_starting_point(self.base, self.recipe.adapter)

    def train(
        self,
        curriculum: Curriculum,
        settings: TrainingSettings,
        *,
        expected_s: float,
        seconds: float | None = None,
        checkpoint: Path | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        resume: bool = False,
        stop: StopFlag | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Iterator[Trained]:
        """Train for the curriculum's epochs or `seconds`; `expected_s` is the calibration's forecast.

        `enough` is asked after each epoch and ends the training where it says so. When `stop` is set, the state is
        saved at `checkpoint`, if there is one, after the current step, and InterruptedAbsorption is raised.
        """
        begun = time.monotonic()
        steps: list[Step] = []
        fresh, before_s = 0, 0.0
        own = followed(self.recipe.model_copy(update={"training": settings}), self._starting_point).training
        with reusing_lower_layers(self.base.model, self.adapter) as lower:
            objective = Objective(self.base.model, self.adapter, self.recipe.objective, lower)
            training = train(
                self.adapter,
                objective,
                curriculum,
                own,
                budget_s=seconds,
                checkpoint=checkpoint,
                checkpoint_every_s=checkpoint_every_s,
                resume=resume,
                history=steps,
            )
            try:
                epoch = curriculum.epochs
                for step in training:
                    fresh += 1
                    if fresh == 1:
                        before_s = sum(each.seconds for each in steps[:-1])
                    if enough is not None and step.epoch > epoch and enough():
                        break
                    epoch = step.epoch
                    spent_s = before_s + time.monotonic() - begun
                    # the first steps say little about the speed: the calibration counts as one more measurement
                    full_s = (_ETA_PRIOR * expected_s + spent_s) / (_ETA_PRIOR + step.progress)
                    yield Trained(step, full_s * (1 - step.progress))
                    if stop is not None and stop.is_set():
                        left = (
                            "the same command with --resume goes on from there" if checkpoint else "nothing was changed"
                        )
                        raise InterruptedAbsorption(f"stopped after step {step.step}; {left}")
            finally:
                training.close()  # type: ignore[attr-defined]
                self.steps.extend(steps)
                self._resumed_s += sum(step.seconds for step in steps[: len(steps) - fresh])

    def keep_share(self) -> None:
        """Keep of what the training has changed the share fidelity.kept_change.

        theta_0 + share (theta - theta_0), on the line between beginning and end (WiSE-FT, arXiv 2109.01903, equation
        1): the last of the change costs other texts more than it gains for this one.
        """
        if self._beginning:
            trained, share = self.adapter.trained_state(), self.recipe.fidelity.kept_change
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

    def probe(self, document: Document, sentences: Sequence[Sentence], probes: Sequence[Task]) -> RecallReport:
        """Ask `probes` closed book."""
        return probe_recall(Answerer.of(self.base, self.adapter, document, sentences), len(sentences), probes)

    def affordable_probes(
        self, document: Document, sentences: Sequence[Sentence], tasks: Sequence[Task]
    ) -> tuple[list[Task], float]:
        """The held-back tasks that a small share of the budget allows to ask, and the seconds that will take.

        One batch is timed on the adapter as it is, and half as much again is put aside: trained, it may say more.
        """
        probes = choose_probes(tasks)
        if not probes:
            return [], 0.0
        timed = probes[:PROBE_BATCH]
        begun = time.monotonic()
        self.probe(document, sentences, timed)
        seconds_each = _PROBE_MARGIN * (time.monotonic() - begun) / len(timed)
        if self.budget_s is not None:
            probes = choose_probes(tasks, max(1, int(_PROBE_SHARE * self.budget_s / seconds_each)))
        return probes, seconds_each * len(probes)

    def point(self, what: str, report: RecallReport) -> RecallPoint:
        """Recall at this moment."""
        return RecallPoint(what=what, seconds=self.cost_s, probed=len(report.probed), recalled=len(report.recalled))

    def draft(
        self,
        made: Outline,
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
            recipe_name=self.recipe.name,
            recipe=self.recipe.model_dump(mode="json"),
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
                peak_memory_bytes=peak_memory_bytes(),
            ),
        )
