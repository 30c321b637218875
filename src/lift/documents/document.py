"""A document, once read: a title, a text, and where in the original each part of the text stood."""

from __future__ import annotations

import bisect
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

_BREAK = "\n\n"


@dataclass(frozen=True)
class Place:
    """Where the text from character `start` on stood in the original, until the next place begins.

    `file`: the original's file, where page and heading alone do not tell which of several it was.
    """

    start: int
    page: int | None = None
    heading: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        page = f"page {self.page}" if self.page is not None else ""
        return ", ".join(part for part in (self.file, page, f"“{self.heading}”" if self.heading else "") if part)


@dataclass(frozen=True)
class Omission:
    """Parts of the original that are not in the text: their kind, as a noun in the singular, their page and number.

    `kind` is such as "page without text", "image", "hidden panel" or "chapter that does not open".
    """

    kind: str
    page: int | None = None
    file: str | None = None
    count: int = 1


@dataclass(frozen=True)
class DocumentPart:
    """One of several documents that were joined: its text begins at character `start` of the whole."""

    start: int
    title: str
    source: str


@dataclass(frozen=True)
class Document:
    """A text with its title and origin.

    `places` is sorted by `start`; it is empty where the format knows neither pages nor headings. `parts` is sorted by
    `start` and empty for a document that was not joined from several. `omissions`: parts of the original that were left
    out, in its order. `language`: the ISO 639 code that its sentences are split by, None where nobody has told it yet.
    """

    title: str
    text: str
    source: str
    places: tuple[Place, ...] = field(default=())
    parts: tuple[DocumentPart, ...] = field(default=())
    omissions: tuple[Omission, ...] = field(default=())
    language: str | None = field(default=None, compare=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind of thing that was left out, with its count and pages."""
        return omission_warnings(self.omissions)

    @cached_property
    def sha256(self) -> str:
        """Hash of the text alone: two files with the same text are the same document."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def place_at(self, offset: int) -> Place | None:
        """The place of the character at `offset`, or None where the original had no pages or headings.

        In a document that was joined from several it names the file where another of them has the same title, or the
        same page and heading.
        """
        index = bisect.bisect_right(self.places, offset, key=lambda place: place.start) - 1
        if index < 0:
            return None
        place = self.places[index]
        part = self._part_at(place.start)
        if part is None or not self._is_ambiguous(place, part):
            return place
        return replace(place, file=self._files[part])

    def _part_at(self, offset: int) -> int | None:
        """The number of the part that holds the character, None for a document in one piece."""
        part = bisect.bisect_right(self.parts, offset, key=lambda part: part.start) - 1
        return part if part >= 0 else None

    def _is_ambiguous(self, place: Place, part: int) -> bool:
        titles, places = self._parts_by_words
        return len(titles[self.parts[part].title.casefold()]) > 1 or len(places[str(place).casefold()]) > 1

    @cached_property
    def _parts_by_words(self) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
        """The parts that have a title, and those that have a place of the same page and heading."""
        titles, places = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
        for number, part in enumerate(self.parts):
            titles[part.title.casefold()].add(number)
        for place in self.places:
            number_of = self._part_at(place.start)
            if number_of is not None:
                places[str(place).casefold()].add(number_of)
        return titles, places

    @cached_property
    def _files(self) -> tuple[str, ...]:
        """For each part the end of its source's path, as short as it can be and unlike those of the others."""
        paths = [[name for name in part.source.replace("\\", "/").split("/") if name] for part in self.parts]
        found = []
        for number, path in enumerate(paths):
            others = [other for other in paths if other != path]
            lengths = range(1, len(path) + 1)
            length = next((count for count in lengths if all(other[-count:] != path[-count:] for other in others)), 0)
            same = [other for other in range(len(paths)) if paths[other] == path]
            numbered = f" ({same.index(number) + 1})" if len(same) > 1 else ""
            found.append(f"{'/'.join(path[-length:]) or 'text'}{numbered}")
        return tuple(found)

    def split(self) -> tuple[Document, ...]:
        """The documents that this one was joined from, itself alone where it was not joined."""
        if not self.parts:
            return (self,)
        ends = [part.start - len(_BREAK) for part in self.parts[1:]] + [len(self.text)]
        return tuple(
            Document(
                part.title,
                self.text[part.start : end],
                part.source,
                tuple(replace(place, start=place.start - part.start) for place in self._places(part.start, end)),
                omissions=tuple(omission for omission in self.omissions if omission.file == part.source),
                language=self.language,
            )
            for part, end in zip(self.parts, ends, strict=True)
        )

    def _places(self, start: int, end: int) -> list[Place]:
        return [place for place in self.places if start <= place.start < end]


def join_documents(documents: Sequence[Document], title: str | None = None) -> Document:
    """One document of several, a blank line between them; each stays known as a part, under its own title.

    Where a document knows no heading, its title is the heading: page 3 of which file would be unknown else. Raises
    ValueError for none.
    """
    if not documents:
        raise ValueError("expected at least one document")
    if len(documents) == 1 and title is None:
        return documents[0]
    texts, places, parts, start = list[str](), list[Place](), list[DocumentPart](), 0
    omissions = [
        replace(omission, file=omission.file or whole.source) for whole in documents for omission in whole.omissions
    ]
    for whole in documents:
        for document in whole.split():
            texts.append(document.text)
            parts.append(DocumentPart(start, document.title, document.source))
            if not document.places or document.places[0].start > 0:
                places.append(Place(start, heading=document.title))
            places.extend(
                Place(start + place.start, place.page, place.heading or document.title) for place in document.places
            )
            start += len(document.text) + len(_BREAK)
    return Document(
        title or documents[0].title,
        _BREAK.join(texts),
        "; ".join(part.source for part in parts),
        tuple(places),
        tuple(parts),
        tuple(omissions),
        documents[0].language,
    )


# The kind of an omission where nothing was left out but a machine's eye read the page.
READ_BY_RECOGNITION = "page read by character recognition"


def omission_warnings(omissions: Sequence[Omission]) -> tuple[str, ...]:
    """A sentence for each file and kind of what was left out, with its count and pages."""
    groups = defaultdict[tuple[str | None, str], list[Omission]](list)
    for omission in omissions:
        groups[omission.file, omission.kind].append(omission)
    return tuple(_told(file, kind, members) for (file, kind), members in groups.items())


def grouped_omissions(omissions: Sequence[Omission], most: int) -> tuple[Omission, ...]:
    """As many omissions in at most `most` records, one for each file, kind and page.

    Where there are more, the pages of the others are not told. The kinds themselves may be more than `most`.
    """
    counts = Counter[tuple[str | None, str, int | None]]()
    for each in omissions:
        known = (each.file, each.kind, each.page) in counts or len(counts) < most
        counts[each.file, each.kind, each.page if known else None] += each.count
    return tuple(Omission(kind, page, file, count) for (file, kind, page), count in counts.items())


_MOST_PAGES_TOLD = 12
_QUALIFIED = re.compile(r" (?=(?:without|with|that|of|beside|in)\b)")


def _told(file: str | None, kind: str, members: Sequence[Omission]) -> str:
    """ "3 pages without text were left out (pages 2, 5 and 9)." for the omissions of one kind in one file."""
    count = sum(member.count for member in members)
    left_out = _plural(kind) if count > 1 else kind
    pages = sorted({member.page for member in members if member.page is not None})
    shown = [str(page) for page in pages[:_MOST_PAGES_TOLD]]
    if len(pages) > len(shown):
        shown.append(f"{len(pages) - len(shown)} more")
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    where = f" ({'pages' if len(pages) > 1 else 'page'} {listed})" if pages else ""
    of = f"{file}: " if file else ""
    if kind == READ_BY_RECOGNITION:
        verb = "were" if count > 1 else "was"
        return f"{of}{count} page{'s' if count > 1 else ''} {verb} read by character recognition{where}, which may err."
    return f"{of}{count} {left_out} {'were' if count > 1 else 'was'} left out{where}."


def _plural(kind: str) -> str:
    """The plural of a kind: "pages without text", "hidden panels", "chapters that do not open"."""
    noun = _QUALIFIED.split(kind, maxsplit=1)[0]
    rest = kind[len(noun) :].replace(" does ", " do ")
    return f"{noun}{'es' if noun.endswith(('x', 's', 'ch', 'sh')) else 's'}{rest}"
