"""The examples that all sides of a comparison train on: one epoch of the batch sampler, over and over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lift.absorbing.preparation import PreparedDocument
from lift.models.base_model import BaseModel
from lift.packing.prompts import Example
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler, Group, OptimizerStep


class FixedBatchSampler(BatchSampler):
    """A batch sampler that deals its contexts once: every epoch has the same examples, shuffled and batched anew.

    `labelled` counts the tokens that carry loss, over all updates that were taken so far.
    """

    labelled = 0

    def plan(self, epoch: int) -> list[Group]:
        """The groups of the first epoch over tasks, whatever the epoch."""
        return super().plan(self._recipe.training.segment_epochs)

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """As BatchSampler.updates, counted."""
        for update in super().optimizer_steps(epoch):
            self.labelled += sum(example.labelled_tokens for batch in update.batches for example in batch)
            yield update

    def examples(self) -> list[Example]:
        """All examples of an epoch, in the batch sampler's own order."""
        return [example for group in self.groups(0) for example in group]


def fixed_batch_sampler(
    made: PreparedDocument, tasks: Sequence[Task], base: BaseModel, recipe: Recipe
) -> FixedBatchSampler:
    """The batch sampler that both sides draw from."""
    return FixedBatchSampler(base.tokenizer, base.window_tokens, made.document, made.sentences, tasks, recipe)


def as_rows(examples: Sequence[Example]) -> list[dict[str, list[int]]]:
    """Batches as transformers.Trainer takes them: the same ids and labels, IGNORED where there is no loss."""
    return [{"input_ids": list(example.ids), "labels": list(example.labels)} for example in examples]


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of a training: `computed` positions with padding and after sharing, `real` ones of the examples,
    `labelled` ones that carry loss, `head`, positions whose logits were computed, and `below`, those that passed the
    layers below the adapter.
    """

    computed: int
    real: int
    labelled: int
    head: int
    below: int
