"""A process that ends when the one that started it does, however that ends: a guard between them holds a pipe.

This file is the guard's program too, so it imports the standard library alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_STOPPING_S = 20.0


def start_guarded(command: Sequence[str], environment: Mapping[str, str], log: IO[Any]) -> subprocess.Popen[bytes]:
    """Start `command`, which writes to `log`; the guard's process, which has its exit status (127: not started)."""
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__)), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


def stop_guarded(guard: subprocess.Popen[bytes]) -> None:
    """End the program and its guard: asked to, and by force where it does not within 20 s."""
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(_STOPPING_S)
    except subprocess.TimeoutExpired:
        os.killpg(guard.pid, signal.SIGKILL)  # the group of the guard, which the program is in
        guard.wait()


def main() -> int:
    """Run the program of the command line until it ends, or until nobody holds the other end of standard input."""
    try:
        program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"error: {sys.argv[1]}: {error.strerror}", flush=True)
        return 127
    threading.Thread(target=_end_with_the_pipe, args=(program,), daemon=True).start()
    return program.wait()


def _end_with_the_pipe(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):  # unbuffered: a lock held here would be missed when the interpreter ends
        pass
    program.terminate()
    try:
        program.wait(_STOPPING_S / 2)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(main())
