"""Requests of a strategy to the model, to generate and to score, executed by any executor.

A strategy (strategies.py) is a generator: it yields requests, all that can be computed at once; it is sent their
results, in the same order; and it returns the answer. Questions to one memory (answerer.py), to many
(many_memories.py) and to the engine (lift.serving) follow the same strategies, and differ in their executors alone.
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
# Texts have three to six; only runs of white space have more than this.
MOST_CHARS_A_TOKEN = 16


@dataclass(frozen=True)
class GenerateRequest:
    """A text: what the model says behind these tokens with the attached adapter of that name, None: the base alone.

    `excluded` are tokens that it does not say.
    """

    adapter: str | None
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    excluded: tuple[int, ...] = ()


@dataclass(frozen=True)
class ScoreRequest:
    """log P of each of these answers, its end included, behind these tokens: a list of floats.

    `adapter` as for GenerateRequest.
    """

    adapter: str | None
    prompt_ids: tuple[int, ...]
    answers: tuple[str, ...]


def check_prompt_chars(chars: int, window_tokens: int) -> None:
    """Raise UsageError for a text so long that no model of that window can read it; nothing is tokenised for that."""
    most = MOST_CHARS_A_TOKEN * window_tokens
    if chars > most:
        raise UsageError(
            f"expected a prompt of at most {most:,} characters for the model's window of {window_tokens} tokens, "
            f"got {chars:,}; shorten it, or absorb the text and ask about it"
        )


def fit_window(request: GenerateRequest, window_tokens: int, least_tokens: int) -> GenerateRequest:
    """The same text, no longer than the window has room for it behind its prompt.

    Raises UsageError where there is no room for `least_tokens` of it, and for an empty prompt.
    """
    room_tokens = window_tokens - len(request.prompt_ids)
    if room_tokens < least_tokens:
        raise UsageError(
            f"expected a prompt and max_tokens that fit the model's window of {window_tokens} tokens, "
            f"got {len(request.prompt_ids)} and {least_tokens}; shorten the question, or ask for fewer tokens"
        )
    if not request.prompt_ids:
        raise UsageError("expected a prompt of at least one token, got an empty one")
    return replace(request, max_new_tokens=min(request.max_new_tokens, room_tokens))


ModelRequest = GenerateRequest | ScoreRequest
Strategy = Generator[Sequence[ModelRequest], Sequence[Any], T]
Executor = Callable[[Sequence[ModelRequest]], Sequence[Any]]


def run_strategies(strategies: Sequence[Strategy[T]], executor: Executor) -> list[T]:
    """Run all strategies to their ends; what they return, in their order.

    `executor` gets the requests of all of them at a step, and returns the results in the same order.
    """
    answers: dict[int, T] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(strategies)))
    while results:
        pending: dict[int, Sequence[ModelRequest]] = {}
        for number, result in results.items():
            try:
                pending[number] = strategies[number].send(result)
            except StopIteration as stop:
                answers[number] = stop.value
        found = iter(executor([request for requests in pending.values() for request in requests]) if pending else ())
        results = {number: [next(found) for _ in requests] for number, requests in pending.items()}
    return [answers[number] for number in range(len(strategies))]


def execute(
    base: BaseModel,
    requests: Sequence[ModelRequest],
    alike: Callable[[GenerateRequest], Hashable],
    generate_all: Callable[[Sequence[GenerateRequest]], Sequence[str]],
) -> list[Any]:
    """Execute requests; their results, in order. `generate_all` gets the texts that are `alike` at once."""
    results: dict[int, Any] = {}
    texts = {place: request for place, request in enumerate(requests) if isinstance(request, GenerateRequest)}
    for kind in dict.fromkeys(map(alike, texts.values())):
        members = {place: request for place, request in texts.items() if alike(request) == kind}
        results.update(zip(members, generate_all(list(members.values())), strict=True))
    scores = {place: request for place, request in enumerate(requests) if isinstance(request, ScoreRequest)}
    results.update(zip(scores, scored(base, list(scores.values())), strict=True))
    return [results[place] for place in range(len(requests))]


def scored(base: BaseModel, requests: Sequence[ScoreRequest]) -> list[list[float]]:
    """The log-probabilities that each request asks for; every adapter runs once for all of its requests."""
    found: list[list[float]] = [[] for _ in requests]
    for adapter in dict.fromkeys(request.adapter for request in requests):
        places = [place for place, request in enumerate(requests) if request.adapter == adapter]
        with using(base.model, adapter):
            values = log_probabilities(
                base.model,
                base.tokenizer,
                [requests[place].prompt_ids for place in places],
                [requests[place].answers for place in places],
            )
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found
