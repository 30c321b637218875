"""What a question wants of the model, step by step, apart from who runs it.

A strategy (strategies.py) is a generator: it yields what it wants next, texts and judgements, all that can be computed at
once; it is sent what came of them, in the same order; and it returns the answer. Questions to one memory
(answering.py), to many (many_memories.py) and over a network take the same strategies and differ in their batches alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lift.adapters.row_assignment import using
from lift.answering.reranking import log_probabilities
from lift.errors import UsageError
from lift.models.base_model import BaseModel

T = TypeVar("T")


@dataclass(frozen=True)
class GenerateRequest:
    """A text: what the model says behind these tokens with the attached adapter of that name, None: the base alone."""

    adapter: str | None
    prompt_ids: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class ScoreRequest:
    """log P of each of these answers, its end included, behind these tokens; `adapter` as for Say. A list of floats."""

    adapter: str | None
    prompt_ids: tuple[int, ...]
    answers: tuple[str, ...]


def fit_window(say: GenerateRequest, window_tokens: int, least_tokens: int) -> GenerateRequest:
    """The same text, no longer than the window has room for it behind its prompt.

    Raises UsageError where there is no room for `least_tokens` of it, and for an empty prompt.
    """
    room_tokens = window_tokens - len(say.prompt_ids)
    if room_tokens < least_tokens:
        raise UsageError(
            f"expected a prompt and max_tokens that fit the model's window of {window_tokens} tokens, "
            f"got {len(say.prompt_ids)} and {least_tokens}; shorten the question, or ask for fewer tokens"
        )
    if not say.prompt_ids:
        raise UsageError("expected a prompt of at least one token, got an empty one")
    return replace(say, max_new_tokens=min(say.max_new_tokens, room_tokens))


ModelRequest = GenerateRequest | ScoreRequest
Strategy = Generator[Sequence[ModelRequest], Sequence[Any], T]
Executor = Callable[[Sequence[ModelRequest]], Sequence[Any]]


def run_strategies(strategies: Sequence[Strategy[T]], fulfil: Executor) -> list[T]:
    """What the strategies return, in their order; `fulfil` gets what all of them want at a step, and brings it in order."""
    results: dict[int, T] = {}
    given: dict[int, Any] = dict.fromkeys(range(len(strategies)))
    while given:
        wanted: dict[int, Sequence[ModelRequest]] = {}
        for number, brought in given.items():
            try:
                wanted[number] = strategies[number].send(brought)
            except StopIteration as stop:
                results[number] = stop.value
        brought_all = iter(fulfil([want for wants in wanted.values() for want in wants]) if wanted else ())
        given = {number: [next(brought_all) for _ in wants] for number, wants in wanted.items()}
    return [results[number] for number in range(len(strategies))]


def execute(
    base: BaseModel,
    wants: Sequence[ModelRequest],
    alike: Callable[[GenerateRequest], Hashable],
    say: Callable[[Sequence[GenerateRequest]], Sequence[str]],
) -> list[Any]:
    """What is wanted, in order: `say` gets the texts that are `alike` at once and brings them; then the judgements."""
    brought: dict[int, Any] = {}
    says = {place: want for place, want in enumerate(wants) if isinstance(want, GenerateRequest)}
    for kind in dict.fromkeys(map(alike, says.values())):
        members = {place: want for place, want in says.items() if alike(want) == kind}
        brought.update(zip(members, say(list(members.values())), strict=True))
    judges = {place: want for place, want in enumerate(wants) if isinstance(want, ScoreRequest)}
    brought.update(zip(judges, scored(base, list(judges.values())), strict=True))
    return [brought[place] for place in range(len(wants))]


def scored(base: BaseModel, wants: Sequence[ScoreRequest]) -> list[list[float]]:
    """What each wants; every adapter is asked once for all that it is to judge."""
    found: list[list[float]] = [[] for _ in wants]
    for adapter in dict.fromkeys(want.adapter for want in wants):
        places = [place for place, want in enumerate(wants) if want.adapter == adapter]
        with using(base.model, adapter):
            values = log_probabilities(
                base.model,
                base.tokenizer,
                [wants[place].prompt_ids for place in places],
                [wants[place].answers for place in places],
            )
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found
