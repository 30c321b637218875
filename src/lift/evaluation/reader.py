"""Readers answer the questions of an evaluation: a base model, the same with a memory, or a model at an endpoint.

Every method asks through one of these with the same prompts, template and greedy decoding; what differs between
methods is the part of the document in the prompt, and the memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lift.adapters.resident import attach_stored, release
from lift.adapters.warm_start import WarmStart
from lift.answering.answerer import Answerer, execute_by_adapter, kept_prefixes, open_memory, trained_form
from lift.answering.refusal import kept_refusals
from lift.answering.steps import GenerateRequest, run_strategies
from lift.errors import UsageError
from lift.inference.generate import generate
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids, decode_content, encode_content
from lift.packing.prompts import (
    CUT_STEP_TOKENS,
    PLAIN_FORM,
    PromptForm,
    end_of_answer_id,
    fit_context,
    prompt_ids,
    user_text,
)

_SHOWN_CHARS = 700


@dataclass(frozen=True)
class Reply:
    """One answer. `prompt`: what the user's turn said, long ones clipped in the middle for reading.

    `seconds` is an equal share of its batch; `alone`: it was asked alone, and `first_token_s` was measured. With an
    `error` the text is empty.
    """

    text: str
    prompt: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    error: str | None = None
    first_token_s: float | None = None
    alone: bool = False

    @property
    def seconds_per_token(self) -> float | None:
        """Seconds of each further token, where that could be seen."""
        if self.first_token_s is None or self.answer_tokens < 3:
            return None
        return (self.seconds - self.first_token_s) / (self.answer_tokens - 1)


@dataclass(frozen=True)
class QuestionBatch:
    """Questions with what is in the prompt of each (None: nothing), and how they are asked: alike, or each alone."""

    questions: Sequence[str]
    contexts: Sequence[str | None]
    form: PromptForm
    max_new_tokens: int
    one_by_one: bool = False

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """Each question with its context; raises ValueError where their numbers differ."""
        return list(zip(self.questions, self.contexts, strict=True))


class Reader(Protocol):
    """Who answers. `id` and `fingerprint` name the model (and the memory); prompts have at most `window_tokens`."""

    id: str
    fingerprint: str
    window_tokens: int

    @property
    def notes(self) -> Sequence[str]:
        """Notes about its answers."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token of `text`."""
        ...

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As much of `text`, head and tail, as the window takes; and whether it was cut."""
        ...

    def read(self, batch: QuestionBatch) -> list[Reply]:
        """Answer each question with its context in the prompt, in order."""
        ...


class ModelReader:
    """The resident base model, with `memory`, at `start`, or as it is; it switches to what it needs when it reads.

    Its fingerprint names the weights and what is applied to them. `keeps_text`: what is read stays in memory, so
    that a later question to the same text is answered sooner; else each question pays for all that it reads.
    `prompt_tokens`: the longest prompt, where it is not that of the memory's recipe or the window.
    """

    def __init__(
        self,
        base: BaseModel,
        memory: StoredMemory | None = None,
        batch_size: int = 16,
        *,
        start: WarmStart | None = None,
        keeps_text: bool = False,
        prompt_tokens: int = 0,
    ) -> None:
        self.base = base
        self.memory = memory
        self.start = start
        self.notes: tuple[str, ...] = ()
        self._batch_size = batch_size
        self._keeps_text = keeps_text
        self._prompt_tokens = prompt_tokens
        stored = start.digest if start is not None else ""
        if memory is not None:
            stored = memory.manifest.adapter_id
        self.id = base.id
        self.fingerprint = f"{base.fingerprint}/{stored}"
        bound_tokens = memory.manifest.recipe.get("context", {}).get("window_tokens", 0) if memory is not None else 0
        if prompt_tokens:
            bound_tokens = 0  # one bound for all that is compared, whatever a recipe was trained with
        self.window_tokens = min(bound_tokens or base.window_tokens, base.window_tokens)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token of `text`."""
        return token_offsets(self.base, text)

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As much of `text`, head and tail, as the window takes; raises UsageError for too long a question."""
        limit_tokens = self.window_tokens - max_new_tokens
        if self._prompt_tokens:
            limit_tokens = min(limit_tokens, self._prompt_tokens)
        return fit_context(self.base.tokenizer, question, text, limit_tokens, CUT_STEP_TOKENS, self._form(form))

    def _form(self, form: PromptForm) -> PromptForm:
        """A benchmark without words of its own is asked of a memory in those that it was trained with."""
        return trained_form(self.memory) if self.memory is not None and form == PLAIN_FORM else form

    def attach(self, form: PromptForm = PLAIN_FORM) -> Answerer | None:
        """Put the memory or the warm start on the base, in place of what is there; returns the memory to ask."""
        if self.memory is None:
            if self.start is not None:
                start = self.start
                attach_stored(self.base.model, start.digest, lambda: (start.config, start.state))
            else:
                release(self.base.model)
            return None
        return open_memory(self.memory, self.base, form, keeps_text=self._keeps_text)

    def read(self, batch: QuestionBatch) -> list[Reply]:
        """Answer greedily, in batches or each question alone."""
        self.attach()
        pairs, form = batch.pairs, self._form(batch.form)
        prompts = [prompt_ids(self.base.tokenizer, *pair, form) for pair in pairs]
        groups = [[prompt] for prompt in prompts] if batch.one_by_one else [prompts] if prompts else []
        replies = [reply for group in groups for reply in self._read_group(group, batch.max_new_tokens)]
        return [
            replace(reply, prompt=clipped(user_text(*pair, form))) for reply, pair in zip(replies, pairs, strict=True)
        ]

    def route(self, batch: QuestionBatch, context: str) -> list[Reply]:
        """Answer as `lift ask --context` does; the contexts of the batch are what it reads, for the record alone.

        Raises UsageError where there is no memory.
        """
        answerer = self.attach(batch.form)
        if answerer is None:
            raise UsageError("expected a memory to choose a context for, got the base model alone")
        questions, limit, size = batch.questions, batch.max_new_tokens, self._batch_size
        groups = [[question] for question in questions] if batch.one_by_one else [list(questions)]
        answers = [
            answer
            for group in groups
            for answer in answerer.ask_many(group, context, max_new_tokens=limit, batch_size=size)
        ]
        tokenizer = self.base.tokenizer
        return [
            Reply(
                text=answer.text,
                prompt=clipped(user_text(question, shown, self._form(batch.form))),
                prompt_tokens=answer.prompt_tokens,
                answer_tokens=len(content_ids(tokenizer, answer.text)),
                seconds=answer.seconds,
                alone=batch.one_by_one or len(questions) == 1,
            )
            for (question, shown), answer in zip(batch.pairs, answers, strict=True)
        ]

    def _read_group(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """The replies to a batch of prompts; a warm start's refusals are kept where it is sure of them."""
        replies = self._generate(prompts, max_new_tokens)
        if self.start is None:
            return replies
        started = time.perf_counter()
        asked = [GenerateRequest(self.start.digest, tuple(prompt), max_new_tokens) for prompt in prompts]
        kept = kept_refusals(self.base.tokenizer, asked, [reply.text for reply in replies])
        (texts,) = run_strategies([kept], lambda wanted: execute_by_adapter(self.base, wanted, self._batch_size))
        more_s = (time.perf_counter() - started) / len(prompts)
        return [
            replace(
                reply,
                text=text,
                answer_tokens=len(content_ids(self.base.tokenizer, text))
                if text != reply.text
                else reply.answer_tokens,
                seconds=reply.seconds + more_s,
            )
            for reply, text in zip(replies, texts, strict=True)
        ]

    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        tokenizer = self.base.tokenizer
        first_s: list[float] = []
        started = time.perf_counter()
        generated = generate(
            self.base.model,
            prompts,
            max_new_tokens=max_new_tokens,
            end_ids={end_of_answer_id(tokenizer), *self.base.end_token_ids},
            batch_size=self._batch_size,
            on_token=lambda _row, _token: first_s.append(time.perf_counter() - started) if not first_s else None,
            prefixes=kept_prefixes(self.base.model) if self._keeps_text else None,
        )
        seconds = (time.perf_counter() - started) / len(prompts)
        alone = len(prompts) == 1
        return [
            Reply(
                text=decode_content(tokenizer, ids),
                prompt="",
                prompt_tokens=len(prompt),
                answer_tokens=len(ids),
                seconds=seconds,
                first_token_s=first_s[0] if alone and first_s else None,
                alone=alone,
            )
            for prompt, ids in zip(prompts, generated, strict=True)
        ]


def token_offsets(base: BaseModel, text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of each token of `text`, for the model's own tokenizer."""
    return encode_content(base.tokenizer, text).offsets


def clipped(text: str, shown_chars: int = _SHOWN_CHARS) -> str:
    """`text`, or its head and tail with the number of characters that are left out between them."""
    if len(text) <= shown_chars:
        return text
    half = shown_chars // 2
    return f"{text[:half]} [… {len(text) - 2 * half:,} characters …] {text[-half:]}"
