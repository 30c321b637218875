"""Keeps one worker process alive: starts it, starts it again when it dies, and stops it in the end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from lift.errors import JobError
from lift.jobs.store import JobStore

CHECKPOINT_EVERY_S = 15.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_log = logging.getLogger(__name__)


class Supervisor:
    """The worker of `store`, which absorbs into the library at `library_path` on the model `model_name`.

    A training is saved about every `checkpoint_every_s` seconds: what a kill can cost.
    """

    def __init__(
        self, store: JobStore, library_path: Path, model_name: str, *, checkpoint_every_s: float = CHECKPOINT_EVERY_S
    ) -> None:
        self._store = store
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
        """Stop the worker: its job is saved and waits for the next start. It is killed after `timeout_s`."""
        with self._lock:
            self._closing.set()
            if self._process is not None:
                self._process.terminate()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive() and self._process is not None:
            _log.warning("the worker took more than %.0f s to stop and is killed; nothing is lost", timeout_s)
            self._process.kill()
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
        status = process.wait()
        if not self._closing.is_set():
            _log.warning("the worker has ended with status %d; another one is started", status)
        return self._store.last_number() > told_before
