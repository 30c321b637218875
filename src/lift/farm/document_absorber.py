"""A worker of a farm absorbs one document after the other on a resident base model, each into the library.

A document is absorbed in a scratch library on the worker's own disk, which holds the checkpoints of what was
interrupted, and its memory is put into the farm's library whole. A document that is there already, absorbed in the same
way, is found by its content and not trained again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorption_identity
from lift.absorbing.run_options import AbsorptionOptions
from lift.errors import InterruptedAbsorption, LiftError
from lift.farm.destination import Destination, check_place, open_destination
from lift.farm.sources import FarmDocument
from lift.farm.work_queue import Failure
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.fingerprint import cache_directory
from lift.models.load import load_model
from lift.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class FarmSettings:
    """How all documents of a farm are absorbed; `library` is a path or URL, `budget_s` bounds each document.

    With `replace` a changed document takes the place of its older memory. `threads`: those that a worker computes
    with, None for as many as the machine likes.
    """

    library: str
    recipe: Recipe
    model: str = "smollm2"
    budget_s: float | None = None
    ocr: bool = False
    replace: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        AbsorptionOptions(budget_s=self.budget_s)  # raises BudgetError


@dataclass(frozen=True)
class AbsorbedDocument:
    """A document that is in the library as the memory `memory`; `reused`: nothing was trained. `seconds`: of all."""

    document: str
    memory: str
    reused: bool
    seconds: float
    probed: int
    recalled: int
    tokens: int


@dataclass(frozen=True)
class NotAbsorbed:
    """A document that failed, with its reason; `interrupted`: the worker was asked to stop."""

    document: str
    failure: Failure
    interrupted: bool = False


Outcome = AbsorbedDocument | NotAbsorbed


class DocumentAbsorber:
    """Absorbs documents as `settings` say; the model is loaded here. Raises ModelError, UsageError, LibraryError."""

    def __init__(self, settings: FarmSettings) -> None:
        self._settings = settings
        self._destination: Destination = open_destination(settings.library)
        self._scratch = MemoryLibrary(_scratch_directory(settings.library))
        self._stop = threading.Event()
        if settings.threads is not None:
            import torch

            torch.set_num_threads(settings.threads)
        self._base = load_model(settings.model)
        self._resolved = resolve(settings.recipe, self._base)

    def stop(self) -> None:
        """Interrupt what is being absorbed, which keeps its state, and begin nothing more."""
        self._stop.set()

    def absorb(self, document: FarmDocument) -> Outcome:
        """Absorb one document; whatever goes wrong with it is told, never raised."""
        started = time.monotonic()
        try:
            if self._stop.is_set():
                raise InterruptedAbsorption("stopped before it was begun")
            memory, reused = self._absorbed(document)
        except InterruptedAbsorption as error:
            return NotAbsorbed(document.name, _failure(error), interrupted=True)
        except Exception as error:
            if not isinstance(error, LiftError):
                # an adapter may still be attached to it
                self._base = load_model(self._settings.model)
            return NotAbsorbed(document.name, _failure(error))
        recall, cost = memory.manifest.recall, memory.manifest.cost
        seconds = time.monotonic() - started
        return AbsorbedDocument(
            document.name, memory.name, reused, seconds, recall.probed, recall.recalled, 0 if reused else cost.tokens
        )

    def _absorbed(self, document: FarmDocument) -> tuple[StoredMemory, bool]:
        settings = self._settings
        read = document.read(settings.ocr)
        key = absorption_identity(read, self._base, self._resolved, settings.budget_s).key
        if (known := self._destination.find(key, document.name)) is not None:
            return known, True
        replacing = check_place(self._destination, document.name, read.source, replace=settings.replace)
        options = AbsorptionOptions(budget_s=settings.budget_s, resume=True, stop=self._stop, wait_for_others=True)
        finished: Finished | None = None
        with closing(absorb_events(read, self._base, settings.recipe, self._scratch, options)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Finished):
                    finished = event
                elif self._stop.is_set():
                    raise InterruptedAbsorption("stopped before its training was done")
        assert finished is not None, "the events end with Finished or raise"
        memory = self._destination.adopt(finished.memory, document.name, replace=replacing)
        with suppress(LiftError):  # another worker of this machine may have absorbed the same, and taken it away
            self._scratch.remove(finished.memory.name)
        return memory, False


def _scratch_directory(library: str) -> Path:
    """Where a worker keeps the state of what it is absorbing into `library`."""
    return cache_directory() / "farm" / hashlib.sha256(library.encode()).hexdigest()[:16]


def _failure(error: Exception) -> Failure:
    """In one sentence; a fault that nobody foresaw is told with its kind."""
    if isinstance(error, LiftError):
        return Failure(type(error).__name__, str(error))
    said = " ".join(str(error).split())[:500]
    return Failure(
        type(error).__name__, f"unexpected {type(error).__name__} while absorbing ({said}); please report it"
    )
