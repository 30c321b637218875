"""Messages -> the strategy to their answer (strategies.py), and the adapters that it needs.

A single question of the user's is asked exactly as `lift ask` asks it. A dialogue takes the same strategies, rendered
by the model's chat template with each text in front of the last question; where it does not fit the window, its oldest
turns are dropped, and that is said. A question that leans on earlier turns is asked in full where it can be told what
it means, and searched for with their words where it cannot (follow_up.py). Raw text is continued as it is, and the base
model is a memory of nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from lift.adapters.resident import Load
from lift.answering.answer import Answer
from lift.answering.answerer import reader_adapter, stored_adapter, strategies_of
from lift.answering.follow_up import PosedQuestion, pose_question
from lift.answering.steps import MOST_CHARS_A_TOKEN, ModelRequest
from lift.answering.strategies import MAX_CITED_TOKENS, AnsweringAdapters, Strategies
from lift.documents.document import Document
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.models.template_text import TemplateQuotes
from lift.packing.prompts import PLAIN_FORM, dialogue_ids, user_text
from lift.serving.request import Message, Request

_Turn = tuple[str, str]  # role, text
_JOINED_TOKENS = 2  # of a turn, at most, that are one with what the template puts around it


class Dialogue:
    """Messages as the prompts of their last question, at most `limit_tokens` each as far as older turns can go.

    `posed`: that question as it is to be answered; one that is complete goes without the older turns. `dropped_turns`:
    the most that any prompt had to go without for want of room.
    """

    def __init__(self, tokenizer: Any, messages: Sequence[Message], limit_tokens: int) -> None:
        self.dropped_turns = 0
        self._tokenizer = tokenizer
        self._limit_tokens = limit_tokens
        self._system = [(message.role, message.content) for message in messages if message.role == "system"]
        self._turns = [(message.role, message.content) for message in messages[:-1] if message.role != "system"]
        self.posed = pose_question(_exchanges(self._turns), messages[-1].content)
        self._counted: dict[str, int] = {}  # tokens of what turns say
        self._leaves_turns = self.posed.is_complete and self.posed.question != messages[-1].content

    def ids(self, question: str, text: str | None) -> list[int]:
        """Tokens of the dialogue with this question as its last turn, and the text in front of the question.

        A strategy may put words behind the question, which it knows as `posed.searched`.
        """
        turns: list[_Turn] = [] if self._leaves_turns else self._turns
        question = self.posed.question + question.removeprefix(self.posed.searched)
        last = ("user", user_text(question, text))
        kept = self._kept_turns(turns, last)
        dropped, turns = len(turns) - len(kept), kept
        while True:
            ids = dialogue_ids(self._tokenizer, [*self._system, *turns, last])
            if len(ids) <= self._limit_tokens or not turns:
                self.dropped_turns = max(self.dropped_turns, dropped)
                return ids
            # a dialogue begins with the user, so an answer goes with its question
            fewer = _next_user_turn(turns, 1)
            turns, dropped = turns[fewer:], dropped + fewer

    def _kept_turns(self, turns: Sequence[_Turn], last: _Turn) -> list[_Turn]:
        """The latest turns that may fit beside the last one, each tokenised once; a rendered prompt tells whether."""
        room_tokens = self._limit_tokens - sum(map(self._least_tokens, [*self._system, last]))
        start = len(turns)
        while start > 0 and room_tokens >= 0:
            start -= 1
            room_tokens -= self._least_tokens(turns[start])
        return [*turns[start if start == 0 and room_tokens >= 0 else _next_user_turn(turns, start + 1) :]]

    def _least_tokens(self, turn: _Turn) -> int:
        """The least that a turn takes in a prompt; one that is too long by its characters is not tokenised."""
        said = turn[1].strip()
        if len(said) > MOST_CHARS_A_TOKEN * self._limit_tokens:
            return self._limit_tokens + 1
        if said not in self._counted:
            self._counted[said] = max(0, len(content_ids(self._tokenizer, said)) - _JOINED_TOKENS)
        return self._counted[said]


def _next_user_turn(turns: Sequence[_Turn], start: int) -> int:
    """The first place from `start` on where the user speaks; behind the last turn where there is none."""
    return next((index for index in range(start, len(turns)) if turns[index][0] == "user"), len(turns))


def _exchanges(turns: Sequence[_Turn]) -> list[tuple[str, str]]:
    """The questions of a dialogue, each with what was said behind it."""
    found: list[tuple[str, str]] = []
    for role, said in turns:
        if role == "user":
            found.append((said, ""))
        elif found:
            found[-1] = (found[-1][0], said)
    return found


class Conversation:
    """A request on its way: `requests` are those to the model now, and `answer` is there in the end.

    `context` as for Strategies.to. `in_one_step`: it asks for one text alone. `loads`: the adapters that it needs, by
    name.
    """

    def __init__(
        self,
        request: Request,
        strategies: Strategies,
        loads: Sequence[tuple[str, Load]],
        dialogue: Dialogue | None,
    ) -> None:
        self.request = request
        self.context = "none" if request.prompt is not None or strategies.adapters.memory is None else request.context
        self._question = dialogue.posed.searched if dialogue else request.question
        self.in_one_step = request.prompt is not None or strategies.in_one_step(self.context, self._question)
        self.loads = tuple(loads)
        self.requests: Sequence[ModelRequest] = ()
        self.answer: Answer | None = None
        self._dialogue = dialogue
        self._strategies = strategies
        way = strategies.once if self.in_one_step else strategies.to
        self._strategy = way(self._question, self.context, request.sampling.max_tokens)
        self.advance(None)

    @property
    def memory(self) -> str | None:
        """Name of the memory's own adapter."""
        return self._strategies.adapters.memory

    @property
    def posed(self) -> PosedQuestion | None:
        """The question in its dialogue, None where it stands alone."""
        return self._dialogue.posed if self._dialogue else None

    @property
    def quotes(self) -> TemplateQuotes:
        """The chat template's own text, which is no answer."""
        return self._strategies.quotes

    @property
    def dropped_turns(self) -> int:
        """The oldest turns that some prompt had to go without."""
        return self._dialogue.dropped_turns if self._dialogue else 0

    def advance(self, results: Any) -> None:
        """Take the results of the requests, in their order (first None), and go on to the next, or to the answer.

        Raises UsageError where a text does not fit the window.
        """
        try:
            self.requests = self._strategy.send(results)
        except StopIteration as stop:
            self.requests, self.answer = (), stop.value

    def partial_answer(self, text: str) -> Answer:
        """The answer where there is no time for the rest of the strategy; `text` is its first, as far as it came."""
        context = "evidence" if self.context == "auto" else self.context
        prompt = self._strategies.prompt(self._question, context, self.request.sampling.max_tokens)
        return self._strategies.answer(prompt, text)


class Conversations:
    """Begins conversations on a base model, and keeps the documents of the `kept` memories used last ready.

    From any thread, but of one memory from one thread at a time.
    """

    def __init__(self, base: BaseModel, kept: int) -> None:
        self._base = base
        self._kept = kept
        self._lock = threading.Lock()
        self._strategies: OrderedDict[tuple[str | None, ...], Strategies] = OrderedDict()  # the longest unused first
        self._bare = Strategies(base, Document("", "", ""), (), AnsweringAdapters())

    def begin(self, request: Request, memory: StoredMemory | None) -> Conversation:
        """The conversation with its first requests; `memory` is the one that the request names.

        Raises UsageError where the request does not fit the window, WrongBaseModelError for a memory of other weights,
        and LibraryError where its files are damaged.
        """
        tokens = request.sampling.max_tokens
        strategies, loads = self._bare, []
        if memory is not None:
            stored, reader = stored_adapter(memory, self._base), reader_adapter(memory, self._base)
            strategies, loads = self._of(memory, stored[0], reader[0] if reader else None), [stored]
            if request.prompt is None and not strategies.in_one_step(request.context):
                loads += [reader] if reader else []
                tokens = max(tokens, MAX_CITED_TOKENS)
        dialogue = None
        if request.messages is None:
            ids = list(self._base.tokenizer(request.prompt)["input_ids"])
            strategies = strategies.rendering(lambda _question, _text: ids, continues=True)
        elif len(request.messages) > 1:
            dialogue = Dialogue(self._base.tokenizer, request.messages, self._base.window_tokens - tokens)
            strategies = strategies.rendering(dialogue.ids)
        return Conversation(request, strategies, loads, dialogue)

    def forget(self, name: str) -> None:
        """Let go of the document of the memory that was called so."""
        with self._lock:
            for known in [known for known in self._strategies if known[0] == name]:
                del self._strategies[known]

    def _of(self, memory: StoredMemory, key: str, reader: str | None) -> Strategies:
        known = (memory.name, key, reader, memory.manifest.document.sha256)
        with self._lock:
            strategies = self._strategies.pop(known, None)
        if strategies is None:  # a long document takes seconds, which others do not wait for
            strategies = strategies_of(memory, self._base, PLAIN_FORM, key, reader)
        with self._lock:
            self._strategies[known] = strategies
            while len(self._strategies) > self._kept:
                self._strategies.popitem(last=False)
        return strategies
