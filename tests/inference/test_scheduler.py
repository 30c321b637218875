"""Rows join and leave a running batch at any step, and every answer is the one that the row has alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from adapters.test_batched_lora import SETTINGS, disturbed
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCABULARY, tiny

from lift.adapters.adapter import attached
from lift.adapters.batched_lora import keeping_room, parking
from lift.adapters.row_assignment import RowAssignment, activate, rows
from lift.errors import ModelError
from lift.inference import scheduler
from lift.inference.generate import generate
from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.sampling import SamplingParams, row_generator, sample
from lift.inference.scheduler import Scheduler, SequenceState, StepOutput

HEAD = random.Random(0).choices(range(10, VOCABULARY), k=12)
ENDS = range(3, 9)


def prompt(seed: int, length: int, shared: int = 0) -> list[int]:
    """A prompt that begins like others do, and goes on in its own way."""
    return HEAD[:shared] + random.Random(seed).choices(range(10, VOCABULARY), k=length)


def alone(model: Any, row: SequenceState) -> list[int]:
    """What generate gives for the row when it is the only one."""
    activate(model, row.adapter)
    sampling = row.sampling
    generator = None
    if sampling.generator is not None:
        generator = torch.Generator()
        generator.set_state(sampling.generator.get_state())
    [answer] = generate(
        model,
        [row.prompt],
        max_new_tokens=row.max_tokens,
        end_ids=ENDS,
        temperature=sampling.temperature,
        generator=generator,
    )
    activate(model, None)
    return answer


def own_prefixes() -> Prefixes:
    """Where the rows of one question keep whatever they read with one adapter."""
    return Prefixes(PrefixCache(worth_tokens=1), "")


class Batch:
    """A running batch with its adapters, and what each of its rows has said."""

    def __init__(self, model: Any, assignment: RowAssignment, *, kept: bool = True, **bounds: int) -> None:
        cache = PrefixCache()

        def prefixes(name: str | None) -> Prefixes | None:
            return Prefixes(cache, name or "") if kept else None

        self.running = Scheduler(model, assignment, end_ids=ENDS, prefixes=prefixes, **bounds)
        self.tokens: dict[SequenceState, list[int]] = {}
        self.ends: dict[SequenceState, str] = {}
        self.errors: dict[SequenceState, Exception] = {}
        self.logprobs: dict[SequenceState, float] = {}

    def step(self) -> list[StepOutput]:
        said = self.running.step()
        for each in said:
            if each.sampled is not None and each.sampled.token is not None:
                self.tokens.setdefault(each.row, []).append(each.sampled.token)
            if each.end is not None:
                self.ends[each.row] = each.end
            if each.error is not None:
                self.errors[each.row] = each.error
            if each.logprob is not None:
                self.logprobs[each.row] = each.logprob
        return said

    def run(self) -> None:
        while self.running.rows:
            self.step()


def answers(model: Any, wanted: Sequence[SequenceState], **options: Any) -> Batch:
    """Let these rows join at once, and run until all have ended."""
    with rows(model, []) as assignment:
        batch = Batch(model, assignment, **options)
        batch.running.add(wanted)
        batch.run()
    return batch


def plans(names: Sequence[str | None]) -> Any:
    """Rows: step of joining, length, shared beginning, adapter, tokens, steps until it leaves by itself (or none)."""
    row = st.tuples(
        st.integers(0, 12),
        st.integers(1, 30),
        st.integers(0, len(HEAD)),
        st.sampled_from(names),
        st.integers(1, 10),
        st.one_of(st.none(), st.integers(0, 8)),
    )
    return st.lists(row, min_size=1, max_size=10)


KINDS: list[str | None] = [None, *SETTINGS]
_MODEL: dict[str, Any] = {}


def model_with_all_kinds(architecture: str) -> Any:
    if architecture not in _MODEL:
        model = tiny(architecture)
        for seed, name in enumerate(SETTINGS):
            disturbed(model, name, seed)
        activate(model, None)
        _MODEL[architecture] = model
    return _MODEL[architecture]


@pytest.mark.parametrize("architecture", ["llama", pytest.param("mistral", marks=pytest.mark.slow)])
@settings(max_examples=10, deadline=None)
@given(plans(KINDS), st.booleans(), st.booleans())
def test_every_row_says_what_it_says_alone_whoever_comes_and_goes(
    architecture: str, plan: list[tuple[Any, ...]], parked: bool, kept: bool
) -> None:
    model = model_with_all_kinds(architecture)
    wanted = [
        SequenceState(prompt(seed, each[1], each[2]), each[3], max_tokens=each[4]) for seed, each in enumerate(plan)
    ]
    expected = {row: alone(model, row) for row in wanted}
    left: set[SequenceState] = set()
    with keeping_room(model), rows(model, []) as assignment:
        block = parking(model) if parked else keeping_room(model)
        with block, pytest.MonkeyPatch.context() as patch:
            patch.setattr(scheduler, "PREFILL_CHUNK_TOKENS", 7)  # prompts are read in several passes
            batch = Batch(model, assignment, kept=kept, token_budget=10**6)
            for step in range(13 + 8):
                batch.running.add([row for row, each in zip(wanted, plan, strict=True) if each[0] == step])
                leaving = [
                    row
                    for row, each in zip(wanted, plan, strict=True)
                    if each[5] is not None and each[0] + each[5] == step and row in batch.running.rows
                ]
                batch.running.abort(leaving)
                left.update(leaving)
                batch.step()
            batch.run()
    for row in wanted:
        said = batch.tokens.get(row, [])
        if row in left:
            assert said == expected[row][: len(said)]
        else:
            assert said == expected[row]
            assert batch.ends[row] == ("length" if len(said) == row.max_tokens else "stop")
    assert all(adapter.rows == () for adapter in attached(model).values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_of_all_lengths_run_together_on_every_architecture(architecture: str) -> None:
    model = tiny(architecture)
    wanted = [
        SequenceState(prompt(seed, 1 + 9 * (seed % 4), 12 * (seed % 2)), max_tokens=3 + seed) for seed in range(8)
    ]
    expected = [alone(model, row) for row in wanted]
    with rows(model, []) as assignment:
        batch = Batch(model, assignment)
        for row in wanted:
            batch.running.add([row])
            batch.step()
        batch.run()
    assert [batch.tokens.get(row, []) for row in wanted] == expected


def test_a_seed_draws_the_tokens_that_it_draws_alone() -> None:
    model = model_with_all_kinds("llama")
    wanted = [
        SequenceState(
            prompt(seed, 5), KINDS[seed], SamplingParams(0.9, generator=torch.Generator().manual_seed(seed)), 12
        )
        for seed in range(6)
    ]
    expected = [alone(model, row) for row in wanted]
    assert len(set(map(tuple, expected))) > 3
    batch = answers(model, wanted)
    assert [batch.tokens.get(row, []) for row in wanted] == expected


def test_log_probabilities_are_those_of_the_model() -> None:
    model = model_with_all_kinds("llama")
    row = SequenceState(prompt(1, 6), "all", SamplingParams(top_logprobs=3), 8)
    with rows(model, []) as assignment:
        batch = Batch(model, assignment)
        batch.running.add([row, SequenceState(prompt(2, 9), "dora", max_tokens=8)])
        said = [each for _ in range(8) for each in batch.step() if each.row is row and each.sampled]
    tokens = batch.tokens[row]
    activate(model, "all")
    with torch.inference_mode():
        odds = model(torch.tensor([[*row.prompt, *tokens]])).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
    activate(model, None)
    for each, token, expected in zip(said, tokens, odds, strict=True):
        assert each.sampled is not None and each.sampled.logprob is not None
        assert each.sampled.logprob == pytest.approx(float(expected[token]), abs=1e-4)
        values, top_logprobs = expected.topk(3)
        assert [token for token, _ in each.sampled.top_logprobs] == top_logprobs.tolist()
        assert [value for _, value in each.sampled.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_given_answers_are_as_likely_as_the_model_alone_finds_them(architecture: str) -> None:
    model = model_with_all_kinds(architecture)
    names = KINDS * 2
    prompts = [prompt(seed, 4 + seed % 7, 12) for seed in range(len(names))]
    given = [prompt(50 + seed, 1 + seed % 4) for seed in range(len(names))]
    expected = []
    for name, asked, answer in zip(names, prompts, given, strict=True):
        activate(model, name)
        odds = torch.log_softmax(model(torch.tensor([asked + answer])).logits[0].float(), dim=-1)
        slots = range(len(asked) - 1, len(asked) + len(answer) - 1)
        expected.append(sum(float(odds[place, token]) for place, token in zip(slots, answer, strict=True)))
    activate(model, None)
    known = [own_prefixes() for _ in names]
    with rows(model, []) as assignment:
        batch = Batch(model, assignment, kept=False, rows=len(names))
        sampling = [SequenceState(*each, max_tokens=3) for each in zip(prompts, names, strict=True)]
        for row, own in list(zip(sampling, known, strict=True))[1::2]:
            row.known = own
        batch.running.add(sampling)
        judged = [
            SequenceState(asked, name, answer=answer, known=own)
            for asked, name, answer, own in zip(prompts, names, given, known, strict=True)
        ]
        batch.step()
        assert [own.known_tokens(asked) for own, asked in zip(known, prompts, strict=True)] == [
            len(asked) if index % 2 else 0 for index, asked in enumerate(prompts)
        ]
        assert batch.running.has_room(judged), "expected rows that do not run to need no place"
        batch.running.add(judged)
        batch.run()
    assert [batch.logprobs[row] for row in judged] == pytest.approx(expected, abs=1e-4)
    assert [batch.tokens.get(row, []) for row in sampling] == [alone(model, row) for row in sampling]


@pytest.fixture
def nothing_is_zero() -> Iterator[None]:
    """Storage that is fresh, or used again in another shape, is not a number anywhere."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nothing_is_zero")
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_what_lay_in_the_storage_before_is_never_seen(architecture: str) -> None:
    model = model_with_all_kinds(architecture)
    wanted = [
        SequenceState(prompt(seed, length, 12), name, max_tokens=4 + seed)
        for seed, (length, name) in enumerate(zip((3, 40, 7, 90, 1, 160, 5, 22), KINDS * 2, strict=False))
    ]
    known = own_prefixes()
    with rows(model, []) as assignment:
        batch = Batch(model, assignment, rows=3)
        for row in [*wanted[:4], SequenceState(prompt(9, 50), known=known), *wanted[4:]]:
            while not batch.running.has_room([row]):
                batch.step()
            batch.running.add([row])
            batch.step()
        batch.run()
        fresh = Batch(model, assignment)
        # one row of the pass knows its prompt's beginning, the other nothing
        fresh.running.add(
            [SequenceState(prompt(9, 50), answer=[3, 4], known=known), SequenceState(prompt(3, 1), answer=[5, 6])]
        )
        fresh.run()
    assert not batch.errors | fresh.errors
    assert len(fresh.logprobs) == 2
    assert [batch.tokens.get(row, []) for row in wanted] == [alone(model, row) for row in wanted]


@pytest.mark.parametrize(
    ("before", "asked", "answers", "expected"),
    [
        ([SequenceState(prompt(1, 40))], prompt(1, 40), (2, 3), [(2, 3)]),
        ([], prompt(1, 40), (2, 3), [(1, 40), (2, 3)]),
        ([SequenceState([*prompt(1, 30), *prompt(4, 10)])], [*prompt(1, 30), *prompt(5, 12)], (), [(1, 12)]),
    ],
    ids=["answers behind a prompt that is read", "a prompt that answers have in common", "a prompt that begins alike"],
)
def test_what_is_known_is_not_read_again(
    before: list[SequenceState], asked: list[int], answers: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    model = tiny("llama")
    read: list[tuple[int, int]] = []
    known = own_prefixes()
    with rows(model, []) as assignment:
        batch = Batch(model, assignment, kept=False)
        batch.running.add([dataclasses.replace(row, known=known) for row in before])
        batch.run()
        handle = model.register_forward_pre_hook(
            lambda _model, _args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
        )
        wanted = [SequenceState(asked, answer=prompt(seed, 3), known=known) for seed in answers] or [
            SequenceState(asked, known=known)
        ]
        batch.running.add(wanted)
        batch.run()
        handle.remove()
    assert read == expected
    assert len(batch.logprobs) == len(answers)
    if not answers:
        assert batch.tokens[wanted[0]] == alone(model, wanted[0])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_only_the_likeliest_tokens_that_fill_the_share_are_drawn(
    logits: list[float], top_p: float, temperature: float
) -> None:
    odds = torch.softmax(torch.tensor(logits) / temperature, -1)
    order = odds.sort(descending=True, stable=True)
    needed = int((order.values.cumsum(0) - order.values < top_p).sum())
    allowed = set(order.indices[: needed + 1].tolist())  # rounding may move the border by one
    sampling = SamplingParams(temperature, top_p, torch.Generator().manual_seed(0))
    found = {sample(torch.tensor([logits]), [sampling])[0].token for _ in range(30)}
    assert found <= allowed


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(5e-324, 1.0), (1e-46, 0.9), (1e-38, 1.0), (0.5, 5e-324), (0.5, 1e-46), (5e-324, 5e-324)]
)
def test_next_to_nothing_draws_the_likeliest_token(temperature: float, top_p: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.9, -50.0], [0.0, 0.0, 0.0, 5.0]])
    sampled = sample(logits, [SamplingParams(temperature, top_p, torch.Generator().manual_seed(0)), SamplingParams()])
    assert [each.token for each in sampled] == [1, 3]


def test_no_share_of_the_odds_draws_the_likeliest_token() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.9, -50.0]])
    assert sample(logits, [SamplingParams(5.0, 0.0, row_generator(seed, logits.device)) for seed in (1,)])[0].token == 1
    assert {sample(logits, [SamplingParams(5.0, 0.0)])[0].token for _ in range(30)} == {1}


def test_a_seed_draws_the_same_numbers_in_every_run() -> None:
    odds, device = torch.full((64,), 1 / 64), torch.device("cpu")
    expected = torch.multinomial(odds, 40, True, generator=torch.Generator().manual_seed(7))
    assert torch.multinomial(odds, 40, True, generator=row_generator(7, device)).equal(expected)
    unseeded = [row_generator(None, device).initial_seed() for _ in range(3)]
    assert len(set(unseeded)) == 3


def test_numbers_that_are_not_finite_end_their_own_row_alone() -> None:
    model = tiny("llama")
    disturbed(model, "all", 0)
    for parameter in disturbed(model, "high rank", 1).parameters():
        parameter.data.fill_(torch.inf)
    activate(model, None)
    good = [SequenceState(prompt(seed, 6), "all" if seed else None, max_tokens=6) for seed in range(2)]
    broken = SequenceState(prompt(7, 6), "high rank", max_tokens=6)
    expected = [alone(model, row) for row in good]
    batch = answers(model, [good[0], broken, good[1]])
    assert [batch.tokens.get(row, []) for row in good] == expected
    assert isinstance(batch.errors[broken], ModelError)
    assert broken not in batch.tokens


def test_rows_that_run_wait_for_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    monkeypatch.setattr(scheduler, "PREFILL_CHUNK_TOKENS", 16)
    monkeypatch.setattr(scheduler, "PREFILL_TOKENS_PER_SEQUENCE", 5)
    passes: list[int] = []
    long = SequenceState(prompt(1, 100), max_tokens=2)
    running = SequenceState(prompt(2, 4), max_tokens=60)
    with rows(model, []) as assignment:
        batch = Batch(model, assignment)
        batch.running.add([running])
        batch.step()
        handle = model.register_forward_pre_hook(
            lambda _model, _args, given: passes.append(given["input_ids"].numel()), with_kwargs=True
        )
        batch.running.add([long, SequenceState(prompt(3, 90), max_tokens=2)])
        before = len(batch.tokens[running])
        for _ in range(4):
            batch.step()
        handle.remove()
    assert passes == [16, 1] * 4, "expected a piece of the prompts and a token of the running row in turn"
    assert len(batch.tokens[running]) == before + 4


def test_what_was_read_with_an_adapter_is_not_read_again() -> None:
    model = model_with_all_kinds("llama")
    read: list[tuple[int, int]] = []
    with rows(model, []) as assignment:
        batch = Batch(model, assignment)
        batch.running.add([SequenceState(prompt(1, 5, 12), "all"), SequenceState(prompt(2, 5, 12), "dora")])
        batch.run()
        handle = model.register_forward_pre_hook(
            lambda _model, _args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
        )
        again = [
            SequenceState(prompt(3, 4, 12), "all", max_tokens=1),
            SequenceState(prompt(4, 4, 12), "dora", max_tokens=1),
        ]
        batch.running.add(again)
        batch.run()
        batch.running.add([SequenceState(prompt(5, 4, 12), "attention", max_tokens=1)])
        batch.run()
        handle.remove()
    assert read == [(2, 4), (1, 16)], "expected the common beginning to be known, but of other adapters alone"
    assert [batch.tokens.get(row, []) for row in again] == [alone(model, row) for row in again]


def test_the_room_is_bounded_in_rows_and_in_columns() -> None:
    model = tiny("llama")
    with rows(model, []) as assignment:
        batch = Batch(model, assignment, rows=3, token_budget=60).running
        short = [SequenceState(prompt(seed, 8), max_tokens=2) for seed in range(4)]
        assert batch.has_room(short[:3])
        assert not batch.has_room(short)
        long = SequenceState(prompt(9, 70), max_tokens=2)
        assert batch.has_room([long]), "expected a long row to run alone"
        assert not batch.has_room(short[:1], [long]) and not batch.has_room([long], short[:1])
        batch.add(short[:2])
        assert not batch.has_room([SequenceState(prompt(9, 20), max_tokens=1)])
        batch.add([short[2]])
        assert not batch.has_room([short[3]])
        batch.abort(short[:1])
        assert batch.has_room([short[3]])


def test_a_prompt_that_cannot_be_read_ends_alone() -> None:
    model = tiny("llama")
    good = [SequenceState(prompt(seed, 6), max_tokens=4) for seed in range(2)]
    bad = SequenceState([VOCABULARY + 5, *prompt(3, 5)], max_tokens=4)
    expected = [alone(model, row) for row in good]
    batch = answers(model, [good[0], bad, good[1]])
    assert [batch.tokens.get(row, []) for row in good] == expected
    assert list(batch.errors) == [bad]
    assert isinstance(batch.errors[bad], IndexError)
    with pytest.raises(ValueError, match="at least one token"):
        answers(model, [SequenceState([])])
