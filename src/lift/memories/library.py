"""The directory that holds all memories, each under its name, each whole or not there at all.

    LIBRARY/NAME/...             a memory, see memory.py
            .absorbing/KEY/      the checkpoint of an absorption that is not finished, see unfinished.py
            .by-key/KEY          the names of the memories that came of it, see key_index.py
            .lift-tmp-HEX        being written or deleted; garbage as soon as nobody holds the lock
            .serve/              the jobs of `lift serve` and the files given to it, see lift/jobs
            .lift-restored-HEX/  memories of a backup, each whole, that get their names one after the other
            .lift-old-NAME       set aside while NAME is being replaced; the memory itself as long as NAME is missing
            .clock               how long the clock has gone evenly, see clock_guard.py
            .lock                held by whoever changes anything; readers need no lock

Writing goes: everything into a .lift-tmp directory, onto the disk, then one rename. A crash anywhere leaves what was
there before or what was to be there after; the next writer clears the rest away. Nothing else in the directory is
touched: somebody may keep other things there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from lift.errors import LibraryError, nearest_names
from lift.memories.clock_guard import is_clock_settled
from lift.memories.durable import disk_errors, sync_directory, write_directory, write_file
from lift.memories.key_index import KeyIndex, check_key
from lift.memories.manifest import ADAPTER_STATE_FILE, MANIFEST_FILE, Manifest
from lift.memories.memory import MemoryDraft, Problem, StoredMemory
from lift.memories.memory_names import check_name, first_free_name, folded, is_valid_name, normal_name, suggest_name
from lift.memories.unfinished import UnfinishedAbsorptions

_TEMPORARY = ".lift-tmp-"
_REPLACED = ".lift-old-"
_RESTORED = ".lift-restored-"
_OWN_TEMPORARY = re.compile(re.escape(_TEMPORARY) + "[0-9a-f]{16}")
_OWN_RESTORED = re.compile(re.escape(_RESTORED) + "[0-9a-f]{16}")
_LOCK = ".lock"
_CLOCK = ".clock"
ENGINES_DIRECTORY = ".engines"  # adapters in the form of another program
# One memory is written in seconds; a queue of many writers on a slow disk still gets through in this time.
_LOCK_TIMEOUT_S = 300.0
# A memory can be replaced between the look at where it is and the look into it; then the next look finds the new one.
_OPENING_TRIES = 4


@dataclass(frozen=True)
class Summary:
    """One line of the list of memories: its manifest, or in `damage` the reason why there is none."""

    name: str
    manifest: Manifest | None
    damage: str | None = None


def default_library_directory() -> Path:
    """LIFT_HOME, else the platform's directory for the user's data."""
    return Path(os.environ.get("LIFT_HOME") or platformdirs.user_data_dir("lift", appauthor=False))


class MemoryLibrary:
    """The memories in the directory `root`, which is made when the first one is put into it.

    Raises LibraryError where `root` is something else than a directory. Any number of processes and threads may use
    the same directory at once.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(root or default_library_directory()).expanduser().absolute()
        self.unfinished = UnfinishedAbsorptions(self.root)
        self._index = KeyIndex(self.root)
        with disk_errors("open", self.root):
            if self.root.exists() and not self.root.is_dir():
                raise LibraryError(
                    f"expected a directory for the library, got the file {self.root}; "
                    "choose another place with --library or LIFT_HOME"
                )

    def __repr__(self) -> str:
        return f"Library({str(self.root)!r})"

    def names(self) -> list[str]:
        """The names of all memories, sorted without regard to case; no file is opened."""
        found = set()
        with disk_errors("list", self.root), contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            for entry in entries:
                name = entry.name.removeprefix(_REPLACED)
                if is_valid_name(name) and entry.is_dir():
                    found.add(name)
        return sorted(found, key=lambda name: (folded(name), name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._locate(name) is not None

    def __getitem__(self, name: str) -> StoredMemory:
        """Open a memory; raises LibraryError where there is none of that name (with the nearest), or it is damaged."""
        return self._open(name)

    def summaries(self) -> list[Summary]:
        """Every memory with its manifest, in the order of names(); a damaged one is listed as such."""
        found = []
        with _no_collection():
            for name in self.names():
                try:
                    found.append(Summary(name, self._open(name).manifest))
                except LibraryError as error:
                    if name in self:  # else it was removed since it was listed
                        found.append(Summary(name, None, str(error)))
        return found

    def find(self, absorption_key: str, name: str | None = None) -> StoredMemory | None:
        """The memory that came of that absorption, or None; damaged memories are not found.

        Where copies of it go by several names, the one called `name` is preferred.
        """
        check_key(absorption_key)
        if not self.root.is_dir():
            return None
        if name is not None and (named := self._open_if(name, absorption_key)) is not None:
            return named
        memory = self._find_in_index(absorption_key)
        if memory is not None or self._is_known_absent(absorption_key):
            return memory
        with contextlib.suppress(LibraryError), self._writing("index"):
            # another process may have put the memory, or brought the index up to date, while this one waited
            memory = self._find_in_index(absorption_key)
            if memory is None and not self._is_known_absent(absorption_key):
                self._rebuild_index()
            return memory or self._find_in_index(absorption_key)
        # a library that cannot be written to has no index to rely on
        names = [item.name for item in self.summaries() if _has_key(item, absorption_key)]
        return self[names[0]] if names else None

    def check_free(self, name: str, absorption_key: str | None = None, *, replace: bool = False) -> str:
        """The normal spelling of `name`, under which a memory may be put; with `replace` in the place of one so named.

        Raises UsageError where it cannot name a memory, and LibraryError where another memory has it already: one
        that differs only in case, or one that did not come of `absorption_key`.
        """
        name = normal_name(name)
        check_name(name)
        names = self.names()
        for taken in names:
            same_absorption = taken == name and absorption_key and self._open_if(name, absorption_key)
            if folded(taken) == folded(name) and not same_absorption and not (replace and taken == name):
                way_out = (
                    "absorb with --replace to put the new one in its place" if absorption_key else "remove it first"
                )
                raise LibraryError(
                    f"there is a memory named {taken!r} already; choose another name, for example "
                    f"{first_free_name(name, names)!r}, or {way_out}"
                )
        return name

    def free_name(self, title: str) -> str:
        """A name made of `title` that no memory has yet."""
        return first_free_name(suggest_name(title), self.names())

    def put(self, draft: MemoryDraft, *, replace: bool = False) -> StoredMemory:
        """Write a memory; with `replace` it takes the place of one that has exactly that name.

        Raises UsageError for a name that cannot be one, LibraryError where the name is taken or the disk refuses. The
        library is then as it was.
        """
        name = normal_name(draft.name)
        check_name(name)
        check_key(draft.absorption_key)
        with self._writing(f"write the memory {name!r} to"):
            replacing = replace and (self.root / name).is_dir()
            key_before = None
            if replacing:
                _check_is_memory(self.root / name)
                key_before = self._key_of(name)
            else:
                self.check_free(name)
            self._index.add(draft.absorption_key, name)
            self._install(name, dataclasses.replace(draft, name=name).files(), replacing)
            if key_before not in (None, draft.absorption_key):
                self._forget_key(name, key_before)
        return self[name]

    def copy(self, name: str, new_name: str, *, replace: bool = False) -> StoredMemory:
        """Copy a memory; `replace` and errors as for put, and LibraryError where the one to be copied is damaged."""
        return self._copied(lambda: self[name], new_name, f"copy the memory {name!r} in", replace)

    def adopt(self, memory: StoredMemory, name: str, *, replace: bool = False) -> StoredMemory:
        """Put a copy of a memory that lies elsewhere into the library; `replace` and errors as for copy."""
        return self._copied(lambda: memory, name, f"write the memory {name!r} to", replace)

    def put_all(self, fill: Callable[[Path], None]) -> list[str]:
        """Take the memories that `fill` writes into the directory it is given, each under its name there.

        All of them or none: from one rename on the rest is done by whoever writes next, if not by this process. Returns
        the names. Raises LibraryError where one is damaged, where its name is taken, or where the disk refuses, and
        what `fill` raises; the library is then as it was.
        """
        with self._writing("put memories into"):
            staged, restored = self._temporary(), self.root / (_RESTORED + secrets.token_hex(8))
            try:
                os.mkdir(staged)
                fill(staged)
                names = sorted(os.listdir(staged))
                self._check_staged(staged, names)
                sync_directory(staged)
                for name in names:
                    self._index.add(StoredMemory.open(staged / name).manifest.absorption_key, name)
                os.rename(staged, restored)
                sync_directory(self.root)
                self._finish_restored(restored)
            except BaseException:
                with contextlib.suppress(OSError):
                    for name in names if restored.exists() else ():
                        if not (restored / name).exists():
                            os.rename(self.root / name, restored / name)
                    if restored.exists():
                        os.rename(restored, staged)
                shutil.rmtree(staged, ignore_errors=True)
                raise
        return names

    def _check_staged(self, staged: Path, names: Sequence[str]) -> None:
        """Raise LibraryError unless each is whole, and has a name that no other has."""
        seen: dict[str, str] = {}
        for name in names:
            if (other := seen.setdefault(folded(name), name)) != name:
                raise LibraryError(f"expected memories of different names, got {other!r} and {name!r}; rename one")
            self.check_free(name)
            problems = StoredMemory.open(staged / name).problems()
            if problems:
                raise LibraryError(f"expected whole memories, got one that is damaged ({problems[0]}); nothing was put")

    def _finish_restored(self, restored: Path) -> None:
        """Give the memories in `restored` their names."""
        for name in sorted(os.listdir(restored)):
            if is_valid_name(name):
                os.rename(restored / name, self.root / first_free_name(name, self.names()))
        sync_directory(self.root)
        with contextlib.suppress(OSError):  # somebody has put something beside them
            os.rmdir(restored)

    def _copied(self, opened: Callable[[], StoredMemory], new_name: str, action: str, replace: bool) -> StoredMemory:
        new_name = normal_name(new_name)
        check_name(new_name)
        with self._writing(action):
            memory = opened()
            replacing = replace and (self.root / new_name).is_dir()
            if replacing:
                _check_is_memory(self.root / new_name)
            else:
                new_name = self.check_free(new_name)
            self._index.add(memory.manifest.absorption_key, new_name)
            self._install(new_name, memory.copied_files(new_name), replacing)
        return self[new_name]

    def read_whole(self, name: str) -> dict[str, bytes]:
        """Relative path -> content of every file of a memory, checked, all of one moment; empty where it is gone.

        Raises LibraryError where it is damaged.
        """
        for tries_left in reversed(range(_OPENING_TRIES)):
            if name not in self:
                return {}
            try:
                return dict(self[name].copied_files(name))
            except LibraryError:
                if not tries_left and not os.access(self.root, os.W_OK):
                    raise
        with self._writing("read"):  # it is replaced again and again, or is damaged
            return dict(self._open(name).copied_files(name)) if name in self else {}

    def rename(self, old: str, new: str) -> StoredMemory:
        """Give a memory another name; raises UsageError for a bad name, LibraryError where it is taken or damaged."""
        old, new = normal_name(old), normal_name(new)
        check_name(new)
        with self._writing(f"rename the memory {old!r} in"):
            memory = self[old]
            if new == old:
                return memory
            if folded(new) != folded(old):
                self.check_free(new)
            # the directory's name is what counts, so the manifest may follow a moment, or a crash, later
            manifest = self._temporary()
            write_file(manifest, memory.manifest.model_copy(update={"name": new}).to_json())
            try:
                self._index.add(memory.manifest.absorption_key, new)
                os.rename(memory.directory, self.root / new)
                sync_directory(self.root)
                os.replace(manifest, self.root / new / MANIFEST_FILE)
                sync_directory(self.root / new)
            except BaseException:
                with contextlib.suppress(OSError):
                    if not memory.directory.exists():
                        os.rename(self.root / new, memory.directory)
                raise
            finally:
                with contextlib.suppress(OSError):
                    manifest.unlink(missing_ok=True)
            self._forget_key(old, memory.manifest.absorption_key)
        return self[new]

    def remove(self, name: str) -> None:
        """Delete a memory, a damaged one too; gone with one rename. Raises LibraryError where there is none."""
        self._existing(name)
        with self._writing(f"remove the memory {name!r} from"):
            directory = self._existing(name)
            _check_is_memory(directory)
            key = self._key_of(name)
            self._discard(directory)
            self._forget_key(normal_name(name), key)

    def garbage(self) -> list[Path]:
        """Paths that a command left which was killed, or could not delete all; another may be at it."""
        with disk_errors("list", self.root), contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            return sorted(self.root / entry.name for entry in entries if _OWN_TEMPORARY.fullmatch(entry.name))
        return []

    def clear_garbage(self) -> None:
        """Finish what dead writers began, as every writer does first."""
        with self._writing("clear up"):
            pass

    def verify(self, name: str | None = None) -> list[Problem]:
        """Compare every file of one memory, or of all, with the hashes in its manifest; an empty list means whole."""
        found: list[Problem] = []
        if name is not None:
            self._existing(name)
        for each in self.names() if name is None else [name]:
            found.extend(self._problems(each))
        return found

    def _problems(self, name: str) -> list[Problem]:
        """The problems of one memory, none where it is gone; those of one that is just being replaced are none."""
        for _ in range(_OPENING_TRIES):
            before = self._look(name)
            found = self._problems_now(name)
            if not found or (before and before == self._look(name)):
                return found
        with contextlib.suppress(LibraryError), self._writing("verify"):  # it is replaced again and again
            return self._problems_now(name)
        return found

    def _problems_now(self, name: str) -> list[Problem]:
        try:
            return self._open(name).problems()
        except LibraryError as error:
            # else it was removed since it was listed
            return [Problem(name, MANIFEST_FILE, str(error))] if name in self else []

    def _look(self, name: str) -> tuple[int, ...]:
        """Something else for each directory that has had that name, and after each change of its manifest's name."""
        directory = self._locate(name)
        with contextlib.suppress(OSError):
            if directory is not None:
                now = directory.stat()
                return now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns
        return ()

    def _locate(self, name: str) -> Path | None:
        name = normal_name(name)
        if not is_valid_name(name):
            return None
        place, aside = self.root / name, self.root / (_REPLACED + name)
        # the place is looked at twice: a replacement may have ended between the first two looks
        return next((path for path in (place, aside, place) if path.is_dir()), None)

    def _open(self, name: str) -> StoredMemory:
        for _ in range(_OPENING_TRIES - 1):
            directory = self._locate(name)
            if directory is not None:
                with contextlib.suppress(LibraryError):
                    return StoredMemory.open(directory, normal_name(name))
        return StoredMemory.open(self._existing(name), normal_name(name))

    def _existing(self, name: str) -> Path:
        directory = self._locate(name)
        if directory is not None:
            return directory
        names = self.names()
        if not names:
            raise LibraryError(f"no memory {name!r}: the library {self.root} is empty; make one with `lift absorb`")
        near = nearest_names(name, names, 3)
        hint = f"the nearest are {', '.join(map(repr, near))}" if near else "see `lift list`"
        raise LibraryError(f"no memory {name!r} in the library {self.root}; {hint}")

    def _find_in_index(self, absorption_key: str) -> StoredMemory | None:
        found = (self._open_if(name, absorption_key) for name in self._index.get(absorption_key))
        return next((memory for memory in found if memory is not None), None)

    def _is_known_absent(self, absorption_key: str) -> bool:
        return self._index.is_whole() and not self._index.get(absorption_key)

    def _key_of(self, name: str) -> str | None:
        """The key that the memory called `name` came of, None where its manifest does not tell."""
        with contextlib.suppress(LibraryError):
            return self._open(name).manifest.absorption_key
        return None

    def _forget_key(self, name: str, key: str | None) -> None:
        """The index no longer has `name` under `key`, under any where that is not known. What stays is found stale."""
        with contextlib.suppress(OSError):
            if key is None:
                self._index.remove_name(name)
            else:
                self._index.remove(key, name)

    def _open_if(self, name: str, absorption_key: str) -> StoredMemory | None:
        """The memory called `name` if it is there, whole, and came of `absorption_key`."""
        if name not in self:
            return None
        with contextlib.suppress(LibraryError):
            memory = self._open(name)
            return memory if memory.manifest.absorption_key == absorption_key else None
        return None

    def _rebuild_index(self) -> None:
        summaries = self.summaries()
        names: dict[str, list[str]] = {}
        for summary in summaries:
            if summary.manifest:
                names.setdefault(summary.manifest.absorption_key, []).append(summary.name)
        self._index.replace_all(names)
        # a memory without a manifest may be one that somebody is just copying in
        if all(summary.manifest for summary in summaries):
            self._index.mark_whole()

    @contextlib.contextmanager
    def _writing(self, action: str) -> Iterator[None]:
        """Hold the library's lock, and leave the index as whole as it was found. Not reentrant."""
        with disk_errors(action, self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                lock = FileLock(self.root / _LOCK, timeout=_LOCK_TIMEOUT_S)
                with lock:
                    index_was_whole = self._index.is_whole()
                    self._recover()
                    if is_clock_settled(self.root / _CLOCK):
                        self.unfinished.clear_expired()
                    try:
                        yield
                    finally:
                        if index_was_whole:
                            self._index.mark_whole()
            except Timeout:
                raise LibraryError(
                    f"the library {self.root} was in use by another process for {_LOCK_TIMEOUT_S:.0f} s; "
                    "wait until it is done, then try again"
                ) from None

    def _recover(self) -> None:
        """Finish what dead writers began; called with the lock held, so that nothing found here has an owner."""
        with os.scandir(self.root) as entries:
            leftovers = [
                self.root / entry.name for entry in entries if entry.name.startswith((_TEMPORARY, _REPLACED, _RESTORED))
            ]
        for leftover in leftovers:
            if _OWN_TEMPORARY.fullmatch(leftover.name):
                self._discard(leftover)
            elif _OWN_RESTORED.fullmatch(leftover.name):
                self._finish_restored(leftover)
            elif is_valid_name(name := leftover.name.removeprefix(_REPLACED)) and _is_memory(leftover):
                if (self.root / name).exists():
                    self._discard(leftover)
                else:
                    os.rename(leftover, self.root / name)

    def _install(self, name: str, files: Iterable[tuple[str, bytes]], replacing: bool) -> None:
        """Write `files` and give them the place of `name`, undoing everything on failure."""
        fresh, place, aside = self._temporary(), self.root / name, self.root / (_REPLACED + name)
        moves: list[tuple[Path, Path]] = []
        try:
            write_directory(fresh, files)
            for source, target in [(place, aside)] * replacing + [(fresh, place)]:
                os.rename(source, target)
                moves.append((source, target))
            sync_directory(self.root)
        except BaseException:
            # where undoing fails as well, readers and the next writer still find one of the two under its name
            with contextlib.suppress(OSError):
                for source, target in reversed(moves):
                    os.rename(target, source)
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        if replacing:
            # the new memory stands; what cannot be deleted now is deleted by the next writer
            with contextlib.suppress(OSError):
                self._discard(aside)

    def _discard(self, path: Path) -> None:
        """Take `path` away at once, then delete it; a crash in between leaves only garbage."""
        garbage = path
        if not _OWN_TEMPORARY.fullmatch(path.name):
            garbage = self._temporary()
            os.rename(path, garbage)
            try:
                sync_directory(self.root)
            except OSError:
                with contextlib.suppress(OSError):
                    os.rename(garbage, path)
                raise
        if garbage.is_dir() and not garbage.is_symlink():
            shutil.rmtree(garbage, ignore_errors=True)
        else:
            garbage.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self.root / (_TEMPORARY + secrets.token_hex(8))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector, which would look through all manifests again and again for the few that it could free."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _has_key(summary: Summary, absorption_key: str) -> bool:
    return summary.manifest is not None and summary.manifest.absorption_key == absorption_key


def _is_memory(directory: Path) -> bool:
    # a library may have been put where somebody keeps other things, and those are never to be moved or deleted
    return any((directory / file).exists() for file in (MANIFEST_FILE, ADAPTER_STATE_FILE))


def _check_is_memory(directory: Path) -> None:
    if not _is_memory(directory):
        raise LibraryError(
            f"expected a memory in {directory}, got a directory without {MANIFEST_FILE} and {ADAPTER_STATE_FILE}; "
            "if nothing in it is needed, delete it by hand"
        )
