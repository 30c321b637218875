"""Absorptions that are not finished: where the state of each is kept, who is at it, and when it is cleared away.

LIBRARY/.absorbing/KEY           its checkpoint (training/checkpoint.py), or its job at an endpoint (remote/)
                   KEY.new, KEY.old, KEY.damaged-...     beside it, see training/checkpoint.py
                   KEY.lock      held by the process that absorbs, whose end it does not outlive; says who that is
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lift.errors import BusyAbsorptionError, LibraryError, cleaning_up
from lift.memories.clock_guard import DAY_S
from lift.memories.durable import disk_errors
from lift.memories.key_index import check_key

# beside the state, the hash of the text that it is of: what of a text is to go is found by it
DOCUMENT_FILE = "document.sha256"
# An absorption that nobody has gone on with for so long is given up, and its checkpoint cleared away.
CHECKPOINTS_KEPT_S = 30 * DAY_S
_DIRECTORY = ".absorbing"
_LOCK = ".lock"
_ENTRY = re.compile(r"([0-9A-Za-z_-]{8,128})(\.new|\.old|\.lock|\.damaged-[0-9a-f]{8})?")


@dataclass(frozen=True)
class AbandonedWork:
    """The state of an absorption that nobody is at: its size with all that lies beside it, and when it was changed."""

    key: str
    size_bytes: int
    changed_s: float


class UnfinishedAbsorptions:
    """Those of the library at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / _DIRECTORY

    def path(self, absorption_key: str) -> Path:
        """Where the one of that key keeps its state; nothing is made there. Raises LibraryError for no plain key."""
        check_key(absorption_key)
        return self._directory / absorption_key

    @contextlib.contextmanager
    def alone(self, absorption_key: str) -> Iterator[None]:
        """Inside the block nobody else absorbs under that key.

        Raises BusyAbsorptionError, at once, where another process or thread does, and LibraryError where the disk
        refuses.
        """
        path = self.path(absorption_key)
        lock_path = path.with_name(path.name + _LOCK)
        with disk_errors("absorb into", self._root):
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_path, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise BusyAbsorptionError(
                    f"expected nobody else to absorb this text in this way, got {_owner(lock_path)} at it; wait until "
                    "that is done, then the same command finds its memory"
                ) from None
            with contextlib.suppress(OSError):  # a full disk: who it is then cannot be told
                lock_path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), "utf-8")

        def let_go() -> None:
            # nobody who waits is misled: a lock is taken anew where its file is not the one at the path any more
            with contextlib.suppress(OSError):
                lock_path.unlink(missing_ok=True)
            lock.release()

        with cleaning_up(let_go):
            yield

    def clear(self, absorption_key: str) -> None:
        """Delete the state of that key, with what lies beside it; nothing happens where there is none."""
        path = self.path(absorption_key)
        for leftover in (path, *path.parent.glob(f"{absorption_key}.*")):
            if leftover.name != absorption_key + _LOCK:
                shutil.rmtree(leftover, ignore_errors=True)

    def abandoned(self) -> list[AbandonedWork]:
        """All that nobody is at, in no order; what the disk refuses to tell is left out."""
        found = []
        for key, entries in self._entries().items():
            sizes, times = [], []
            for entry in entries:
                paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
                with contextlib.suppress(OSError):
                    sizes += [path.lstat().st_size for path in paths if path.is_file()]
                    times.append(entry.lstat().st_mtime)
            states = [entry for entry in entries if entry.name != key + _LOCK]
            if states and times and not self._is_held(key):
                found.append(AbandonedWork(key, sum(sizes), max(times)))
        return found

    def keys_of(self, text_sha256: Collection[str]) -> set[str]:
        """The keys of unfinished absorptions of texts of these hashes."""
        found = set()
        for key, entries in self._entries().items():
            for entry in entries:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    if (entry / DOCUMENT_FILE).read_text("ascii").strip() in text_sha256:
                        found.add(key)
        return found

    def _entries(self) -> dict[str, list[Path]]:
        entries: dict[str, list[Path]] = {}
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                if match := _ENTRY.fullmatch(path.name):
                    entries.setdefault(match[1], []).append(path)
        return entries

    def _is_held(self, key: str) -> bool:
        lock_path = self._directory / (key + _LOCK)
        if not lock_path.exists():
            return False
        try:
            with FileLock(lock_path, timeout=0, thread_local=False):
                return False
        except (Timeout, OSError):
            return True

    def clear_expired(self, now_s: float | None = None) -> list[str]:
        """Delete what nobody has gone on with for CHECKPOINTS_KEPT_S, and is at now; returns the keys.

        `now_s`: seconds since 1970, default now. Whatever the disk refuses stays for the next time.
        """
        now_s = time.time() if now_s is None else now_s
        newest: dict[str, float] = {}
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if match := _ENTRY.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        changed_s = entry.stat(follow_symlinks=False).st_mtime
                        newest[match[1]] = max(changed_s, newest.get(match[1], changed_s))
        expired = [key for key, changed_s in newest.items() if now_s - changed_s > CHECKPOINTS_KEPT_S]
        cleared = []
        for key in expired:
            with contextlib.suppress(LibraryError), self.alone(key):
                self.clear(key)
                cleared.append(key)
        return cleared


def _owner(lock_path: Path) -> str:
    """Who holds the lock, as far as that is known."""
    try:
        values = json.loads(lock_path.read_text("utf-8"))
        pid, host = int(values["pid"]), str(values["host"])[:255]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    here = " of this machine" if host == socket.gethostname() else f" on {host}"
    return f"the process {pid}{here}"
