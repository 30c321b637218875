"""Bodies of OpenAI's routes for answers, strictly read.

A parameter is carried out, or it changes nothing and is accepted, or it is refused with a sentence: never is one
ignored that would have changed the answer. Null stands for a parameter that was left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lift.answering.answer import Context
from lift.answering.prose import answer_tokens
from lift.packing.prompts import MAX_ANSWER_TOKENS
from lift.server.bodies import Body
from lift.serving.request import Message, Request, Sampling

MOST_CHOICES = 16
MOST_TOKENS = 100_000
MOST_STOPS = 4
_BASE_TOKENS = 256
# Told by clients for the service's own sake; nothing of an answer depends on them.
_HARMLESS = frozenset(
    [
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "prediction",
    ]
)
# What would change the answer, the values that do not, and why others are refused.
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "presence_penalty": ((0,), "repetition is not penalised here; leave it out"),
    "frequency_penalty": ((0,), "repetition is not penalised here; leave it out"),
    "logit_bias": (({},), "tokens cannot be favoured here; leave it out"),
    "response_format": (({"type": "text"},), "answers are plain text; leave it out"),
    "tools": (([],), "a memory calls no tools; leave it out"),
    "tool_choice": (("none", "auto"), "a memory calls no tools; leave it out"),
    "functions": (([],), "a memory calls no functions; leave it out"),
    "function_call": (("none", "auto"), "a memory calls no functions; leave it out"),
    "modalities": ((["text"],), "answers are text; leave it out"),
    "audio": ((), "answers are text; leave it out"),
    "reasoning_effort": (("none",), "the model does not reason before it answers; leave it out"),
    "verbosity": (("medium",), "the length of answers is bounded by max_tokens alone; leave it out"),
    "web_search_options": ((), "nothing is searched but the memory's document; leave it out"),
    "suffix": (("",), "text is continued, never filled in; leave it out"),
    "echo": ((False,), "the prompt is not repeated; leave it out"),
    "best_of": ((1,), "every answer that is made is returned; use n"),
}

Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=MOST_STOPS)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(Body):
    """How an answer is streamed; `include_obfuscation` is accepted, and nothing is padded."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = None


class TextPart(Body):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _is_text_part(cls, values: Any) -> Any:
        kind = values.get("type") if isinstance(values, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(
                f"expected a part of the type 'text', got {kind[:60]!r}; images, audio and files cannot be read here, "
                "so say in words what they hold, or upload a document and absorb it"
            )
        return values


class ChatMessage(Body):
    """One turn. `developer` is the system; `name` is accepted and not shown to the model."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def message(self) -> Message:
        """The turn as the engine reads it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class AskBody(Body):
    """The options that chat and completions share. `context` is Lift's own: what of the document the model reads."""

    model: str = Field(min_length=1, description="A memory's name, or the base model's.")
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest token.")
    top_p: float | None = Field(None, ge=0, le=1, description="0 takes the likeliest token.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopText | Stop | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _neutral_only(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if name in _HARMLESS:
                continue
            if name in _NEUTRAL:
                neutral, why = _NEUTRAL[name]
                if value is not None and not any(_same(value, each) for each in neutral):
                    raise ValueError(f"{name}: {why}")
                continue
            kept[name] = value
        return kept

    @model_validator(mode="after")
    def _streams_where_it_says_how(self) -> AskBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for streams alone; set stream to true, or leave them out")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream tells at its end how many tokens there were."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, logprobs: int | None, max_tokens: int) -> Sampling:
        """How the answer is drawn."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        usual = Sampling()
        return Sampling(
            max_tokens=max_tokens,
            temperature=usual.temperature if self.temperature is None else self.temperature,
            top_p=usual.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            logprobs=logprobs,
        )


class ChatBody(AskBody):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    context: Context | None = None

    @model_validator(mode="after")
    def _one_way_of_each(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs want logprobs; set logprobs to true, or leave them out")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    def request(self, memory: str | None, deadline_s: float) -> Request:
        """The request to the engine; raises UsageError for messages that end with no question."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        messages = tuple(message.message for message in self.messages)
        # a memory answers what is asked last, the base model may go on for longer
        usual_tokens = _BASE_TOKENS if memory is None else answer_tokens(messages[-1].content)
        return Request(
            memory=memory,
            messages=messages,
            context=self.context or "auto",
            sampling=self.sampling(logprobs, self.max_completion_tokens or self.max_tokens or usual_tokens),
            deadline_s=deadline_s,
        )


class CompletionBody(AskBody):
    """The body of POST /v1/completions: one prompt, continued as it stands."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)

    def request(self, memory: str | None, deadline_s: float) -> Request:
        """The request to the engine."""
        usual_tokens = _BASE_TOKENS if memory is None else MAX_ANSWER_TOKENS
        return Request(
            memory=memory,
            prompt=self.prompt if isinstance(self.prompt, str) else self.prompt[0],
            context="none",
            sampling=self.sampling(self.logprobs, self.max_tokens or usual_tokens),
            deadline_s=deadline_s,
        )


def _same(value: Any, other: Any) -> bool:
    """Equal, and of one kind: True is not 1."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, abs_tol=0.0)
    return bool(value == other)
