"""Attention by groups of a packed batch is attention under its mask, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, tiny

from lift.adapters.attach import create_adapter
from lift.packing.attention_blocks import attention_groups, cheaper_than_one_product
from lift.packing.forward import labelled_logits
from lift.packing.prompts import IGNORED, Example
from lift.packing.tree_attention import tree_attention
from lift.packing.trie import Batch, pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings
from lift.training.objective import Objective

KINDS = {
    "lora": AdapterSettings(kind="lora", rank=4, alpha=8),
    "query": AdapterSettings(kind="gated-memory", gate="query", start="published"),
    "exact": AdapterSettings(kind="gated-memory", gate="exact", start="published"),
}


@st.composite
def tries(draw: st.DrawFn, most: int = 40) -> list[int]:
    """Parents of any trie, roots and chains included, in an order in which parents come first."""
    parents: list[int] = []
    for node in range(draw(st.integers(1, most))):
        chained = draw(st.booleans())
        parents.append(node - 1 if chained else draw(st.integers(-1, node - 1)))
    return parents


def batch_of(seed: int, questions: int = 8, contexts: int = 2, long: int = 0) -> Batch:
    """Questions of 8 to 24 tokens behind one head, some of them behind contexts that they share."""
    generator = torch.Generator().manual_seed(seed)

    def some(least: int, most: int) -> list[int]:
        count = int(torch.randint(least, most + 1, (), generator=generator))
        return torch.randint(3, 61, (count,), generator=generator).tolist()

    head = some(5, 5)
    prefixes = [head, *(head + some(20, 30) for _ in range(contexts))]
    examples = []
    for index in range(questions):
        prompt, answer = prefixes[index % len(prefixes)] + some(6, 20), some(2, 4)
        examples.append(Example(tuple(prompt + answer), (*[IGNORED] * len(prompt), *answer), 1.0 + index % 3))
    if long:
        chain = tuple(some(long, long))
        examples.append(Example(chain, (IGNORED, *chain[1:])))
    return pack(examples)


def loss_and_gradient(model: Any, kind: str, batch: Batch, attention: str = "sdpa") -> tuple[float, torch.Tensor]:
    """Of a disturbed adapter, attached for this alone; any attention but sdpa is computed under the dense mask."""
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    adapter = create_adapter(model, KINDS[kind], seed=0)
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapter.set_trainable(True)
    loss = Objective(model, adapter, ObjectiveSettings()).loss(batch)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()])
    adapter.detach()
    model.set_attn_implementation(before)
    return loss.item(), gradient


@given(tries())
def test_every_node_is_a_query_once_and_attends_to_its_path(parents: list[int]) -> None:
    seen = []
    for group in attention_groups(parents):
        attended = group.attended()
        assert attended.any(dim=-1).all()
        for block, count in enumerate(group.counts.tolist()):
            for index in range(count):
                node = int(group.queries[block, index])
                path, walker = [], node
                while walker >= 0:
                    path.append(walker)
                    walker = parents[walker]
                assert group.keys[block][attended[block, index]].tolist() == path[::-1]
                seen.append(node)
    assert sorted(seen) == list(range(len(parents)))


def test_a_batch_of_questions_is_cheaper_by_groups_and_a_short_prompt_is_not() -> None:
    batch = batch_of(0, questions=16)
    groups = attention_groups(batch.parents)
    assert sum(group.scores for group in groups) < batch.tokens**2 / 2
    assert cheaper_than_one_product(groups, batch.tokens)
    chain = range(-1, 19)
    assert not cheaper_than_one_product(attention_groups(chain), 20)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    questions=st.integers(6, 16),
    contexts=st.integers(0, 3),
    long=st.sampled_from([0, 30, 210]),
    heads=st.sampled_from([(4, 4), (4, 2), (8, 2), (4, 1)]),
)
def test_loss_and_gradients_are_those_under_the_dense_mask(
    seed: int, questions: int, contexts: int, long: int, heads: tuple[int, int]
) -> None:
    batch = batch_of(seed, questions, contexts, long)
    model = tiny("llama", seed, num_attention_heads=heads[0], num_key_value_heads=heads[1], head_dim=8)
    model.double()  # norms and the dense softmax still round to float32
    loss, gradient = loss_and_gradient(model, "lora", batch)
    expected_loss, expected = loss_and_gradient(model, "lora", batch, "eager")
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_as_under_the_dense_mask(architecture: str, kind: str) -> None:
    model, batch = tiny(architecture), batch_of(1)
    attention = model.config._attn_implementation
    loss, gradient = loss_and_gradient(model, kind, batch, attention)
    expected_loss, expected = loss_and_gradient(model, kind, batch, "eager")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert (gradient - expected).norm() <= 2e-5 * expected.norm()
    assert model.config._attn_implementation == attention


def test_logits_are_those_of_each_prefix_read_alone() -> None:
    model, batch = tiny("llama"), batch_of(2)
    with torch.no_grad():
        logits = labelled_logits(model, batch)
        first = 0
        for example in batch.members:
            places = [place for place, label in enumerate(example.labels) if label != IGNORED]
            alone = model(torch.tensor([example.ids])).logits[0, [place - 1 for place in places]]
            torch.testing.assert_close(logits[first : first + len(places)], alone, atol=1e-4, rtol=1e-4)
            first += len(places)


def square_scores(model: Any, monkeypatch: pytest.MonkeyPatch, batch: Batch, **options: Any) -> int:
    """In how many layers every node is scored against every other."""
    calls = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def counting(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(kwargs["attn_mask"].shape[-2:])
        return whole(*args, **kwargs)

    mask = batch.attention_mask(model.dtype)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        with tree_attention(model, batch, mask):
            called_with = options.pop("mask", mask)
            model(batch.ids[None], position_ids=batch.positions[None], attention_mask=called_with, **options)
    return calls.count(mask.shape[-2:])


def test_only_the_mask_of_the_batch_is_cut_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny("llama"), batch_of(3)
    assert square_scores(model, monkeypatch, batch) == 0
    assert square_scores(model, monkeypatch, batch, mask=batch.attention_mask(model.dtype)) == 2
    assert square_scores(model, monkeypatch, batch, softcap=None) == 0
    assert square_scores(model, monkeypatch, batch, position_bias=torch.zeros(1, 4, batch.tokens, batch.tokens)) == 2
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert square_scores(model.train(), monkeypatch, batch) == 2
    short = batch_of(3, questions=1)
    assert square_scores(model.eval(), monkeypatch, short) == 2


def test_the_models_attention_is_back_after_an_error() -> None:
    model, batch = tiny("llama"), batch_of(4)
    mask = batch.attention_mask(model.dtype)
    with pytest.raises(RuntimeError, match="stop"), tree_attention(model, batch, mask):
        assert model.config._attn_implementation != "sdpa"
        raise RuntimeError("stop")
    assert model.config._attn_implementation == "sdpa"
    ids = torch.tensor([[1, 5, 9]])
    with tree_attention(model, batch, mask), torch.no_grad():
        within = model(ids).logits
    with torch.no_grad():
        assert torch.equal(model(ids).logits, within)
