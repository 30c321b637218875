"""How well an answer matches a reference: SQuAD's normalisation, exact match, token F1, and containment. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalised_words(text: str) -> list[str]:
    """Lower case, without punctuation and articles (Rajpurkar et al. 2016, the official SQuAD script)."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return _ARTICLES.sub(" ", bare).split()


def contained(answer: str, references: Sequence[str]) -> float:
    """1 where a reference is a run of whole words of the answer, else 0."""
    words = f" {' '.join(normalised_words(answer))} "
    return float(any(f" {' '.join(normalised_words(reference))} " in words for reference in references))


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer equals a reference after normalisation, else 0."""
    return float(any(normalised_words(answer) == normalised_words(reference) for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall, the best over the references, 0 to 1."""
    return max((_f1(normalised_words(answer), normalised_words(reference)) for reference in references), default=0.0)


def _f1(answer: list[str], reference: list[str]) -> float:
    same = sum((Counter(answer) & Counter(reference)).values())
    return 2 * same / (len(answer) + len(reference)) if same else 0.0
