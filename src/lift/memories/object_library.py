"""A library on an object store that fsspec opens (S3, Google Cloud, Azure): each memory is whole or absent.

    ROOT/manifests/NAME.json       memory.json, as in a directory; a memory is there from the moment that this one is
         files/NAME/VERSION/...    its other files; VERSION is made of their hashes, so none is ever written over
         keys/KEY                  the name of the memory that came of that absorption; a hint that is verified

The files of a memory are uploaded first and its manifest last, which a store replaces in one step: a reader finds the
old version or the new one, never a half. What a crash or a replacement leaves behind is under a VERSION that no
manifest names. Names are listed with one request for a thousand of them. Every file is checked against its hash when
it is read. A request that fails for any other reason than that nothing is there, or that access is denied, is tried
again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

from lift.errors import LibraryError, UsageError, nearest_names
from lift.memories.key_index import check_key
from lift.memories.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from lift.memories.memory import Problem, StoredMemory
from lift.memories.memory_names import check_name, folded, is_valid_name, normal_name

TRIES = 10
_LONGEST_WAIT_S = 8.0
_MANIFESTS, _FILES, _KEYS = "manifests", "files", "keys"
_ENDING = ".json"
_READERS = 16
# What no second try changes.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_CLOUDS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
_T = TypeVar("_T")


class ObjectLibrary:
    """The memories below `url`, such as s3://bucket/prefix. Credentials are the environment's, as its packages read it.

    Raises UsageError for a URL that nothing here opens. Any number of machines may use the same store at once.
    """

    def __init__(self, url: str, file_system: Any = None) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = (file_system, _path_of(url)) if file_system is not None else open_store(url)
        self._root = str(self._root).rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectLibrary({self.url!r})"

    def names(self) -> list[str]:
        """The names of all memories, sorted without regard to case; no file is opened."""
        with contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()  # other machines write too
            found = self._try("list", lambda: self._files.ls(self._at(_MANIFESTS), detail=False))
            files = {path.rstrip("/").rpartition("/")[2] for path in found}
            names = [file.removesuffix(_ENDING) for file in files if file.endswith(_ENDING)]
            return sorted(filter(is_valid_name, names), key=lambda name: (folded(name), name))
        return []

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_valid_name(name) and self._manifest(name) is not None

    def __getitem__(self, name: str) -> ObjectMemory:
        """Open a memory; raises LibraryError where there is none of that name (with the nearest), or it is damaged."""
        name = normal_name(name)
        manifest = self._manifest(name) if is_valid_name(name) else None
        if manifest is None:
            near = nearest_names(name, self.names(), 3)
            hint = f"the nearest are {', '.join(map(repr, near))}" if near else "it has no memory of a like name"
            raise LibraryError(f"no memory {name!r} in the library {self.url}; {hint}")
        return ObjectMemory(name, self, manifest)

    def find(self, absorption_key: str, name: str | None = None) -> ObjectMemory | None:
        """The memory that came of that absorption, the one called `name` if that did, or None."""
        check_key(absorption_key)
        named = [] if name is None else [name]
        with contextlib.suppress(FileNotFoundError):
            hint = self._get(f"{_KEYS}/{absorption_key}", 1 << 10).decode("utf-8", "replace")
            named += [hint] if is_valid_name(hint) else []
        for each in named:
            with contextlib.suppress(LibraryError):
                manifest = self._manifest(each)
                if manifest is not None and manifest.absorption_key == absorption_key:
                    return ObjectMemory(each, self, manifest)
        return None

    def adopt(self, memory: StoredMemory, name: str, *, replace: bool = False) -> ObjectMemory:
        """Put a copy of a memory here under `name`; with `replace` in the place of the one so named.

        Raises UsageError for a name that cannot be one, LibraryError where the name is taken or the store refuses. The
        library is then as it was.
        """
        name = normal_name(name)
        check_name(name)
        if not replace and self._manifest(name) is not None:
            raise LibraryError(
                f"there is a memory named {name!r} already in {self.url}; choose another name, or remove it first"
            )
        version = version_of(memory.manifest)
        for path, content in memory.copied_files(name):  # the manifest comes last
            if path == MANIFEST_FILE:
                self._put(f"{_KEYS}/{memory.manifest.absorption_key}", name.encode())
                self._put(_manifest_path(name), content)
            else:
                self._put(f"{_FILES}/{name}/{version}/{path}", content)
        return self[name]

    def remove(self, name: str) -> None:
        """Delete a memory, its manifest first; raises LibraryError where there is none."""
        memory = self[name]
        folder = f"{_FILES}/{memory.name}/{version_of(memory.manifest)}"
        for path in (_manifest_path(memory.name), *(f"{folder}/{each}" for each in memory.manifest.files)):
            with contextlib.suppress(FileNotFoundError):
                self._try("remove from", functools.partial(self._files.rm_file, self._at(path)))

    def verify(self, name: str | None = None) -> list[Problem]:
        """Compare every file of one memory, or of all, with the hashes in its manifest; an empty list means whole."""

        def problems(each: str) -> list[Problem]:
            try:
                return self[each].problems()
            except LibraryError as error:
                return [Problem(each, MANIFEST_FILE, str(error))]

        with ThreadPoolExecutor(_READERS) as readers:
            found = readers.map(problems, self.names() if name is None else [name])
            return [problem for each in found for problem in each]

    def read(self, name: str, manifest: Manifest, path: str) -> bytes:
        """One file of a memory, not checked; raises FileNotFoundError where it is gone, LibraryError as all."""
        return self._get(f"{_FILES}/{name}/{version_of(manifest)}/{path}", manifest.files[path].size_bytes)

    def _manifest(self, name: str) -> Manifest | None:
        """None where there is none; raises LibraryError for one that is damaged or of another format."""
        try:
            content = self._get(_manifest_path(name), MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return None
        manifest = parse_manifest(content, f"{self.url}/{_manifest_path(name)}")
        return manifest if manifest.name == name else manifest.model_copy(update={"name": name})

    def _get(self, path: str, most_bytes: int) -> bytes:
        if most_bytes == 0:  # of an empty file a store has no range to give
            return b"" if self._try("read", lambda: self._files.info(self._at(path)))["size"] == 0 else b"not empty"
        # one byte more tells a file that is longer than stated
        content: bytes = self._try("read", lambda: self._files.cat_file(self._at(path), start=0, end=most_bytes + 1))
        return content

    def _put(self, path: str, content: bytes) -> None:
        self._try("write to", lambda: self._files.pipe_file(self._at(path), content))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _try(self, action: str, request: Callable[[], _T]) -> _T:
        try:
            return try_again(request)
        except FileNotFoundError:
            raise
        except Exception as error:  # each store's package has errors of its own
            said = str(error).partition("\n")[0][:300]
            raise LibraryError(
                f"cannot {action} the library {self.url} ({type(error).__name__}: {said}); check that the store can be "
                "reached, and the credentials in the environment"
            ) from error


class ObjectMemory(StoredMemory):
    """A memory on an object store; each file is downloaded, and checked, when it is first asked for."""

    def __init__(self, name: str, library: ObjectLibrary, manifest: Manifest) -> None:
        super().__init__(name, Path(f"{library.url}/{name}"), manifest)
        self._library = library

    def problems(self) -> list[Problem]:
        """Compare size and hash of every file with the manifest."""
        return list(self._problems())

    def _problems(self) -> Iterator[Problem]:
        for path in self.manifest.files:
            try:
                self._read(path)
            except LibraryError as error:
                yield Problem(self.name, path, str(error))

    def _read(self, path: str) -> bytes:
        try:
            content = self._library.read(self.name, self.manifest, path)
        except FileNotFoundError:
            what = "is missing"
        else:
            if hashlib.sha256(content).hexdigest() == self.manifest.files[path].sha256:
                return content
            what = "does not have the content that its manifest states"
        raise LibraryError(
            f"{path} of the memory {self.name!r} {what} in {self._library.url}; absorb the text again, or open the "
            "memory again if it was replaced meanwhile"
        )


def try_again(request: Callable[[], _T]) -> _T:
    """The result of a request to a store, tried again where that may help; raises what the last try raised."""
    tries = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_WAIT_S),
        retry=retry_if_not_exception_type(_FINAL),
        reraise=True,
    )
    return tries(request)


def version_of(manifest: Manifest) -> str:
    """The folder of a memory's files on a store: a hash of all their hashes."""
    hashes = "".join(f"{path}:{record.sha256}\n" for path, record in sorted(manifest.files.items()))
    return hashlib.sha256(hashes.encode()).hexdigest()[:20]


def _manifest_path(name: str) -> str:
    return f"{_MANIFESTS}/{name}{_ENDING}"


def is_store_url(place: str) -> bool:
    """Whether a library's place is a URL of a store, not a path here."""
    return "://" in place and not place.startswith(("file://", "local://"))


def open_store(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and its path there; raises UsageError where nothing here opens it.

    The stores of the large clouds are opened by obstore, the extra `s3`, where fsspec has no package of their own.
    """
    import fsspec

    protocol = url.partition("://")[0]
    try:
        if protocol in _CLOUDS and protocol not in fsspec.registry:
            _register_cloud(protocol)
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"expected a URL that can be opened here, got {url!r} ({' '.join(str(error).split())[:200]}); install "
            "'lift-memory[s3]' for s3, gs and az, or fsspec's package for that protocol"
        ) from None
    return files, path


def _register_cloud(protocol: str) -> None:
    with contextlib.suppress(ImportError):
        from obstore.fsspec import register

        register([protocol], asynchronous=False)


def _path_of(url: str) -> str:
    return url.partition("://")[2] or url
