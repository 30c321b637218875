"""Packed batches give what the examples give one by one: losses, gradients, and no token is computed twice."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lift.adapters.lora import LoraAdapter
from lift.models.base_model import BaseModel
from lift.packing.prompts import IGNORED, Example
from lift.packing.trie import pack, split_batches
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings
from lift.training.objective import Objective


def example(prompt: list[int], answer: list[int], weight: float = 1.0) -> Example:
    return Example(tuple(prompt + answer), tuple([IGNORED] * len(prompt) + answer), weight)


tokens = st.integers(3, 9)
examples = st.lists(
    st.builds(
        example,
        st.lists(tokens, min_size=1, max_size=6),
        st.lists(tokens, min_size=1, max_size=3),
        st.floats(0.1, 4),
    ),
    min_size=1,
    max_size=8,
)


def loss_one_by_one(model: Any, batch: list[Example]) -> torch.Tensor:
    total = torch.zeros(())
    for each in batch:
        logits = model(torch.tensor([each.ids])).logits[0, :-1]
        loss = F.cross_entropy(logits, torch.tensor(each.labels[1:]), ignore_index=IGNORED)
        total = total + each.weight * loss
    return total / sum(each.weight for each in batch)


def test_loss_and_gradients_equal_those_of_the_examples_one_by_one(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    adapter = LoraAdapter.create(model, AdapterSettings(rank=4), seed=0)
    adapter.set_trainable(True)
    draw = random.Random(0)
    for parameter in adapter.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    head = [1, 7, 8, 9]
    batch = [
        example(head[: draw.randint(2, 4)] + draw.choices(range(3, 40), k=5), draw.choices(range(3, 40), k=3), weight)
        for weight in (0.5, 1.0, 2.0, 1.0, 0.25)
    ]
    packed = pack(batch)
    assert packed.tokens < packed.example_tokens
    losses, gradients = [], []
    for loss in (Objective(model, adapter, ObjectiveSettings()).loss(packed), loss_one_by_one(model, batch)):
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()]))
        for parameter in adapter.parameters():
            parameter.grad = None
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[1].norm()


@given(examples)
def test_every_label_is_predicted_from_its_own_prefix(batch: list[Example]) -> None:
    packed = pack(batch)
    predicted = []
    for last, target, weight in zip(
        packed.logit_positions.tolist(), packed.targets.tolist(), packed.weights.tolist(), strict=True
    ):
        prefix, node = [], last
        while node >= 0:
            prefix.append(int(packed.ids[node]))
            node = packed.parents[node]
        predicted.append((tuple(reversed(prefix)), target, weight))
    total = sum(each.weight for each in batch)
    expected = [
        (each.ids[:place], label, each.weight / total / sum(label != IGNORED for label in each.labels))
        for each in batch
        for place, label in enumerate(each.labels)
        if label != IGNORED
    ]
    assert [item[:2] for item in predicted] == [item[:2] for item in expected]
    assert [item[2] for item in predicted] == pytest.approx([item[2] for item in expected], rel=1e-5)


@given(examples)
def test_no_prefix_is_computed_twice_and_the_mask_shows_ancestors_alone(batch: list[Example]) -> None:
    packed = pack(batch)
    prefixes = {each.ids[:length] for each in batch for length in range(1, len(each.ids))}
    assert packed.tokens == len(prefixes)
    mask = packed.attention_mask(torch.float32)[0, 0] == 0
    for node in range(packed.tokens):
        ancestors, walker = set(), node
        while walker >= 0:
            ancestors.add(walker)
            walker = packed.parents[walker]
        assert set(mask[node].nonzero().flatten().tolist()) == ancestors
        assert len(ancestors) == int(packed.positions[node]) + 1


@settings(deadline=None)
@given(st.lists(examples, min_size=1, max_size=6), st.integers(4, 40))
def test_batches_hold_each_example_once_in_order_within_the_size(
    groups: list[list[Example]], batch_tokens: int
) -> None:
    batches = list(split_batches(groups, batch_tokens))
    assert [each for batch in batches for each in batch] == [each for group in groups for each in group]
    assert all(len(batch) == 1 or pack(batch).tokens <= batch_tokens for batch in batches)
    for group in groups:
        holding = {place for place, batch in enumerate(batches) for each in batch if any(each is one for one in group)}
        assert len(holding) == 1 or pack(group).tokens > batch_tokens


@given(st.lists(examples, min_size=2, max_size=6), st.integers(4, 40))
def test_no_more_is_drawn_than_the_batch_at_hand_needs(groups: list[list[Example]], batch_tokens: int) -> None:
    drawn: list[Example] = []

    def watched(group: list[Example]) -> Iterator[Example]:
        for each in group:
            drawn.append(each)
            yield each

    given_out = 0
    for batch in split_batches(map(watched, groups), batch_tokens):
        given_out += len(batch)
        waiting = drawn[given_out:]
        assert len(waiting) <= 2 or pack(waiting[:-1]).tokens <= batch_tokens


def test_a_group_that_fits_a_batch_is_not_torn_apart() -> None:
    alone = [example([3, 4, 5, 6], [7])]
    group = [example([8, 8, 8, 8, token], [token]) for token in (3, 4, 5)]
    assert list(split_batches([alone, group], 8)) == [alone, group]


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        pack([])
    with pytest.raises(ValueError, match="label"):
        pack([Example((3, 4), (IGNORED, IGNORED))])


def test_even_weights_count_every_label_alike_but_for_its_examples_weight() -> None:
    short = Example((1, 2, 3), (IGNORED, IGNORED, 3), 2.0)
    long = Example((1, 2, 4, 5, 6), (IGNORED, IGNORED, 4, 5, 6), 1.0)
    batch = pack([short, long])
    torch.testing.assert_close(batch.token_mean_weights, torch.tensor([2.0, 1.0, 1.0, 1.0]) / 5)
    torch.testing.assert_close(batch.weights, torch.tensor([2.0, 1 / 3, 1 / 3, 1 / 3]) / 3)
