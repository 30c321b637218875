"""Numbers for Prometheus: what the routes, the engine and the jobs do."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lift.errors import LiftError
from lift.jobs.store import JobStore
from lift.serving.engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LISTED_JOBS = 1000


class Metrics:
    """The counters of one server; `page` is what Prometheus reads."""

    def __init__(self, engine: Engine, store: JobStore) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lift_http_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "lift_http_seconds",
            "Seconds from a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._open = Gauge("lift_http_open", "Requests being answered now.", registry=self._registry)
        self._first_text = Histogram(
            "lift_first_text_seconds",
            "Seconds from a question to the first text of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter("lift_tokens", "Tokens read and written.", ["kind"], registry=self._registry)
        self._registry.register(_Snapshot(engine, store))

    def begun(self) -> None:
        """A request came in."""
        self._open.inc()

    def ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its caller left."""
        self._open.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_text(self, seconds: float) -> None:
        """An answer began."""
        self._first_text.observe(seconds)

    def answered(self, prompt_tokens: int, completion_tokens: int) -> None:
        """An answer is whole."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("completion").inc(completion_tokens)

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Snapshot(Collector):
    """Metrics of engine and jobs, read at the moment they are asked for."""

    def __init__(self, engine: Engine, store: JobStore) -> None:
        self._engine = engine
        self._store = store

    def collect(self) -> Iterator[Metric]:
        for name, value in self._engine.statistics().items():
            yield GaugeMetricFamily(f"lift_engine_{name}", f"The engine's {name.replace('_', ' ')}.", value=value)
        jobs = GaugeMetricFamily("lift_jobs", "Jobs by status, of the newest 1000.", labels=["status"])
        try:
            found = Count(job.status for job in self._store.jobs(limit=_LISTED_JOBS, after=None))
        except LiftError:
            # numbers of the rest are still wanted where the jobs cannot be read
            found = Count()
        for status, number in sorted(found.items()):
            jobs.add_metric([status], number)
        yield jobs
