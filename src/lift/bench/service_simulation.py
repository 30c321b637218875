"""A service of very many memories, simulated: queues, tiers of memory, machines and money from measured unit costs.

Questions come at random (Poisson) and ask memories by Zipf's law. A memory belongs to the server that consistent
hashing gives it, the most asked ones to several, of which the one with the shortest queue is asked. A server answers in
`slots` places, first come first served; an adapter that it does not hold (least recently used ones go) is loaded from
its disk, or else from the object store, in the place that answers. Everything is an event on one clock; nothing waits.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import math
import random
import tomllib
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from lift.errors import UsageError

_POINTS_A_SERVER = 64
_HOURS_A_MONTH = 730.0
_WARM_UP_SHARE = 0.3
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """Measured unit costs: seconds, bytes, and the price of a machine an hour in any currency.

    `answer_s`: of one place of a busy server; `attach_s`: an adapter that is in the machine's memory made ready;
    `disk_s` and `store_s`: an adapter brought from the disk, and from the object store.
    """

    absorb_s_per_token: float
    adapter_bytes: float
    answer_s: float
    attach_s: float = 0.0
    disk_s: float = 0.0
    store_s: float = 0.0
    machine_price_per_h: float = 0.0
    store_price_per_gb_month: float = 0.0

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if not 0 <= value < math.inf]
        if wrong or not self.answer_s:
            raise UsageError(
                f"expected costs of at least 0 and answers that take time, got {wrong or 'answer_s'} wrong"
            )


@dataclass(frozen=True, kw_only=True)
class Service:
    """The service to simulate: its load and its machines. `zipf`: the exponent, 0 for memories that are asked alike.

    `held` and `on_disk`: adapters that a server holds in its memory and on its disk. `replica_share`: a memory has as
    many servers as it takes so that it fills at most this share of the places of each; 0: one, however it is asked.
    """

    memories: int
    questions_per_s: float
    servers: int
    slots: int = 1
    held: int = 32
    on_disk: int = 10_000
    zipf: float = 1.0
    replica_share: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.memories, self.servers, self.slots, self.held, self.on_disk)
        if min(counts) < 1 or not 0 <= self.replica_share <= 1 or self.questions_per_s <= 0 or self.zipf < 0:
            raise UsageError(f"expected at least one of each, a rate above 0 and a share up to 1, got {self}")


def read_service(path: Path) -> tuple[UnitCosts, Service]:
    """The tables [costs] and [service] of a TOML file; raises UsageError for a file that is none, or says more."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"expected a TOML file that can be read, got {str(path)!r} ({error}); check it") from None
    if set(tables) != {"costs", "service"}:
        raise UsageError(f"expected the tables costs and service in {str(path)!r}, got {', '.join(tables) or 'none'}")
    return _table(UnitCosts, tables["costs"], path), _table(Service, tables["service"], path)


def _table(kind: type[_Kind], values: Any, path: Path) -> _Kind:
    known = {each.name: each.type for each in fields(kind)}  # type: ignore[arg-type]
    wrong = [
        name
        for name, value in (values if isinstance(values, dict) else {"": 0}).items()
        if name not in known
        or isinstance(value, bool)
        or not isinstance(value, int if known[name] == "int" else (int, float))
    ]
    if wrong:
        raise UsageError(f"expected numbers named {', '.join(known)} in {str(path)!r}, got {wrong[0]!r}; mend it")
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(
            f"expected all values that are needed in {str(path)!r}, got less ({error}); add them"
        ) from None


@dataclass(frozen=True)
class SimulatedService:
    """Shares and seconds over all questions after the warm-up; `busy`: mean share of places that answer.

    `wait_s` is in the queue, `latency_s` until the answer is there.
    """

    questions: int
    busy: float
    busiest: float
    held_share: float
    disk_share: float
    store_share: float
    wait_mean_s: float
    wait_p95_s: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p95_s: float
    price_per_million_questions: float


@dataclass
class _Server:
    held: OrderedDict[int, None] = field(default_factory=OrderedDict)
    on_disk: OrderedDict[int, None] = field(default_factory=OrderedDict)
    queue: deque[tuple[float, int]] = field(default_factory=deque)
    working: int = 0
    worked_s: float = 0.0


def simulate_service(costs: UnitCosts, service: Service, seconds: float, seed: int = 0) -> SimulatedService:
    """So many seconds of the service; the first three tenths fill its tiers and are not counted.

    Raises UsageError for no time.
    """
    if seconds <= 0:
        raise UsageError(f"expected some seconds to simulate, got {seconds:g}")
    return _Simulation(costs, service, seconds, random.Random(seed)).run()


class _Simulation:
    def __init__(self, costs: UnitCosts, service: Service, seconds: float, chance: random.Random) -> None:
        self._costs, self._service, self._seconds, self._chance = costs, service, seconds, chance
        self._counted_from = _WARM_UP_SHARE * seconds
        self._servers = [_Server() for _ in range(service.servers)]
        self._placing = Placing(service.servers)
        self._homes: dict[int, Sequence[int]] = {}
        self._waits: list[float] = []
        self._latencies: list[float] = []
        self._tiers: Counter[str] = Counter()
        self._places_a_weight = 0.0

    def run(self) -> SimulatedService:
        service, chance = self._service, self._chance
        weights = list(accumulate(rank**-service.zipf for rank in range(1, service.memories + 1)))
        self._places_a_weight = service.questions_per_s * self._costs.answer_s / weights[-1]
        events: list[tuple[float, int, int]] = []  # when, server, question number: an answer is done
        number, now = 0, chance.expovariate(service.questions_per_s)
        while now < self._seconds:
            while events and events[0][0] <= now:
                done, at, _ = heapq.heappop(events)
                self._servers[at].working -= 1
                number = self._begin(events, at, done, number)
            memory = bisect.bisect(weights, chance.random() * weights[-1])
            at = min(self._home(memory), key=lambda each: self._servers[each].working + len(self._servers[each].queue))
            self._servers[at].queue.append((now, memory))
            number = self._begin(events, at, now, number)
            now += chance.expovariate(service.questions_per_s)
        return self._summary()

    def _home(self, memory: int) -> Sequence[int]:
        if memory not in self._homes:
            service, replicas = self._service, 1
            if service.replica_share:
                places = self._places_a_weight * (memory + 1) ** -service.zipf
                replicas = max(math.ceil(places / (service.slots * service.replica_share)), 1)
            self._homes[memory] = self._placing.servers_of(str(memory), replicas)
        return self._homes[memory]

    def _begin(self, events: list[tuple[float, int, int]], at: int, now: float, number: int) -> int:
        server = self._servers[at]
        while server.queue and server.working < self._service.slots:
            came, memory = server.queue.popleft()
            tier, load_s = self._load(server, memory)
            took = load_s + self._costs.answer_s
            server.working += 1
            heapq.heappush(events, (now + took, at, number))
            number += 1
            if came >= self._counted_from:
                server.worked_s += took
                self._tiers[tier] += 1
                self._waits.append(now - came)
                self._latencies.append(now - came + took)
        return number

    def _load(self, server: _Server, memory: int) -> tuple[str, float]:
        costs, service = self._costs, self._service
        if memory in server.held:
            server.held.move_to_end(memory)
            return "held", 0.0
        tier, seconds = ("disk", costs.disk_s) if memory in server.on_disk else ("store", costs.store_s)
        for tiers, most in ((server.held, service.held), (server.on_disk, service.on_disk)):
            tiers[memory] = None
            tiers.move_to_end(memory)
            if len(tiers) > most:
                tiers.popitem(last=False)
        return tier, seconds + costs.attach_s

    def _summary(self) -> SimulatedService:
        counted_s, service, costs = self._seconds - self._counted_from, self._service, self._costs
        count = len(self._waits)
        if not count:
            raise UsageError("expected questions in the time that is simulated, got none; simulate more seconds")
        waits, latencies = sorted(self._waits), sorted(self._latencies)
        shares = [server.worked_s / counted_s / service.slots for server in self._servers]
        price_per_s = (
            service.servers * costs.machine_price_per_h / 3600
            + service.memories * costs.adapter_bytes / 1e9 * costs.store_price_per_gb_month / _HOURS_A_MONTH / 3600
        )
        return SimulatedService(
            questions=count,
            busy=fmean(shares),
            busiest=max(shares),
            held_share=self._tiers["held"] / count,
            disk_share=self._tiers["disk"] / count,
            store_share=self._tiers["store"] / count,
            wait_mean_s=fmean(waits),
            wait_p95_s=waits[int(0.95 * count)],
            latency_mean_s=fmean(latencies),
            latency_p50_s=latencies[count // 2],
            latency_p95_s=latencies[int(0.95 * count)],
            price_per_million_questions=1e6 * price_per_s / service.questions_per_s,
        )


class Placing:
    """Consistent hashing: a server more or less moves only its own share of the memories."""

    def __init__(self, servers: int) -> None:
        self._servers = servers
        points = ((_place(f"server-{at}-{point}"), at) for at in range(servers) for point in range(_POINTS_A_SERVER))
        self._points = sorted(points)

    def servers_of(self, memory: str, replicas: int = 1) -> tuple[int, ...]:
        """The servers that a memory belongs to, the first of them first; no more than there are."""
        found: list[int] = []
        start = bisect.bisect(self._points, (_place(memory), -1))
        for offset in range(len(self._points)):
            at = self._points[(start + offset) % len(self._points)][1]
            if at not in found:
                found.append(at)
            if len(found) == min(replicas, self._servers):
                break
        return tuple(found)


def _place(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def farm_hours(costs: UnitCosts, documents: int, tokens_per_document: float, workers: int) -> float:
    """Hours that so many workers need to absorb so many documents, each busy all the time."""
    return costs.absorb_s_per_token * documents * tokens_per_document / workers / 3600
