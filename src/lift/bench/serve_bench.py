"""Many clients ask many memories of `lift serve`, beside one client, and beside a naive server: in one run, in turns.

Each server is a process of its own with a library of memories that hold a secret each, so that an answer of the wrong
memory shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lift.bench.harbours import Harbour, fill_library, harbours
from lift.bench.load_generator import Load, put_under, summary
from lift.bench.machine import describe_machine
from lift.bench.processes import Served, serving_process
from lift.errors import UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe

LIFT, ONE, NAIVE, VLLM, LLAMA = "lift", "one-client", "naive", "vllm", "llama.cpp"
_CONTEXTS = ("auto", "none")
_SHARES = {LIFT: 0.5, ONE: 0.25, NAIVE: 0.25, VLLM: 0.5, LLAMA: 0.5}  # of the seconds; engines come on top of them
_ANSWER_S = 900
_PROGRAM = "from lift.cli import main; main()"
NOTES = (
    "a closed loop: each client asks its next question when its answer is whole; all streamed over HTTP on loopback",
    "a server is warmed up by one question to each memory at once, which are not counted; answers that were asked for "
    "in time are waited for, and throughput is that of the whole time until the last of them",
    "first token: the first text at the client; an answer that takes several steps (auto chooses, a recipe that cites "
    "recites first) comes in one piece",
    "tokens: those of the answers' text, by the model's tokenizer, on all sides alike",
    "naive: one lock, one request at a time; opens the memory, asks it as `lift ask` does, and answers",
    "memory: the most that the server's process held until the end of the side; one-client is the process of lift",
    "vllm and llama.cpp: lift serve with that engine; memory is that of lift serve alone, without the engine's server",
)


@dataclass(frozen=True)
class ServePlan:
    """`clients` over `memories`, for `seconds` in all: half with all clients, a quarter with one, one naively.

    A vLLM that runs at `vllm_url`, and a llama-server that is started, are asked as long as Lift's own engine.
    """

    clients: int = 64
    memories: int = 32
    seconds: float = 120.0
    context: str = "auto"
    rows: int = 128  # a question that is asked with auto has two at first
    vllm_url: str | None = None
    llama_server: Path | None = None

    @property
    def engines(self) -> dict[str, dict[str, object]]:
        """The other engines, and what `lift serve` is told of them."""
        found: dict[str, dict[str, object]] = {}
        if self.vllm_url is not None:
            found[VLLM] = {"--engine": VLLM, "--engine-url": self.vllm_url}
        if self.llama_server is not None:
            found[LLAMA] = {"--engine": LLAMA, "--llama-server": self.llama_server}
        return found

    def check(self) -> None:
        """Raise UsageError for what cannot be asked or measured."""
        if self.context not in _CONTEXTS:
            raise UsageError(f"expected a context of {' or '.join(_CONTEXTS)}, got {self.context!r}")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"expected seconds above 0, got {self.seconds:g}")
        if self.clients < 2:
            raise UsageError(f"expected at least 2 clients beside the one alone, got {self.clients}")
        harbours(self.memories)


class Serving(Protocol):
    """Starts the server of a side (LIFT, NAIVE, an engine) over the library in `root`; it runs as long as the block."""

    def __call__(self, side: str, root: Path, model: str, plan: ServePlan) -> AbstractContextManager[Served]:
        """Raises BenchError where it does not start."""
        ...


def serve_in_own_process(side: str, root: Path, model: str, plan: ServePlan) -> AbstractContextManager[Served]:
    """`lift serve` itself, or the naive server; raises BenchError where it does not start."""
    if side == NAIVE:
        return serving_process(["-m", "lift.bench.naive_server", str(root), model])
    options = {
        "--port": 0,
        "--library": root,
        "--model": model,
        "--rows": plan.rows,
        "--resident": plan.memories,
        "--waiting": 4 * plan.clients,  # one memory may have half of the places
        "--answer-s": _ANSWER_S,
        **plan.engines.get(side, {}),
    }
    given = [str(each) for pair in options.items() for each in pair]
    return serving_process(["-c", _PROGRAM, "serve", "--json", *given])


def bench_serve(
    base: BaseModel,
    recipe: Recipe,
    plan: ServePlan,
    *,
    say: Callable[[str], None],
    serving: Serving = serve_in_own_process,
) -> dict[str, Any]:
    """Measure all sides one after the other, in a temporary library that is deleted afterwards.

    `base` makes the library and counts tokens; the servers load it anew. Raises BenchError where a server does not
    start, UsageError for a plan that cannot be, LibraryError where the disk is too small.
    """
    plan.check()
    if plan.vllm_url is not None and recipe.adapter.acts_on_answers:
        raise UsageError(
            f"expected a recipe whose memories act everywhere for vLLM, got {recipe.name}; "
            "add --set adapter.activated=false"
        )
    places = harbours(plan.memories)
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        root = Path(directory)
        say(f"a library of {plan.memories} memories")
        fill_library(MemoryLibrary(root), base, recipe, places)
        bench = _Bench(base, plan, places, say)
        with serving(LIFT, root, base.id, plan) as served:
            bench.warm_up(served)
            rows = [bench.row(LIFT, plan.clients, served), bench.row(ONE, 1, served)]
        with serving(NAIVE, root, base.id, plan) as served:
            bench.warm_up(served)
            rows.append(bench.row(NAIVE, plan.clients, served))
        for side in plan.engines:
            with serving(side, root, base.id, plan) as served:
                bench.warm_up(served)
                rows.append(bench.row(side, plan.clients, served))
    ours, *others = rows
    return {
        "machine": describe_machine(base.device),
        "settings": {
            **asdict(plan),
            "llama_server": str(plan.llama_server) if plan.llama_server else None,
            "model": base.id,
            "recipe": recipe.name,
        },
        "rows": rows,
        "speedup": {str(row["side"]): _beside(ours, row) for row in others},
        "notes": list(NOTES),
    }


@dataclass(frozen=True)
class _Bench:
    base: BaseModel
    plan: ServePlan
    places: Sequence[Harbour]
    say: Callable[[str], None]

    def warm_up(self, served: Served) -> None:
        """A question to each memory, so that what a server does once is done already."""
        put_under(served.url, Load(len(self.places), 0.0, self.plan.context), self.places)

    def row(self, side: str, clients: int, served: Served) -> dict[str, Any]:
        load = Load(clients, _SHARES[side] * self.plan.seconds, self.plan.context)
        self.say(f"{side}: {clients} clients for {load.seconds:.0f} s")
        replies = put_under(served.url, load, self.places)
        found = summary(replies, load, self.places, self._count_tokens)
        return {"side": side, **found, "peak_bytes": served.peak_bytes()}

    def _count_tokens(self, text: str) -> int:
        return len(self.base.tokenizer(text, add_special_tokens=False)["input_ids"])


def _beside(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How many times as much of ours there was, and how many times sooner; None where the other did nothing."""
    result: dict[str, Any] = {key: _ratio(ours[key], other[key]) for key in ("requests_per_s", "tokens_per_s")}
    for key in ("first_token_s", "answer_s"):
        both = ours[key] and other[key]
        result[key] = {name: _ratio(other[key][name], ours[key][name]) for name in ("p50", "p95")} if both else None
    return result


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None
