"""A kill or a refusing disk at any change of a file loses nothing: drawn points of a few commands, of all where slow.

Every point of all of them takes hours: `python tests/faults/sweep_faults.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sweep_faults.py")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the shim stands before Linux's libc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the shim is compiled"),
]


def sweep(*options: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0\n" in done.stdout  # the line of all, of which none was lost


@pytest.mark.parametrize("seed", [0])
def test_nothing_is_lost_at_points_drawn_by_chance(seed: int) -> None:
    sweep("absorb", "into", "job", "erase", "--sample", "2", "--seed", str(seed))


@pytest.mark.slow
def test_nothing_is_lost_at_points_of_every_command() -> None:
    sweep("--sample", "4", "--seed", "1")
