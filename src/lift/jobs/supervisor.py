"""Keeps one worker process alive: starts it, starts it again when it dies, and stops it in the end.

A worker looks for a cancellation itself, between the steps of its work and from a thread beside it. One that is inside
a single long call that holds the interpreter (a regular expression, C code) hears nothing, neither a flag nor SIGTERM,
so it is killed from here, with all that it has started.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from lift.errors import JobError
from lift.jobs.store import JobStore

CHECKPOINT_EVERY_S = 15.0
CANCEL_PATIENCE_S = 10.0
_TERMINATED_S = 1.0  # of it, between SIGTERM and SIGKILL
_POLL_S = 0.25
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_log = logging.getLogger(__name__)


class Supervisor:
    """The worker of `store`, which absorbs into the library at `library_path` on the model `model_name`.

    A training is saved about every `checkpoint_every_s` seconds: what a kill can cost. A worker whose job is cancelled
    and goes on for `cancel_patience_s` seconds is killed; the job is then cancelled, and the next one begins.
    """

    def __init__(
        self,
        store: JobStore,
        library_path: Path,
        model_name: str,
        *,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        cancel_patience_s: float = CANCEL_PATIENCE_S,
    ) -> None:
        self._store = store
        self._cancel_patience_s = cancel_patience_s
        self._options = ["--store", str(store.directory), "--library", str(library_path), "--model", model_name]
        self._options += ["--checkpoint-every", str(checkpoint_every_s)]
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_alive, name="job-supervisor", daemon=True)

    def start(self) -> None:
        """Start the worker; it is kept alive until close."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The worker's process, None while there is none."""
        with self._lock:
            alive = self._process is not None and self._process.poll() is None
            return self._process.pid if alive and self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether a worker is running, or is being started again after its end."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop the worker: its job is saved and waits for the next start.

        It is killed after `timeout_s`, or after the patience that a cancelled job has, where that is less.
        """
        with self._lock:
            self._closing.set()
            if self._process is not None:
                self._process.terminate()
        if not self._thread.is_alive():
            return
        timeout_s = min(timeout_s, self._cancel_patience_s)
        self._thread.join(timeout_s)
        if self._thread.is_alive() and self._process is not None:
            _log.warning("the worker took more than %.0f s to stop and is killed; nothing is lost", timeout_s)
            _signal_group(self._process, signal.SIGKILL)
            self._thread.join()

    def _keep_alive(self) -> None:
        lives_in_vain = 0
        while not self._closing.is_set():
            try:
                lives_in_vain = 0 if self._live() else lives_in_vain + 1
            except (JobError, OSError):
                _log.exception("the worker cannot be started")
                lives_in_vain += 1
            # a worker that dies before it has done anything will most likely do so again
            self._closing.wait(min(_FIRST_PAUSE_S * 2**lives_in_vain, _LONGEST_PAUSE_S))

    def _live(self) -> bool:
        """Run one worker to its end; returns whether anything happened to a job meanwhile."""
        told_before = self._store.last_number()
        with self._lock:
            if self._closing.is_set():
                return False
            command = [sys.executable, "-W", "ignore", "-m", "lift.jobs.worker", *self._options]
            # a session of its own: Ctrl-C at the server's terminal is for the server, which stops it in order
            process = self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._watch(process)
        # what it has started ends with it; its id is nobody else's as long as it is not waited for
        _signal_group(process, signal.SIGKILL)
        status = process.wait()
        self._store.end_cancelled(process.pid)
        if not self._closing.is_set():
            _log.warning("the worker has ended with status %d; another one is started", status)
        return self._store.last_number() > told_before

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the worker has ended, killed where it goes on with a job that was cancelled."""
        ignored_since: float | None = None
        terminated = False
        while not _has_ended(process):
            try:
                cancelling = self._store.is_cancelling(process.pid)
            except JobError:
                _log.exception("the jobs cannot be looked at; trying again")
                cancelling = ignored_since is not None
            if not cancelling:
                ignored_since, terminated = None, False
            elif ignored_since is None:
                ignored_since = time.monotonic()
            elif time.monotonic() - ignored_since >= self._cancel_patience_s:
                _log.warning("the worker went on with a cancelled job and is killed")
                _signal_group(process, signal.SIGKILL)
            elif not terminated and time.monotonic() - ignored_since >= self._cancel_patience_s - _TERMINATED_S:
                terminated = True
                process.terminate()
            time.sleep(_POLL_S)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended; it is not waited for, so that its group keeps its id."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # whoever asked for the worker's id has waited for it
        return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a worker and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
