"""Leftovers of a library and of the cache: listed with their size, cleared away, and erased with a memory.

A checkpoint is that of work which nobody is at; an upload one that no waiting or running job needs. Nothing that is in
use is listed, and what was touched lately is listed and kept. Caches are made again when they are missed, which costs
time or, for replies of an endpoint, money: they are cleared only where they are named.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lift.endpoints.reply_cache import REPLIES_FILE, ReplyCache
from lift.errors import JobConflictError, LibraryError, UsageError
from lift.jobs.job import Job
from lift.jobs.store import JOBS_DIRECTORY, JobStore
from lift.memories.clock_guard import DAY_S
from lift.memories.document_search import SEARCH_DIRECTORY
from lift.memories.durable import disk_errors
from lift.memories.library import ENGINES_DIRECTORY, MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.fingerprint import cache_directory, converted_models_directory
from lift.tasks.language_model import REPLIES_DIRECTORY

CLEARED_AFTER_S = 7 * DAY_S
Kind = Literal["checkpoints", "jobs", "uploads", "garbage", "replies", "models", "engines"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# what can be had again for time or money alone is cleared where it is named
CLEARED_UNNAMED: tuple[Kind, ...] = ("checkpoints", "jobs", "uploads", "garbage")


@dataclass(frozen=True)
class Leftover:
    """One thing that could be cleared away: its `kind`, its `id` among these, in words, size, and age in seconds.

    `kept`: why it is not cleared now, "" where it is.
    """

    kind: Kind
    id: str
    what: str
    size_bytes: int
    age_s: float
    kept: str = ""


@dataclass(frozen=True)
class Erased:
    """Counts of all that was erased with memories; `copies` are other memories that hold the same text still."""

    memories: tuple[str, ...]
    checkpoints: int
    jobs: int
    uploads: int
    replies: int
    copies: tuple[str, ...]


def list_leftovers(
    library: MemoryLibrary,
    kinds: Collection[str] = CLEARED_UNNAMED,
    older_than_s: float = CLEARED_AFTER_S,
    now_s: float | None = None,
) -> list[Leftover]:
    """All leftovers; those that are not of `kinds`, or were touched less than `older_than_s` ago, are `kept`.

    A checkpoint of a memory that is finished is of no use, whatever its age. Raises UsageError for a kind that there
    is not, LibraryError and JobError where the disk refuses.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(f"expected one of {', '.join(KINDS)}, got {unknown[0]!r}; leave it out for all that can go")
    now_s = time.time() if now_s is None else now_s
    found: list[Leftover] = []
    with disk_errors("look through", library.root):
        for each in _leftovers(library, now_s):
            kept = each.kept
            if not kept and each.kind not in kinds:
                kept = f"named: lift clean {each.kind}"
            elif kept == _RESUMABLE:
                kept = "" if each.age_s >= older_than_s else kept
            elif not kept and each.kind in ("jobs", "uploads") and each.age_s < older_than_s:
                kept = _LATELY
            found.append(Leftover(each.kind, each.id, each.what, each.size_bytes, each.age_s, kept))
    return found


def clear_leftovers(library: MemoryLibrary, leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Clear away those that are not kept; returns those that are gone. What somebody took up meanwhile stays."""
    cleared = []
    with contextlib.ExitStack() as opened, disk_errors("clear up", library.root):
        store: JobStore | None = None
        for each in leftovers:
            if each.kept:
                continue
            if each.kind in ("jobs", "uploads") and store is None:
                store = opened.enter_context(contextlib.closing(JobStore(library.root / JOBS_DIRECTORY, clears=False)))
            if _clear(library, store, each):
                cleared.append(each)
        if store is not None:
            store.compact()
    return cleared


def erase_memories(library: MemoryLibrary, names: Sequence[str]) -> Erased:
    """Remove memories with every trace of them in the library and in the cache of replies.

    That is text, titles, names, jobs and events; what a farm has kept in the cache is not reached.

    Their checkpoints go, every job that made one of them or was given the same file, with its upload and its events,
    and the replies of task generators, of all texts, since they are not told apart. The memories go last, so that what
    was broken off can be done again. Raises LibraryError where one is missing or cannot be deleted, JobConflictError
    while a job of theirs waits or runs, BusyAbsorptionError while somebody trains one.
    """
    memories = [library[name] for name in names]
    texts = {hash_ for memory in memories for hash_ in _text_hashes(memory)}
    copies = [name for name in library.names() if name not in names and not texts.isdisjoint(_texts_of(library, name))]
    checkpoints = jobs = uploads = replies = 0
    with contextlib.ExitStack() as alone, disk_errors("erase memories of", library.root):
        keys = {memory.manifest.absorption_key for memory in memories} | library.unfinished.keys_of(texts)
        for key in sorted(keys):
            alone.enter_context(library.unfinished.alone(key))
        if (library.root / JOBS_DIRECTORY).is_dir():
            with contextlib.closing(JobStore(library.root / JOBS_DIRECTORY, clears=False)) as store:
                found = _jobs_of(store, memories, texts)
                store.remove_jobs([job.id for job in found])
                files = {file.id for file in store.files() if file.sha256 in texts} | {job.file_id for job in found}
                jobs, uploads = len(found), store.remove_files(files)
                store.compact()
        for key in keys:
            checkpoints += library.unfinished.path(key).exists()
            library.unfinished.clear(key)
            _check_gone(library.unfinished.path(key))
        if (cache_directory() / REPLIES_DIRECTORY / REPLIES_FILE).exists():
            with ReplyCache(cache_directory() / REPLIES_DIRECTORY) as cache:
                replies = cache.clear()
        # adapters in the form of another program, which can be given anew
        _remove_directory(library.root / ENGINES_DIRECTORY)
        index = library.root / SEARCH_DIRECTORY
        _remove_directory(index)
        for memory in memories:
            library.remove(memory.name)
        _remove_directory(index)  # somebody may have searched meanwhile
        for garbage in library.garbage():
            _check_gone(garbage)
    return Erased(tuple(memory.name for memory in memories), checkpoints, jobs, uploads, replies, tuple(copies))


_RESUMABLE = "can be gone on with: --resume"
_LATELY = "of late"


def _leftovers(library: MemoryLibrary, now_s: float) -> Iterator[Leftover]:
    finished = {each.manifest.absorption_key: each.name for each in library.summaries() if each.manifest is not None}
    for work in library.unfinished.abandoned():
        name = finished.get(work.key)
        what = f"checkpoint of {name!r}, which is finished" if name else "checkpoint of work that is not finished"
        kept = "" if name else _RESUMABLE
        yield Leftover("checkpoints", work.key, what, work.size_bytes, max(now_s - work.changed_s, 0.0), kept)
    if (library.root / JOBS_DIRECTORY).is_dir():
        with contextlib.closing(JobStore(library.root / JOBS_DIRECTORY, clears=False)) as store:
            yield from _of_jobs(store, now_s)
    for path in library.garbage():
        yield Leftover("garbage", path.name, "what a broken-off command left", _size_bytes(path), _age_s(path, now_s))
    caches: tuple[tuple[Kind, Path, str], ...] = (
        ("replies", cache_directory() / REPLIES_DIRECTORY, "replies about tasks: paid for again, or computed again"),
        ("models", converted_models_directory(), "converted base models: converted again when they are used"),
        ("engines", library.root / ENGINES_DIRECTORY, "adapters for other engines: written again when they are asked"),
    )
    for kind, path, what in caches:
        if path.is_dir() and (size_bytes := _size_bytes(path)):
            yield Leftover(kind, path.name, what, size_bytes, _age_s(path, now_s))


def _of_jobs(store: JobStore, now_s: float) -> Iterator[Leftover]:
    needed = set()
    used: dict[str, float] = {}
    for job in store.jobs():
        if job.status in ("queued", "running"):
            needed.add(job.file_id)
            continue
        ended = job.finished_at or job.created_at
        used[job.file_id] = max(ended, used.get(job.file_id, ended))
        what = f"job that has {job.status}" if job.status != "cancelled" else "job that was cancelled"
        size_bytes = store.event_bytes(job.id)
        yield Leftover("jobs", job.id, f"{what}: {job.memory or job.title or job.file_id}", size_bytes, now_s - ended)
    for file in store.files():
        if file.id not in needed:
            age_s = max(now_s - used.get(file.id, file.created_at), 0.0)
            yield Leftover("uploads", file.id, f"upload {file.name}", file.bytes, age_s)


def _clear(library: MemoryLibrary, store: JobStore | None, each: Leftover) -> bool:
    if each.kind == "checkpoints":
        with contextlib.suppress(LibraryError), library.unfinished.alone(each.id):
            library.unfinished.clear(each.id)
            return not library.unfinished.path(each.id).exists()
        return False
    if each.kind in ("jobs", "uploads"):
        assert store is not None
        with contextlib.suppress(JobConflictError):  # queued again meanwhile
            if each.kind == "jobs":
                return store.remove_jobs([each.id]) > 0
            return store.remove_files([each.id]) > 0
        return False
    if each.kind == "garbage":
        library.clear_garbage()
        return not (library.root / each.id).exists()
    if each.kind == "replies":
        with ReplyCache(cache_directory() / REPLIES_DIRECTORY) as cache:
            return cache.clear() >= 0
    place = library.root / ENGINES_DIRECTORY if each.kind == "engines" else converted_models_directory()
    shutil.rmtree(place, ignore_errors=True)
    return not place.exists()


def _jobs_of(store: JobStore, memories: Sequence[StoredMemory], texts: Collection[str]) -> list[Job]:
    """Jobs that made one of the memories, whatever it was called then, or were given the same file.

    Where the file is gone, a title or a name tells.
    """
    names = {memory.name for memory in memories}
    titles = {memory.manifest.title for memory in memories}
    made = {job for memory in memories for job in store.jobs_that_tell(memory.manifest.absorption_key)}
    jobs = store.jobs()
    hashes = {file.id: file.sha256 for file in store.files()}
    own = {
        job.id
        for job in jobs
        if job.id in made
        or job.memory in names
        or (job.file_id not in hashes and (job.name in names or job.title in titles))
    }
    given = {hashes.get(job.file_id, job.file_id) for job in jobs if job.id in own} | set(texts)
    return [job for job in jobs if job.id in own or hashes.get(job.file_id, job.file_id) in given]


def _text_hashes(memory: StoredMemory) -> set[str]:
    document = memory.document
    return {part.sha256 for part in (document, *document.split()) if part.text}


def _texts_of(library: MemoryLibrary, name: str) -> set[str]:
    """The hashes of the texts of a memory; none where it cannot be read."""
    with contextlib.suppress(LibraryError):
        return _text_hashes(library[name])
    return set()


def _remove_directory(directory: Path) -> None:
    """Delete a directory that is made again when it is missed, if it is there; raises LibraryError if it stays."""
    if directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
        _check_gone(directory)


def _check_gone(path: Path) -> None:
    if path.exists():
        raise LibraryError(
            f"{path} cannot be deleted, and may hold what was to be erased; mend its permissions, then try again"
        )


def _size_bytes(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _age_s(path: Path, now_s: float) -> float:
    with contextlib.suppress(OSError):
        return max(now_s - path.lstat().st_mtime, 0.0)
    return 0.0
