"""Blocks: what every reader of a file format makes, and how they become a document.

A block is a heading, a paragraph, a list item, a table row or a run of preformatted lines, in reading order. Readers
know one format each and nothing about offsets; `assemble` is the one place where offsets into the text are counted, so
that a page or a heading cannot drift from the characters that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lift.documents.cleaning import clean_text, is_unspaced
from lift.documents.document import Document, Omission, Place
from lift.errors import DocumentError

PARAGRAPH = "\n\n"
LINE = "\n"
SPACE = " "
# A title or heading may be as long as the file, and is repeated in many places: what is longer is cut.
MAX_HEADING_CHARS = 300


@dataclass(frozen=True)
class Block:
    """A piece of text and what begins with it.

    `heading` names the section that begins here (the block's own text, or a chapter's name from a table of contents),
    `page` is the page that the block begins on, counted from 1, and `separator` is what stands before the block:
    PARAGRAPH, LINE (list items, table rows), SPACE (the page ended inside the paragraph) or "" (inside a word).
    """

    text: str
    heading: str | None = None
    page: int | None = None
    separator: str = PARAGRAPH


@dataclass(frozen=True)
class Content:
    """A file as it was read: the title that it gives itself, if any, the blocks, and all that was left out."""

    title: str | None
    blocks: list[Block]
    omissions: tuple[Omission, ...] = ()

    @property
    def first_heading(self) -> str | None:
        """The text of the first heading, or None."""
        return next((block.heading for block in self.blocks if block.heading), None)


def one_line(text: str) -> str:
    """The text cleaned, its white space collapsed: for titles and headings."""
    return " ".join(clean_text(text).split())


def shortened(line: str) -> str:
    """A title or heading of at most MAX_HEADING_CHARS characters; what was cut off its end is told by "…"."""
    return line if len(line) <= MAX_HEADING_CHARS else line[: MAX_HEADING_CHARS - 1].rstrip() + "…"


def assemble(title: str, source: str, blocks: Iterable[Block], omissions: Iterable[Omission] = ()) -> Document:
    """Join the blocks into a document with its places; raises DocumentError where no text is left."""
    parts: list[str] = []
    places: list[Place] = []
    length_chars = 0
    page: int | None = None
    heading: str | None = None
    for block in blocks:
        page = block.page if block.page is not None else page
        whole_heading = one_line(block.heading) if block.heading else ""
        heading = shortened(whole_heading) or heading
        text = clean_text(block.text).strip("\n").rstrip()
        if not parts:
            text = text.lstrip()
        if not text:
            continue
        if parts:
            unspaced = block.separator == SPACE and is_unspaced(parts[-1][-1:], text[:1])
            separator = "" if unspaced else block.separator
            parts.append(separator)
            length_chars += len(separator)
        known = places[-1] if places else Place(start=0)
        if (page, heading) != (known.page, known.heading) or (whole_heading and text == whole_heading):
            places.append(Place(start=length_chars, page=page, heading=heading))
        parts.append(text)
        length_chars += len(text)
    if not parts:
        raise DocumentError(f"{source}: expected text, got only white space; give a file with words in it")
    return Document(shortened(title), "".join(parts), source, tuple(places), omissions=tuple(omissions))
