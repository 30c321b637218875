"""A long document cut to a size, as one run of whole sentences, with the questions that it still answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lift.answering.scoring import normalised_words
from lift.documents.document import Document
from lift.documents.sentences import Sentence, split_sentences
from lift.errors import UsageError
from lift.evaluation.records import Question, Record

MIN_SHARE = 0.8
MAX_LENGTH_RATIO = 2
RULE = (
    "A document over the limit is cut to the run of whole sentences within it that holds the evidence of most "
    "questions (the earliest among equals), and only these questions are asked. A passage of evidence is held where "
    f"its best-matching sentences are, which have at least {MIN_SHARE} of its words; a question with a "
    "passage that no sentences match is left out of a cut document, and so is one without evidence, unless the "
    "document does not answer it: then no part of it does, and it is asked whatever the window."
)


def excerpt(
    record: Record, offsets: Callable[[str], list[tuple[int, int]]], limit_tokens: int
) -> tuple[Record, list[Question]]:
    """The record with its document cut to `limit_tokens`, and the questions that are left out; see RULE.

    Where the document fits, nothing is changed and no question left out. Else each passage of evidence is located: a
    passage that stands literally in the text is where it first stands; of any other, the run of sentences with the best
    F1 of normalised words, the first among equals, of those runs that have MIN_SHARE of the passage's words and are one
    sentence or at most MAX_LENGTH_RATIO times as long as the passage. A window begins with a sentence and goes on for
    as many sentences as fit. Where no question can be placed, the window is the beginning of the document and all
    that have an answer are left out. An unanswerable question with a passage is treated like the others, so that their
    share stays what it was; one without is always kept. `offsets` gives the characters of each token of a text. Raises
    UsageError where not one sentence fits.
    """
    text = record.document.text
    tokens = offsets(text)
    if len(tokens) <= limit_tokens:
        return record, []
    sentences = split_sentences(text)
    spans = _Locator(text, sentences).spans(record.questions)
    window = _best_window(text, sentences, _ends(sentences, tokens, limit_tokens), spans, offsets, limit_tokens)
    if window is None:
        raise UsageError(
            f"expected excerpts that hold a sentence of {record.label!r}, got {limit_tokens} tokens; "
            "raise excerpt_tokens"
        )
    held = [
        _holds(window, span) or not (question.answers or question.evidence)
        for question, span in zip(record.questions, spans, strict=True)
    ]
    kept = tuple(question for question, is_held in zip(record.questions, held, strict=True) if is_held)
    left_out = [question for question, is_held in zip(record.questions, held, strict=True) if not is_held]
    cut = text[sentences[window.first].start : sentences[window.last].end]
    document = Document(record.document.title, cut, record.document.source)
    return replace(record, document=document, questions=kept), left_out


@dataclass(frozen=True)
class _Span:
    """Sentences `first` to `last`, both within it."""

    first: int
    last: int


def _holds(window: _Span, span: _Span | None) -> bool:
    return span is not None and window.first <= span.first and span.last <= window.last


def _ends(sentences: Sequence[Sentence], tokens: Sequence[tuple[int, int]], limit_tokens: int) -> list[int]:
    """For each sentence, the last one of the window that begins with it; one less than itself where none fits."""
    token_starts = np.array([start for start, _ in tokens])
    token_ends = np.array([end for _, end in tokens])
    first_tokens = np.searchsorted(token_ends, [sentence.start for sentence in sentences], side="right")
    next_tokens = np.searchsorted(token_starts, [sentence.end for sentence in sentences], side="left")
    return [int(last) - 1 for last in np.searchsorted(next_tokens, first_tokens + limit_tokens, side="right")]


def _best_window(
    text: str,
    sentences: Sequence[Sentence],
    ends: Sequence[int],
    spans: Sequence[_Span | None],
    offsets: Callable[[str], list[tuple[int, int]]],
    limit_tokens: int,
) -> _Span | None:
    """The window that holds most spans, the earliest among equals; None where no sentence fits."""
    windows = [_Span(first, last) for first, last in enumerate(ends) if first <= last]
    counts = [sum(_holds(window, span) for span in spans) for window in windows]
    best, best_count = None, -1
    for index in sorted(range(len(windows)), key=lambda index: -counts[index]):
        if counts[index] < best_count:
            break
        if best is not None and counts[index] == best_count and windows[index].first > best.first:
            continue
        # a cut may split tokens otherwise than the whole text, so that a window has a token or two more than reckoned
        fitting = _fitting(text, sentences, windows[index], offsets, limit_tokens)
        count = sum(_holds(fitting, span) for span in spans) if fitting else -1
        if fitting and (count > best_count or (count == best_count and best and fitting.first < best.first)):
            best, best_count = fitting, count
    return best


def _fitting(
    text: str,
    sentences: Sequence[Sentence],
    window: _Span,
    offsets: Callable[[str], list[tuple[int, int]]],
    limit_tokens: int,
) -> _Span | None:
    """The window without the sentences at its end that are over the limit; None where none is left."""
    start = sentences[window.first].start
    for last in range(window.last, window.first - 1, -1):
        if len(offsets(text[start : sentences[last].end])) <= limit_tokens:
            return _Span(window.first, last)
    return None


class _Locator:
    """Finds the sentences that a passage of evidence is about."""

    def __init__(self, text: str, sentences: Sequence[Sentence]) -> None:
        self._text = text
        self._sentences = sentences
        words = [Counter(normalised_words(sentence.text)) for sentence in sentences]
        self._word_ends = np.cumsum([0, *(counts.total() for counts in words)])
        self._places: dict[str, list[tuple[int, int]]] = {}  # the sentences that a word is in, and how often
        for index, counts in enumerate(words):
            for word, count in counts.items():
                self._places.setdefault(word, []).append((index, count))
        self._found: dict[str, _Span | None] = {}

    def spans(self, questions: Sequence[Question]) -> list[_Span | None]:
        """For each question the sentences from its first passage of evidence to its last; None where one is missing."""
        return [self._evidence(question.evidence) for question in questions]

    def _evidence(self, passages: Sequence[str]) -> _Span | None:
        spans = []
        for passage in passages:
            if passage not in self._found:
                self._found[passage] = self._literal(passage.strip()) or self._similar(passage)
            span = self._found[passage]
            if span is None:
                return None
            spans.append(span)
        return _Span(min(span.first for span in spans), max(span.last for span in spans)) if spans else None

    def _literal(self, passage: str) -> _Span | None:
        start = self._text.find(passage)
        if start < 0 or not passage:
            return None
        touched = [
            sentence.index
            for sentence in self._sentences
            if sentence.start < start + len(passage) and sentence.end > start
        ]
        return _Span(touched[0], touched[-1])

    def _similar(self, passage: str) -> _Span | None:
        """The run of sentences that is most like the passage, where any is like it."""
        wanted = Counter(normalised_words(passage))
        length = wanted.total()
        if not length:
            return None
        needed = np.array(list(wanted.values()), dtype=np.int32)
        running = np.zeros((len(self._sentences) + 1, len(wanted)), dtype=np.int32)
        for column, word in enumerate(wanted):
            for index, count in self._places.get(word, ()):
                running[index + 1, column] = count
        running = np.cumsum(running, axis=0, dtype=np.int32)
        best, best_f1 = None, 0.0
        for size in range(1, len(self._sentences) + 1):
            lengths = self._word_ends[size:] - self._word_ends[:-size]
            fits = lengths / length >= MIN_SHARE
            if size > 1:
                short = lengths <= MAX_LENGTH_RATIO * length
                if not short.any():
                    break
                fits &= short
            starts = np.flatnonzero(fits)
            if not len(starts):
                continue
            same = np.minimum(running[starts + size] - running[starts], needed).sum(axis=1)
            scores = np.where(same / length >= MIN_SHARE, 2 * same / (length + lengths[starts]), 0)
            found = int(np.argmax(scores))
            first = int(starts[found])
            if scores[found] > best_f1 or (scores[found] == best_f1 and best and first < best.first):
                best, best_f1 = _Span(first, first + size - 1), float(scores[found])
        return best
