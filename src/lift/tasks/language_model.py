"""A task generator made of a language model: requests out, replies in, checked and handed on in document order.

Who answers is a Writer: an endpoint (`endpoint_generator.py`) or the base model itself (`self_writer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from lift.endpoints.reply_cache import ReplyCache
from lift.errors import GenerationError
from lift.models.fingerprint import cache_directory
from lift.recipes.recipe import TaskSettings
from lift.tasks.checks import ReplyChecker
from lift.tasks.generation import Generated, GenerationCounts
from lift.tasks.reply_parsing import ParsedReply, Unusable
from lift.tasks.requests import TaskRequest

Outcome = ParsedReply | Unusable
# of the cache directory
REPLIES_DIRECTORY = "tasks"
# A reply that could not be used is asked for again at no less than this: greedy would repeat it (method 7, fault 13).
RETRY_TEMPERATURE = 0.7
# Requests of family A that gave no task are replaced by others so many times, until tasks.per_document are there.
MOST_REPLACEMENTS = 8
Replace = Callable[[Sequence[TaskRequest], int, int], tuple[TaskRequest, ...]]
# A document may come in parts, and no reply about one of a sentence or two says little of the others.
FEWEST_TO_JUDGE = 3


def open_reply_cache() -> ReplyCache:
    """The replies about tasks, of all documents (`LIFT_CACHE`). Raises ReplyCacheError."""
    return ReplyCache(cache_directory() / REPLIES_DIRECTORY)


class Writer(Protocol):
    """Answers requests.

    `origin` is what its tasks say they come from, `place` names it in messages, `advice` is what to do where it fails.
    """

    origin: str
    place: str
    advice: str

    def key(self, request: TaskRequest) -> str:
        """The key under which the reply to `request` is cached."""
        ...

    def outcomes(
        self, requests: Sequence[TaskRequest], counts: GenerationCounts
    ) -> Generator[tuple[int, Outcome], None, None]:
        """The number and outcome of every request, in any order, out of the cache where that has it.

        Counts answered, from_cache, failed and retried. Closing it ends all work under way.
        """
        ...


class LanguageModelGenerator:
    """The TaskGenerator over a Writer."""

    def __init__(
        self,
        writer: Writer,
        requests: Sequence[TaskRequest],
        settings: TaskSettings,
        replace: Replace = lambda before, count, turn: (),
    ) -> None:
        """`replace` gives, for requests before, a number and a turn from 1 on, so many more requests in their place."""
        self._writer = writer
        self._requests = tuple(requests)
        self._settings = settings
        self._replace = replace
        keys = [writer.key(request) for request in self._requests]
        with open_reply_cache() as cache:
            self.cached_requests = cache.count(keys)
        self.counts = GenerationCounts(requests=len(self._requests))

    def stream(self) -> Iterator[Generated]:
        """See TaskGenerator."""
        counts = self.counts = GenerationCounts(requests=len(self._requests))
        checker = ReplyChecker(
            self._writer.origin,
            self._settings.held_out_per_sentence,
            len(self._requests),
            counts.rejected,
            bare_summaries=self._settings.prompt != "plain",
        )
        asked = self._requests
        yield from self._ask(asked, checker)
        for turn in range(1, MOST_REPLACEMENTS + 1):
            missing, kept = self._settings.per_document - counts.kept, counts.kept
            more = self._replace(asked, missing, turn) if missing > 0 and counts.answered else ()
            if not more:
                break
            counts.requests += len(more)
            asked += more
            yield from self._ask(more, checker)
            if counts.kept == kept and len(more) >= FEWEST_TO_JUDGE:  # the next ones would hardly bring any
                break
        if counts.requests >= FEWEST_TO_JUDGE and not counts.answered:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.failed.items()))
            raise GenerationError(
                f"expected tasks from {self._writer.place}, got no usable reply to any of {counts.requests} requests "
                f"({reasons}); {self._writer.advice}"
            )

    def _ask(self, requests: Sequence[TaskRequest], checker: ReplyChecker) -> Iterator[Generated]:
        early: dict[int, Outcome] = {}
        following = 0
        with closing(self._writer.outcomes(requests, self.counts)) as outcomes:
            for number, outcome in outcomes:
                early[number] = outcome
                while following in early:
                    request, arrived = requests[following], early.pop(following)
                    tasks = checker.tasks(request, arrived) if isinstance(arrived, ParsedReply) else ()
                    self.counts.kept += len(tasks)
                    following += 1
                    yield Generated(request.position, tasks)
