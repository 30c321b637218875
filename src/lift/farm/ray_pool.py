"""Workers as Ray actors, each with its model resident: the only module that knows Ray.

Documents are calls that wait in line at their actor; `stop` has a line of its own. Ray restarts nothing and tries
nothing again: the queue (work_queue.py) decides. Nothing is sent to anybody: no usage statistics, no dashboard, and a
cluster that is started here listens on this machine alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lift.errors import FarmError, UsageError
from lift.farm.document_absorber import FarmSettings, Outcome
from lift.farm.pool import DocumentEnded, PoolEvent, WorkerDied, WorkerReady
from lift.farm.sources import FarmDocument

_HEAD_PORT = 6379
# Whoever answers questions on the same processor goes first.
_NICE = 5
_DEAD_S = 30.0  # within which all calls to a dead actor are told to have failed


@dataclass(frozen=True)
class WorkerResources:
    """The resources that each worker reserves of its machine; cores are also the threads that it computes with."""

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise UsageError(
                f"expected at least 1 processor and no negative part of GPUs a worker, got {self.cpus} and {self.gpus}"
            )


@dataclass
class _Worker:
    actor: Any
    ready: Any
    calls: dict[Any, str] = field(default_factory=dict)  # in the order given


class RayPool:
    """Workers on the Ray cluster at `address`: "ray" starts one on this machine with room for `workers` workers.

    "ray://HEAD[:PORT]" joins the one whose head is there, of which this machine is a part (`ray start --address`).
    Raises FarmError where Ray is missing or no cluster is there, UsageError for another address.
    """

    def __init__(self, address: str, settings: FarmSettings, workers: int, resources: WorkerResources) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address == "ray":
            # on Linux, too, a cluster of this machine alone is to listen on the loopback address; read at the import
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            # by itself Ray puts its workers behind everything else that runs (15)
            os.environ.setdefault("RAY_worker_niceness", str(_NICE))
        self._ray = _connect(address, workers, resources)
        self._settings, self._resources = settings, resources
        self._workers: dict[str, _Worker] = {}
        self._started = 0
        # in the actor's process, not here: the driver loads no model
        self._actor_class = self._ray.remote(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"control": 1},
        )(_Absorber)

    def start(self) -> str:
        """As Pool."""
        self._started += 1
        name = f"worker-{self._started}"
        actor = self._actor_class.remote(self._settings)
        self._workers[name] = _Worker(actor, actor.load.remote())
        return name

    def submit(self, worker: str, documents: Sequence[FarmDocument]) -> None:
        """As Pool."""
        held = self._workers[worker]
        for document in documents:
            held.calls[held.actor.absorb.remote(document)] = document.name

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """As Pool."""
        waiting = {ref: name for name, held in self._workers.items() for ref in (*_starting(held), *held.calls)}
        if not waiting:
            return []
        ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        more, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        events: list[PoolEvent] = []
        for ref in [ref for ref in waiting if ref in {*ready, *more}]:
            if (name := waiting[ref]) in self._workers:  # it may have died while its other calls were looked at
                events += self._heard(name, ref)
        return events

    def interrupt(self) -> None:
        """As Pool."""
        for held in self._workers.values():
            held.actor.stop.options(concurrency_group="control").remote()

    def close(self) -> None:
        """As Pool."""
        for held in self._workers.values():
            self._ray.kill(held.actor)
        self._workers.clear()
        self._ray.shutdown()

    def _heard(self, name: str, ref: Any) -> list[PoolEvent]:
        held = self._workers[name]
        try:
            said = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            del self._workers[name]
            self._ray.kill(held.actor)  # an error that nobody foresaw leaves its process alive
            return [*self._last_words(name, held), WorkerDied(name, _reason(error), at_start=held.ready is not None)]
        if held.calls.pop(ref, None) is not None:
            return [DocumentEnded(name, said)]
        held.ready = None
        if said is None:
            return [WorkerReady(name)]
        self._ray.kill(self._workers.pop(name).actor)
        return [WorkerDied(name, said, at_start=True)]

    def _last_words(self, name: str, held: _Worker) -> list[PoolEvent]:
        """The documents that a dead worker was through with before it died."""
        ended, _ = (
            self._ray.wait(list(held.calls), num_returns=len(held.calls), timeout=_DEAD_S) if held.calls else ([], [])
        )
        found: list[PoolEvent] = []
        for ref in [ref for ref in held.calls if ref in set(ended)]:
            try:
                found.append(DocumentEnded(name, self._ray.get(ref)))
            except self._ray.exceptions.RayError:
                continue
        return found


class _Absorber:
    """A DocumentAbsorber in an actor; it is made after the actor has started, which then tells if it cannot be."""

    def __init__(self, settings: FarmSettings) -> None:
        self._settings = settings
        self._absorber: Any = None

    def load(self) -> str | None:
        """Load the model; returns the sentence why it cannot be had."""
        from lift.errors import LiftError
        from lift.farm.document_absorber import DocumentAbsorber

        try:
            self._absorber = DocumentAbsorber(self._settings)
        except LiftError as error:
            return str(error)
        return None

    def absorb(self, document: FarmDocument) -> Outcome:
        """Absorb one document."""
        found: Outcome = self._absorber.absorb(document)
        return found

    def stop(self) -> None:
        """Interrupt what is being absorbed."""
        if self._absorber is not None:
            self._absorber.stop()


def _connect(address: str, workers: int, resources: WorkerResources) -> Any:
    try:
        import ray
    except ImportError:
        raise FarmError("expected Ray for --farm, got none; install 'lift-memory[farm]'") from None
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    scheme, _, head = address.partition("://")
    if scheme != "ray" or (head and not head.rpartition(":")[0] and ":" in head):
        raise UsageError(f"expected --farm ray, or ray://HEAD[:PORT], got {address!r}; mend it")
    try:
        if head:
            ray.init(address=head if ":" in head else f"{head}:{_HEAD_PORT}", **common)
        else:
            ray.init(
                address="local",
                num_cpus=workers * resources.cpus,
                include_dashboard=False,
                object_store_memory=128 << 20,  # documents and results are small
                **common,
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        said = " ".join(str(error).split())[:300]
        raise FarmError(
            f"expected a Ray cluster at {address!r}, got none ({said}); start its head with `ray start --head`, join "
            "it from this machine with `ray start --address=HEAD:6379`, and give ray://HEAD:6379"
        ) from error
    return ray


def _starting(held: _Worker) -> list[Any]:
    return [] if held.ready is None else [held.ready]


def _reason(error: Exception) -> str:
    """Ray's own words for the end of an actor, which take many lines, in one."""
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

    match error:
        case RayTaskError():
            return f"unexpected {type(error.cause).__name__}: {' '.join(str(error.cause).split())[:200]}"
        case OutOfMemoryError():
            return "its machine ran out of memory"
        case ActorDiedError():
            said = " ".join(str(error).split())
            if "node" in said and "died" in said:
                return "its machine was lost"
            return "its process ended"
    return type(error).__name__
