"""How much of a document is trained in a budget: planned from a calibration, and again when the speed has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lift.absorbing.absorption_events import Planned
from lift.absorbing.planning import CALIBRATION_S, FEWEST_EPOCHS, Calibration, affordable_tasks, calibrate, shortened
from lift.absorbing.preparation import Preparation, prepare
from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.absorbing.run_clock import RunClock
from lift.adapters.adapter import Adapter
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.training.batch_sampler import BatchSampler
from lift.training.pace import Pace

_CALIBRATION_SHARE = 0.05
# Of what is left of a budget, writing tasks may have left little.
_CALIBRATION_LEFT_SHARE = 0.2
# A plan is made anew where it would change what is trained by this share, but no longer at the very end.
_REPLANNED_FROM = 0.25
_REPLANNED_UNTIL = 0.9


@dataclass(frozen=True)
class Schedule:
    """A training that fits the time there is; `calibration` is of all its tasks, `limited` of those it has time for.

    `expected_s`: seconds that it will take, `predicted_s`: when all will be done, from the start.
    """

    preparation: Preparation
    calibration: Calibration
    limited: Calibration
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


def make_schedule(
    base: BaseModel,
    adapter: Adapter,
    resolved: ResolvedRecipe,
    clock: RunClock,
    preparation: Preparation,
    taught_by: Adapter | None = None,
) -> Schedule:
    """Calibrate, and fit the training into what the clock has left for it; `taught_by`: as for Objective."""
    recipe = resolved.recipe
    calibration = _calibrated(base, adapter, preparation.sampler, recipe, clock, taught_by)
    said: tuple[str, ...] = ()
    if clock.is_bounded:
        training_s = clock.budget.left_s(clock.reserve_s)
        shorter, said = shortened(resolved, calibration.first_tokens_per_s, training_s)
        if shorter is not resolved:
            made, tasks, start = preparation.prepared, preparation.tasks, preparation.start
            preparation = prepare(made, tasks, base, shorter, start=start)
            calibration = _calibrated(base, adapter, preparation.sampler, shorter.recipe, clock, taught_by)
    training_s = clock.budget.left_s(clock.reserve_s)
    limited, sampler = calibration, preparation.sampler
    most = sampler.most_per_sentence
    if clock.is_bounded:
        affordable = calibration.tokens_in(training_s)
        most = affordable_tasks(sampler, recipe, affordable, calibration.epoch_tokens, FEWEST_EPOCHS)
        sampler.limit_tasks(most)
    if most < sampler.most_per_sentence:
        share = len(sampler.tasks_within(most)) / max(len(sampler.tasks_within(None)), 1)
        limited = calibration.times(share)
        said += (
            f"the budget allows {most} tasks a sentence instead of {recipe.tasks.per_sentence}; more time teaches more",
        )
        if limited.epoch_tokens > affordable:
            reached = 100 * affordable / limited.epoch_tokens
            said += (f"the text is larger than the budget: about {reached:.0f} % of its sentences are trained",)
    expected_s = min(limited.total_s, training_s)
    predicted_s = clock.budget.elapsed_s + expected_s + clock.reserve_s
    return Schedule(preparation, calibration, limited, expected_s, predicted_s, said)


def _calibrated(
    base: BaseModel,
    adapter: Adapter,
    sampler: BatchSampler,
    recipe: Recipe,
    clock: RunClock,
    taught_by: Adapter | None,
) -> Calibration:
    left_s = _CALIBRATION_LEFT_SHARE * clock.budget.left_s(clock.reserve_s)
    limit_s = min(clock.budget.share_of(_CALIBRATION_SHARE, CALIBRATION_S), left_s)
    found = calibrate(base, adapter, sampler, recipe, limit_s=limit_s, clock=clock.budget.clock, taught_by=taught_by)
    clock.calibrated(found)
    return found


def replan(schedule: Schedule, sampler: BatchSampler, recipe: Recipe, clock: RunClock, pace: Pace) -> Iterator[Planned]:
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
    most = affordable_tasks(sampler, recipe, left_tokens, epoch_tokens, epochs)
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
        clock.budget.elapsed_s + min(pace.work_left_s(sampler.epochs), pace.left_s) + clock.reserve_s,
        (f"the work turned out {turned} than expected: from now on {most} tasks a sentence instead of {now}",),
    )
