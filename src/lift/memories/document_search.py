"""Which documents of a library a question is about: BM25 over the passages of all their texts.

    LIBRARY/.search/passages.sqlite      SQLite's own full-text index (FTS5), brought up to date by content before use

A document is as good as its best passage, a question being about one place of it, and titles are part of every passage.
The index is only a cache: it can be deleted at any time, and where none can be written it is made in memory. Words are
those that sentences are found by (documents/retrieval.py), so that scripts without spaces are found as well.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lift.documents.document import Document
from lift.documents.retrieval import search_stems
from lift.errors import LibraryError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import MANIFEST_FILE

SEARCH_DIRECTORY = ".search"
_FILE = "passages.sqlite"
# Raised where words, passages or tables are made otherwise: an older index is made anew.
_VERSION = 1
# A passage of so many content words overlaps its neighbours by half.
PASSAGE_WORDS = 80
_MOST_PASSAGES = 1 << 20  # of a document; a passage's row is numbered document x this + its place
_BUSY_S = 60.0
_COMMIT_EVERY = 500
_SCHEMA = """
CREATE TABLE documents(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, stamp TEXT NOT NULL, content TEXT NOT NULL,
                       title TEXT NOT NULL, damage TEXT);
CREATE VIRTUAL TABLE passages USING fts5(words, tokenize = "unicode61 remove_diacritics 0");
"""


@dataclass(frozen=True)
class FoundDocument:
    """A document that shares words with a question; `score`: BM25 of its best passage, above 0."""

    name: str
    title: str
    score: float


class DocumentSearch:
    """The search over `library`. Any number of processes may search and update at once."""

    def __init__(self, library: MemoryLibrary) -> None:
        self._library = library
        self._path = library.root / SEARCH_DIRECTORY / _FILE

    def search(self, question: str, count: int) -> list[FoundDocument]:
        """The `count` best documents as the library is now, best first; fewer where fewer share a word with it.

        Raises LibraryError where the library cannot be read.
        """
        return self.search_telling(question, count)[0]

    def search_telling(self, question: str, count: int) -> tuple[list[FoundDocument], dict[str, str]]:
        """As search; and memories whose texts cannot be searched, each with the sentence why."""
        if not self._library.root.is_dir():
            return [], {}
        words = list(dict.fromkeys(search_stems(question)))
        with self._opened() as index:
            self._update(index)
            left_out = dict(index.execute("SELECT name, damage FROM documents WHERE damage IS NOT NULL ORDER BY name"))
            return (_best_documents(index, words, count) if words else []), left_out

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        index = self._connect()
        try:
            yield index
        except sqlite3.Error as error:
            raise LibraryError(
                f"the index {self._path} cannot be used ({error}); delete it, and it is made anew"
            ) from error
        finally:
            index.close()

    def _connect(self) -> sqlite3.Connection:
        for _ in range(2):
            try:
                self._path.parent.mkdir(exist_ok=True)
                if not os.access(self._path.parent, os.W_OK):
                    break
                return self._prepared(str(self._path))
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    break  # a disk that is full, or that nobody may write to
                for ending in ("", "-wal", "-shm"):  # no database
                    self._path.with_name(_FILE + ending).unlink(missing_ok=True)
            except OSError:
                break
        return self._prepared(":memory:")

    def _prepared(self, path: str) -> sqlite3.Connection:
        index = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            index.execute("PRAGMA trusted_schema = OFF")
            (version,) = index.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:
                index.execute("PRAGMA journal_mode = WAL")
                with _transaction(index):
                    (version,) = index.execute("PRAGMA user_version").fetchone()  # another may have made it meanwhile
                    if version != _VERSION:
                        for table in ("documents", "passages"):
                            index.execute(f"DROP TABLE IF EXISTS {table}")
                        for statement in filter(str.strip, _SCHEMA.split(";")):
                            index.execute(statement)
                        index.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            index.close()
            raise
        return index

    def _update(self, index: sqlite3.Connection) -> None:
        """Make the index that of the library as it is now; what has not changed is looked at, not opened."""
        known = {name: stamp for name, stamp in index.execute("SELECT name, stamp FROM documents")}
        here = self._stamps()
        if known == here:
            return
        changed = sorted(name for name in here if known.get(name) != here[name])
        gone = sorted(known.keys() - here.keys())
        for first in range(0, max(len(changed), 1), _COMMIT_EVERY):
            with _transaction(index):
                for name in gone if first == 0 else ():
                    _remove(index, name)
                for name in changed[first : first + _COMMIT_EVERY]:
                    self._put(index, name, here[name])

    def _stamps(self) -> dict[str, str]:
        """Of every memory what changes with its manifest: a new one is a new file."""
        found = {}
        for name in self._library.names():
            with contextlib.suppress(OSError):
                status = os.stat(self._library.root / name / MANIFEST_FILE)
                found[name] = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
        return found

    def _put(self, index: sqlite3.Connection, name: str, stamp: str) -> None:
        document: Document | None = None
        damage = None
        try:
            memory = self._library[name]
            content, title = memory.manifest.document.sha256, memory.manifest.title
            same = index.execute(
                "UPDATE documents SET stamp = ? WHERE name = ? AND content = ? AND title = ? AND damage IS NULL",
                (stamp, name, content, title),
            )
            if same.rowcount:
                return
            document = memory.document
        except LibraryError as error:
            if name not in self._library:
                return
            content, title, damage = "", name, str(error)
        _remove(index, name)
        cursor = index.execute(
            "INSERT INTO documents(name, stamp, content, title, damage) VALUES (?, ?, ?, ?, ?)",
            (name, stamp, content, title, damage),
        )
        assert cursor.lastrowid is not None
        first = cursor.lastrowid * _MOST_PASSAGES
        rows = [] if document is None else passages(document)
        index.executemany(
            "INSERT INTO passages(rowid, words) VALUES (?, ?)",
            [(first + place, " ".join(words)) for place, words in enumerate(rows[:_MOST_PASSAGES])],
        )


def passages(document: Document) -> list[list[str]]:
    """The stemmed words of each passage of a document, its title's before them; at least one passage."""
    title, words = search_stems(document.title), search_stems(document.text)
    step = PASSAGE_WORDS // 2
    return [[*title, *words[start : start + PASSAGE_WORDS]] for start in range(0, max(len(words) - step, 1), step)]


def _remove(index: sqlite3.Connection, name: str) -> None:
    row = index.execute("SELECT id FROM documents WHERE name = ?", (name,)).fetchone()
    if row is not None:
        first = row[0] * _MOST_PASSAGES
        index.execute("DELETE FROM passages WHERE rowid BETWEEN ? AND ?", (first, first + _MOST_PASSAGES - 1))
        index.execute("DELETE FROM documents WHERE id = ?", row)


def _best_documents(index: sqlite3.Connection, words: Sequence[str], count: int) -> list[FoundDocument]:
    # a quoted string is one token: nothing that is asked is taken for an operator
    query = " OR ".join(f'"{word}"' for word in words)
    rows = index.execute(
        f"WITH found AS MATERIALIZED (SELECT rowid / {_MOST_PASSAGES} AS document, bm25(passages) AS score "
        "FROM passages WHERE passages MATCH ?), "
        "best AS (SELECT document, -MIN(score) AS score FROM found GROUP BY document) "
        "SELECT documents.name, documents.title, best.score FROM best "
        "JOIN documents ON documents.id = best.document ORDER BY best.score DESC, documents.name LIMIT ?",
        (query, count),
    )
    return [FoundDocument(name, title, score) for name, title, score in rows]


@contextlib.contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")
