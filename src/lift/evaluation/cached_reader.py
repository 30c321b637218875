"""Answers that were given before: found by everything that determines them, so that none is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

from lift.answering import strategies as routes
from lift.endpoints.reply_cache import ReplyCache, request_key
from lift.errors import UsageError
from lift.evaluation.reader import ModelReader, QuestionBatch, Reader, Reply
from lift.packing.prompts import PromptForm

_CHUNK = 16


class CachedReader:
    """A reader that asks `reader` only what `cache` does not know, and keeps each chunk of replies as it comes."""

    def __init__(self, reader: Reader, cache: ReplyCache) -> None:
        self.id = reader.id
        self.fingerprint = reader.fingerprint
        self.window_tokens = reader.window_tokens
        self._reader = reader
        self._cache = cache

    @property
    def notes(self) -> Sequence[str]:
        """Those of the reader."""
        return self._reader.notes

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """As the reader's."""
        return self._reader.offsets(text)

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As the reader's."""
        return self._reader.fit(question, text, form, max_new_tokens)

    def read(self, batch: QuestionBatch) -> list[Reply]:
        """As the reader's. One by one, a reply is known only if it was asked alone, for the time."""
        return self._known_or_asked(self._reader.read, "read", batch)

    def route(self, batch: QuestionBatch, context: str) -> list[Reply]:
        """As a ModelReader's. Any other has one way to answer closed book, read's; raises UsageError for "auto"."""
        reader = self._reader
        if isinstance(reader, ModelReader):
            ask = partial(reader.route, context=context)
            return self._known_or_asked(ask, f"route/{routes.VERSION}/{context}", batch)
        if context != "none":
            raise UsageError(f"expected a memory to choose a context for, got {self.id}")
        return self.read(batch)

    def _known_or_asked(
        self, ask: Callable[[QuestionBatch], list[Reply]], how: str, batch: QuestionBatch
    ) -> list[Reply]:
        form, pairs = asdict(batch.form), batch.pairs
        shared = {"how": how, "model": self.fingerprint, "form": form, "max_new_tokens": batch.max_new_tokens}
        keys = [request_key(**shared, question=question, context=context) for question, context in pairs]
        replies = {row: Reply(**json.loads(told)) for row, key in enumerate(keys) if (told := self._cache.get(key))}
        missing = [
            row for row in range(len(keys)) if row not in replies or (batch.one_by_one and not replies[row].alone)
        ]
        size = 1 if batch.one_by_one else _CHUNK
        for first in range(0, len(missing), size):
            rows = missing[first : first + size]
            questions, contexts = [pairs[row][0] for row in rows], [pairs[row][1] for row in rows]
            asked = replace(batch, questions=questions, contexts=contexts)
            for row, reply in zip(rows, ask(asked), strict=True):
                replies[row] = reply
                if reply.error is None:
                    self._cache.put(keys[row], json.dumps(asdict(reply)))
        return [replies[row] for row in range(len(keys))]
