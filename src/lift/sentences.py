"""Text -> sentences, with their place in the text. Pure: no model, no file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """One sentence of a document: `text` is document.text[start:end], stripped; `paragraph` counts from 0."""

    index: int
    text: str
    start: int
    end: int
    paragraph: int
