"""One piece of a benchmark in a process of its own, so that the memory of one does not count for another.

What goes in and what comes out are files of JSON; a model is loaded anew in each process.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from lift.bench.machine import peak_bytes_of
from lift.errors import BenchError
from lift.evaluation.run_files import read_value, write_value

_STOPPING_S = 60.0


class JobRunner(Protocol):
    """Does a job as worker.perform describes it, and returns what came of it."""

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises LiftError."""
        ...


def in_own_process(job: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `python -m lift.bench.bench_worker` on the job; raises BenchError where it fails or is ended from outside.

    `environment`: all variables of the process, by default those of this one.
    """
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        order, outcome = Path(directory) / "job.json", Path(directory) / "result.json"
        order.write_text(json.dumps(job, ensure_ascii=False), "utf-8")
        # what libraries remark about each other's versions says nothing about the measurement
        command = [sys.executable, "-W", "ignore", "-m", "lift.bench.bench_worker", str(order), str(outcome)]
        # standard output is that of the results
        status = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
        if not outcome.is_file():
            raise BenchError(
                f"expected a result of the job {job.get('kind')!r}, got exit status {status} of its process; "
                "if that was for want of memory, take a shorter text"
            )
        result: dict[str, Any] = json.loads(outcome.read_text("utf-8"))
    if "error" in result:
        raise BenchError(str(result["error"]))
    return result


def kept_in(directory: Path, run: JobRunner = in_own_process) -> JobRunner:
    """As `run`, but what came of a job is kept in `directory`, and the same job is not done again.

    So an interrupted benchmark goes on where it was; the machine must be the same. Raises what `run` raises,
    and DataError for a damaged file.
    """

    def remembered(job: Mapping[str, Any]) -> dict[str, Any]:
        text = json.dumps(job, sort_keys=True, ensure_ascii=False)
        path = directory / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        result = read_value(path)
        if result is None:
            result = run(job)
            directory.mkdir(parents=True, exist_ok=True)
            write_value(path, result)
        return result

    return remembered


@dataclass(frozen=True)
class Served:
    """A server that answers at `url`; `peak_bytes`: the most memory it has held, None where that is not known."""

    url: str
    peak_bytes: Callable[[], int | None]


@contextmanager
def serving_process(arguments: Sequence[str]) -> Iterator[Served]:
    """A server, run by this interpreter with `arguments`, as long as the block lasts; then it is asked to end.

    It says where it is in its first line, {"url": ...}. Raises BenchError where it ends before, and where it has ended
    by itself afterwards.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        command = [sys.executable, "-W", "ignore", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, encoding="utf-8") as process:
            try:
                line = process.stdout.readline() if process.stdout else ""
                if not line.strip():
                    raise BenchError(f"expected a server, got a process that ended ({_last_line(log)})")
                yield Served(json.loads(line)["url"], lambda: peak_bytes_of(process.pid))
                if process.poll() is not None:
                    raise BenchError(
                        f"expected a server until the end, got exit status {process.returncode} ({_last_line(log)}); "
                        "if that was for want of memory, take fewer memories"
                    )
            finally:
                process.terminate()
                try:
                    process.wait(_STOPPING_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return ([line.strip() for line in log if line.strip()] or ["it said nothing"])[-1]
