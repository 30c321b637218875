"""Clients that ask over HTTP, one question after the other, and what came of it: nothing of Lift's own is between.

Every client has a thread and a connection, reads its answer as it comes, and asks the next question when it is whole.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lift.bench.arithmetic import percentile
from lift.bench.harbours import Harbour

_PATH = "/v1/chat/completions"
_PATIENCE_S = 900.0
_AFTER_A_FAULT_S = 0.2  # a server that is gone would be asked a thousand times a second
_FAULTS_SHOWN = 5
_DATA = "data: "
_DONE = "[DONE]"


@dataclass(frozen=True)
class Load:
    """So many clients ask for so many seconds, each at least once."""

    clients: int
    seconds: float
    context: str = "auto"


@dataclass(frozen=True)
class TimedReply:
    """The outcome of a question to the memory of place number `place`; seconds since the load began.

    `first_s`: when the first of its text was there. `fault`: the error that came instead of the answer or in the middle
    of it. `whole`: the server said that the answer is at its end.
    """

    place: int
    begun_s: float
    first_s: float | None
    ended_s: float
    text: str
    whole: bool
    fault: str | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no answer."""
        return self.fault is not None or not self.whole or not self.text.strip()


def put_under(url: str, load: Load, places: Sequence[Harbour]) -> list[TimedReply]:
    """Let the clients ask the server at `url`; every answer that was asked for in time is waited for."""
    begun = time.monotonic()
    start = threading.Barrier(load.clients)

    def now() -> float:
        return time.monotonic() - begun

    def ask(number: int) -> list[TimedReply]:
        client = _Client(url, load.context, now)
        replies = []
        start.wait()
        for turn in itertools.count():
            if turn > 0 and now() >= load.seconds:
                break
            place = (number + turn) % len(places)  # neighbours ask different memories, and all are asked alike
            questions = places[place].questions
            replies.append(client.ask(place, places[place].memory, questions[turn % len(questions)]))
            if replies[-1].fault is not None:
                time.sleep(_AFTER_A_FAULT_S)
        client.close()
        return replies

    with ThreadPoolExecutor(load.clients) as threads:
        return [reply for replies in threads.map(ask, range(load.clients)) for reply in replies]


def summary(
    replies: Sequence[TimedReply], load: Load, places: Sequence[Harbour], count_tokens: Callable[[str], int]
) -> dict[str, Any]:
    """How many answers a second there were, how long they took, and whether each is its own memory's.

    Throughput is that of `took_s`, until the last answer was whole. `mixed` answers hold the secret of another memory,
    `own` that of the one that was asked. `lost`: no answer came; `failures`: those of the lost for which an error came.
    """
    there = [reply for reply in replies if not reply.lost]
    took_s = max((reply.ended_s for reply in replies), default=load.seconds)
    faults = Counter(reply.fault for reply in replies if reply.fault is not None)
    return {
        "clients": load.clients,
        "seconds": load.seconds,
        "answers": len(there),
        "took_s": took_s,
        "requests_per_s": len(there) / took_s,
        "tokens_per_s": sum(count_tokens(reply.text) for reply in there) / took_s,
        "first_token_s": _percentiles([reply.first_s - reply.begun_s for reply in there if reply.first_s is not None]),
        "answer_s": _percentiles([reply.ended_s - reply.begun_s for reply in there]),
        "failures": sum(faults.values()),
        "faults": dict(faults.most_common(_FAULTS_SHOWN)),
        "lost": sum(reply.lost for reply in replies),
        "mixed": sum(is_mixed(reply, places) for reply in replies),
        "own": sum(_holds(reply.text, places[reply.place].secret) for reply in replies),
    }


def is_mixed(reply: TimedReply, places: Sequence[Harbour]) -> bool:
    """Whether the answer holds what only another memory knows."""
    return any(_holds(reply.text, place.secret) for number, place in enumerate(places) if number != reply.place)


def _holds(text: str, secret: str) -> bool:
    return secret in text.lower()


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    return {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)} if values else None


class _Client:
    """One connection, which is opened anew after a fault."""

    def __init__(self, url: str, context: str, now: Callable[[], float]) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_PATIENCE_S)
        self._context = context
        self._now = now

    def ask(self, place: int, memory: str, question: str) -> TimedReply:
        """Ask, and read what comes; an error is a reply too."""
        begun = self._now()
        body = {
            "model": memory,
            "messages": [{"role": "user", "content": question}],
            "context": self._context,
            "stream": True,
        }
        pieces: list[str] = []
        first: float | None = None
        whole, fault = False, None
        try:
            self._connection.request("POST", _PATH, json.dumps(body), {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            if response.status != http.client.OK:
                fault = f"status {response.status}: {response.read()[:200].decode('utf-8', 'replace')}"
            else:
                for data in _events(response):
                    if data == _DONE:
                        whole = True
                        continue
                    said = json.loads(data)
                    if "error" in said:
                        fault = f"error: {said['error'].get('message', '')[:200]}"
                    for choice in said.get("choices", ()):
                        piece = choice.get("delta", {}).get("content") or ""
                        if piece and first is None:
                            first = self._now()
                        pieces.append(piece)
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
            self.close()
        return TimedReply(place, begun, first, self._now(), "".join(pieces), whole, fault)

    def close(self) -> None:
        self._connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each event of the stream."""
    for line in response:
        text = line.decode("utf-8").rstrip("\r\n")
        if text.startswith(_DATA):
            yield text.removeprefix(_DATA)
