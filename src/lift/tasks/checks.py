"""Written tasks -> tasks that may be trained on: what is empty, unsupported or asked before is rejected and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lift.tasks.paragraphs import question_about, summary_fault
from lift.tasks.reply_parsing import ParsedReply, WrittenTask
from lift.tasks.requests import TaskRequest
from lift.tasks.selection import hold_out, normalised
from lift.tasks.support import SupportingText, content_words
from lift.tasks.task import Task

LONGEST_QUESTION_CHARS = 500
LONGEST_ANSWER_CHARS = 1_000
SHORTEST_EVIDENCE_WORDS = 3
# Small models ask what the passage is, which means nothing to somebody who does not see the prompt.
_WORDS_OF_THE_PROMPT = frozenset({"passage", "excerpt", "paragraph", "text"})
# Family A holds back one task in so many, and only where there are at least as many.
REQUESTS_PER_PROBE = 10
# Family B: a sentence whose tasks all have answers of their own gives up one of so many.
TASKS_PER_PROBE = 4


class ReplyChecker:
    """Checks the replies of one run, in document order; `rejected` is counted into by reason.

    `bare_summaries`: the prompt itself asks which paragraph a summary is of, so that the question is the summary alone.
    """

    def __init__(
        self, origin: str, held_out: int, requests: int, rejected: Counter[str], *, bare_summaries: bool = False
    ) -> None:
        self._origin = origin
        self._held_out = held_out
        self._bare_summaries = bare_summaries
        self._probes_of_family_a = held_out > 0 and requests >= REQUESTS_PER_PROBE
        self._rejected = rejected
        self._asked: set[str] = set()
        self._kept_of_family_a = 0

    def tasks(self, request: TaskRequest, reply: ParsedReply) -> tuple[Task, ...]:
        """The tasks of `reply` that pass, those that probe recall marked as held out and last."""
        if request.form == "paragraph":
            return tuple(self._some_held_out(request, self._summarised(request, reply.summary)))
        self._reject("malformed", reply.malformed)
        self._reject("more than asked for", len(reply.tasks) - request.limit)
        support = _support(request)
        kept: list[Task] = []
        for written in reply.tasks[: request.limit]:
            if self._passes(written.question, fault(request, written, support)):
                kept.append(Task(written.question, written.answer, _evidence(request, written), self._origin))
        return tuple(self._some_held_out(request, kept))

    def _summarised(self, request: TaskRequest, summary: str) -> list[Task]:
        question = summary if self._bare_summaries else question_about(request.title, summary, request.target)
        if not self._passes(question, summary_fault(summary, request.shown, request.target)):
            return []
        evidence = tuple(sentence.index for sentence in request.shown)
        return [Task(question, request.target, evidence, self._origin)]

    def _passes(self, question: str, reason: str | None) -> bool:
        asked = normalised(question)
        reason = reason or ("asked before" if asked in self._asked else None)
        if reason:
            self._reject(reason, 1)
        else:
            self._asked.add(asked)
        return reason is None

    def _reject(self, reason: str, count: int) -> None:
        if count > 0:
            self._rejected[reason] += count

    def _some_held_out(self, request: TaskRequest, kept: list[Task]) -> list[Task]:
        if request.form != "sentence":
            self._kept_of_family_a += len(kept)
            is_probe = self._probes_of_family_a and self._kept_of_family_a % REQUESTS_PER_PROBE == 0
            return [replace(task, held_out=is_probe) for task in kept]
        marked = hold_out(kept, self._held_out)
        if self._held_out and len(kept) >= TASKS_PER_PROBE and not any(task.held_out for task in marked):
            return [*kept[:-1], replace(kept[-1], held_out=True)]
        return marked


def doubt(request: TaskRequest, reply: ParsedReply) -> str | None:
    """Why family A is worth asking again: the one task or summary would be rejected (method 1.2). None for family B."""
    if request.form == "paragraph":
        return summary_fault(reply.summary, request.shown, request.target)
    if not request.windowed or not reply.tasks:
        return None
    return fault(request, reply.tasks[0], _support(request))


def fault(request: TaskRequest, written: WrittenTask, support: SupportingText) -> str | None:
    """The first reason to reject `written`, or None: everything but whether it was asked before."""
    if not written.question or not written.answer:
        return "empty"
    if len(written.question) > LONGEST_QUESTION_CHARS or len(written.answer) > LONGEST_ANSWER_CHARS:
        return "too long"
    named = set(content_words(written.question))
    if not named & support.tokens:
        return "names nothing of the text"
    if named & _WORDS_OF_THE_PROMPT - support.tokens:
        return "asks about the prompt"
    if request.windowed:
        evidence = [" ".join(piece.split()) for piece in written.evidence if piece.strip()]
        passage, whole = _passage(request), {" ".join(sentence.text.split()) for sentence in request.shown}
        if not evidence or any(piece not in passage for piece in evidence):
            return "evidence not in the text"
        if any(len(piece.split()) < SHORTEST_EVIDENCE_WORDS and piece not in whole for piece in evidence):
            return "evidence too short"
    return None if support.holds(written.answer) else "unsupported"


def _support(request: TaskRequest) -> SupportingText:
    return SupportingText.of(f"{request.title}\n{_passage(request)}")


def _passage(request: TaskRequest) -> str:
    return " ".join(" ".join(sentence.text.split()) for sentence in request.shown)


def _evidence(request: TaskRequest, written: WrittenTask) -> tuple[int, ...]:
    """Indices of the evidence sentences, the one that contains the answer first."""
    if not request.windowed:
        return (request.shown[-1].index,)
    found = sorted({place for piece in written.evidence for place in _places(request, " ".join(piece.split()))})
    found.sort(key=lambda place: not SupportingText.of(request.shown[place].text).holds(written.answer))
    return tuple(request.shown[place].index for place in found)


def _places(request: TaskRequest, piece: str) -> Sequence[int]:
    """Which of the sentences shown the first occurrence of `piece` in the passage touches."""
    if not piece:
        return []
    first = _passage(request).index(piece)
    places, start = [], 0
    for place, sentence in enumerate(request.shown):
        end = start + len(" ".join(sentence.text.split()))
        if start < first + len(piece) and first < end:
            places.append(place)
        start = end + 1
    return places
