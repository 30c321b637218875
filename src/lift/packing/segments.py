"""Segments of a document: windows that overlap, so that the order of a long text can be learnt, or paragraphs.

Windows are the paper's rule (method 1.1), paragraphs its exception for a text of passages whose order means nothing
(PassageRetrieval, method 1.2), sentences what its baseline of raw text is trained on (method 3.4). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lift.documents.sentences import split_sentences
from lift.recipes.recipe import SegmentSettings

_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n\s*(?=\S)")


@dataclass(frozen=True)
class Segment:
    """Tokens [start, end) of the document."""

    start: int
    end: int

    @property
    def length_tokens(self) -> int:
        return self.end - self.start


def split_segments(total_tokens: int, length_tokens: int, step_tokens: int) -> list[Segment]:
    """Cover [0, total_tokens) by windows of `length_tokens`, each starting `step_tokens` after the one before.

    The formal definition (LIFT, section 3.1): l_1 = 1, r_K = L, l_{i+1} = l_i + s. The last segment ends at the last
    token, so it alone may be shorter, and none lies within another. A text shorter than one window is one segment.
    Raises ValueError where length or step are not positive, or the step is longer than the window (a gap).
    """
    if length_tokens < 1 or not 1 <= step_tokens <= length_tokens:
        raise ValueError(f"expected 1 <= step <= length, got step {step_tokens} and length {length_tokens} tokens")
    if total_tokens < 1:
        return []
    count = 1 + max(0, -(-(total_tokens - length_tokens) // step_tokens))
    return [
        Segment(index * step_tokens, min(index * step_tokens + length_tokens, total_tokens)) for index in range(count)
    ]


def split_paragraphs(text: str, offsets: Sequence[tuple[int, int]], length_tokens: int) -> list[Segment]:
    """Cover the tokens of `text` without overlap, each segment within one paragraph and at most `length_tokens` long.

    `offsets`: the characters [start, end) of each token. A paragraph is the text between blank lines; the blank lines
    behind it belong to it, and a token that reaches into the next paragraph belongs to that. Raises ValueError where
    length_tokens is not positive.
    """
    starts = [match.end() for match in _BETWEEN_PARAGRAPHS.finditer(text)]
    return _split_at(starts, offsets, length_tokens)


def split_each_sentence(text: str, offsets: Sequence[tuple[int, int]], length_tokens: int) -> list[Segment]:
    """As split_paragraphs, each segment within one sentence; white space behind a sentence belongs to it."""
    return _split_at([sentence.start for sentence in split_sentences(text)][1:], offsets, length_tokens)


def _split_at(starts: Sequence[int], offsets: Sequence[tuple[int, int]], length_tokens: int) -> list[Segment]:
    """Segments that none of the characters `starts` lies within, at most `length_tokens` long."""
    edges, token = [0], 0
    for start in starts:
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        edges.append(token)
    segments = []
    for first, last in pairwise([*edges, len(offsets)]):
        for piece in split_segments(last - first, length_tokens, length_tokens):
            segments.append(Segment(first + piece.start, first + piece.end))
    return segments


def segments_of(text: str, offsets: Sequence[tuple[int, int]], settings: SegmentSettings) -> list[Segment]:
    """The segments that `settings` ask for; `offsets` are the characters [start, end) of each token of `text`."""
    if settings.unit == "paragraph":
        return split_paragraphs(text, offsets, settings.length_tokens)
    if settings.unit == "sentence":
        return split_each_sentence(text, offsets, settings.length_tokens)
    return split_segments(len(offsets), settings.length_tokens, settings.step_tokens)
