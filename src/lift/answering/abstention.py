"""Answers that say that nothing is told."""

from __future__ import annotations

from lift.answering.scoring import normalised_words

_SAID = {("text", "does", "not", "tell"), ("memory", "does", "not", "tell")}


def abstains(answer: str) -> bool:
    """Whether an answer says that there is none."""
    words = tuple(normalised_words(answer))
    return not words or words in _SAID
