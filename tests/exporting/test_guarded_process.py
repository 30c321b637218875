"""A guarded process ends with the one that started it, also where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lift.exporting import guarded_process
from lift.exporting.guarded_process import start_guarded, stop_guarded

PATIENCE_S = 30.0
# tells its process, and does not mind being asked to end where it is told to
PROGRAM = """
import os, signal, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "w") as told:
    told.write(str(os.getpid()))
time.sleep(600)
"""


def told_pid(path: Path) -> int:
    ends_at = time.monotonic() + PATIENCE_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < ends_at, "the program was not started"
        time.sleep(0.02)
    return int(path.read_text())


def is_gone(pid: int) -> bool:
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            return True  # nobody has asked for its status yet
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("manner", ["willing", "stubborn"])
def test_it_ends_when_it_is_stopped(tmp_path: Path, manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_process, "_STOPPING_S", 1.0)
    with (tmp_path / "log").open("wb") as log:
        guard = start_guarded([sys.executable, "-c", PROGRAM, str(tmp_path / "pid"), manner], os.environ, log)
        pid = told_pid(tmp_path / "pid")
        stop_guarded(guard)
    assert is_gone(pid)


def test_it_ends_when_who_started_it_is_killed(tmp_path: Path) -> None:
    starting = """
import os, sys, time
from lift.exporting.guarded_process import start_guarded
start_guarded(sys.argv[1:], os.environ, sys.stdout)
time.sleep(600)
"""
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "pid"), "willing"]
    with subprocess.Popen([sys.executable, "-c", starting, *program], stdout=subprocess.DEVNULL) as parent:
        pid = told_pid(tmp_path / "pid")
        parent.send_signal(signal.SIGKILL)
    assert is_gone(pid)


def test_its_status_is_the_programs_and_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        guard = start_guarded([sys.executable, "-c", "raise SystemExit(7)"], os.environ, log)
        assert guard.wait(PATIENCE_S) == 7
        guard = start_guarded([str(tmp_path / "nosuch")], os.environ, log)
        assert guard.wait(PATIENCE_S) == 127
        log.seek(0)
        assert b"nosuch" in log.read()
