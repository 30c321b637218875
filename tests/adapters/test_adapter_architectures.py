"""One table: every kind of adapter keeps its promises on every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tiny_models import ARCHITECTURES, tiny

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.row_assignment import rows
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.packing.prompts import question_example
from lift.packing.trie import pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings
from lift.training.objective import Objective

VARIANTS = {
    "lora": AdapterSettings(kind="lora", rank=4, alpha=8),
    "pissa": AdapterSettings(kind="pissa", rank=4, alpha=4),
    "dora": AdapterSettings(kind="dora", rank=4, alpha=8),
    "query-identity": AdapterSettings(kind="gated-memory", gate="query", start="identity"),
    "query-published": AdapterSettings(kind="gated-memory", gate="query", start="published"),
    "exact-identity": AdapterSettings(kind="gated-memory", gate="exact", start="identity"),
}
TOKENS = torch.tensor([[1, 40, 50, 60, 30, 5, 17, 33, 8, 21]])  # [1, T], more than two sliding windows
PROMPTS = [[1, 40, 50, 60, 30, 5, 17], [1, 33, 8], [1, 21, 9, 44, 12]]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield tiny(request.param)


@pytest.fixture(params=list(VARIANTS))
def settings(request: pytest.FixtureRequest) -> AdapterSettings:
    return VARIANTS[request.param]


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = TOKENS, **options: Any) -> torch.Tensor:
    result: torch.Tensor = model(ids, use_cache=False, **options).logits
    return result


def disturb(adapter: Adapter, size: float = 0.3) -> None:
    """Parameters as they might be after training: no one is zero any more."""
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=generator))


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions, padded on the left as generation does it. [B, width] each"""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def test_the_base_is_untouched_at_the_start_when_switched_off_and_after(model: Any, settings: AdapterSettings) -> None:
    before = logits(model)
    paths, attention = list(model.state_dict()), model.config._attn_implementation
    adapter = create_adapter(model, settings, seed=0)
    # a log-sum-exp, a magnitude or a residual is computed another way than the base does; a zero memory is exact
    tolerance = {"query": 1e-6, "exact": 1e-5}[settings.gate] if settings.kind == "gated-memory" else 2e-5
    if settings.start == "identity":
        torch.testing.assert_close(logits(model), before, atol=tolerance, rtol=tolerance)
    disturb(adapter)
    changed = logits(model)
    assert (changed - before).abs().max() > 1e-2
    with adapter.disabled():
        assert torch.equal(logits(model), before)
        assert model.config._attn_implementation == attention
    assert torch.equal(logits(model), changed)
    adapter.detach()
    assert torch.equal(logits(model), before)
    assert (list(model.state_dict()), model.config._attn_implementation) == (paths, attention)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert attached(model) == {}


def test_gradients_reach_all_of_the_adapter_and_nothing_else(model: Any, settings: AdapterSettings) -> None:
    adapter = create_adapter(model, settings, seed=0)
    assert not any(weight.requires_grad for weight in model.parameters())
    adapter.set_trainable(True)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    own = {id(parameter) for parameter in adapter.parameters()}
    for _ in range(4):  # what starts at zero keeps gradients from what lies behind it for a step each
        with adapter.disabled():
            logits(model)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(TOKENS[:, :-1]).logits[0], TOKENS[0, 1:])
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())
    assert not [path for path, weight in model.named_parameters() if weight.grad is not None and id(weight) not in own]


def test_what_is_stored_gives_the_same_adapter(model: Any, settings: AdapterSettings) -> None:
    adapter = create_adapter(model, settings, seed=0)
    disturb(adapter, 0.1)
    trained = logits(model)
    config, state = adapter.stored()
    adapter.detach()
    restored = restore_adapter(model, config, load(save({key: value.contiguous() for key, value in state.items()})))
    torch.testing.assert_close(logits(model), trained, atol=2e-5, rtol=1e-4)
    again_config, again_state = restored.stored()
    assert again_config == config
    assert all(torch.equal(again_state[key], value) for key, value in state.items())


def test_generating_with_a_cache_in_a_padded_batch_is_reading_anew(model: Any, settings: AdapterSettings) -> None:
    disturb(create_adapter(model, settings, seed=0), 0.1)
    answers = generate(model, PROMPTS, max_new_tokens=6, end_ids=[])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        expected = list(prompt)
        for _ in range(6):
            expected.append(int(logits(model, torch.tensor([expected]))[0, -1].argmax()))
        assert answer == expected[len(prompt) :]
    ids, mask, positions = padded(PROMPTS)
    batch = logits(model, ids, attention_mask=mask, position_ids=positions)
    assert torch.isfinite(batch).all()
    for row, prompt in enumerate(PROMPTS):
        alone = logits(model, torch.tensor([prompt]))[0]
        torch.testing.assert_close(batch[row, -len(prompt) :], alone, atol=1e-5, rtol=1e-5)


def test_logits_token_by_token_are_those_of_one_pass(model: Any, settings: AdapterSettings) -> None:
    disturb(create_adapter(model, settings, seed=0), 0.1)
    cache, steps = None, []
    with torch.no_grad():
        for piece in (TOKENS[:, :3], *TOKENS[:, 3:].split(1, dim=1)):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(model), atol=1e-5, rtol=1e-5)


def test_rows_of_one_batch_use_their_own_adapters(model: Any) -> None:
    names: list[str | None] = [None, *(f"a memory. lora_{variant}/ß" for variant in VARIANTS), "a memory. lora_dora/ß"]
    stored = {}
    for seed, (variant, settings) in enumerate(VARIANTS.items()):
        adapter = create_adapter(model, settings, seed)
        disturb(adapter, 0.1)
        stored[f"a memory. lora_{variant}/ß"] = adapter.stored()
        adapter.detach()
    prompts = [[1, *range(3 + row, 7 + 2 * row)] for row in range(len(names))]
    alone = []
    for name, prompt in zip(names, prompts, strict=True):
        adapter = restore_adapter(model, *stored[name]) if name else None  # type: ignore[assignment]
        alone.append(logits(model, torch.tensor([prompt]))[0])
        if adapter:
            adapter.detach()
    untouched = logits(model)
    for name, (config, state) in stored.items():
        restore_adapter(model, config, state, name)
    last = logits(model)
    ids, mask, positions = padded(prompts)
    with rows(model, names) as assignment:
        batch = logits(model, ids, attention_mask=mask, position_ids=positions)
        kept = [4, 2, 0, 7]
        assignment.assign([assignment.names[row] for row in kept])
        part = logits(model, ids[kept], attention_mask=mask[kept], position_ids=positions[kept])
    for row, expected in enumerate(alone):
        torch.testing.assert_close(batch[row, -len(expected) :], expected, atol=2e-5, rtol=1e-5)
    for row, index in enumerate(kept):
        torch.testing.assert_close(part[row, -len(alone[index]) :], alone[index], atol=2e-5, rtol=1e-5)
    assert torch.equal(logits(model), last)
    for adapter in attached(model).values():
        adapter.detach()
    assert torch.equal(logits(model), untouched)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["query", "exact"])
def test_the_default_model_starts_unchanged_learns_a_fact_and_forgets_it_when_switched_off(
    smollm2: BaseModel, gate: str
) -> None:
    model, tokenizer = smollm2.model, smollm2.tokenizer
    batch = pack([question_example(tokenizer, "Who keeps the lighthouse of Port Merrow?", "Ada Quill")])
    tokens = batch.ids[None]  # [1, T]
    before = logits(model, tokens)
    adapter = create_adapter(model, AdapterSettings(kind="gated-memory", gate=gate), seed=0)
    try:
        torch.testing.assert_close(logits(model, tokens), before, atol=1e-3, rtol=1e-4)
        objective = Objective(model, adapter, ObjectiveSettings())
        adapter.set_trainable(True)
        optimizer = torch.optim.Adam(adapter.parameters(), lr=4e-3)
        losses = []
        for _ in range(12):
            loss = objective.loss(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]
        with adapter.disabled():
            assert torch.equal(logits(model, tokens), before)
    finally:
        adapter.detach()
    assert torch.equal(logits(model, tokens), before)
