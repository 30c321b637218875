"""Many clients of `lift serve --engine vllm` while vLLM is killed and memories change: what is lost, mixed, or stale.

vLLM and Lift are processes of their own. vLLM holds fewer adapters than there are memories, so they are evicted all the
time; some memories are replaced by versions with another secret; and vLLM is killed, with all that is under way, and
started again. An answer is stale where it was asked for after its memory was replaced, and tells an older secret.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lift.bench.harbours import Harbour, fill_library, harbours, next_version
from lift.bench.load_generator import Load, TimedReply, put_under, summary
from lift.bench.machine import describe_machine
from lift.bench.processes import serving_process
from lift.errors import BenchError, UsageError
from lift.evaluation.run_files import append_row, read_rows
from lift.exporting.readme import vllm_rank
from lift.exporting.server_program import free_port
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe

_READY_S = 900.0
_PROGRAM = "from lift.cli import main; main()"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB, of a server on a CPU
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
}
_FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class FaultsPlan:
    """`clients` over `memories` for `seconds`, with `resident` adapters, so many kills, and a replacement so often."""

    program: Path
    clients: int = 64
    memories: int = 32
    resident: int = 16
    seconds: float = 600.0
    kills: int = 2
    replace_every_s: float = 15.0
    context: str = "auto"
    dtype: str = "float32"

    def check(self) -> None:
        """Raise UsageError for what cannot be measured."""
        if not self.program.is_file():
            raise UsageError(f"expected the program vllm at {self.program}, found none; give another --vllm")
        if not (0 < self.seconds < float("inf") and self.replace_every_s > 0 and self.kills >= 0):
            raise UsageError("expected seconds and --replace-every above 0, and no negative number of kills")
        harbours(self.memories)


@dataclass
class _Versions:
    """The secrets of each place, and since when each is the one; seconds of time.monotonic."""

    places: Sequence[Harbour]
    since_s: dict[int, list[tuple[float, str]]] = field(default_factory=dict)

    def of(self, place: int) -> list[tuple[float, str]]:
        return [(float("-inf"), self.places[place].secret), *self.since_s.get(place, ())]


def bench_engine_faults(
    base: BaseModel, recipe: Recipe, plan: FaultsPlan, rounds: int, out: Path, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure `rounds` rounds, each a line of JSON in `out`; those that are there are not measured again.

    Raises UsageError for a plan that cannot be, BenchError where a server does not start, and what replacing memories
    raises; a round that fails leaves no line.
    """
    plan.check()
    if recipe.adapter.acts_on_answers:
        raise UsageError(
            f"expected a recipe whose memories act everywhere for vLLM, got {recipe.name}; "
            "add --set adapter.activated=false"
        )
    settings = {**asdict(plan), "program": str(plan.program), "recipe": recipe.name, "model": base.id}
    done = [line for line in read_rows(out) if line["settings"] == settings]
    while len(done) < rounds:
        say(f"round {len(done) + 1} of {rounds}: {plan.seconds:.0f} s")
        line = {"settings": settings, **_round(base, recipe, plan, say)}
        append_row(out, line)
        done.append(line)
    counted = ("answers", "lost", "mixed", "stale", "own", "kills", "replaced")
    return {
        "machine": describe_machine(base.device),
        "settings": settings,
        "rounds": done[:rounds],
        "sum": {key: sum(line[key] for line in done[:rounds]) for key in counted},
    }


def _round(base: BaseModel, recipe: Recipe, plan: FaultsPlan, say: Callable[[str], None]) -> dict[str, Any]:
    places = harbours(plan.memories)
    versions = _Versions(places)
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory, contextlib.ExitStack() as stack:
        library = MemoryLibrary(Path(directory) / "library")
        fill_library(library, base, recipe, places)
        vllm = stack.enter_context(_vllm(base, recipe, plan, Path(directory) / "vllm.log"))
        options = {
            "--port": 0,
            "--library": library.root,
            "--model": base.id,
            "--rows": 2 * plan.clients,
            "--resident": plan.resident,
            "--waiting": 4 * plan.clients,
            "--answer-s": _READY_S,
            "--engine": "vllm",
            "--engine-url": vllm.url,
        }
        given = [str(each) for pair in options.items() for each in pair]
        served = stack.enter_context(serving_process(["-c", _PROGRAM, "serve", "--json", *given]))
        put_under(served.url, Load(min(plan.clients, plan.memories), 0.0, plan.context), places)
        ended = threading.Event()
        load = Load(plan.clients, plan.seconds, plan.context)
        began_s = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            disturbing = threads.submit(_disturb, base, recipe, library, plan, versions, vllm, ended, began_s, say)
            try:
                replies = put_under(served.url, load, places)
            finally:
                ended.set()
            disturbing.result()  # a round that was not disturbed to its end counts for nothing
        found = summary(replies, load, places, lambda text: len(text.split()))
        return {
            **found,
            "stale": sum(_is_stale(reply, versions, began_s) for reply in replies),
            "own": sum(_has_secret(reply, versions) for reply in replies),
            "kills": vllm.kills,
            "replaced": sum(map(len, versions.since_s.values())),
            "loads": vllm.log.read_text("utf-8", "replace").count("Loaded new LoRA adapter"),
        }


def _disturb(
    base: BaseModel,
    recipe: Recipe,
    library: MemoryLibrary,
    plan: FaultsPlan,
    versions: _Versions,
    vllm: _Vllm,
    ended: threading.Event,
    began_s: float,
    say: Callable[[str], None],
) -> None:
    """Replace memories in turns, and kill vLLM at equal distances."""
    kills_at_s = [plan.seconds * (number + 1) / (plan.kills + 1) for number in range(plan.kills)]
    version = 0
    while not ended.wait(min(plan.replace_every_s, 1.0)):
        passed_s = time.monotonic() - began_s
        if kills_at_s and passed_s >= kills_at_s[0]:
            kills_at_s.pop(0)
            say(f"vLLM is killed after {passed_s:.0f} s")
            vllm.restart()
        if passed_s >= (version + 1) * plan.replace_every_s:
            version += 1
            place = version % len(versions.places)
            changed = next_version(versions.places[place], version)
            fill_library(library, base, recipe, [changed], version=version)
            versions.since_s.setdefault(place, []).append((time.monotonic(), changed.secret))


def _has_secret(reply: TimedReply, versions: _Versions) -> bool:
    return any(secret in reply.text.lower() for _, secret in versions.of(reply.place))


def _is_stale(reply: TimedReply, versions: _Versions, began_s: float) -> bool:
    """Whether it tells a secret that was replaced before it was asked for; a later one begins like the first."""
    known = versions.of(reply.place)
    current = max(number for number, (since_s, _) in enumerate(known) if since_s <= began_s + reply.begun_s)
    told = [number for number, (_, secret) in enumerate(known) if _tells(reply.text.lower(), secret)]
    return bool(told) and max(told) < current


def _tells(text: str, secret: str) -> bool:
    """Whether the text holds the secret as a whole word."""
    return any(word.strip(".,;:!?\"'") == secret for word in text.split())


class _Vllm:
    """vLLM as a process that can be killed and started again at its port."""

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.kills = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is ready later."""
        variables = {key: value for key, value in os.environ.items() if key not in _FOREIGN_VARIABLES} | _ENVIRONMENT
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers; raises BenchError where it ends, or takes too long."""
        assert self._process is not None
        ends_at = time.monotonic() + _READY_S
        while time.monotonic() < ends_at and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            time.sleep(1.0)
        last = self.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise BenchError(f"expected vLLM to serve, got none ({''.join(last)[:300]}); see that it starts by itself")

    def kill(self) -> None:
        """End it at once, with its children."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.kills += 1
        self.start()


@contextlib.contextmanager
def _vllm(base: BaseModel, recipe: Recipe, plan: FaultsPlan, log: Path) -> Iterator[_Vllm]:
    port = free_port()
    command = [
        *(str(plan.program), "serve", str(base.model.name_or_path), "--served-model-name", "base"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", plan.dtype, "--enforce-eager"),
        *("--max-model-len", str(min(base.window_tokens, 2048)), "--enable-lora"),
        *("--max-lora-rank", str(max(16, vllm_rank(recipe.adapter.rank)))),
        *("--max-loras", "4", "--max-cpu-loras", str(plan.resident)),
    ]
    found = _Vllm(command, f"http://127.0.0.1:{port}", log)
    found.start()
    try:
        found.wait()
        yield found
    finally:
        found.kill()
