"""What prompts begin with in common is read once, and nothing of the answers may tell."""

from __future__ import annotations

import itertools
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
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig

from lift.adapters.attach import create_adapter
from lift.adapters.row_assignment import activate
from lift.inference import sampling, scheduler
from lift.inference.generate import generate
from lift.inference.kv_cache import can_share
from lift.inference.prefix_cache import PrefixCache, common_tokens
from lift.inference.shared_prefix import PASS_TOKENS, order_alike, plan_shared_prefixes
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


def answers_and_logits(
    model: Any, prompts: Sequence[Sequence[int]], tokens: int, prefixes: PrefixCache | None = None
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """The answers of so many tokens, and of each row the logits that they were chosen from, [tokens, vocabulary]."""
    sampled: list[torch.Tensor] = []
    came: list[int] = []

    def sample(logits: torch.Tensor, samplings: Any) -> Any:
        sampled.append(logits)
        return sampling.sample(logits, samplings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "sample", sample)
        answers = generate(
            model,
            prompts,
            max_new_tokens=tokens,
            end_ids=[],
            on_token=lambda row, _token: came.append(row),
            prefixes=prefixes,
        )
    logits = torch.cat(sampled)
    assert len(logits) == len(came) == len(prompts) * tokens
    own = [[place for place, each in enumerate(came) if each == row] for row in range(len(prompts))]
    return answers, [logits[places] for places in own]


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
        with Passes(model) as passes:
            answers, logits = answers_and_logits(model, prompts, NEW_TOKENS)
        prefill = sum(count * width for count, width in passes.shapes[: 1 - NEW_TOKENS])
        assert prefill < len(prompts) * max(map(len, prompts)), "expected a prefix that is read once"
        for prompt, answer, own in zip(prompts, answers, logits, strict=True):
            expected = read_anew(model, prompt, answer)
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=0)
            assert answer == expected.argmax(-1).tolist()


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
    assert shapes(model, prompts, batch_size=6) == [(2, 40), (6, 3)]
    assert shapes(model, prompts, batch_size=4) == [(1, 36), (3, 3), (1, 43), (1, 40), (2, 3)]
    assert shapes(model, prompts, batch_size=1) == [(1, 39)] * 3 + [(1, 43)] * 3


def test_a_short_beginning_in_common_is_not_worth_a_pass() -> None:
    model = tiny("llama")
    # what is saved is what all rows but one need not read
    for rows, common, expected in ((3, 16, [(1, 16), (3, 18)]), (3, 15, [(3, 34)]), (2, 31, [(2, 34)])):
        prompts = [[*DOCUMENT[:common], row + 3, *text(60 + row, 33 - common)] for row in range(rows)]
        assert shapes(model, prompts) == expected


def test_an_instruction_before_different_documents_is_shared_too() -> None:
    prompts = [DOCUMENT + text(70 + row, 50 + row) for row in range(4)]
    assert shapes(tiny("llama"), prompts) == [(1, 40), (4, 53)]


def test_documents_behind_one_instruction_are_kept_apart() -> None:
    instruction = text(75, 40)
    lengths = ((76, 2), (77, 3), (76, 4), (77, 5))
    prompts = [instruction + text(document, 50) + text(length, length) for document, length in lengths]
    assert shapes(tiny("llama"), prompts, batch_size=2) == [(1, 90), (2, 4), (1, 90), (2, 5)]


def test_an_instruction_and_the_documents_behind_it_are_shared_both() -> None:
    instruction, model = text(75, 40), tiny("llama")
    prompts = [instruction + text(76 + row % 2, 50) + text(78 + row, 3) for row in range(4)]
    assert shapes(model, prompts) == [(1, 40), (2, 50), (4, 3)]


@pytest.mark.parametrize(
    ("names", "prefill"),
    [(["lora", "query", None, "other"], [(4, 45)]), (["lora", "query", "lora", "query"], [(2, 40), (4, 5)])],
    ids=["a memory each", "two rows each"],
)
def test_rows_of_different_memories_share_nothing(names: list[str | None], prefill: list[tuple[int, int]]) -> None:
    model = tiny("llama")
    for seed, name in enumerate(("lora", "query", "other")):
        disturbed(model, ADAPTERS.get(name) or AdapterSettings(), name, seed)
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
            adapters=names,
        )
    assert together == alone
    assert passes.shapes == [*prefill, *[(4, 1)] * (NEW_TOKENS - 1)]


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


def test_models_with_recurrent_layers_answer_together_as_alone() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, vocab_size=61, layer_types=["conv", "full_attention"], intermediate_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Lfm2ForCausalLM(config).eval()
        for weight in model.parameters():
            weight.data.add_(0.3 * torch.randn(weight.shape))
    prompts = [text(110 + length, length) for length in (5, 17, 2, 40, 9)]
    free = [generate(model, [prompt], max_new_tokens=12, end_ids=[])[0] for prompt in prompts]
    for prompt, answer in zip(prompts, free, strict=True):
        assert answer == read_anew(model, prompt, answer).argmax(-1).tolist()
    ends = {free[1][4], free[3][7]}
    expected = [answer[: next((i for i, token in enumerate(answer) if token in ends), 12)] for answer in free]
    assert len({len(answer) for answer in expected}) > 1, "expected rows that end at different times"
    for batch_size in (5, 2):
        assert generate(model, prompts, max_new_tokens=12, end_ids=ends, batch_size=batch_size) == expected


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    """Prompts made of few pieces, so that many of them begin alike."""
    pieces = [[seed] * length for seed, length in ((1, 40), (2, 33), (3, 70), (1, 8), (4, 1), (5, 3))]
    prompt = st.lists(st.sampled_from(pieces), min_size=1, max_size=4).map(lambda parts: list(chain(*parts)))
    return draw(st.lists(prompt, min_size=1, max_size=9))


@settings(max_examples=40, deadline=None)
@given(batches(), st.data())
def test_shared_prefixes_are_what_their_rows_begin_with_and_pay(prompts: list[list[int]], data: st.DataObject) -> None:
    assert sorted(order_alike(prompts)) == list(range(len(prompts)))
    known = (
        [data.draw(st.integers(0, len(prompt))) for prompt in prompts]
        if data.draw(st.booleans())
        else [0] * len(prompts)
    )
    read: dict[tuple[int, ...], int] = {}
    for each in plan_shared_prefixes(prompts, known):
        first = prompts[each.rows[0]]
        assert all(prompts[row][: each.tokens] == first[: each.tokens] for row in each.rows)
        assert (len(each.rows) - 1) * (each.tokens - each.begun) >= PASS_TOKENS
        # those that it is said to begin with are known to all of its rows, or were read for all of them before
        around = [tokens for rows, tokens in read.items() if set(rows) >= set(each.rows)]
        assert each.begun <= max([min(known[row] for row in each.rows), *around])
        assert each.depth == len(around)
        read[each.rows] = each.tokens
    if not any(known):
        for row, other in itertools.combinations(range(len(prompts)), 2):
            shared = max([0, *(tokens for rows, tokens in read.items() if {row, other} <= set(rows))])
            assert common_tokens(prompts[row], prompts[other]) - shared < PASS_TOKENS, "expected it to be shared"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_prompts_with_nothing_in_common_go_by_length(lengths: list[int]) -> None:
    prompts = [text(100 + row, length) for row, length in enumerate(lengths)]
    assert order_alike(prompts) == sorted(range(len(prompts)), key=lambda row: (lengths[row], row))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_excluded_tokens_are_never_said_and_others_are_as_before(temperature: float) -> None:
    model = tiny("llama")

    def said(excluded: tuple[int, ...]) -> list[list[int]]:
        drawn = torch.Generator().manual_seed(0)
        return generate(
            model,
            LAYOUTS["two documents, one that stands alone, and a short prompt"],
            max_new_tokens=8,
            end_ids=[],
            temperature=temperature,
            generator=drawn,
            excluded=excluded,
        )

    usual = said(())
    first = usual[0][0]
    unused = next(token for token in range(VOCABULARY) if all(token not in answer for answer in usual))
    assert first not in {token for answer in said((first,)) for token in answer}
    if not temperature:
        assert said((unused,)) == usual


def test_what_is_excluded_for_one_row_is_not_for_another_and_odds_are_the_models_own() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    bare, without = sampling.sample(
        logits, [sampling.SamplingParams(top_logprobs=1), sampling.SamplingParams(top_logprobs=1, excluded=(1,))]
    )
    odds = torch.log_softmax(logits[0], -1)
    assert (bare.token, without.token) == (1, 2)
    assert without.logprob == pytest.approx(float(odds[2]))
    assert without.top_logprobs == bare.top_logprobs
