"""Activated adapters: they act from the invocation on, and what stands before it is read as the base reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gradients import loss_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import save_file
from tiny_models import ARCHITECTURES, deep, tiny

from lift.adapters.adapter import Adapter, applied_invocation, applied_state
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.row_assignment import activate
from lift.errors import AdapterError, RecipeError
from lift.evaluation.harms import perplexity
from lift.inference.generate import generate
from lift.inference.prefix_cache import PrefixCache
from lift.models.base_model import BaseModel
from lift.packing.alora import PlainTextForward, PromptForward, forward_context, invocation_offset
from lift.packing.prompts import IGNORED, Example, invocation_of, preserved_example, prompt_ids
from lift.packing.trie import pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, load_recipe
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective

INVOCATION = (7, 8)
ACTIVATED = AdapterSettings(rank=4, alpha=8, activated=True)
UPPER = AdapterSettings(rank=4, alpha=8, layers=(2, 3), activated=True)
HEAD = [1, 40, 50, 60, 30, 5, 17, 33, 21, 44] * 14
PROMPTS = [[1, 40, 50, 60, 30, 7, 8], [*HEAD, 12, 7, 8], [*HEAD, 9, 22, 23, 7, 8], [1, 33, 7, 8]]


def disturbed(model: Any, chosen: AdapterSettings = ACTIVATED, name: str = "memory", seed: int = 7) -> Adapter:
    adapter = create_adapter(model, chosen, seed, name, invocation=INVOCATION)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapter


def stored_again(adapter: Adapter) -> Adapter:
    """The adapter as it is read from what was stored of it."""
    stored = adapter.stored()
    adapter.detach()
    return restore_adapter(adapter.model, *stored, name=adapter.name)


def example(prompt: list[int], answer: list[int]) -> Example:
    return Example((*prompt, *answer), (*[IGNORED] * len(prompt), *answer))


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    result: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return result


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_the_action_begins_at_the_last_invocation_else_at_the_last_token(prompt: list[int], found: list[int]) -> None:
    places = [i for i in range(len(prompt)) if prompt[i : i + len(found)] == found and i + len(found) <= len(prompt)]
    assert invocation_offset(prompt, tuple(found)) == (places[-1] if places else len(prompt) - 1)


def test_a_pass_over_the_last_columns_tells_padding_prompts_and_answers_apart() -> None:
    acted = PromptForward([[1, 2, 7, 8], [1, 7, 8]], [5, 3], 4).alora_mask(INVOCATION)
    assert acted.tolist() == [[False, True, True, True], [False, False, True, True]]


def test_the_invocation_is_what_every_prompt_ends_with(tiny_model: BaseModel) -> None:
    invocation = invocation_of(tiny_model.tokenizer)
    assert invocation
    for question in ("Who?", "Say it", "Is 1911 right.", "\n"):
        assert tuple(prompt_ids(tiny_model.tokenizer, question)[-len(invocation) :]) == invocation


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("restored", [False, True])
def test_the_prompt_is_read_as_the_base_reads_it_and_the_answer_is_not(architecture: str, restored: bool) -> None:
    model = tiny(architecture)
    ids = [1, 40, 50, 60, 30, 7, 8, 21]
    base = logits(model, ids)
    adapter = disturbed(model)
    if restored:
        adapter = stored_again(adapter)
    assert adapter.invocation == applied_invocation(model) == INVOCATION
    everywhere = logits(model, ids)
    with forward_context(PromptForward([ids[:-1]], [len(ids)], len(ids))):
        activated = logits(model, ids)
    with forward_context(PlainTextForward(len(ids))):
        bare = logits(model, ids)
    assert torch.equal(bare, base)
    torch.testing.assert_close(activated[:5], base[:5], atol=1e-5, rtol=1e-5)
    assert (activated[5:] - base[5:]).abs().max() > 1e-2
    assert (activated[5:] - everywhere[5:]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_is_trained_on_what_is_generated_from(architecture: str) -> None:
    model = tiny(architecture)
    adapter = disturbed(model)
    prompt, answer = [1, 40, 50, 60, 30, 7, 8], 21  # longer than a sliding window
    with torch.no_grad():
        loss = Objective(model, adapter, ObjectiveSettings()).loss(pack([example(prompt, [answer])]))
        with forward_context(PromptForward([prompt], [7], 7)):
            expected = torch.nn.functional.cross_entropy(logits(model, prompt)[-1:], torch.tensor([answer]))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_peft_makes_the_same_of_the_files(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    adapter = disturbed(model)
    config, state = adapter.stored()
    ours = [generate(model, [prompt], max_new_tokens=6, end_ids=[])[0] for prompt in PROMPTS]
    adapter.detach()
    named = {f"base_model.model.{key}": value.contiguous() for key, value in state.items()}
    save_file(named, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    theirs = PeftModel.from_pretrained(model, tmp_path)
    for prompt, answer in zip(PROMPTS, ours, strict=True):
        said = theirs.generate(input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert said[0, len(prompt) :].tolist() == answer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_alone_in_a_batch_and_behind_what_is_kept_the_answers_are_the_same(architecture: str) -> None:
    model = tiny(architecture)
    first = stored_again(disturbed(model, name="first"))
    second = stored_again(disturbed(model, name="second", seed=8))
    plain = disturbed(model, ACTIVATED.model_copy(update={"activated": False}), "plain", seed=9)
    kept = PrefixCache(applied_state, invocation=applied_invocation)
    said: dict[str | None, list[list[int]]] = {}
    for name in ("first", None, "second", "plain"):
        activate(model, name)
        alone = [generate(model, [prompt], max_new_tokens=4, end_ids=[])[0] for prompt in PROMPTS]
        assert generate(model, PROMPTS, max_new_tokens=4, end_ids=[]) == alone
        assert generate(model, PROMPTS, max_new_tokens=4, end_ids=[], prefixes=kept) == alone
        again = [generate(model, [p], max_new_tokens=4, end_ids=[], prefixes=kept)[0] for p in PROMPTS]
        assert again == alone
        assert generate(model, PROMPTS, max_new_tokens=4, end_ids=[], prefixes=kept) == alone
        said[name] = alone
    assert said["first"] != said["second"] != said[None]
    names = ["first", "second", None, "plain"]

    mixed = generate(model, PROMPTS, max_new_tokens=4, end_ids=[], adapters=names)
    assert mixed == [said[name][row] for row, name in enumerate(names)]
    for adapter in (first, second, plain):
        adapter.detach()


def test_what_one_memory_has_read_another_need_not_read() -> None:
    model = tiny("llama")
    for seed, name in enumerate(("first", "second")):
        stored_again(disturbed(model, name=name, seed=seed))
    kept = PrefixCache(applied_state, invocation=applied_invocation)
    activate(model, "first")
    generate(model, [PROMPTS[1]], max_new_tokens=1, end_ids=[], prefixes=kept)
    read: list[int] = []
    handle = model.base_model.layers[0].register_forward_pre_hook(lambda _m, args: read.append(args[0].shape[1]))
    activate(model, "second")
    generate(model, [PROMPTS[2]], max_new_tokens=1, end_ids=[], prefixes=kept)
    handle.remove()
    assert sum(read) == len(PROMPTS[2]) - len(HEAD)


BATCHES = [
    pack([example([1, 40, 50, 60, 7, 8], [17, 12]), example([1, 40, 9, 7, 8], [5]), example([1, 40, 9, 7, 8], [5, 6])]),
    pack([example([1, 40, 50, 60, 7, 8], [18, 22, 2]), example([1, 40, 50, 9, 7, 8], [33])]),
    pack([example([1, 40, 50, 60, 7, 8], [17]), preserved_example([1, 33, 21])]),
    pack([example([1, 40, 50, 60], [17, 12])]),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trained_on_answers_alone_the_gradients_are_those_of_the_whole(architecture: str) -> None:
    model = deep(architecture)
    adapter = disturbed(model, UPPER)
    adapter.set_trainable(True)
    queries: list[int] = []
    with caching_frozen_layers(model, adapter) as lower:
        assert lower is not None
        whole, parted = (Objective(model, adapter, ObjectiveSettings(), each) for each in (None, lower))
        for batch in [*BATCHES, *BATCHES]:
            expected, found = loss_and_gradient(whole, adapter, batch), loss_and_gradient(parted, adapter, batch)
            assert found[0] == pytest.approx(expected[0], rel=5e-6)
            assert (found[1] - expected[1]).norm() <= 2e-5 * expected[1].norm()
        handle = model.base_model.layers[3].register_forward_pre_hook(lambda _m, args: queries.append(args[0].shape[1]))
        parted.loss(BATCHES[0])
        handle.remove()
    assert queries == [int(BATCHES[0].alora_mask(INVOCATION).sum())] == [6]


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(st.lists(st.integers(3, 5), max_size=4), st.integers(1, 3)), min_size=1, max_size=6))
def test_a_batch_acts_on_the_nodes_of_answers_and_invocations(drawn: list[tuple[list[int], int]]) -> None:
    examples = [example([1, *question, 7, 8], [9] * count) for question, count in drawn]
    batch = pack(examples)
    acted = batch.alora_mask(INVOCATION)[0]
    for node in range(batch.tokens):
        path = [node]
        while batch.parents[path[0]] >= 0:
            path.insert(0, batch.parents[path[0]])
        assert bool(acted[node]) == (7 in batch.ids[path].tolist())


def test_a_text_that_is_no_prompt_is_read_as_by_the_base(tiny_model: BaseModel) -> None:
    text = "The tower burned in 1907, and nobody saw it. " * 3
    before = perplexity(tiny_model, text)
    adapter = disturbed(tiny_model.model)
    assert perplexity(tiny_model, text) == before
    adapter.detach()


def test_what_cannot_be_activated_is_refused_or_acts_everywhere() -> None:
    with pytest.raises(RecipeError, match="it learns no segments"):
        load_recipe("default", ["segments.weight=1"])
    model = tiny("llama")
    adapter = create_adapter(model, AdapterSettings(kind="dora", rank=2, activated=True), 0, invocation=INVOCATION)
    config, state = adapter.stored()
    assert adapter.invocation == ()
    adapter.detach()
    with pytest.raises(AdapterError, match="no plain LoRA"):
        restore_adapter(model, {**config, "alora_invocation_tokens": [7, 8]}, state)
