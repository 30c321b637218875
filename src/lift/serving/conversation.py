"""Messages -> the prompts that a memory is asked with, and the answers to them -> the answer that is given.

A single question of the user's is asked exactly as `lift ask` asks it (answering.py). A dialogue is rendered by the
model's chat template with the text for the last question in front of that question; where it does not fit the window,
its oldest turns are dropped, and that is said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lift.adapters.resident import Load
from lift.answering import Answer, Answerer, Prompt, read_document, reader_adapter, stored_adapter
from lift.choosing import Vote
from lift.errors import UsageError
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.prompts import PLAIN_FORM, dialogue_ids, prompt_ids, user_text
from lift.serving.request import Message, Request

_Turn = tuple[str, str]  # role, text


@dataclass(frozen=True)
class Part:
    """A prompt, and the name of the adapter that answers it; None: the base model."""

    prompt: Prompt
    adapter: str | None


@dataclass(frozen=True, eq=False)
class Conversation:
    """What is to be generated for a request: one part, or for "auto" what is read and what is recalled.

    `loads`: the adapters that it needs, by name. `memory` is the name of the memory's own among them, and `reader` that
    of its starting point.
    """

    request: Request
    parts: tuple[Part, ...]
    answerer: Answerer | None = None
    memory: str | None = None
    reader: str | None = None
    loads: tuple[tuple[str, Load], ...] = ()
    dropped_turns: int = 0

    def answers(self, texts: Sequence[str], seconds: float) -> list[Answer]:
        """What each part said, with the sentence that supports it; `texts` in the order of the parts."""
        return [self._answer(part.prompt, text, seconds) for part, text in zip(self.parts, texts, strict=True)]

    def vote(self, answers: Sequence[Answer]) -> Vote:
        """Who judges the two answers of "auto"."""
        read, recalled = self.parts
        return Vote(
            answers=tuple(answer.text for answer in answers),
            reader=read.adapter,
            memory=recalled.adapter,
            prior=self.reader,
            evidence_ids=read.prompt.ids,
            bare_ids=recalled.prompt.ids,
        )

    def settled(self, answers: Sequence[Answer], chosen: int) -> Answer:
        """The answer that is given."""
        if self.answerer is None or len(answers) == 1:
            return answers[chosen]
        return self.answerer.settled(self.request.question, answers, chosen)

    def _answer(self, prompt: Prompt, text: str, seconds: float) -> Answer:
        if self.answerer is None:
            return Answer(text, prompt.context, (), False, prompt.truncated, len(prompt.ids), seconds)
        return self.answerer.answer(prompt, text, seconds)


class Conversations:
    """Begins conversations on a base model, and keeps the documents of the `kept` memories used last ready."""

    def __init__(self, base: BaseModel, kept: int) -> None:
        self._base = base
        self._kept = kept
        self._answerers: OrderedDict[tuple[str, ...], Answerer] = OrderedDict()  # the longest unused first

    def begin(self, request: Request, memory: Memory | None) -> Conversation:
        """What is to be generated; `memory` is the one that the request names.

        Raises UsageError where the request does not fit the window, WrongBaseModelError for a memory of other weights,
        and LibraryError where its files are damaged.
        """
        if memory is None:
            prompt, dropped = self._prompt(request, "none", lambda: (None, False), None)
            return Conversation(request, (Part(prompt, None),), dropped_turns=dropped)
        key, load = stored_adapter(memory, self._base)
        reader = reader_adapter(memory, self._base)
        answerer = self._answerer(memory, key, reader[0] if reader else None)
        loads = [(key, load)]
        if request.context != "auto" or request.prompt is not None:
            asked = [(key, "none" if request.prompt is not None else request.context)]
        else:
            asked = [(answerer.reader or key, "evidence"), (key, "none")]
            loads += [reader] if reader else []
        parts, dropped = [], 0
        for adapter, context in asked:
            prompt, fewer = self._prompted(request, context, answerer)
            parts.append(Part(prompt, adapter))
            dropped = max(dropped, fewer)
        return Conversation(request, tuple(parts), answerer, key, answerer.reader, tuple(loads), dropped)

    def forget(self, name: str) -> None:
        """Let go of the document of the memory that was called so."""
        for known in [known for known in self._answerers if known[0] == name]:
            del self._answerers[known]

    def _answerer(self, memory: Memory, key: str, reader: str | None) -> Answerer:
        known = (memory.name, key, memory.manifest.document.sha256)
        if known not in self._answerers:
            # its adapter is attached and switched by the engine
            self._answerers[known] = read_document(memory, self._base, PLAIN_FORM, None, reader=reader)
        self._answerers.move_to_end(known)
        while len(self._answerers) > self._kept:
            self._answerers.popitem(last=False)
        return self._answerers[known]

    def _prompted(self, request: Request, context: str, answerer: Answerer) -> tuple[Prompt, int]:
        tokens = request.sampling.max_tokens
        return self._prompt(
            request, context, lambda: answerer.context_text(request.question, context, tokens), answerer
        )

    def _prompt(
        self, request: Request, context: str, text: Callable[[], tuple[str | None, bool]], answerer: Answerer | None
    ) -> tuple[Prompt, int]:
        """The prompt, and how many turns were dropped; `text` gives what of the document stands in it."""
        tokenizer, dropped, cut = self._base.tokenizer, 0, False
        limit = self._base.window_tokens - request.sampling.max_tokens
        if request.messages is None:
            ids = list(tokenizer(request.prompt)["input_ids"])
        elif len(request.messages) == 1:
            if answerer is not None:
                prompt = answerer.prompt(request.question, context, request.sampling.max_tokens)
                ids, cut = list(prompt.ids), prompt.truncated
            else:
                ids = prompt_ids(tokenizer, request.question)
        else:
            shown, cut = text()
            ids, dropped = self._dialogue(request.messages, user_text(request.question, shown), limit)
        if len(ids) > limit:
            raise UsageError(
                f"expected a prompt and max_tokens that fit the model's window of {self._base.window_tokens} tokens, "
                f"got {len(ids)} and {request.sampling.max_tokens}; shorten the question, or ask for fewer tokens"
            )
        if not ids:
            raise UsageError("expected a prompt of at least one token, got an empty one")
        return Prompt(request.question, context, tuple(ids), cut), dropped

    def _dialogue(self, messages: Sequence[Message], last: str, limit: int) -> tuple[list[int], int]:
        """The dialogue with `last` as its last turn, without its oldest turns as far as it is longer than `limit`."""
        system: list[_Turn] = [(message.role, message.content) for message in messages if message.role == "system"]
        turns: list[_Turn] = [(message.role, message.content) for message in messages[:-1] if message.role != "system"]
        dropped = 0
        while True:
            ids = dialogue_ids(self._base.tokenizer, [*system, *turns, ("user", last)])
            if len(ids) <= limit or not turns:
                return ids, dropped
            # a dialogue begins with the user, so an answer goes with its question
            fewer = next((index for index in range(1, len(turns)) if turns[index][0] == "user"), len(turns))
            turns, dropped = turns[fewer:], dropped + fewer
