"""Whoever answers the questions of an evaluation: a base model, the same with a memory, or a model at an endpoint.

Every method asks through one of these with the same prompts, template and greedy decoding; what differs between
methods is the part of the document in the prompt, and the memory.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lift.adapters.resident import release
from lift.answering import Answerer, open_memory
from lift.errors import UsageError
from lift.evaluation.run_files import append_row, read_rows
from lift.memories.manifest import ADAPTER_STATE_FILE
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.models.generate import generate
from lift.prompts import CUT_STEP_TOKENS, PLAIN_FORM, PromptForm, end_of_answer_id, fit_context, prompt_ids, user_text

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


class Reader(Protocol):
    """Who answers. `id` and `fingerprint` name the model (and the memory); prompts have at most `window_tokens`.

    `notes`: what has to be known about its answers, for the report.
    """

    id: str
    fingerprint: str
    window_tokens: int
    notes: tuple[str, ...]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token of `text`."""
        ...

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As much of `text`, head and tail, as the window takes; and whether it was cut."""
        ...

    def read(
        self,
        questions: Sequence[str],
        contexts: Sequence[str | None],
        form: PromptForm,
        max_new_tokens: int,
        one_by_one: bool = False,
    ) -> list[Reply]:
        """Answer each question with its context in the prompt (None: none), in order."""
        ...


class AnswerCache:
    """Answers by everything that determines them, one line each; whatever was answered once is not asked again.

    Without a `path` nothing is kept, and everything is asked each time.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = {row["key"]: row["reply"] for row in read_rows(path)} if path is not None else {}

    def get(self, key: str, prompt: str) -> Reply | None:
        """The answer of that key, or None."""
        found = self._known.get(key)
        return Reply(**found, prompt=prompt) if found is not None else None

    def put(self, key: str, reply: Reply) -> None:
        """Keep an answer, on the disk when this returns; errors are not kept."""
        if reply.error is None and self._path is not None:
            values = {name: value for name, value in asdict(reply).items() if name != "prompt"}
            self._known[key] = values
            append_row(self._path, {"key": key, "reply": values})


class ModelReader:
    """The resident base model, with `memory` or without one; it switches to what it needs each time it reads."""

    def __init__(self, base: BaseModel, cache: AnswerCache, memory: Memory | None = None, batch_size: int = 16) -> None:
        self.base = base
        self.memory = memory
        self.notes: tuple[str, ...] = ()
        self._cache = cache
        self._batch_size = batch_size
        stored = memory.manifest.files[ADAPTER_STATE_FILE].sha256 if memory is not None else ""
        self.id = base.id
        self.fingerprint = f"{base.fingerprint}/{stored}"
        bound_tokens = memory.manifest.recipe.get("context", {}).get("window_tokens", 0) if memory is not None else 0
        self.window_tokens = min(bound_tokens or base.window_tokens, base.window_tokens)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token of `text`."""
        return token_offsets(self.base, text)

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As much of `text`, head and tail, as the window takes; raises UsageError for too long a question."""
        limit_tokens = self.window_tokens - max_new_tokens
        return fit_context(self.base.tokenizer, question, text, limit_tokens, CUT_STEP_TOKENS, form)

    def attach(self, form: PromptForm = PLAIN_FORM) -> Answerer | None:
        """Put the memory on the base, or take off what is there; returns the memory as `lift ask` uses it."""
        if self.memory is None:
            release(self.base.model)
            return None
        return open_memory(self.memory, self.base, form)

    def read(
        self,
        questions: Sequence[str],
        contexts: Sequence[str | None],
        form: PromptForm,
        max_new_tokens: int,
        one_by_one: bool = False,
    ) -> list[Reply]:
        """Answer greedily; a prompt that was answered before is answered from the cache."""
        self.attach()

        def ask(rows: Sequence[int]) -> list[Reply]:
            pairs = [(questions[row], contexts[row]) for row in rows]
            return self._generate([prompt_ids(self.base.tokenizer, *pair, form) for pair in pairs], max_new_tokens)

        return self._cached("read", ask, questions, contexts, form, max_new_tokens, one_by_one)

    def route(
        self,
        questions: Sequence[str],
        contexts: Sequence[str | None],
        form: PromptForm,
        max_new_tokens: int,
        one_by_one: bool = False,
    ) -> list[Reply]:
        """Answer as `lift ask --context auto` does; `contexts` is what it reads, for the record alone.

        Raises UsageError where there is no memory.
        """
        answerer = self.attach(form)
        if answerer is None:
            raise UsageError("expected a memory to choose a context for, got the base model alone")
        tokenizer = self.base.tokenizer

        def ask(rows: Sequence[int]) -> list[Reply]:
            asked = [questions[row] for row in rows]
            answers = answerer.ask_many(asked, "auto", max_new_tokens=max_new_tokens, batch_size=self._batch_size)
            return [
                Reply(
                    text=answer.text,
                    prompt="",
                    prompt_tokens=answer.prompt_tokens,
                    answer_tokens=len(tokenizer(answer.text, add_special_tokens=False)["input_ids"]),
                    seconds=answer.seconds,
                    alone=len(rows) == 1,
                )
                for answer in answers
            ]

        return self._cached("auto", ask, questions, contexts, form, max_new_tokens, one_by_one)

    def _cached(
        self,
        how: str,
        ask: Callable[[Sequence[int]], list[Reply]],
        questions: Sequence[str],
        contexts: Sequence[str | None],
        form: PromptForm,
        max_new_tokens: int,
        one_by_one: bool,
    ) -> list[Reply]:
        pairs = list(zip(questions, contexts, strict=True))
        shown = [clipped(user_text(*pair, form)) for pair in pairs]
        keys = [self._key(how, prompt_ids(self.base.tokenizer, *pair, form), max_new_tokens) for pair in pairs]
        replies = [self._cache.get(key, text) for key, text in zip(keys, shown, strict=True)]
        missing = [row for row, reply in enumerate(replies) if reply is None or (one_by_one and not reply.alone)]
        size = 1 if one_by_one else self._batch_size
        for first in range(0, len(missing), size):
            rows = missing[first : first + size]
            for row, reply in zip(rows, ask(rows), strict=True):
                replies[row] = replace(reply, prompt=shown[row])
                self._cache.put(keys[row], reply)
        return [reply for reply in replies if reply is not None]

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
        )
        seconds = (time.perf_counter() - started) / len(prompts)
        alone = len(prompts) == 1
        return [
            Reply(
                text=tokenizer.decode(ids, skip_special_tokens=True),
                prompt="",
                prompt_tokens=len(prompt),
                answer_tokens=len(ids),
                seconds=seconds,
                first_token_s=first_s[0] if alone and first_s else None,
                alone=alone,
            )
            for prompt, ids in zip(prompts, generated, strict=True)
        ]

    def _key(self, how: str, prompt: list[int], max_new_tokens: int) -> str:
        parts: list[Any] = [how, self.fingerprint, str(self.base.dtype), prompt, max_new_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def token_offsets(base: BaseModel, text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of each token of `text`, for the model's own tokenizer."""
    encoded = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(start, end) for start, end in encoded["offset_mapping"]]


def clipped(text: str, shown_chars: int = _SHOWN_CHARS) -> str:
    """`text`, or its head and tail with the number of characters that are left out between them."""
    if len(text) <= shown_chars:
        return text
    half = shown_chars // 2
    return f"{text[:half]} [… {len(text) - 2 * half:,} characters …] {text[-half:]}"
