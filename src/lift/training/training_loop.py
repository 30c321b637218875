"""The one training loop: next optimizer step, loss, backward, clip, step; full-batch accumulation where asked for."""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from lift.adapters.adapter import Adapter
from lift.errors import AdapterError, TrainingError, cleaning_up
from lift.packing.prompts import Example
from lift.packing.trie import Batch, pack
from lift.recipes.recipe import TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.budget import CHECKPOINT_EVERY_S
from lift.training.checkpoint import Checkpoint, Position, State
from lift.training.learning_rate_schedule import learning_rate_multiplier
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.pace import Pace

# Nats a token. Guessing evenly among a million tokens costs 14; far above that, the weights have run away.
_MOST_LOSS = 100.0
# Below it there may be nothing to learn, and no gradient is no fault.
_LEARNABLE_LOSS = 0.01
# on a slow disk saving is done more seldom, so that it takes no more than this share of the time
_MOST_SAVING = 0.1


@dataclass(frozen=True)
class StepRecord:
    """One optimiser update, as it is written to training.jsonl."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    tokens: int
    example_tokens: int
    seconds: float
    progress: float


class TrainingData(Protocol):
    """The optimizer steps of each epoch: training/batch_sampler.py for a document."""

    leitner: LeitnerSampler

    @property
    def epochs(self) -> int:
        """How many there are."""
        ...

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """The optimiser steps of an epoch, the same whenever they are asked for."""
        ...

    def record(self, epoch: int, examples: Sequence[Example], correct: Sequence[bool]) -> None:
        """Take, after each step, which of its examples were greedy-correct."""
        ...


def train(
    adapter: Adapter,
    objective: Objective,
    sampler: TrainingData,
    settings: TrainingSettings,
    *,
    pace: Pace | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    history: list[StepRecord] | None = None,
    redone: Callable[[StepRecord], None] | None = None,
) -> Iterator[StepRecord]:
    """Train `adapter`, attached to its frozen base, on the objective, yielding each step as it is done.

    After each step the batch sampler is given what is known by now, and may skip it. Ends after the batch
    sampler's epochs, `settings.max_tokens` or the time of `pace` (before a batch that would not end in it at the recent
    speed; the last one may be cut), whichever comes first; the learning rate follows the largest share of the three.
    One step is done in any case. With `checkpoint`, the state is saved there about every `checkpoint_every_s`, on
    Ctrl-C and on any other end before the last step; `resume` goes on from it. Without a bound of time the same seed
    gives the same steps, interrupted or not, on one thread to the last bit: the batches before the interruption refill
    the caches in their old order, and `redone` is called with each of their steps. `history` gets every step, those
    before the interruption included. Raises
    TrainingError where the loss, its gradient or the weights are not finite, where the loss has run away, and where the
    first step has no gradient; the state that is saved then is the one before that step, of a run-away the last one
    that was saved.
    """
    history = [] if history is None else history
    adapter.set_trainable(True)
    parameters = adapter.parameters()
    groups = adapter.parameter_groups(settings.lora_plus_ratio)
    optimizer = torch.optim.AdamW(
        [{"params": weights} for weights, _ in groups],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    sampler.leitner.clear()
    tasks = sampler.leitner.tasks
    position = Position()
    saved = checkpoint.load(lambda state: _restore(state, adapter, optimizer)) if resume and checkpoint else None
    if saved:
        position = saved.position
        history.extend(StepRecord(**row) for row in saved.history)
    resumed = position
    pace = pace or Pace()
    # which batches come in a bounded time, nobody can know again
    correct = None if pace.is_bounded else array("B", saved.correct.tolist() if saved else [])
    past = None
    if saved and position.tasks == tasks:  # else a budget was fitted anew, and nothing is taken for known
        if correct:
            past = _PastSteps(objective, sampler, history, correct[:], saved.leitner, redone)
        else:
            sampler.leitner.load_state(saved.leitner)

    def save() -> None:
        assert checkpoint is not None
        rows = [asdict(step) for step in history]
        leitner, kept = sampler.leitner.state(), optimizer.state_dict()["state"]
        answered = torch.tensor(correct or [], dtype=torch.uint8)  # [N]
        checkpoint.save(State(position, adapter.trained_state(), leitner, answered, kept, rows))

    def save_unfinished() -> None:
        # half an update is no state to go on from
        if checkpoint and not finished and between_steps and _are_finite(parameters):
            save()

    pace.begin(position.elapsed_s, position.tokens)
    saved_at, saving_s = time.monotonic(), 0.0
    finished = False
    between_steps = False  # what is known is that of the past while its steps are gone through again
    first_share = pace.first_stage_share(settings.segment_epochs, sampler.epochs)

    def stage_is_over(epoch: int) -> bool:
        # each stage gets its part of a short time, or the second would be what that leaves out
        spent = position.tokens / settings.max_tokens if settings.max_tokens else 0.0
        in_first = epoch < settings.segment_epochs < sampler.epochs
        return in_first and max(spent, pace.used_share()) >= first_share

    with cleaning_up(save_unfinished, lambda: adapter.set_trainable(False)):
        for epoch in range(0 if past else resumed.epoch, sampler.epochs):
            if past and epoch < resumed.epoch:
                for update in itertools.islice(sampler.optimizer_steps(epoch), past.in_epoch(epoch)):
                    past.redo(update)
                continue
            if history and stage_is_over(epoch):
                continue
            for index, update in enumerate(sampler.optimizer_steps(epoch)):
                if epoch == resumed.epoch and index < resumed.update:
                    if past:
                        past.redo(update)
                    continue
                between_steps = True
                begun = pace.clock()
                progress = (epoch + update.progress) / sampler.epochs
                if settings.max_tokens:
                    progress = max(progress, position.tokens / settings.max_tokens)
                over = max(progress, pace.used_share()) >= 1
                if history and stage_is_over(epoch):
                    break
                if over and history:
                    _check_weights(parameters, position.step, settings.learning_rate)
                    finished = True
                    return
                losses: list[torch.Tensor] = []
                answered: list[tuple[Batch, torch.Tensor]] = []
                whole = objective.weight_of(itertools.chain.from_iterable(update.batches))
                if not whole > 0:
                    raise TrainingError(
                        f"expected examples of a weight above 0 in step {position.step + 1} of the training, got "
                        f"{whole:g}; set tasks.weight or regularisation.kl_weight higher"
                    )
                gathered = 0.0
                examples_left = sum(map(len, update.batches))
                for examples in update.batches:
                    if answered and (pace.clock() - begun > pace.longest_update_s or stage_is_over(epoch)):
                        break
                    batch = pace.fit(examples, at_least_one=not history and not answered)
                    if batch is None:
                        break
                    if not answered:
                        progress = max(progress, pace.used_share(batch.tokens))
                    outcome = objective.outcome(batch)
                    weight = objective.weight_of(batch.members)
                    part = outcome.loss * (weight / whole)
                    part.backward()  # type: ignore[no-untyped-call]
                    gathered += weight
                    examples_left -= len(batch.members)
                    losses.append(part.detach())
                    answered.append((batch, outcome.greedy_correct))
                if not answered:
                    _check_weights(parameters, position.step, settings.learning_rate)
                    finished = True
                    return
                rate = settings.learning_rate * learning_rate_multiplier(
                    progress, settings.schedule, settings.warmup_share
                )
                for group, (_, factor) in zip(optimizer.param_groups, groups, strict=True):
                    group["lr"] = rate * factor
                scale = whole / gathered if examples_left else 1.0
                if examples_left:  # the time has cut the update
                    for parameter in parameters:
                        if parameter.grad is not None:
                            parameter.grad.mul_(scale)
                norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
                # the device is waited for here, and nowhere else in a step; no weight has changed yet
                loss, size = torch.stack([torch.stack(losses).sum() * scale, norm.to(losses[0])]).tolist()
                if not (math.isfinite(loss) and math.isfinite(size)):
                    raise _diverged(f"a loss of {loss:g} and a gradient of {size:g}", position.step + 1, rate)
                between_steps = False  # weights that have run away are saved no more
                if loss > _MOST_LOSS:
                    raise TrainingError(
                        f"expected a loss of at most {_MOST_LOSS:g} in step {position.step + 1} of the training, got "
                        f"{loss:g}; lower training.learning_rate (it was {rate:g} there)"
                    )
                if not history and size == 0 and loss > _LEARNABLE_LOSS:
                    raise TrainingError(
                        "expected a gradient in the first step of the training, got none: nothing that is trained has "
                        "a part in the answers; choose other adapter.layers, adapter.targets or adapter.kind"
                    )
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                for batch, known in answered:
                    sampler.record(epoch, batch.members, known.tolist())
                    if correct is not None:
                        correct.extend(known.tolist())
                seconds = pace.clock() - begun
                between_steps = True
                tokens = sum(batch.tokens for batch, _ in answered)
                pace.record(epoch, update.progress, tokens, seconds)
                position = Position(
                    epoch=epoch,
                    update=index + 1,
                    step=position.step + 1,
                    tokens=position.tokens + tokens,
                    elapsed_s=pace.elapsed_s,
                    tasks=tasks,
                )
                history.append(
                    StepRecord(
                        step=position.step,
                        epoch=epoch,
                        loss=loss,
                        learning_rate=rate,
                        tokens=tokens,
                        example_tokens=sum(batch.example_tokens for batch, _ in answered),
                        seconds=seconds,
                        progress=progress,
                    )
                )
                yield history[-1]
                begun = time.monotonic()
                if checkpoint and begun - saved_at > max(checkpoint_every_s, saving_s / _MOST_SAVING):
                    _check_weights(parameters, position.step, rate)
                    save()
                    saved_at = time.monotonic()
                    saving_s = saved_at - begun
        _check_weights(parameters, position.step, settings.learning_rate)
        finished = True


class _PastSteps:
    """The steps before an interruption, gone through again, each as it is sampled, to fill the caches as they did."""

    def __init__(
        self,
        objective: Objective,
        sampler: TrainingData,
        history: Sequence[StepRecord],
        correct: Sequence[int],
        leitner: torch.Tensor,
        redone: Callable[[StepRecord], None] | None,
    ) -> None:
        self._objective = objective
        self._sampler = sampler
        self._steps = list(history)
        self._correct = correct
        self._leitner = leitner
        self._redone = redone
        self._done = 0
        self._examples = 0

    def in_epoch(self, epoch: int) -> int:
        """How many there are."""
        return sum(step.epoch == epoch for step in self._steps)

    def redo(self, update: OptimizerStep) -> None:
        """Go through the next one again."""
        step = self._steps[self._done]
        for examples in update.batches:
            batch = pack(examples)
            self._objective.refill_caches(batch)
            known = self._correct[self._examples : self._examples + len(batch.members)]
            self._sampler.record(step.epoch, batch.members, [bool(each) for each in known])
            self._examples += len(batch.members)
        self._done += 1
        if self._redone is not None:
            self._redone(step)
        if self._done == len(self._steps):
            self._sampler.leitner.load_state(self._leitner)


def _restore(state: State, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Put what was saved into adapter and optimiser; raises ValueError, and changes neither, where it does not fit."""
    before = adapter.trained_state(), optimizer.state_dict()
    try:
        if not _are_finite(state.adapter.values()):
            raise ValueError("its weights are not finite")
        for row in state.history:
            StepRecord(**row)
        adapter.load_state(dict(state.adapter))
        optimizer.load_state_dict({"state": state.optimizer, "param_groups": before[1]["param_groups"]})
    except (AdapterError, ValueError, TypeError, KeyError) as error:
        adapter.load_state(before[0])
        optimizer.load_state_dict(before[1])
        raise ValueError(str(error)) from error


def _are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _check_weights(parameters: Iterable[torch.Tensor], step: int, rate: float) -> None:
    if not _are_finite(parameters):
        raise _diverged("weights that are not", step, rate)


def _diverged(found: str, step: int, rate: float) -> TrainingError:
    return TrainingError(
        f"expected finite numbers in step {step} of the training, got {found}; lower training.learning_rate "
        f"(it was {rate:g} there), or load the model in float32"
    )
