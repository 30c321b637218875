"""What is guessed in 4 bits never changes what the model says; the steps behind a guess are those of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny
from transformers import DynamicCache

from lift.adapters.attach import create_adapter
from lift.inference import speculative
from lift.inference.generate import generate
from lift.inference.speculative import DraftModel, Packed, SpeculativeDecoder, can_speculate
from lift.recipes.recipe import AdapterSettings

PROMPT = [1, *range(5, 25)]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 64}


def packable(**changes: Any) -> Any:
    """A tiny Llama whose matrices can be packed."""
    model = tiny("llama", **{**SIZES, **changes})
    return model.requires_grad_(False)


def with_lora(model: Any, kind: str = "lora") -> Any:
    adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4, alpha=8.0), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for weight in adapter.parameters():
            weight.data.add_(0.3 * torch.randn(weight.shape))
    return model


@torch.inference_mode()
def step_by_step(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


class Whole:
    """A matrix that is not packed: what is left of a guess are its steps."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    @classmethod
    def of(cls, weight: torch.Tensor) -> Whole:
        return cls(weight)

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        return self.weight @ vector


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative, "_TOKENS_TO_PACK", 1)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    monkeypatch.setattr(speculative, "Packed", Whole)
    monkeypatch.setattr(speculative, "_CHOSEN_AMONG", 64)


def read(model: Any, prompt: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


@torch.inference_mode()
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
        {"rms_norm_eps": 0.1, "tie_word_embeddings": True},
    ],
    ids=["plain", "one-cached-head", "rope", "norm"],
)
def test_without_packing_every_guess_is_what_transformers_says(
    whole: None, changes: dict[str, Any], adapted: bool
) -> None:
    model = packable(**changes)
    if adapted:
        with_lora(model)
    said = step_by_step(model, PROMPT, 13)
    assert len(set(said)) > 3
    assert DraftModel(model).propose(read(model, PROMPT), said[0], 12, []) == said[1:]


@torch.inference_mode()
def test_a_guess_ends_behind_an_end_token_and_leaves_the_cache_alone(whole: None) -> None:
    model = packable()
    said = step_by_step(model, PROMPT, 6)
    cached = read(model, PROMPT)
    before = [(keys.clone(), values.clone()) for keys, values in cached]
    end = said[4]
    assert DraftModel(model).propose(cached, said[0], 5, [end]) == said[1 : said.index(end, 1) + 1]
    torch.testing.assert_close(cached, before, atol=0, rtol=0)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_that_of_the_model_alone_however_wrong_the_guesses(
    at_once: None, adapted: bool, seed: int
) -> None:
    model = packable()
    if adapted:
        with_lora(model)
    prompt = [1, *range(5 + seed, 20 + 3 * seed)]
    said = step_by_step(model, prompt, 40)
    assert can_speculate(model)
    for count in (1, 2, 7, 40):
        came: list[tuple[int, int]] = []
        options: dict[str, Any] = {"end_ids": [], "on_token": lambda row, token, came=came: came.append((row, token))}
        assert generate(model, [prompt], max_new_tokens=count, **options) == [said[:count]]
        assert came == [(0, token) for token in said[:count]]
    end = said[20]
    assert generate(model, [prompt], max_new_tokens=40, end_ids=[end]) == [said[: said.index(end)]]


def passes_of(model: Any, run: Callable[[], object]) -> int:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    # a hook would be taken for an adapter's
    forward = model.forward
    model.forward = lambda *args, **named: (count(), forward(*args, **named))[1]
    run()
    del model.forward
    return passes


def test_right_guesses_save_passes(whole: None) -> None:
    model = packable()
    # the prompt; 32 guesses and the token behind them; the last 6
    assert passes_of(model, lambda: generate(model, [PROMPT], max_new_tokens=40, end_ids=[])) == 3


def test_several_rows_and_sampling_are_not_guessed(whole: None) -> None:
    model = packable()
    two = passes_of(model, lambda: generate(model, [PROMPT, [3, 4]], max_new_tokens=10, end_ids=[]))
    sampled = passes_of(model, lambda: generate(model, [PROMPT], max_new_tokens=10, end_ids=[], temperature=1.0))
    assert (two, sampled) == (10, 10)


def test_weights_are_packed_when_a_model_has_said_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative, "_TOKENS_TO_PACK", 8)
    monkeypatch.setattr(speculative, "Packed", Whole)
    model = packable()
    assert passes_of(model, lambda: generate(model, [PROMPT], max_new_tokens=5, end_ids=[])) == 5
    assert passes_of(model, lambda: generate(model, [PROMPT], max_new_tokens=40, end_ids=[])) < 10


@torch.inference_mode()
def test_other_weights_are_packed_anew(whole: None) -> None:
    model, other = packable(), packable(seed=1)
    cache, said = read(model, PROMPT), step_by_step(model, PROMPT, 5)
    assert DraftModel(model).propose(cache, said[0], 4, []) == said[1:]
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data
    said = step_by_step(model, PROMPT, 5)
    assert DraftModel(model).propose(read(model, PROMPT), said[0], 4, []) == said[1:]


def test_where_no_guess_is_right_no_more_are_made(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        speculative, "DraftModel", lambda _model: type("Wrong", (), {"propose": lambda *a: [0] * a[3]})()
    )
    proposals = SpeculativeDecoder(packable())
    made = []
    while guessed := proposals.propose(None, 1, 100, []):
        made.append(len(guessed))
        proposals.record_accepted(0)
    assert made == [32, 4, 4, 4]


def test_a_few_wrong_guesses_make_fewer_at_a_time(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        speculative, "DraftModel", lambda _model: type("Some", (), {"propose": lambda *a: [0] * a[3]})()
    )
    proposals, made = SpeculativeDecoder(packable()), []
    for right in (32, 3, 6, 12, 1, 4, 8):
        made.append(len(proposals.propose(None, 1, 100, [])))
        proposals.record_accepted(right)
    assert made == [32, 32, 6, 12, 24, 4, 8]


@pytest.mark.parametrize("kind", ["dora", "gated-memory"])
def test_adapters_of_other_kinds_are_not_guessed(kind: str) -> None:
    assert can_speculate(packable())
    assert not can_speculate(with_lora(packable(), kind))


@pytest.mark.parametrize(
    "model",
    [
        lambda: packable(hidden_size=48),
        lambda: packable(attention_bias=True),
        lambda: packable().to(torch.float64),
        lambda: packable(hidden_act="gelu"),
        lambda: tiny("mistral", **SIZES),
        lambda: tiny("qwen3", **SIZES),
    ],
)
def test_other_models_are_not_guessed(model: Callable[[], Any]) -> None:
    assert not can_speculate(model())


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31))
def test_weights_of_sixteen_steps_lose_no_more_than_bfloat16(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    shape = (32 * rows, columns, 32)
    nibbles = torch.randint(0, 16, shape)
    nibbles[..., 0], nibbles[..., 1] = 0, 15
    weight = (nibbles * torch.rand(32 * rows, columns, 1) - torch.randn(32 * rows, columns, 1)).view(32 * rows, -1)
    vector = torch.randn(32 * columns)
    most = weight.abs() @ vector.abs()  # [N]
    # steps, centres, vector and product are each rounded to 8 bits
    assert (Packed.of(weight).product(vector) - weight @ vector).abs().le(2**-6 * most + 1e-6).all()


def test_equal_weights_are_packed_without_a_step() -> None:
    found = Packed.of(torch.full((32, 32), 0.5)).product(torch.ones(32))
    assert torch.allclose(found, torch.full((32,), 16.0))
