"""Text -> its language, told by py3langid: a model of 140 languages that comes with the package."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lift.documents.document import Document

_SAMPLE_CHARS = 20_000
_MIN_LETTERS = 12
# A foreign language has to be likely, since code, tables and names make English look like many others, none of them
# likely; English needs only to be likelier than any other.
_MIN_FOREIGN_PROBABILITY = 0.5


def document_language(document: Document) -> str:
    """The language of a document: as it was told before, else as its text tells."""
    return document.language or detect_language(document.text)


def detect_language(text: str) -> str:
    """The language of a text as an ISO 639 code, told by its first 20,000 characters, where that is clear.

    "other" where it is not: fewer than twelve letters, or another language than English with a probability below 0.5.
    """
    sample = text[:_SAMPLE_CHARS]
    if sum(character.isalpha() for character in sample) < _MIN_LETTERS:
        return "other"
    language, probability = _identifier().classify(sample)
    return str(language) if language == "en" or probability >= _MIN_FOREIGN_PROBABILITY else "other"


@functools.cache
def _identifier() -> Any:
    # read when the first text is looked at: it takes most of a second
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
