"""The answers of the demo: asked within a time, with progress, and kept where asking again would bring the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lift.absorbing.recall_report import TimeIsOver, passes_until
from lift.answering import strategies as routes
from lift.answering.answerer import Answerer
from lift.answering.scoring import contained, f1
from lift.documents.document import Document
from lift.errors import DataError
from lift.evaluation.run_files import append_row, read_rows
from lift.models.base_model import BaseModel
from lift.training.budget import Clock

CACHE_FILE = "demo-answers.jsonl"


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
    """Replies by key in the file `path`, each on the disk as soon as it is put. A damaged file is put aside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Reply] = {}
        try:
            rows = read_rows(path)
        except (DataError, OSError):
            rows = []
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        for row in rows:
            reply = _parse_reply(row)
            if reply is not None:
                self._known[row["key"]] = reply

    def get(self, key: str) -> Reply | None:
        """The reply of that key, marked as kept, or None."""
        return self._known.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; where the disk refuses, it is asked again next time."""
        row = {"key": key, "text": reply.text, "seconds": reply.seconds, "prompt_tokens": reply.prompt_tokens}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_row(self._path, row)


def _parse_reply(row: Any) -> Reply | None:
    """The reply of a line; None where it is not one of this program's."""
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        return None
    text, seconds, tokens = (row.get(field) for field in ("text", "seconds", "prompt_tokens"))
    if not isinstance(text, str) or not isinstance(tokens, int) or not isinstance(seconds, int | float):
        return None
    return Reply(text, float(seconds), tokens, kept=True) if math.isfinite(seconds) else None


def reply_key(base: BaseModel, document: Document, request: Request, max_new_tokens: int) -> str:
    """SHA-256 (hex) of all that determines the reply of a base model to a request about a document."""
    model = [base.fingerprint, str(base.dtype), str(base.device)]
    about = [document.sha256, document.title, request.question, request.context, max_new_tokens]
    return hashlib.sha256(json.dumps([routes.VERSION, *model, *about]).encode()).hexdigest()


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
