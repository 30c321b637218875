"""Lift from Python: absorb a document, open the library, ask.

A memory opened here knows how to answer: it loads its base model when it is first asked, once a process, and shares it
with every other memory on the same base. Everything here may be called from any number of threads: those that use one
base model take turns (models/turns.py), and a memory can be asked while another text is absorbed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import AbsorptionEvent, Finished
from lift.absorbing.add import add_events
from lift.absorbing.run_options import AbsorptionOptions, RunOptions
from lift.answering.answer import Answer, check_questions
from lift.answering.answerer import Answerer, open_memory
from lift.answering.library_question import CANDIDATES, LibraryAnswer, ask_found, check_found, near_documents
from lift.answering.many_memories import ask_memories
from lift.documents.document import Document, join_documents
from lift.documents.read import read_document
from lift.engines.engine_settings import VLLM_PREFIX
from lift.engines.served_answerer import ServedAnswerer, ask_served_memories, open_served_memory
from lift.engines.served_model import ServedModel, load_served_model
from lift.errors import UsageError
from lift.memories.document_search import DocumentSearch, FoundDocument
from lift.memories.library import MemoryLibrary as StoredLibrary
from lift.memories.manifest import Manifest
from lift.memories.memory import Problem, StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model as load_own_model
from lift.recipes.recipe import Recipe, load_recipe
from lift.remote.remote_answering import RemoteAnswerer, open_remote_memory
from lift.remote.remote_model import is_remote

_models: dict[str, BaseModel] = {}
_loading = Lock()


def load_model(name: str = "smollm2", **options: Any) -> BaseModel:
    """The base model of that name; "vllm:URL" is the one that a vLLM there computes, which answers and is not trained.

    `options` are those of models.load.load_model, for a model that this process computes. Raises ModelError, and for
    "vllm:URL" UsageError and EngineError.
    """
    if not name.startswith(VLLM_PREFIX):
        return load_own_model(name, **options)
    if options:
        raise UsageError(
            f"expected no {sorted(options)[0]} with {name}, which computes as it was started; leave it out"
        )
    return load_served_model(name)


def resident_model(name: str, fetch: bool = True) -> BaseModel:
    """The base model of that name, loaded once a process, whichever thread asks first; `fetch` as for load_model.

    Raises ModelError.
    """
    if name not in _models:
        with _loading:
            if name not in _models:
                _models[name] = load_own_model(name, fetch=fetch)
    return _models[name]


class Memory:
    """A memory that can be asked. `stored` gives its files: document, tasks, training, recall report."""

    def __init__(self, memory: StoredMemory, base: BaseModel | None = None) -> None:
        self.stored = memory
        self._base = base
        self._opened: Answerer | ServedAnswerer | None = None
        self._opening = Lock()

    @property
    def name(self) -> str:
        """Its name in the library."""
        return self.stored.name

    @property
    def manifest(self) -> Manifest:
        """The manifest: its parts, its cost, and how much of the document it knows."""
        return self.stored.manifest

    @property
    def document(self) -> Document:
        """The text that was absorbed."""
        return self.stored.document

    def ask(self, question: str, context: str = "auto") -> Answer:
        """Answer one question; raises UsageError, LibraryError, WrongBaseModelError."""
        return self._answerer().ask(question, context)

    def ask_many(self, questions: Sequence[str], context: str = "auto") -> list[Answer]:
        """Answer in batches, in the order of the questions; raises as ask does."""
        return self._answerer().ask_many(questions, context)

    def add(
        self, source: str | Path | Document, *, title: str | None = None, overrides: Sequence[str] = (), **options: Any
    ) -> Memory:
        """Add a file (or a Document) to what this memory knows, and return the changed memory, which replaces this one.

        `options` are those of RunOptions; add_events is the iterator form. Raises every child of LiftError.
        """
        run = RunOptions(**options)
        base = _trainable(self._base or resident_model(self.manifest.base.id, fetch=False))
        library = StoredLibrary(self.stored.directory.parent)
        document = _document(source, title)
        return _finished(add_events(document, self.stored, base, library, run, overrides=overrides), base)

    def _answerer(self) -> Answerer | ServedAnswerer | RemoteAnswerer:
        """The answerer, opened once: to find the sentences of a long text takes longer than an answer."""
        if is_remote(self.stored):
            return open_remote_memory(self.stored)
        base = self._base or resident_model(self.manifest.base.id, fetch=False)
        with self._opening:
            if self._opened is None:
                served = base if isinstance(base, ServedModel) else None
                self._opened = open_served_memory(self.stored, served) if served else open_memory(self.stored, base)
            return self._opened

    def __repr__(self) -> str:
        return f"Memory({self.name!r})"


class Library:
    """The directory that holds the memories; `library[name]` can be asked. `stored` does what concerns files alone."""

    def __init__(self, root: Path | str | None = None, model: BaseModel | None = None) -> None:
        self.stored = StoredLibrary(Path(root) if root is not None else None)
        self._model = model

    def __getitem__(self, name: str) -> Memory:
        """The memory of that name; raises LibraryError where there is none (with the nearest), or it is damaged."""
        return Memory(self.stored[name], self._model)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """The names of all memories, sorted."""
        return self.stored.names()

    def search(self, question: str, count: int = CANDIDATES) -> list[FoundDocument]:
        """The `count` documents that the question is most likely about, best first; raises LibraryError."""
        return DocumentSearch(self.stored).search(question, count)

    def ask(self, question: str, context: str = "auto") -> LibraryAnswer:
        """Find the documents that the question may be about, and let the memory of one of them answer.

        Raises LibraryError where no document has a word of it, and as Memory.ask.
        """
        check_questions([question], context)
        found, left_out = DocumentSearch(self.stored).search_telling(question, CANDIDATES)
        check_found(found, question)
        first = self[found[0].name]
        near = [self[each.name] for each in near_documents(found)[1:]]
        asked = [first, *(each for each in near if each.manifest.base == first.manifest.base)]
        base = None if is_remote(first.stored) else self._model or resident_model(first.manifest.base.id, fetch=False)
        if base is None or isinstance(base, ServedModel):
            alone = first.ask(question, context)
            return LibraryAnswer(first.name, first.manifest.title, alone, tuple(found), left_out)
        names = {each.name for each in asked}
        ranked = [*(each for each in found if each.name in names), *(each for each in found if each.name not in names)]
        answer = ask_found(base, [each.stored for each in asked], ranked, question, context)
        return dataclasses.replace(answer, left_out=left_out)

    def rename(self, old: str, new: str) -> Memory:
        """Give a memory another name; raises UsageError for a bad one, LibraryError where it is taken."""
        return Memory(self.stored.rename(old, new), self._model)

    def remove(self, name: str) -> None:
        """Delete a memory; raises LibraryError where there is none."""
        self.stored.remove(name)

    def verify(self, name: str | None = None) -> list[Problem]:
        """Everything that is wrong with one memory's files, or with all; an empty list means whole."""
        return self.stored.verify(name)


def absorb(
    source: str | Path | Document | Sequence[str | Path | Document],
    model: BaseModel | None = None,
    recipe: str | Recipe = "default",
    *,
    title: str | None = None,
    library: Library | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Memory:
    """Absorb a file (or a Document), or several as one, and return the memory.

    `options` are those of AbsorptionOptions: name, budget_s, until and others. For the progress there is absorb_events,
    which is the iterator form. Raises every child of LiftError.
    """
    run = AbsorptionOptions(**options)  # before a model is loaded
    if isinstance(source, str | Path | Document):
        document = _document(source, title)
    else:
        document = join_documents([_document(each, None) for each in source], title)
    base = _trainable(model or resident_model("smollm2"))
    settings, stored = load_recipe(recipe, overrides), (library or Library()).stored
    return _finished(absorb_events(document, base, settings, stored, run), base)


def ask_many(asked: Sequence[tuple[Memory, str]], context: str = "auto", **options: Any) -> list[Answer]:
    """Ask each of these memories its question, in batches of questions to different memories; answers in that order.

    The memories are of one base model, the first one's; each answers as by Memory.ask, at nearly the speed of as many
    questions to one memory. `options` are those of many_memories.ask_memories. Raises UsageError for an empty question
    or a memory at an endpoint, WrongBaseModelError for a memory of another base model, and LibraryError.
    """
    if not asked:
        return []
    first = asked[0][0]
    base = first._base or resident_model(first.manifest.base.id, fetch=False)
    if isinstance(base, ServedModel):
        return ask_served_memories(base, [(memory.stored, question) for memory, question in asked], context, **options)
    return ask_memories(base, [(memory.stored, question) for memory, question in asked], context, **options)


def _trainable(base: BaseModel) -> BaseModel:
    if isinstance(base, ServedModel):
        raise UsageError(
            f"expected a model that this process computes to train on, got one that {base.connection.server.name} "
            f"computes; load it here: lift.load_model({base.id!r})"
        )
    return base


def _document(source: str | Path | Document, title: str | None) -> Document:
    return source if isinstance(source, Document) else read_document(source, title=title)


def _finished(events: Iterator[AbsorptionEvent], base: BaseModel) -> Memory:
    return [Memory(event.memory, base) for event in events if isinstance(event, Finished)][-1]
