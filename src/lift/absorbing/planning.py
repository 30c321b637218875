"""The plan of an absorption: what it takes, predicted from a short calibration on the machine at hand."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lift.absorbing.plan import Plan
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import ResolvedRecipe, resolve
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.adapter import Adapter
from lift.adapters.resident import release
from lift.adapters.sharing import takes_one_turn
from lift.answering.answerer import Answerer
from lift.config import Settings
from lift.documents.document import Document
from lift.errors import cleaning_up
from lift.models.base_model import BaseModel
from lift.models.device import peak_memory_bytes, restart_peak_memory, stopwatch
from lift.packing.prompts import IGNORED, MAX_ANSWER_TOKENS, Example
from lift.packing.trie import Batch, pack
from lift.recipes.recipe import GeneratorSettings, Recipe
from lift.tasks.task_file import TaskFile
from lift.training.batch_sampler import BatchSampler
from lift.training.budget import Clock, SpeedMeter, check_budget
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective

CALIBRATION_TOKENS = 512
# Batches whose tokens stand for those of an epoch; their examples are drawn at random.
SAMPLED_BATCHES = 64
# A calibration takes no longer, however slow the machine is.
CALIBRATION_S = 5.0
# Tasks are left out, the least weighty ones first, until so many epochs of the others fit into a budget.
FEWEST_EPOCHS = 3
# No batch takes more than this share of a budget's training, or there would be too few updates.
_LONGEST_BATCH_SHARE = 0.1
_SMALLEST_BATCH_TOKENS = 128
# Of a plan: how long tasks are written, and how much of a text is read, before the rest is estimated.
_PLAN_WRITING_S = 10.0
_PLAN_READ_TOKENS = 1024


@dataclass(frozen=True)
class Calibration:
    """The result of a short trial on this machine: its speed, and the tokens of a whole training.

    `epoch_tokens` are those of an epoch over segments and tasks, `total_tokens` those of all epochs of the recipe;
    `first_stage_share`: those of the epochs over segments alone, as a share of these. The first epoch computes what
    later ones find computed, so it has a speed of its own.
    """

    first_tokens_per_s: float
    later_tokens_per_s: float
    epoch_tokens: int
    total_tokens: int
    first_stage_share: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds the whole training takes."""
        return self._seconds(self.total_tokens)

    @property
    def tokens_per_s(self) -> float:
        """Mean speed of the whole training."""
        return self.total_tokens / self.total_s

    def tokens_in(self, seconds: float) -> float:
        """Tokens that are trained in that time."""
        later_s = seconds - self._seconds(self.epoch_tokens)
        if later_s <= 0:
            return seconds * self.first_tokens_per_s
        return self.epoch_tokens + later_s * self.later_tokens_per_s

    def share_in(self, seconds: float) -> float:
        """Share of the whole training that is done in that time."""
        return self.tokens_in(seconds) / self.total_tokens

    def times(self, factor: float) -> Calibration:
        """The same speed for a training of so many times the tokens."""
        epoch_tokens = max(math.ceil(factor * self.epoch_tokens), 1)
        total_tokens = max(math.ceil(factor * self.total_tokens), 1)
        return replace(self, epoch_tokens=epoch_tokens, total_tokens=total_tokens)

    def _seconds(self, tokens: int) -> float:
        first = min(tokens, self.epoch_tokens)
        return first / self.first_tokens_per_s + (tokens - first) / self.later_tokens_per_s


def calibrate(
    base: BaseModel,
    adapter: Adapter,
    sampler: BatchSampler,
    recipe: Recipe,
    *,
    limit_s: float = CALIBRATION_S,
    clock: Clock = time.monotonic,
    taught_by: Adapter | None = None,
) -> Calibration:
    """Time a few batches (forward and backward, nothing is updated) and estimate the tokens of the training.

    Of a long text they are estimated from the first batches of an epoch, which hold a random sample of its examples.
    Takes about `limit_s` at most: it begins with the smallest batch and goes on only while there is time, with batches
    cut to what there is time for. `taught_by`: as for Objective.
    """
    now = stopwatch(base.device, clock)
    ends_at = now() + limit_s
    plain = Objective(base.model, adapter, recipe.objective, taught_by=taught_by)
    packed, epoch_tokens, total_tokens, first_share = sample_epochs(
        sampler, recipe, lambda: now() > ends_at - limit_s / 2
    )
    adapter.set_trainable(True)
    with cleaning_up(lambda: _stop_training(adapter)):
        trial = _Trial(now, ends_at)
        smallest = min(packed, key=lambda batch: batch.tokens)
        trial.time(plain, [_cut_batch(smallest, _SMALLEST_BATCH_TOKENS)])  # what is loaded once is loaded now
        with caching_frozen_layers(base.model, adapter) as lower:
            if lower is None:
                first_speed = later_speed = trial.time(plain, itertools.cycle(packed))
            else:
                reusing = Objective(base.model, adapter, recipe.objective, lower, taught_by=taught_by)
                first_speed = trial.time(reusing, packed, share=0.5)
                later_speed = max(trial.time(reusing, itertools.cycle(packed)), first_speed)
                kept = min(1.0, lower.most_tokens / epoch_tokens)
                later_speed = 1 / (kept / later_speed + (1 - kept) / first_speed)
    return Calibration(first_speed, later_speed, epoch_tokens, total_tokens, first_share)


def _stop_training(adapter: Adapter) -> None:
    for parameter in adapter.parameters():
        parameter.grad = None
    adapter.set_trainable(False)


class _Trial:
    """Batches that are timed until `ends_at` on the stopwatch `now`."""

    def __init__(self, now: Callable[[], float], ends_at: float) -> None:
        self._now = now
        self._ends_at = ends_at
        self._meter = SpeedMeter()

    def time(self, objective: Objective, batches: Iterable[Batch], share: float = 1.0) -> float:
        """Tokens a second of the first of these batches that have CALIBRATION_TOKENS, or of as many as there is time
        for, in that `share` of what is left; where there is none, the speed is that of before."""
        begun, tokens = self._now(), 0
        ends_at = begun + share * (self._ends_at - begun)
        for whole in batches:
            batch, left_s = whole, ends_at - self._now()
            if self._meter.s_per_token:
                room_tokens = left_s / self._meter.cautious_s_per_token
                if room_tokens < min(batch.tokens, _SMALLEST_BATCH_TOKENS):
                    break
                batch = _cut_batch(whole, room_tokens)
            at = self._now()
            objective.loss(batch).backward()  # type: ignore[no-untyped-call]
            self._meter.record(batch.tokens, self._now() - at)
            tokens += batch.tokens
            if tokens >= CALIBRATION_TOKENS:
                break
        seconds = self._now() - begun
        return tokens / seconds if tokens and seconds > 0 else 1 / max(self._meter.s_per_token, 1e-9)


def _cut_batch(batch: Batch, most_tokens: float) -> Batch:
    """The first examples of the batch, in about so many tokens; one that is longer alone is cut to its end."""
    if batch.tokens <= most_tokens:
        return batch
    for count in range(int(len(batch.members) * most_tokens / batch.tokens), 0, -1):
        if (part := pack(batch.members[:count])).tokens <= most_tokens:
            return part
    return pack([_end_of(min(batch.members, key=lambda example: len(example.ids)), max(int(most_tokens), 2))])


def _end_of(example: Example, tokens: int) -> Example:
    """The last tokens up to the last label; what stands first cannot be predicted."""
    end = 1 + max(index for index, label in enumerate(example.labels) if label != IGNORED)
    start = max(end - tokens, 0)
    return replace(example, ids=example.ids[start:end], labels=(IGNORED, *example.labels[start + 1 : end]))


def sample_epochs(
    sampler: BatchSampler, recipe: Recipe, late: Callable[[], bool] = lambda: False
) -> tuple[list[Batch], int, int, float]:
    """The first batches of an epoch over segments and tasks, the tokens of all of it, and of the whole training.

    The last is the share of these that is trained before the tasks, on segments alone.

    No more batches are made once it is `late`.
    """
    settings = recipe.training
    packed: list[Batch] = []
    epoch_tokens = 0
    stages: list[int] = []
    for first, epochs in ((0, settings.segment_epochs), (settings.segment_epochs, settings.epochs)):
        if epochs:
            packed, epoch_tokens = _sampled(sampler, first, late)
        stages.append(epochs * epoch_tokens)
    total_tokens = max(sum(stages), 1)
    return packed, epoch_tokens, min(total_tokens, settings.max_tokens or total_tokens), stages[0] / total_tokens


def _sampled(sampler: BatchSampler, epoch: int, late: Callable[[], bool]) -> tuple[list[Batch], int]:
    """The first batches of `epoch`, and the tokens of all of it: counted where it is short, else extrapolated."""
    packed: list[Batch] = []
    for update in sampler.batch_steps(epoch):
        if update.progress and (len(packed) >= SAMPLED_BATCHES or late()):
            return packed, round(sum(batch.tokens for batch in packed) / update.progress)
        packed.extend(map(pack, update.batches))
    return packed, sum(batch.tokens for batch in packed)


def affordable_tasks(sampler: BatchSampler, recipe: Recipe, tokens: float, epoch_tokens: float, epochs: float) -> int:
    """How many tasks a sentence may have so that so many `epochs` of them take no more than `tokens`, one at least.

    `epoch_tokens`: of an epoch of all tasks. A recipe that states how many tasks a document gets, or trains on
    segments, is left as it is: what its last epoch has no time for is left out then.
    """
    most = max(sampler.most_per_sentence, 1)
    if recipe.segments.weight or recipe.tasks.per_document or epochs <= 0 or epoch_tokens <= 0:
        return most
    share = tokens / (epochs * epoch_tokens)
    return most if share >= 1 else min(max(1, round(share * most)), most)


def shortened(
    resolved: ResolvedRecipe, tokens_per_s: float, training_s: float
) -> tuple[ResolvedRecipe, tuple[str, ...]]:
    """The recipe with batches, contexts and segments of a tenth of the time at most, and in words what was shortened.

    A budget needs more than one update, and the time must be looked at now and then.
    """
    recipe = resolved.recipe
    bound = max(int(_LONGEST_BATCH_SHARE * training_s * tokens_per_s), _SMALLEST_BATCH_TOKENS)
    changes: dict[str, Settings] = {}
    said = []
    if recipe.training.batch_tokens > bound:
        changes["training"] = recipe.training.model_copy(update={"batch_tokens": bound})
    if recipe.segments.weight and recipe.segments.length_tokens > bound:
        step_tokens = min(recipe.segments.step_tokens, bound)
        changes["segments"] = recipe.segments.model_copy(update={"length_tokens": bound, "step_tokens": step_tokens})
        said.append(f"segments of {bound:,} tokens instead of {recipe.segments.length_tokens:,}")
    context, longest = recipe.context, 2 * bound + MAX_ANSWER_TOKENS
    fills = context.tasks == "truncated" or context.segment_tokens > 0
    if fills and resolved.window_tokens > longest:
        changes["context"] = context.model_copy(update={"window_tokens": longest})
        said.append(f"prompts of at most {longest:,} tokens")
    if not changes:
        return resolved, ()
    short = f"the budget allows {' and '.join(said)}; more time teaches more"
    return resolved.change(**changes), (short,) if said else ()


@takes_one_turn
def make_plan(
    document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None = None, *, clock: Clock = time.monotonic
) -> Plan:
    """Predict the cost of absorbing `document`; trains nothing that lasts, and asks no endpoint for anything.

    Takes a bounded time: tasks are written for some seconds, a long text is read in part, and the rest is estimated.
    Raises what prepare raises, and BudgetError for a budget below the smallest.
    """
    check_budget(budget_s)
    restart_peak_memory(base.device)
    now = stopwatch(base.device, clock)
    made = prepare_document(document, base, recipe)
    requests, cached_requests = TaskWriter(made, base, recipe).requests
    resolved = resolve(recipe, base).change(generator=GeneratorSettings())
    recipe = resolved.recipe
    tasks, seen = TaskFile(), len(made.sentences)
    writing_ends_at = now() + _PLAN_WRITING_S
    for piece in TaskWriter(made, base, recipe).stream():
        tasks.extend(piece.tasks)
        if now() > writing_ends_at and any(not task.held_out for task in piece.tasks):
            seen = piece.position
            break
    unseen = len(made.sentences) / max(seen, 1)
    preparation = prepare(made, tasks, base, resolved)
    sampler = preparation.sampler
    release(base.model)
    adapter = resolved.create_adapter(base)
    with cleaning_up(adapter.detach):
        calibration = calibrate(base, adapter, sampler, recipe, clock=clock).times(unseen)
        trained = sum(not task.held_out for task in tasks)
        if budget_s is not None:
            affordable = calibration.tokens_in(budget_s)
            most = affordable_tasks(sampler, recipe, affordable, calibration.epoch_tokens, FEWEST_EPOCHS)
            if most < sampler.most_per_sentence:
                fewer = len(sampler.tasks_within(most))
                calibration = calibration.times(fewer / max(trained, 1))
                trained = fewer
        adapter_bytes = sum(parameter.numel() for parameter in adapter.parameters()) * 2
        answerer = Answerer.of(base, adapter, document, made.sentences, min(_PLAN_READ_TOKENS, base.window_tokens))
        question = next((task.question for task in preparation.tasks), document.title)
        ask_s = answerer.ask(question, "none").seconds
        fits = made.tokens + MAX_ANSWER_TOKENS + 128 < base.window_tokens
        full_read_s = _read_seconds(answerer, question, made.tokens, ask_s) if fits else None
    seconds = calibration.total_s
    if budget_s is not None:
        seconds = min(seconds, budget_s)
    saved_s = full_read_s - ask_s if full_read_s is not None else 0.0
    train_tokens = round(calibration.tokens_in(seconds))
    return Plan(
        title=document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=round(trained * unseen),
        epochs=train_tokens / calibration.epoch_tokens,
        train_tokens=train_tokens,
        tokens_per_s=calibration.tokens_per_s,
        seconds=seconds,
        peak_bytes=peak_memory_bytes(base.device),
        adapter_bytes=adapter_bytes,
        full_read_s=full_read_s,
        ask_s=ask_s,
        break_even_questions=-int(-seconds // saved_s) if saved_s > 0 else None,
        requests=requests,
        cached_requests=cached_requests,
        warnings=made.warnings,
    )


def _read_seconds(answerer: Answerer, question: str, tokens: int, ask_s: float) -> float:
    """Seconds of a question behind the whole text of so many tokens, of a longer one estimated from a part of it.

    A token costs two operations a parameter, and two a layer and hidden number for each token before it on average.
    """
    if tokens <= _PLAN_READ_TOKENS:
        return answerer.ask(question, "full").seconds
    part = answerer.ask(question, "truncated")
    config = answerer.base.model.config
    parameters = sum(parameter.numel() for parameter in answerer.base.model.parameters())
    attention = getattr(config, "num_hidden_layers", 0) * getattr(config, "hidden_size", 0)
    work = [count * (parameters + attention * count) for count in (tokens, max(part.prompt_tokens, 1))]
    return float(ask_s + max(part.seconds - ask_s, 0.0) * work[0] / work[1])
