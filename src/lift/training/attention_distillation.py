"""Attention distillation: a Gated Memory fitted to the attention of a reader, before it is trained (method 2.3).

The base model reads the document once (attention_reading.py). Then, layer by layer and head by head,

    m(q) -> m*        (1 - kappa g) a + g m -> g* m* + (1 - g*) a        f(q) -> log Z_o  (exact gate alone)

the first two by L1 + (1 - cosine), the last by smooth L1. L1 is in units of the mean size of what is fitted, so that
it weighs the same in every layer. Examples that fit badly count for more: each by the softmax of its loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch.nn.functional import smooth_l1_loss

from lift.adapters.gated_memory import GatedMemory, mix
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.errors import AdapterError
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.packing.prompts import end_of_answer_id, prompt_ids
from lift.recipes.recipe import AdapterSettings, AttentionSettings
from lift.training.attention_reading import AttentionReading, lay_out, read_attention
from lift.training.learning_rate_schedule import learning_rate_multiplier

_HELD_OUT_EVERY = 8
_SHORTEST_DIRECTION = 0.1


@dataclass(frozen=True)
class AttentionFit:
    """After `epoch` epochs: mean over layers of ||mixed - full|| / ||full|| on queries that are held out."""

    epoch: int
    error: float


def distill_attention(
    base: BaseModel, adapter: GatedMemoryAdapter, text: str, settings: AttentionSettings
) -> Iterator[AttentionFit]:
    """Fit `adapter` to what `base` attends to when it reads `text`, yielding the error after each epoch.

    Epoch 0 is before. The adapter has the fitted values at every yield; its trainable flags are not touched. A layer
    whose window cannot see the document is left as it is; where no layer can, or the text has no tokens, nothing is
    yielded. The same adapter and text give the same values. For the bytes see read_attention; one copy of the adapter
    and its two moments come on top. Raises AdapterError where the model's attention cannot be read, or
    attention.window_tokens leaves no room.
    """
    document = content_ids(base.tokenizer, text)
    head = _prompt_head(base.tokenizer)
    limit_tokens = settings.window_tokens or base.window_tokens
    if limit_tokens < len(head) + 2:
        raise AdapterError(
            f"expected attention.window_tokens of {len(head) + 2} or more, the head of a prompt and 2 tokens, "
            f"got {limit_tokens}; raise it"
        )
    if not document:
        return
    layout = lay_out(len(document), limit_tokens - len(head))
    readings = read_attention(base.model, head, document, layout, adapter.settings.layers)
    state = adapter.trained_state()
    fits = [
        _LayerFit(reading, _own_part(state, reading), adapter.settings, settings)
        for reading in readings
        if reading.sees_document.any()
    ]
    if not fits:
        return
    yield AttentionFit(0, _mean_error(fits))
    for fit in fits:
        fit.begin()
    order = torch.Generator().manual_seed(0)
    for epoch in range(settings.epochs):
        for fit in fits:
            fit.run_epoch(epoch / settings.epochs, 1 / settings.epochs, order)
            for name, value in fit.memory.state_dict().items():
                state[_key(fit.reading, name)] = value
        adapter.load_state(state)
        yield AttentionFit(epoch + 1, _mean_error(fits))


def direction_and_size_loss(fitted: torch.Tensor, target: torch.Tensor, size: float) -> torch.Tensor:
    """mean |fitted - target| / size + 1 - cos(fitted, target). [..., d], [..., d] -> [...]

    A `fitted` shorter than a tenth of `target` counts as that long in the cosine: a new memory is the zero vector, at
    which the gradient of the cosine has no bound, and would be in Adam's second moment for thousands of steps.
    """
    distance = (fitted - target).abs().mean(dim=-1) / size  # [...]
    length = target.norm(dim=-1).clamp(min=torch.finfo(target.dtype).tiny ** 0.5)  # [...]
    own = torch.maximum(fitted.norm(dim=-1), _SHORTEST_DIRECTION * length)  # [...]
    cosine: torch.Tensor = (fitted * target).sum(dim=-1) / (own * length)  # [...]
    return distance + 1 - cosine


def hard_example_mean(loss: torch.Tensor) -> torch.Tensor:
    """Mean over heads of the losses of a batch, each weighted by its own share of the softmax. [B, H] -> []"""
    return (torch.softmax(loss.detach(), dim=0) * loss).sum(dim=0).mean()


class _LayerFit:
    """One layer's memory and what it is fitted to; the memory is a copy, so that the adapter is whole at any time."""

    def __init__(
        self,
        reading: AttentionReading,
        state: dict[str, torch.Tensor],
        adapter: AdapterSettings,
        settings: AttentionSettings,
    ) -> None:
        site = reading.site
        self.reading = reading
        self.settings = settings
        self.exact = adapter.gate == "exact"
        self.device = site.output_projection.weight.device
        self.memory = GatedMemory(
            site.heads,
            site.head_dim,
            width=adapter.width,
            gate=adapter.gate,
            start=adapter.start,
            generator=torch.Generator(),
        )
        self.memory.load_state_dict(state)
        self.memory.to(self.device)
        everyone = torch.arange(len(reading.query))
        held_out = everyone % _HELD_OUT_EVERY == min(_HELD_OUT_EVERY, len(everyone)) - 1
        self.held_out, self.training = everyone[held_out], everyone[~held_out]
        self.recalled_size = float(reading.recalled[reading.sees_document].abs().mean())
        self.full_size = float(reading.full.abs().mean())
        # kappa is not fitted, and a bias does not decay: log Z_o lies far from zero
        matrices = [weight for weight in self.memory.parameters() if weight.ndim > 1]
        biases = [] if self.memory.gate_bias is None else [self.memory.gate_bias]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": biases, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    @torch.no_grad()
    def begin(self) -> None:
        """Put kappa, and the exact gate's bias, where the decomposition has them.

        kappa is 1 in the exact decomposition, and stays so while m and g are fitted: a kappa that gave way would make
        up for a wrong gate. The bias starts at the mean of log Z_o: it is a sum over many keys, far from any start,
        and AdamW moves a value by no more than its learning rate a step.
        """
        if self.memory.displacement is not None:
            self.memory.displacement.fill_(1.0)
        seen = self.training[self.reading.sees_document[self.training]]
        if self.memory.gate_bias is not None and len(seen):
            batch = self.reading.at(seen, self.device)
            missing = batch.log_sum_outside - self.memory.log_sum_outside(batch.query)  # [n, H]
            self.memory.gate_bias.add_(missing.mean(dim=0))

    def run_epoch(self, progress: float, share: float, order: torch.Generator) -> None:
        """Every training query once; `progress` of the whole fit is done before, and this epoch is `share` of it."""
        shuffled = self.training[torch.randperm(len(self.training), generator=order)]
        batches = torch.split(shuffled, self.settings.batch_queries) if len(shuffled) else ()
        for index, rows in enumerate(batches):
            factor = learning_rate_multiplier(progress + share * index / len(batches), "cosine", 0.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * factor
            self.optimizer.zero_grad(set_to_none=True)
            self._loss(self.reading.at(rows, self.device)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def error(self) -> float:
        """||mixed - full|| / ||full|| on the held-out queries."""
        held_out = self.reading.at(self.held_out, self.device)
        log_sum_inside = held_out.log_sum_inside if self.exact else None
        mixed, _ = self.memory(held_out.query, held_out.attended, log_sum_inside)  # [n, H, d]
        return float((mixed - held_out.full).norm() / held_out.full.norm())

    def _loss(self, batch: AttentionReading) -> torch.Tensor:
        memory, seen = self.memory, batch.sees_document[:, None]  # [B, 1]
        recalled = memory.recall(batch.query)  # [B, H, d]
        gate = memory.gate(batch.query, batch.log_sum_inside if self.exact else None)  # [B, H]
        displacement = 1.0 if memory.displacement is None else memory.displacement.detach()
        mixed = mix(batch.attended, recalled, gate, displacement)  # [B, H, d]
        # what is not seen has no m* and no log Z_o; its gate alone is to be fitted
        loss = direction_and_size_loss(recalled, batch.recalled, self.recalled_size).where(seen, 0.0)  # [B, H]
        loss = loss + direction_and_size_loss(mixed, batch.full, self.full_size)  # [B, H]
        if self.exact:
            log_sum = memory.log_sum_outside(batch.query)  # [B, H]
            target = batch.log_sum_outside.where(seen, log_sum.detach())
            loss = loss + smooth_l1_loss(log_sum, target, reduction="none")
        return hard_example_mean(loss)


def _mean_error(fits: list[_LayerFit]) -> float:
    return sum(fit.error() for fit in fits) / len(fits)


def _key(reading: AttentionReading, name: str) -> str:
    return f"{reading.site.path}.gated_memory.{name}"


def _own_part(state: dict[str, torch.Tensor], reading: AttentionReading) -> dict[str, torch.Tensor]:
    prefix = _key(reading, "")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _prompt_head(tokenizer: Any) -> list[int]:
    """The common beginning of all prompts; the token that ends an answer where prompts have nothing in common."""
    first, second = prompt_ids(tokenizer, "What?"), prompt_ids(tokenizer, "9")
    shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    return [token for token, _ in shared] or [end_of_answer_id(tokenizer)]
