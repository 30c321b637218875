"""What was read is not read again, and nothing of the answers may tell: whatever is asked, trained or switched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.test_generate import ADAPTERS, DOCUMENT, OTHER, Passes, answers_and_logits, disturbed, read_anew, text
from tiny_models import ARCHITECTURES, tiny
from transformers import Lfm2Config, Lfm2ForCausalLM

from lift.adapters.adapter import applied_state, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.row_assignment import activate, rows
from lift.inference.generate import generate
from lift.inference.prefix_cache import PrefixCache
from lift.inference.shared_prefix import PASS_TOKENS
from lift.recipes.recipe import AdapterSettings

LORA = AdapterSettings(kind="lora", rank=2, alpha=4)
NEW_TOKENS = 3


def ask(model: Any, prompts: Sequence[Sequence[int]], prefixes: PrefixCache | None) -> list[list[int]]:
    return generate(model, prompts, max_new_tokens=NEW_TOKENS, end_ids=[], prefixes=prefixes)


def widths(model: Any, prompts: Sequence[Sequence[int]], prefixes: PrefixCache | None) -> list[tuple[int, int]]:
    """The shapes of the passes that read the prompts."""
    with Passes(model) as passes:
        generate(model, prompts, max_new_tokens=1, end_ids=[], prefixes=prefixes)
    return passes.shapes


@pytest.fixture
def model() -> Iterator[Any]:
    yield tiny("llama")


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_and_logits_behind_what_is_kept_are_those_of_the_prompt_read_anew(
    architecture: str, adapter: str
) -> None:
    model, prefixes = tiny(architecture), PrefixCache(applied_state)
    if chosen := ADAPTERS[adapter]:
        disturbed(model, chosen)
    long = text(3, 90)
    # read first; cut at once behind what differs; a part of it; longer than all that was read by more than is kept
    asked = [DOCUMENT + text(4, 9), DOCUMENT + text(5, 2), DOCUMENT[:20], long, [*long, *text(6, 30)], long[:60]]
    for number, prompt in enumerate(asked):
        with Passes(model) as passes:
            answer = ask(model, [prompt], prefixes)[0]
        expected = read_anew(model, prompt, answer)
        torch.testing.assert_close(torch.cat(passes.logits), expected, atol=1e-4, rtol=0)
        assert answer == expected.argmax(-1).tolist()
        assert (passes.shapes[0][1] < len(prompt)) == (number in (1, 2, 4, 5)), "expected what is known not to be read"
    batch = [DOCUMENT + text(7, 3), long + text(8, 5), DOCUMENT + text(9, 6), text(10, 12)]
    assert ask(model, batch, prefixes) == ask(model, batch, None)


def test_the_second_question_to_a_text_reads_the_question_alone(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    document = text(20, 100)
    assert widths(model, [[*document, 3, 4]], prefixes) == [(1, 102)]
    assert widths(model, [[*document, 5, 6, 7]], prefixes) == [(1, 3)]
    # at least the last token is read, since the answer begins behind it
    assert widths(model, [[*document, 3, 4]], prefixes) == [(1, 1)]
    assert widths(model, [[*document, 8 + row, 9] for row in range(3)], prefixes) == [(3, 2)]
    assert widths(model, [[*document, 8, 9]], None) == [(1, 102)]


def test_questions_asked_at_once_leave_the_text_for_the_next(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    document = text(21, 60)
    assert widths(model, [[*document, row, 9] for row in (3, 4)], prefixes) == [(1, 60), (2, 2)]
    assert widths(model, [[*document, 5, 9]], prefixes) == [(1, 2)]


def test_a_short_beginning_that_is_known_needs_no_pass_and_is_shared(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    template = text(22, 10)
    widths(model, [[*template, 3, 4, 5]], prefixes)
    assert widths(model, [template + text(row, 3) for row in range(30, 34)], prefixes) == [(4, 3)]
    assert widths(model, [template + text(row, 3) for row in range(30, 34)], None) == [(4, 13)]


def test_only_what_is_worth_its_room_is_kept(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    template = text(23, 10)
    widths(model, [[*template, 3, 4]], prefixes)
    held = prefixes.bytes
    # 2 layers, keys and values, 2 heads of 4 floats: 128 bytes a token
    assert held == 12 * 128
    widths(model, [template + text(24, 90)], prefixes)
    assert prefixes.bytes == held, "expected a short addition to be forgotten"
    widths(model, [template + text(25, 128)], prefixes)
    assert prefixes.bytes > held


def test_the_longest_unused_make_room_and_what_is_too_large_is_not_kept(model: Any) -> None:
    first, second, third = (text(seed, 100) for seed in (40, 41, 42))
    prefixes = PrefixCache(applied_state, limit_bytes=2 * 101 * 128)
    for document in (first, second, first, third):
        widths(model, [[*document, 3]], prefixes)
        assert prefixes.bytes <= prefixes.limit_bytes
    assert widths(model, [[*first, 4]], prefixes) == [(1, 1)]
    assert widths(model, [[*third, 4]], prefixes) == [(1, 1)]
    assert widths(model, [[*second, 4]], prefixes) == [(1, 101)]
    tight = PrefixCache(applied_state, limit_bytes=101 * 128 - 1)
    widths(model, [[*first, 3]], tight)
    assert tight.bytes == 0
    prefixes.clear()
    assert prefixes.bytes == 0


def test_a_longer_prompt_takes_the_place_of_the_one_it_begins_with(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    document = text(43, 100)
    widths(model, [document[:50]], prefixes)
    widths(model, [document + text(44, 40) + text(45, 40)], prefixes)
    assert prefixes.bytes == 180 * 128


def test_each_memory_and_the_base_keep_their_own(model: Any) -> None:
    disturbed(model, LORA, "a", 1)
    disturbed(model, LORA, "b", 2)
    prefixes = PrefixCache(applied_state)
    document = text(46, 100)
    for name in ("a", "b", None):
        activate(model, name)
        assert widths(model, [[*document, 3]], prefixes) == [(1, 101)]
    for name in ("b", None, "a"):
        activate(model, name)
        assert widths(model, [[*document, 4]], prefixes) == [(1, 1)]
    # rows that may differ share nothing, and an adapter in training is never believed
    with rows(model, ["a"]):
        assert widths(model, [[*document, 4]], prefixes) == [(1, 101)]
    attached(model)["a"].set_trainable(True)
    assert widths(model, [[*document, 4]], prefixes) == [(1, 101)]


def test_another_type_of_the_same_model_is_another_model(model: Any) -> None:
    prefixes = PrefixCache(applied_state)
    ask(model, [DOCUMENT], prefixes)
    model.to(torch.bfloat16)
    assert widths(model, [DOCUMENT], prefixes) == [(1, 40)]


def test_recurrent_layers_keep_nothing() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, vocab_size=61, layer_types=["conv", "full_attention"], intermediate_size=16)
    model, prefixes = Lfm2ForCausalLM(config).eval(), PrefixCache(applied_state)
    for prompt in ([*DOCUMENT, 3], [*DOCUMENT, 4, 5]):
        assert ask(model, [prompt], prefixes) == ask(model, [prompt], None)
    assert prefixes.bytes == 0


def test_what_is_kept_holds_no_larger_tensors() -> None:
    # the values of Phi-3 are columns of one projection with the queries and keys
    model, prefixes = tiny("phi3"), PrefixCache(applied_state)
    ask(model, [DOCUMENT], prefixes)
    kept = prefixes.open(model)
    assert kept is not None
    states = [each for pair in kept.find(DOCUMENT) for each in pair]
    assert sum(each.untyped_storage().nbytes() for each in states) == prefixes.bytes


def train(model: Any, name: str, fused: bool) -> None:
    """A step of training, large enough to change what is answered."""
    adapter = attached(model)[name]
    adapter.set_trainable(True)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.3, fused=fused)
    model(torch.tensor([DOCUMENT[:8]]), use_cache=False).logits.square().mean().backward()
    optimizer.step()
    adapter.set_trainable(False)


@torch.no_grad()
def edit(model: Any, name: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        for parameter in attached(model)[name].parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel())).view(parameter.shape), alpha=0.5)


def load_other(model: Any, name: str, scale: float) -> None:
    adapter = attached(model)[name]
    adapter.load_state({key: value * scale for key, value in adapter.trained_state().items()})


def attach_anew(model: Any, name: str, scale: float) -> None:
    """Another adapter of the same name in the place of this one."""
    config, state = attached(model)[name].stored()
    attached(model)[name].detach()
    restore_adapter(model, config, {key: value * scale for key, value in state.items()}, name)


NAMES = ("lora", "gated", "pissa")
CHANGES = {
    "use": activate,
    "use the base": lambda model, _name: activate(model, None),
    "use beside others": lambda model, name: attached(model)[name].apply_to(None),
    "train": lambda model, name: (activate(model, name), train(model, name, False)),
    "train, uncounted": lambda model, name: (activate(model, name), train(model, name, True)),
    "edit": lambda model, name: edit(model, name, False),
    "edit in inference mode": lambda model, name: edit(model, name, True),
    "load": lambda model, name: load_other(model, name, 1.5),
    "load half": lambda model, name: load_other(model, name, 0.5),
    "attach anew": lambda model, name: attach_anew(model, name, 0.5),
}


def three_memories() -> Any:
    model = tiny("mistral")
    for seed, (name, kind) in enumerate(zip(NAMES, ("lora", "gated-memory", "pissa"), strict=True)):
        create_adapter(model, AdapterSettings(kind=kind, rank=2, alpha=4, start="published"), seed, name)
        edit(model, name, False)
    return model


LASTING = [each for each in CHANGES if not each.startswith("use")]
PROMPTS = [[*DOCUMENT, 3], [*DOCUMENT, 4, 5], [*OTHER, 6], DOCUMENT[:36], [*OTHER, 6, 7, 8]]
asked = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3)
changed = st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(NAMES))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", LASTING)
def test_every_change_of_a_memory_is_seen(change: str, name: str) -> None:
    model, prefixes = three_memories(), PrefixCache(applied_state)
    activate(model, name)
    with Passes(model) as before:
        ask(model, PROMPTS[:1], prefixes)
    CHANGES[change](model, name)
    with Passes(model) as kept:
        ask(model, PROMPTS[:1], prefixes)
    with Passes(model) as anew:
        ask(model, PROMPTS[:1], None)
    torch.testing.assert_close(kept.logits[0], anew.logits[0], atol=1e-4, rtol=0)
    assert not torch.allclose(before.logits[0], anew.logits[0], atol=1e-3), "expected a change that can be seen"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.one_of(asked, changed), min_size=2, max_size=10))
def test_no_order_of_questions_and_changes_gives_what_is_stale(steps: list[Any]) -> None:
    model, prefixes = three_memories(), PrefixCache(applied_state, limit_bytes=3 * 45 * 128)
    for step in steps:
        if isinstance(step, tuple):
            CHANGES[step[0]](model, step[1])
            continue
        answers, kept = answers_and_logits(model, step, NEW_TOKENS, prefixes)
        expected, anew = answers_and_logits(model, step, NEW_TOKENS, None)
        assert answers == expected
        torch.testing.assert_close(kept, anew, atol=1e-3, rtol=1e-3)
        # again, so that most questions meet something that is kept
        assert ask(model, step, prefixes) == answers


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 8, 40]), st.integers(1, 50)), min_size=1, max_size=6), st.integers(0, 40))
def test_with_what_is_kept_less_is_read_than_without(pieces: list[tuple[int, int]], known: int) -> None:
    prompts = [DOCUMENT[:common] + text(100 + row, own) for row, (common, own) in enumerate(pieces)]
    model, prefixes = tiny("llama"), PrefixCache(applied_state)
    if known:
        generate(model, [DOCUMENT[:known]], max_new_tokens=1, end_ids=[], prefixes=prefixes)
    kept, anew = widths(model, prompts, prefixes), widths(model, prompts, None)
    # a pass costs as much as that many tokens, and rows of other lengths are not always read in the same one
    costs = [sum(count * width + PASS_TOKENS for count, width in passes) for passes in (kept, anew)]
    assert costs[0] <= costs[1] + PASS_TOKENS
