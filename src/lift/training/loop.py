"""The one training loop: next batch, loss, backward, clip, step."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lift.adapters.lora import LoraAdapter
from lift.batches import Batch, pack, shuffled_batches
from lift.losses import weighted_cross_entropy
from lift.recipes.recipe import TrainingSettings
from lift.training.checkpoint import Position, load_checkpoint, save_checkpoint
from lift.training.examples import Curriculum
from lift.training.schedule import rate_factor


@dataclass(frozen=True)
class Step:
    """One optimiser update, as it is written to training.jsonl."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    tokens: int
    example_tokens: int
    seconds: float
    progress: float


def train(
    model: Any,
    adapter: LoraAdapter,
    curriculum: Curriculum,
    settings: TrainingSettings,
    *,
    budget_s: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    checkpoint_every_s: float = 60.0,
    history: list[Step] | None = None,
) -> Iterator[Step]:
    """Train `adapter` on the frozen `model`, yielding each step as it is done.

    Ends after the curriculum's epochs or `budget_s` seconds, whichever comes first; the learning rate follows the
    larger share of the two. With `checkpoint`, the state is saved there every `checkpoint_every_s`, on Ctrl-C and on
    any other end before the last step; `resume` goes on from it. Without a budget the same seed gives the same steps,
    interrupted or not. `history` gets every step, those before the interruption included.
    """
    history = [] if history is None else history
    adapter.set_trainable(True)
    parameters = adapter.parameters()
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    position = Position()
    if resume and checkpoint and (saved := load_checkpoint(checkpoint, optimizer)):
        position, state, rows = saved
        adapter.load_state(state)
        history.extend(Step(**row) for row in rows)
    started = time.monotonic() - position.elapsed_s
    saved_at = time.monotonic()
    finished = False
    between_steps = True
    try:
        for epoch in range(position.epoch, curriculum.epochs):
            order = random.Random(f"{settings.seed}/{epoch}/order")
            batches = shuffled_batches(curriculum.groups(epoch), settings.batch_tokens, order)
            first = position.batch if epoch == position.epoch else 0
            for index in range(first, len(batches)):
                begun = time.monotonic()
                progress = (epoch + index / len(batches)) / curriculum.epochs
                if budget_s is not None:
                    progress = max(progress, (begun - started) / budget_s)
                    if progress >= 1:
                        finished = True
                        return
                rate = settings.learning_rate * rate_factor(progress, settings.schedule, settings.warmup_share)
                batch = pack(batches[index])
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = batch_loss(model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                between_steps = False
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                now = time.monotonic()
                between_steps = True
                position = Position(epoch, index + 1, position.step + 1, position.tokens + batch.tokens, now - started)
                history.append(
                    Step(
                        step=position.step,
                        epoch=epoch,
                        loss=loss.item(),
                        learning_rate=rate,
                        tokens=batch.tokens,
                        example_tokens=batch.example_tokens,
                        seconds=now - begun,
                        progress=progress,
                    )
                )
                yield history[-1]
                if checkpoint and time.monotonic() - saved_at > checkpoint_every_s:
                    save_checkpoint(checkpoint, position, adapter.trained_state(), optimizer, _rows(history))
                    saved_at = time.monotonic()
        finished = True
    finally:
        if checkpoint and not finished and between_steps:  # half an update is no state to go on from
            save_checkpoint(checkpoint, position, adapter.trained_state(), optimizer, _rows(history))
        adapter.set_trainable(False)


def _rows(history: list[Step]) -> list[dict[str, Any]]:
    return [asdict(step) for step in history]


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean loss of the batch's examples; logits are computed at the labelled positions alone."""
    device = model.device
    logits = model(
        input_ids=batch.ids[None].to(device),  # [1, T]
        position_ids=batch.positions[None].to(device),  # [1, T]
        attention_mask=batch.attention_mask(model.dtype).to(device),  # [1, 1, T, T]
        logits_to_keep=batch.predict_at.to(device),
        use_cache=False,
    ).logits[0]  # [M, vocabulary]
    return weighted_cross_entropy(logits, batch.targets.to(device), batch.weights.to(device))
