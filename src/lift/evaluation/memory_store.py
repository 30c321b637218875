"""The memories of an evaluation: absorbed once for each document, recipe and budget, and found again afterwards."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from threading import Event as StopFlag

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import AbsorptionEvent, Finished
from lift.absorbing.run_options import AbsorptionOptions
from lift.documents.document import Document
from lift.evaluation.evaluation_events import Absorbing
from lift.evaluation.harms import unrelated_articles
from lift.evaluation.records import Record
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe


class MemoryStore:
    """Memories on `base` in a library of their own at `root`."""

    def __init__(self, root: Path, base: BaseModel, stop: StopFlag | None = None) -> None:
        self._library = MemoryLibrary(root)
        self._base = base
        self._stop = stop

    def memory(
        self, document: Document, recipe: Recipe, budget_s: float | None, suite: str, label: str = ""
    ) -> Generator[Absorbing, None, StoredMemory]:
        """The memory of `document`, absorbed now where it is not known yet; raises what absorb_events raises.

        `label`: what the document is called where it has no title.
        """
        found: StoredMemory | None = None
        for event in self._absorb(document, recipe, budget_s):
            if isinstance(event, Finished):
                found = event.memory
                if event.reused:
                    break
            yield Absorbing(suite, document.title or label, recipe.name, event)
        assert found is not None  # absorb_events ends with Finished, or raises
        return found

    def _absorb(self, document: Document, recipe: Recipe, budget_s: float | None) -> Iterator[AbsorptionEvent]:
        options = AbsorptionOptions(budget_s=budget_s, resume=True, stop=self._stop)
        return absorb_events(document, self._base, recipe, self._library, options)


def other_document(records: tuple[Record, ...], record: Record) -> Document:
    """Whose memory the wrong-document control asks: the next one under another title or without one, around the end.

    Where there is no other, an article that comes along with the harness.
    """
    place = records.index(record)
    for other in (*records[place + 1 :], *records[:place]):
        named_alike = other.document.title == record.document.title and other.document.title
        if not named_alike and other.document.sha256 != record.document.sha256:
            return other.document
    articles = [Document(each["title"], each["context"], "XQuAD") for each in unrelated_articles()]
    return next(article for article in articles if article.title != record.document.title)
