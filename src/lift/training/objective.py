"""Training objective of a batch: cross-entropy, distillation, KL to the base, the gates' regulariser.

Distillation is from the base model that reads the evidence (context distillation), or from another memory's adapter on
the same base: then each answer is matched to that memory's odds behind the same prompt, and nothing to its label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.adapters.row_assignment import using
from lift.packing.forward import labelled_logits
from lift.packing.losses import bucket_divergence, cross_entropy, top_k_log_probabilities
from lift.packing.prompts import IGNORED, Example
from lift.packing.trie import Batch, pack
from lift.recipes.recipe import ObjectiveSettings
from lift.training.frozen_layer_cache import FrozenLayerCache

_LOSS_AT_HALF = math.log(2)
TEACHER_TOP_K = 32  # of the teacher's logits that are matched, the rest in one bucket


@dataclass(frozen=True)
class Outcome:
    """`loss` of a batch: scalar, with graph. `greedy_correct`, [S]: each token of an example's answer has p > 0.5.

    Teacher-forced: such an answer is what greedy decoding would say. Distilled from a memory, it is that the likeliest
    token is the memory's at each place of the answer.
    """

    loss: torch.Tensor
    greedy_correct: torch.Tensor


class Objective:
    """The loss of a batch under one adapter on one base model; `lower`: the cache of its frozen layers, if any.

    `taught_by`: the attached adapter of the memory that is distilled, if one is; it is trained no further.
    """

    def __init__(
        self,
        model: Any,
        adapter: Adapter,
        settings: ObjectiveSettings,
        lower: FrozenLayerCache | None = None,
        *,
        taught_by: Adapter | None = None,
    ) -> None:
        self._model = model
        self._lower = lower
        self._adapter = adapter
        self._settings = settings
        self._distils_memory = taught_by is not None
        self._teacher = Teacher(model, adapter, taught_by)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Scalar, with graph: the mean over the batch's examples by weight."""
        return self.outcome(batch).loss

    def weight_of(self, examples: Iterable[Example]) -> float:
        """The weight of these examples in an optimizer step: the mean is over examples, or over tokens."""
        if self._settings.mean_over == "examples":
            return sum(example.weight for example in examples)
        return sum(example.weight * example.labelled_tokens for example in examples)

    def outcome(self, batch: Batch) -> Outcome:
        """The loss, and which of the answers are known."""
        settings = self._settings
        if settings.gate_penalty and isinstance(self._adapter, GatedMemoryAdapter):
            with self._adapter.recording_gates():
                logits = self._logits(batch)  # [M, vocabulary]
                penalty = mean_gate(self._adapter.gates(), batch, settings.gate_penalty_on == "in-context")
            extra = settings.gate_penalty * penalty
        else:
            logits = self._logits(batch)  # [M, vocabulary]
            extra = logits.new_zeros((), dtype=torch.float32)
        weights = batch.token_mean_weights if settings.mean_over == "tokens" else batch.weights  # [M]
        weights = weights.to(logits.device)
        losses = cross_entropy(logits, batch.targets.to(logits.device))  # [M]
        greedy_correct = all_of_each(losses.detach() < _LOSS_AT_HALF, batch)  # [S]
        soft_weight, hard_weight = settings.distillation, settings.cross_entropy
        if self._distils_memory:
            soft_weight, hard_weight = 1.0, 0.0
        if not self._asks_teacher(batch):
            return Outcome(settings.cross_entropy * (losses * weights).sum() + extra, greedy_correct)
        log_probabilities, ids, taught = self._teacher.targets(batch)  # [M, K], [M, K], [M]
        divergence = bucket_divergence(logits, log_probabilities, ids)  # [M]
        if self._distils_memory:
            greedy_correct = all_of_each(logits.detach().argmax(-1) == ids[:, 0], batch)  # [S]
        kept = torch.tensor([example.kl_to_base for example in batch.members]).repeat_interleave(_label_counts(batch))
        kept = kept.to(logits.device)  # [M]
        alone = hard_weight if soft_weight == 0 else 1.0  # segments have no teacher and keep their labels
        hard = torch.where(taught, hard_weight, alone).masked_fill(kept, 0.0)  # [M]
        soft = torch.where(kept, 1.0, soft_weight) * taught  # [M]
        return Outcome((losses * weights * hard).sum() + (divergence * weights * soft).sum() + extra, greedy_correct)

    def refill_caches(self, batch: Batch) -> None:
        """Compute, of a batch that was trained on before an interruption, what its outcome left in the caches.

        The last digits of a state depend on the batch in which it was computed: batch by batch in their old order, the
        training goes on with the very numbers that it had.
        """
        if self._lower is not None:
            self._lower.refill(batch)
        if self._asks_teacher(batch):
            self._teacher.targets(batch)

    def _asks_teacher(self, batch: Batch) -> bool:
        if self._distils_memory or self._settings.distillation:
            return True
        return any(example.kl_to_base for example in batch.members)

    def _logits(self, batch: Batch) -> torch.Tensor:
        """[M, vocabulary]"""
        return labelled_logits(self._model, batch) if self._lower is None else self._lower.logits(batch)


class Teacher:
    """The same base model, adapter switched off: with the evidence in its prompt (context distillation), or as it is.

    With `memory`, an attached adapter that is not trained, its odds are taught instead, behind the same prompt; pieces
    of other texts keep the base's. Its answers never change, so each is computed once and kept on the CPU: K
    log-probabilities and ids a token.
    """

    def __init__(self, model: Any, adapter: Adapter, memory: Adapter | None = None) -> None:
        self._model = model
        self._adapter = adapter
        self._memory = memory
        self._known: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log-probabilities [M, K], ids [M, K], whether the position has a teacher [M]), on the model's device."""
        readers = [example if self._memory is not None else _reader(example) for example in batch.members]
        unknown = [reader for reader in readers if reader is not None and reader.ids not in self._known]
        by_base = [reader for reader in unknown if self._memory is None or reader.kl_to_base]
        self._learn(by_base, None)
        if self._memory is not None:
            self._learn([reader for reader in unknown if not reader.kl_to_base], self._memory.name)
        width = next((self._known[reader.ids][0].shape[-1] for reader in readers if reader is not None), 1)
        rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for example, reader in zip(batch.members, readers, strict=True):
            count = example.labelled_tokens
            if reader is None:
                filler = torch.full((count, width), -float(width) - 1.0), torch.zeros(count, width, dtype=torch.long)
                rows.append((*filler, torch.zeros(count, dtype=torch.bool)))
            else:
                rows.append((*self._known[reader.ids], torch.ones(count, dtype=torch.bool)))
        device = self._model.device
        log_probabilities, ids, taught = (torch.cat(column).to(device) for column in zip(*rows, strict=True))
        return log_probabilities, ids, taught

    def _learn(self, readers: list[Example], memory: str | None) -> None:
        if not readers:
            return
        with torch.no_grad(), self._adapter.disabled() if memory is None else using(self._model, memory):
            logits = labelled_logits(self._model, pack(readers))  # [M', vocabulary]
        values, ids = top_k_log_probabilities(logits, TEACHER_TOP_K)
        first = 0
        for reader in readers:
            last = first + reader.labelled_tokens
            self._known[reader.ids] = (values[first:last].cpu(), ids[first:last].cpu())
            first = last


def all_of_each(positions: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Whether something holds at all labelled positions of each example. [M] -> [S]"""
    owners = torch.arange(len(batch.members)).repeat_interleave(_label_counts(batch)).to(positions.device)  # [M]
    failed = torch.zeros(len(batch.members), device=positions.device, dtype=torch.long)  # [S]
    return failed.index_add(0, owners, (~positions).long()) == 0


def mean_gate(gates: list[torch.Tensor], batch: Batch, only_reading: bool) -> torch.Tensor:
    """Mean of g over layers, heads and answer tokens (method 2.3), or over those whose prompt holds the evidence.

    gates: one [1, T, H] a layer. Scalar; 0 where no token qualifies.
    """
    reads = torch.tensor([example.reads_evidence for example in batch.members]).repeat_interleave(_label_counts(batch))
    nodes = batch.logit_positions[reads] if only_reading else batch.logit_positions  # [N]
    if len(nodes) == 0:
        return gates[0].new_zeros(())
    return torch.stack([gate[0, nodes.to(gate.device)].mean() for gate in gates]).mean()


def _label_counts(batch: Batch) -> torch.Tensor:
    """Labelled positions of each example. [S]"""
    return torch.tensor([example.labelled_tokens for example in batch.members])


def _reader(example: Example) -> Example | None:
    """The example as its teacher sees it: the prompt with the evidence, the same answer; or just as it is."""
    if example.kl_to_base:
        return example
    if example.teacher_ids is None:
        return None
    answer = tuple(label for label in example.labels if label != IGNORED)
    labels = (*[IGNORED] * len(example.teacher_ids), *answer)
    return Example((*example.teacher_ids, *answer), labels, example.weight)
