"""What prompts begin with in common is read once, and nothing of the answers may tell."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCABULARY, tiny
from transformers import DynamicCache, Lfm2Config, LlamaConfig

from lift.adapters.attach import create_adapter
from lift.adapters.row_assignment import activate, rows
from lift.inference.generate import generate
from lift.inference.shared_prefix import LEAST_TOKENS, can_share, order_alike, plan_sharing
from lift.recipes.recipe import AdapterSettings

ADAPTERS = {
    "none": None,
    "lora": AdapterSettings(kind="lora", rank=4, alpha=8),
    "query": AdapterSettings(kind="gated-memory", gate="query"),
    "exact": AdapterSettings(kind="gated-memory", gate="exact"),
}
NEW_TOKENS = 5


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(3, VOCABULARY), k=length)


DOCUMENT, OTHER = text(1, 40), text(2, 36)
LAYOUTS = {
    "one document, questions of other lengths": [DOCUMENT + text(10 + length, length) for length in (5, 1, 9, 2)],
    "one document, questions of one length": [DOCUMENT + text(20 + row, 3) for row in range(3)],
    "two documents, one that stands alone, and a short prompt": [
        [*DOCUMENT, 7],
        OTHER + text(30, 4),
        text(31, 39),
        DOCUMENT + text(32, 6),
        [8, 5],
        OTHER + text(33, 2),
        DOCUMENT + text(34, 3),
    ],
    "a prompt that another begins with": [DOCUMENT, DOCUMENT + text(40, 3), list(DOCUMENT)],
    "the same prompt twice": [DOCUMENT, list(DOCUMENT)],
}


class Passes:
    """Of every forward pass inside the block: the shape of its tokens, and its last logits."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: list[tuple[int, int]] = []
        self.logits: list[torch.Tensor] = []  # [B, vocabulary] each

    def __enter__(self) -> Passes:
        def keep(_model: Any, _args: Any, options: dict[str, Any], output: Any) -> None:
            self.shapes.append(tuple(options["input_ids"].shape))
            self.logits.append(output.logits[:, -1])

        self._handle = self._model.register_forward_hook(keep, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def shapes(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[tuple[int, int]]:
    with Passes(model) as passes:
        generate(model, prompts, max_new_tokens=1, end_ids=[], **options)
    return passes.shapes


def disturbed(model: Any, settings: AdapterSettings, name: str = "default", seed: int = 0) -> None:
    adapter = create_adapter(model, settings, seed, name)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def read_anew(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Logits behind the prompt and behind each token of the answer but the last, in one pass. [tokens, vocabulary]"""
    result: torch.Tensor = model(torch.tensor([prompt + answer[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
    return result


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield tiny(request.param)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_answers_and_logits_are_those_of_each_prompt_read_alone(model: Any, adapter: str) -> None:
    if chosen := ADAPTERS[adapter]:
        disturbed(model, chosen)
    for prompts in LAYOUTS.values():
        came: list[tuple[int, int]] = []
        with Passes(model) as passes:
            answers = generate(
                model,
                prompts,
                max_new_tokens=NEW_TOKENS,
                end_ids=[],
                on_token=lambda *each, came=came: came.append(each),
            )
        steps = passes.logits[-NEW_TOKENS:]
        assert all(shape[0] == 1 for shape in passes.shapes[:-NEW_TOKENS])
        assert len(passes.shapes) > NEW_TOKENS, "expected a prefix that is read once"
        assert sum(count * width for count, width in passes.shapes) < len(prompts) * max(map(len, prompts))
        for place, (row, _) in enumerate(came[: len(prompts)]):
            expected = read_anew(model, prompts[row], answers[row])
            torch.testing.assert_close(torch.stack([step[place] for step in steps]), expected, atol=1e-4, rtol=0)
            assert answers[row] == expected.argmax(-1).tolist()


def test_rows_that_end_early_leave_the_others_as_they_are() -> None:
    model, prompts = tiny("mistral"), LAYOUTS["one document, questions of other lengths"]
    ends = range(3, 12)
    free = generate(model, prompts, max_new_tokens=12, end_ids=[])
    expected = [[*answer[: next((i for i, token in enumerate(answer) if token in ends), 12)]] for answer in free]
    assert len({len(answer) for answer in expected}) > 1, "expected rows that end at different times"
    assert generate(model, prompts, max_new_tokens=12, end_ids=ends) == expected


def test_a_document_is_read_once_a_batch_whatever_the_order_of_the_questions() -> None:
    model = tiny("llama")
    prompts = [each + text(50 + row, 3) for row in range(3) for each in (DOCUMENT, OTHER)]
    assert shapes(model, prompts, batch_size=3) == [(1, 36), (3, 3), (1, 40), (3, 3)]
    assert shapes(model, prompts, batch_size=6) == [(1, 40), (1, 36), (6, 3)]
    assert shapes(model, prompts, batch_size=4) == [(1, 40), (1, 36), (4, 3), (1, 40), (2, 3)]
    assert shapes(model, prompts, batch_size=1) == [(1, 39)] * 3 + [(1, 43)] * 3


def test_a_short_beginning_in_common_is_not_worth_a_pass() -> None:
    model = tiny("llama")
    for common, expected in ((LEAST_TOKENS, [(1, 32), (3, 2)]), (LEAST_TOKENS - 1, [(3, 33)])):
        prompts = [DOCUMENT[:common] + text(60 + row, 34 - common) for row in range(3)]
        prompts = [prompt[: 34 if common == LEAST_TOKENS else 33] for prompt in prompts]
        assert shapes(model, prompts) == expected


def test_an_instruction_before_different_documents_is_shared_too() -> None:
    prompts = [DOCUMENT + text(70 + row, 50 + row) for row in range(4)]
    assert shapes(tiny("llama"), prompts) == [(1, 40), (4, 53)]


def test_documents_behind_one_instruction_are_kept_apart() -> None:
    instruction = text(75, 40)
    lengths = ((76, 2), (77, 3), (76, 4), (77, 5))
    prompts = [instruction + text(document, 50) + text(length, length) for document, length in lengths]
    assert shapes(tiny("llama"), prompts, batch_size=2) == [(1, 90), (2, 4), (1, 90), (2, 5)]


def test_rows_of_different_memories_share_nothing() -> None:
    model = tiny("llama")
    names = ["lora", "query", None, "lora"]
    for seed, name in enumerate(("lora", "query")):
        disturbed(model, ADAPTERS[name] or AdapterSettings(), name, seed)
    prompts = [DOCUMENT + text(80 + row, 2 + row) for row in range(4)]
    alone = []
    for name, prompt in zip(names, prompts, strict=True):
        activate(model, name)
        alone += generate(model, [prompt], max_new_tokens=NEW_TOKENS, end_ids=[])
    activate(model, None)
    with Passes(model) as passes:
        together = generate(
            model,
            prompts,
            max_new_tokens=NEW_TOKENS,
            end_ids=[],
            open_rows=lambda chosen: rows(model, [names[row] for row in chosen]),
        )
    assert together == alone
    assert passes.shapes == [(4, 45), *[(4, 1)] * (NEW_TOKENS - 1)]


def test_positions_that_depend_on_the_length_are_read_in_one_piece() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [3.0, 9.0], "rope_theta": 10000.0}
    model = tiny("phi3", rope_parameters={**rope, "original_max_position_embeddings": 42})
    prompts = [DOCUMENT + text(90 + row, 6) for row in range(3)]
    for prompt, answer in zip(prompts, generate(model, prompts, max_new_tokens=4, end_ids=[]), strict=True):
        assert answer == read_anew(model, prompt, answer).argmax(-1).tolist()
    assert shapes(model, prompts) == [(3, 46)]


def test_recurrent_layers_share_nothing() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    recurrent = Lfm2Config(**sizes, layer_types=["conv", "full_attention"])
    assert not can_share(SimpleNamespace(config=recurrent))
    assert can_share(SimpleNamespace(config=LlamaConfig(**sizes)))


def test_the_pass_of_one_row_is_freed_as_it_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, held = tiny("llama"), []

    def count() -> None:
        found = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.dim() == 4]
        held.append(sum(each.shape[0] == 1 and each.shape[2] == len(DOCUMENT) for each in found))

    update = DynamicCache.update

    def counted(cache: DynamicCache, keys: torch.Tensor, *rest: Any) -> Any:
        if keys.shape[0] > 1:
            count()
        return update(cache, keys, *rest)

    monkeypatch.setattr(DynamicCache, "update", counted)
    generate(model, [[*DOCUMENT, token, 9] for token in (4, 5, 6)], max_new_tokens=1, end_ids=[])
    # keys and values of two layers; in the pass behind them none
    assert held == [4, 2, 0, 0]


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    """Prompts made of few pieces, so that many of them begin alike."""
    pieces = [[seed] * length for seed, length in ((1, 40), (2, 33), (3, 70), (1, 8), (4, 1), (5, 3))]
    prompt = st.lists(st.sampled_from(pieces), min_size=1, max_size=4).map(lambda parts: list(chain(*parts)))
    return draw(st.lists(prompt, min_size=1, max_size=9))


@settings(max_examples=150, deadline=None)
@given(batches())
def test_a_plan_gives_every_row_its_own_tokens_and_reads_fewer(prompts: list[list[int]]) -> None:
    assert sorted(order_alike(prompts)) == list(range(len(prompts)))
    plan = plan_sharing(prompts)
    width = max(map(len, prompts))
    assert 1 <= plan.own <= width
    served = [row for group in plan.groups for row in group]
    assert len(set(served)) == len(served)
    assert {row for row, prompt in enumerate(prompts) if len(prompt) > plan.own} <= set(served)
    read = len(prompts) * plan.own
    for group in plan.groups:
        source = max((prompts[row] for row in group), key=len)
        read += len(source) - plan.own
        for row in group:
            seen = max(0, len(prompts[row]) - plan.own)
            assert prompts[row][:seen] == source[:seen]
    assert read <= len(prompts) * width


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_prompts_with_nothing_in_common_go_by_length(lengths: list[int]) -> None:
    prompts = [text(100 + row, length) for row, length in enumerate(lengths)]
    assert order_alike(prompts) == sorted(range(len(prompts)), key=lambda row: (lengths[row], row))
