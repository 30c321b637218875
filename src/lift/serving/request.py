"""Requests to the engine, and their completions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lift.answering.answer import CONTEXTS, Evidence
from lift.errors import UsageError
from lift.packing.prompts import MAX_ANSWER_TOKENS

FinishReason = Literal["stop", "length", "cancelled", "timeout"]
ROLES = ("system", "user", "assistant")
MOST_LOGPROBS = 20
MOST_STOPS = 16


@dataclass(frozen=True)
class Sampling:
    """How an answer is sampled: temperature 0 is greedy, and so is `top_p` 0, the share of the odds that is drawn from.

    The same `seed` draws the same tokens. The text ends in front of the first of `stop`. `logprobs`: how many of the
    likeliest tokens are told beside each token; None: nothing is told.
    """

    max_tokens: int = MAX_ANSWER_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Message:
    """A turn of a dialogue; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One question to a memory by its name in the library, or to the base model (None).

    Either `messages`, a dialogue whose last turn is the user's, or `prompt`, text that is continued as it is, without
    chat template and context. `context` as for Answerer.ask. `deadline_s`: seconds from now until what there is of the
    answer is given.
    """

    memory: str | None
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    context: str = "auto"
    sampling: Sampling = Sampling()
    deadline_s: float | None = None

    @property
    def question(self) -> str:
        """The text that the document is searched for: the last turn, or the text to be continued."""
        return self.messages[-1].content if self.messages else self.prompt or ""

    @property
    def kept_text(self) -> str:
        """The part of the prompt that stays however many turns are dropped: all but the older turns of a dialogue."""
        told = [each.content for each in self.messages[:-1] if each.role == "system"] if self.messages else []
        return "\n".join([*told, self.question])


@dataclass(frozen=True)
class TokenInfo:
    """A token's text, its natural log-probability, and those of the likeliest tokens, the likeliest first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TextDelta:
    """A delta of the answer's text, in order; joined they are the answer. `tokens` where logprobs were asked for."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True)
class Completion:
    """The whole answer. `context` is what was used ("auto" never stands here); `truncated`: text of it was cut.

    `supported` is False where no sentence of the document holds the answer, None for the base model. `dropped_turns`:
    the oldest turns of the dialogue that did not fit the window. Where an answer is chosen among several texts,
    `finish_reason` and `completion_tokens` are those of the chosen one. `seconds_waiting` until the model began with
    it, `seconds` in all. `asked_as`: the question in full where the last turn leans on earlier ones; None where it was
    asked as it stands.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    context: str
    evidence: tuple[Evidence, ...]
    supported: bool | None
    truncated: bool
    dropped_turns: int
    seconds_waiting: float
    seconds: float
    asked_as: str | None = None


def check_request(request: Request) -> None:
    """Raise UsageError for what can be seen to be wrong before a model reads it."""
    _check_asked(request)
    sampling = request.sampling
    if sampling.max_tokens < 1:
        raise UsageError(f"expected max_tokens of at least 1, got {sampling.max_tokens}")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise UsageError(f"expected a temperature of 0 or more, got {sampling.temperature}")
    if not 0 <= sampling.top_p <= 1:
        raise UsageError(f"expected top_p of 0 to 1, got {sampling.top_p}")
    if sampling.seed is not None and not -(2**63) <= sampling.seed < 2**63:
        raise UsageError(f"expected a seed of 64 bits, got {sampling.seed}")
    if len(sampling.stop) > MOST_STOPS or not all(sampling.stop):
        raise UsageError(f"expected at most {MOST_STOPS} stop texts, none of them empty, got {sampling.stop!r}")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MOST_LOGPROBS:
        raise UsageError(f"expected logprobs of 0 to {MOST_LOGPROBS}, got {sampling.logprobs}")
    if request.deadline_s is not None and not request.deadline_s > 0:
        raise UsageError(f"expected a deadline of more than 0 seconds, got {request.deadline_s}")


def _check_asked(request: Request) -> None:
    if (request.messages is None) == (request.prompt is None):
        raise UsageError("expected either messages or a prompt, got both or neither")
    if request.context not in CONTEXTS:
        raise UsageError(f"expected a context of {', '.join(CONTEXTS)}, got {request.context!r}")
    if request.memory is None and request.context not in ("auto", "none"):
        raise UsageError(
            f"expected the context none for the base model, which has no document, got {request.context!r}; "
            "name a memory"
        )
    if request.messages is not None:
        unknown = next((message.role for message in request.messages if message.role not in ROLES), None)
        if unknown is not None:
            raise UsageError(f"expected roles out of {', '.join(ROLES)}, got {unknown!r}")
        if not request.messages or request.messages[-1].role != "user":
            raise UsageError("expected the last message to be the user's; put the question at the end")
    if not request.question.strip():
        raise UsageError("expected a question, got an empty one")
