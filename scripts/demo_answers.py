"""The answers of the demo: asked within a time, with progress, and kept where asking again would bring the same."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lift.absorbing.recall_report import TimeIsOver, passes_until
from lift.answering import strategies as routes
from lift.answering.answerer import Answerer
from lift.answering.scoring import contained, f1
from lift.documents.document import Document
from lift.endpoints.reply_cache import REPLIES_FILE, ReplyCache, request_key
from lift.errors import ReplyCacheError
from lift.models.base_model import BaseModel
from lift.training.budget import Clock

CACHE_DIRECTORY = "demo"


@dataclass(frozen=True)
class Request:
    """A question, and what of the document is in the prompt."""

    question: str
    context: str


@dataclass(frozen=True)
class Reply:
    """What was answered, and what it cost when it was asked; `kept`: that was in an earlier run."""

    text: str
    seconds: float
    prompt_tokens: int
    kept: bool = False


@dataclass(frozen=True)
class Column:
    """What one way of asking brought, over all questions: those that were answered, those right, mean F1, costs."""

    answered: int
    right: int
    overlap: float
    seconds: float
    prompt_tokens: int
    kept: int


Asker = Callable[[Request, Clock, float], Reply]
"""Answers a request before a moment of a clock, or raises TimeIsOver."""
Progress = Callable[[int, int, float | None], None]
"""Is told how many are done, of how many, and how many seconds the others may take."""


class KeptReplies:
    """Replies by key in `directory`, each on the disk as soon as it is put. A damaged file is put aside.

    Where the disk refuses, nothing is kept, and all is asked again next time.
    """

    def __init__(self, directory: Path) -> None:
        self._cache: ReplyCache | None = None
        try:
            self._cache = ReplyCache(directory)
        except ReplyCacheError:
            with suppress(OSError, ReplyCacheError):
                (directory / REPLIES_FILE).replace(directory / "damaged.sqlite3")
                self._cache = ReplyCache(directory)

    def get(self, key: str) -> Reply | None:
        """The reply of that key, marked as kept, or None."""
        with suppress(ReplyCacheError):
            told = self._cache.get(key) if self._cache else None
            return Reply(**json.loads(told), kept=True) if told else None
        return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        row = {"text": reply.text, "seconds": reply.seconds, "prompt_tokens": reply.prompt_tokens}
        with suppress(ReplyCacheError):
            if self._cache:
                self._cache.put(key, json.dumps(row))


def reply_key(base: BaseModel, document: Document, request: Request, max_new_tokens: int) -> str:
    """SHA-256 (hex) of all that determines the reply of a base model to a request about a document."""
    model = [base.fingerprint, str(base.dtype), str(base.device)]
    about = [document.sha256, document.title, request.question, request.context, max_new_tokens]
    return request_key(strategies=routes.VERSION, model=model, about=about)


def asker_of(answerer: Answerer, max_new_tokens: int | None = None) -> Asker:
    """Asks `answerer`; its model is stopped before the first pass after that moment."""

    def ask(request: Request, clock: Clock, ends_at: float) -> Reply:
        with passes_until(answerer.base.model, lambda _: clock() >= ends_at):
            answer = answerer.ask_many([request.question], request.context, max_new_tokens=max_new_tokens)[0]
        return Reply(answer.text, answer.seconds, answer.prompt_tokens)

    return ask


def ask_all(
    requests: Sequence[Request],
    ask: Asker,
    *,
    clock: Clock,
    ends_at: float,
    on_progress: Progress,
    kept: KeptReplies | None = None,
    key_of: Callable[[Request], str] = lambda request: request.question,
) -> dict[Request, Reply]:
    """The replies to `requests`, as many as there is time for until `ends_at`; those that are `kept` cost none."""
    replies: dict[Request, Reply] = {}
    if kept is not None:
        replies = {request: reply for request in requests if (reply := kept.get(key_of(request))) is not None}
    missing = [request for request in requests if request not in replies]
    took_s: dict[str, list[float]] = defaultdict(list)
    for done, request in enumerate(missing):
        on_progress(done, len(missing), seconds_left(missing[done:], took_s))
        begun = clock()
        try:
            reply = ask(request, clock, ends_at)
        except TimeIsOver:
            break
        took_s[request.context].append(clock() - begun)
        replies[request] = reply
        if kept is not None:
            kept.put(key_of(request), reply)
    return replies


def seconds_left(requests: Sequence[Request], took_s: Mapping[str, Sequence[float]]) -> float | None:
    """What `requests` will take, by what those of the same context took, or of any; None before the first one."""
    measured = [seconds for each in took_s.values() for seconds in each]
    if not measured:
        return None
    return sum(fmean(took_s.get(request.context) or measured) for request in requests)


def sum_up(replies: Sequence[Reply | None], golds: Sequence[Sequence[str]]) -> Column:
    """What the replies to all questions come to; one that is missing is not right."""
    pairs = [(reply, gold) for reply, gold in zip(replies, golds, strict=True) if reply is not None]
    return Column(
        answered=len(pairs),
        right=sum(bool(contained(reply.text, gold)) for reply, gold in pairs),
        overlap=sum(f1(reply.text, gold) for reply, gold in pairs) / max(len(golds), 1),
        seconds=sum(reply.seconds for reply, _ in pairs),
        prompt_tokens=sum(reply.prompt_tokens for reply, _ in pairs),
        kept=sum(reply.kept for reply, _ in pairs),
    )


def note_of(columns: Mapping[str, Column], questions: int) -> list[str]:
    """Sentences under the table: which answers are of an earlier run, and which there was no time for."""
    notes = []
    kept = sum(column.kept for column in columns.values())
    if kept:
        names = " and ".join(f"“{name}”" for name, column in columns.items() if column.kept)
        notes.append(f"{kept} answers of {names} are kept from the run before, with their seconds of then.")
    unasked = sum(questions - column.answered for column in columns.values())
    if unasked:
        notes.append(f"{unasked} answers are missing: there was no time to ask. The same command asks for them.")
    return notes
