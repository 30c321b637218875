"""What a document is, once read: a title, a text, and where in the original each part of the text stood."""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Place:
    """Where the text from character `start` on stood in the original, until the next place begins."""

    start: int
    page: int | None = None
    heading: str | None = None

    def __str__(self) -> str:
        parts = [f"page {self.page}" if self.page is not None else "", f"“{self.heading}”" if self.heading else ""]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Document:
    """A text with its title and origin.

    `places` is sorted by `start`; it is empty where the format knows neither pages nor headings.
    """

    title: str
    text: str
    source: str
    places: tuple[Place, ...] = field(default=())

    @cached_property
    def sha256(self) -> str:
        """Hash of the text alone: two files with the same text are the same document."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def place_at(self, offset: int) -> Place | None:
        """The place of the character at `offset`, or None where the original had no pages or headings."""
        index = bisect.bisect_right([place.start for place in self.places], offset) - 1
        return self.places[index] if index >= 0 else None
