"""The documents of a farm: a folder, a glob, a list or a table of paths, URLs or texts -> one entry a document.

Nothing of a document is read here but its size; the worker that absorbs it reads it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lift.documents.document import Document
from lift.documents.folder import files_of
from lift.documents.read import MAX_BYTES, document_from_text, read_document
from lift.errors import DocumentError, UsageError
from lift.memories.memory_names import folded, suggest_name
from lift.memories.object_library import is_store_url, open_store, try_again

_TABLES = (".parquet", ".jsonl")
_GLOB = re.compile(r"[*?\[]")
_COLUMNS = ("path", "url", "text")
_HASH_CHARS = 8
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FarmDocument:
    """A document that is to be absorbed into the memory `name`.

    `source` is a path, a URL, or for a text in a table the table and its title; `text` is None for the first two.
    """

    name: str
    source: str
    size_bytes: int
    title: str | None = None
    text: str | None = None

    def read(self, ocr: bool = False) -> Document:
        """Read it; raises DocumentError."""
        if self.text is not None:
            return document_from_text(self.text, self.title or self.name, self.source)
        if not is_store_url(self.source):
            return read_document(self.source, title=self.title, ocr=ocr)
        with tempfile.TemporaryDirectory(prefix="lift-") as folder:
            path = Path(folder, "document" + PurePosixPath(self.source).suffix[:20])
            _download(self.source, path)
            return read_document(path, title=self.title or _stem(self.source), name=self.source, ocr=ocr)


def find_documents(sources: Sequence[str]) -> list[FarmDocument]:
    """The documents that `sources` name, each once, in their order.

    A source is a file, a folder (its files, hidden ones left out), a glob, a URL by fsspec of any of these, a table
    (.parquet, .jsonl) with a column `path`, `url` or `text` and perhaps `title`, or @FILE, a list of paths or URLs, one
    a line (@- reads standard input). Names are made of titles or file names; those of equal names end in a hash of
    their source, so that a name does not depend on the order. Raises UsageError for a source that is none of it, or
    names nothing, and for two texts of one title in a table.
    """
    found: dict[str, _Row] = {}
    for row in (row for source in sources for row in _rows_of(source)):
        if found.setdefault(row.source, row).text != row.text:
            raise UsageError(
                f"expected a title of its own for each text of a table, got two texts of {row.source}; mend the titles"
            )
    rows = list(found.values())
    if not rows:
        raise UsageError(f"expected sources with a document in them, got none in {', '.join(sources)}; name others")
    names = [suggest_name(row.title or _stem(row.source)) for row in rows]
    taken = Counter(map(folded, names))
    return [
        FarmDocument(
            name if taken[folded(name)] == 1 else f"{name}-{_short_hash(row.source)}",
            row.source,
            row.size_bytes,
            row.title,
            row.text,
        )
        for name, row in zip(names, rows, strict=True)
    ]


@dataclass(frozen=True)
class _Row:
    source: str
    size_bytes: int
    title: str | None = None
    text: str | None = None


def _rows_of(source: str, *, title: str | None = None) -> Iterator[_Row]:
    if source.startswith("@"):
        for line in _lines(source[1:]):
            yield from _rows_of(line)
    elif source.endswith(_TABLES):
        yield from _table_rows(source)
    elif is_store_url(source):
        yield from _stored_rows(source, title)
    else:
        yield from _local_rows(source.partition("://")[2] if "://" in source else source, title)


def _local_rows(source: str, title: str | None) -> Iterator[_Row]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = files_of(path)
    elif path.is_file() or not _GLOB.search(source):
        found = [path]
    else:
        found = sorted(each for each in map(Path, glob.glob(str(path), recursive=True)) if each.is_file())
        if not found:
            raise UsageError(f"expected a glob that files fit, got {source!r}, which none does; mend it")
    for each in found:
        try:
            yield _Row(str(each.absolute()), each.stat().st_size, title)
        except OSError as error:
            raise UsageError(
                f"expected a file, a folder or a glob of them, got {str(each)!r} ({error.strerror}); check its spelling"
            ) from None


def _stored_rows(url: str, title: str | None) -> Iterator[_Row]:
    files, path = open_store(url)
    protocol = url.partition("://")[0]
    try:
        if _GLOB.search(path):
            found = try_again(lambda: files.glob(path, detail=True))
        else:
            found = try_again(lambda: files.find(path, detail=True))
            found = {each: facts for each, facts in found.items() if not PurePosixPath(each).name.startswith(".")}
    except Exception as error:  # each store's package has errors of its own
        raise UsageError(f"expected a URL that can be listed, got {url!r} ({error}); check it") from None
    if not found:
        raise UsageError(f"expected a URL with files, got {url!r}, where there is none; check it")
    for each, facts in sorted(found.items()):
        if facts.get("type") != "directory":
            yield _Row(
                each if "://" in each else f"{protocol}://{each.lstrip('/')}", int(facts.get("size") or 0), title
            )


def _table_rows(source: str) -> Iterator[_Row]:
    is_local = not is_store_url(source)
    table = os.path.abspath(os.path.expanduser(source)) if is_local else source
    beside = os.path.dirname(table) if is_local else ""
    for number, record in enumerate(_records(source), 1):
        where = f"row {number} of {source}"
        told = {key: record[key] for key in (*_COLUMNS, "title") if isinstance(record.get(key), str) and record[key]}
        given = [key for key in _COLUMNS if key in told]
        if len(given) != 1:
            raise UsageError(f"expected a string as path, url or text in {where}, got {_shown(given, record)}; mend it")
        title, kind = told.get("title"), given[0]
        if kind == "text":
            if title is None:
                raise UsageError(f"expected a title beside the text in {where}, got none; add a column title")
            yield _Row(f"{table}#{title}", len(told["text"].encode("utf-8", "replace")), title, told["text"])
        elif kind == "path" and not is_store_url(told["path"]):
            for row in _local_rows(os.path.join(beside, told["path"]), title):
                if not Path(row.source).resolve().is_relative_to(Path(beside).resolve()):
                    raise UsageError(
                        f"expected a path below the folder of the table in {where}, got {told['path']!r}; name files "
                        "elsewhere in the command itself, or in a list (@FILE)"
                    )
                yield row
        else:
            yield from _stored_rows(told[kind], title)


def _shown(given: Sequence[str], record: Mapping[str, Any]) -> str:
    return " and ".join(given) if given else f"the columns {', '.join(map(str, record))[:200] or 'of none'}"


def _records(source: str) -> Iterator[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="lift-") as folder:
        path = Path(source).expanduser()
        if is_store_url(source):
            path = Path(folder, "table")
            _download(source, path)
        try:
            yield from _parquet_records(path) if source.endswith(".parquet") else _json_records(path, source)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"expected a table that can be read, got {source!r} ({error}); check it") from None


def _parquet_records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise UsageError(
            "expected pyarrow, which reads parquet, got none; install 'lift-memory[farm]', or give the table as JSONL"
        ) from None
    try:
        table = parquet.ParquetFile(path)
        wanted = [name for name in table.schema_arrow.names if name in (*_COLUMNS, "title")]
        for batch in table.iter_batches(columns=wanted):
            yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise UsageError(f"expected a parquet file, got another ({error}); check it") from None


def _json_records(path: Path, source: str) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise UsageError(f"expected a JSON object in line {number} of {source!r}, got {line.strip()[:60]!r}")
            yield record


def _lines(source: str) -> Iterable[str]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a list of paths or URLs in {source!r}, got {error}; check it") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _download(url: str, path: Path) -> None:
    files, inside = open_store(url)

    def fetch() -> bool:
        with files.open(inside, "rb") as source, path.open("wb") as target:
            while target.tell() <= MAX_BYTES and (chunk := source.read(_CHUNK_BYTES)):
                target.write(chunk)
            return target.tell() <= MAX_BYTES

    try:
        if not try_again(fetch):
            raise DocumentError(f"{url}: expected at most {MAX_BYTES:,} bytes, got more; split it")
    except DocumentError:
        raise
    except Exception as error:  # each store's package has errors of its own
        said = " ".join(str(error).split())[:200]
        raise DocumentError(f"{url}: cannot be read ({type(error).__name__}: {said}); check the URL") from error


def _stem(source: str) -> str:
    return PurePosixPath(source.replace(os.sep, "/")).stem


def _short_hash(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:_HASH_CHARS]
