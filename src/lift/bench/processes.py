"""One piece of a benchmark in a process of its own, so that the memory of one does not count for another.

What goes in and what comes out are files of JSON; a model is loaded anew in each process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lift.errors import BenchError


class Running(Protocol):
    """Does a job as worker.perform describes it, and returns what came of it."""

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises LiftError."""
        ...


def in_own_process(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python -m lift.bench.worker` on the job; raises BenchError where it fails or is ended from outside."""
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        order, outcome = Path(directory) / "job.json", Path(directory) / "result.json"
        order.write_text(json.dumps(job, ensure_ascii=False), "utf-8")
        # what libraries remark about each other's versions says nothing about the measurement
        command = [sys.executable, "-W", "ignore", "-m", "lift.bench.worker", str(order), str(outcome)]
        # standard output is that of the results
        status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if not outcome.is_file():
            raise BenchError(
                f"expected a result of the job {job.get('kind')!r}, got exit status {status} of its process; "
                "if that was for want of memory, take a shorter text"
            )
        result: dict[str, Any] = json.loads(outcome.read_text("utf-8"))
    if "error" in result:
        raise BenchError(str(result["error"]))
    return result
