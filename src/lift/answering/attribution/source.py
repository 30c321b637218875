"""A sentence with what a reader knows on reaching it: title, heading, the sentence before, the head of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lift.answering.attribution.comparison_lexicon import PRONOUNS
from lift.answering.attribution.reading import Statement, read_statement
from lift.documents.document import Document
from lift.documents.sentences import Sentence

_CELL = " | "
_MOST_CHARS = 1_000


@dataclass(frozen=True)
class Cell:
    """One cell of a table's row: where it stands in the row's text, and the text that heads its column, "" for none."""

    start: int
    end: int
    heading: str


class SourceSentence:
    """A sentence of a document in its surroundings; everything is read when it is asked for."""

    def __init__(self, document: Document, sentences: Sequence[Sentence], number: int) -> None:
        self.sentence = sentences[number]
        self._document = document
        self._sentences = sentences
        self._number = number

    @cached_property
    def statement(self) -> Statement:
        """The sentence itself."""
        return read_statement(self.sentence.text[:_MOST_CHARS])

    @cached_property
    def heading(self) -> Statement:
        """The heading that it stands under."""
        place = self._document.place_at(self.sentence.start)
        return read_statement(place.heading if place and place.heading else "")

    @cached_property
    def title(self) -> Statement:
        """The title of the document."""
        return read_statement(self._document.title)

    @cached_property
    def before(self) -> Statement | None:
        """The sentence before, where a pronoun of this one may point at it."""
        if self._number == 0 or self.cells or not set(self.statement.tokens) & PRONOUNS:
            return None
        previous = self._sentences[self._number - 1]
        same = previous.paragraph == self.sentence.paragraph
        return read_statement(previous.text[:_MOST_CHARS]) if same else None

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of a table's row; nothing where the sentence is prose."""
        text = self.sentence.text[:_MOST_CHARS]
        if _CELL not in text:
            return ()
        first = self._number
        while first and self._sentences[first - 1].paragraph == self.sentence.paragraph:
            first -= 1
        heads = self._sentences[first].text.split(_CELL) if first != self._number else []
        pieces = text.split(_CELL)
        if len(heads) != len(pieces):
            heads = [""] * len(pieces)
        cells, start = [], 0
        for piece, head in zip(pieces, heads, strict=True):
            cells.append(Cell(start, start + len(piece), head))
            start += len(piece) + len(_CELL)
        return tuple(cells)

    def cell_at(self, offset: int) -> Cell | None:
        """The cell that holds the character at `offset`."""
        return next((cell for cell in self.cells if cell.start <= offset <= cell.end), None)
