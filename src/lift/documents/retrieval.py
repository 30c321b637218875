"""Which sentences of the document a question, or an answer, is about: BM25 over sentences.

Stop words and stemming are those of English, in which most questions come. In scripts that are written without spaces
two characters beside each other are a word. A row of a table is found by the words of its header too, and brings it.
"""

from __future__ import annotations

import logging
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from lift.documents.cleaning import is_unspaced, unspaced_runs
from lift.documents.document_tables import find_tables
from lift.documents.sentences import Sentence

# bm25s sets its own logger to tell of every index, and other packages print what loggers tell
logging.getLogger("bm25s").setLevel(logging.WARNING)
_WORD = re.compile(r"\w+")
_QUESTION_WORDS = "what which who whom whose when where why how did does do was were is are has have had many much"
# A fact is often told beside the sentence that has the question's words. (Found on 25 documents each of four kinds of
# text, on which nothing is reported: docs/log.md.)
_NEIGHBOUR_WEIGHT = 0.2
_STOPWORDS = frozenset(STOPWORDS_EN) | frozenset(_QUESTION_WORDS.split(" "))


@dataclass(frozen=True)
class Support:
    """The sentence that supports an answer best; `coverage`: the share, by rarity, of the answer's words in it."""

    sentence: Sentence
    coverage: float


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case; of a run of characters without spaces every two that stand together."""
    words = _WORD.findall(text.lower())
    if text.isascii():
        return words
    found: list[str] = []
    for word in words:
        for run in unspaced_runs(word):
            is_wide = len(run) > 2 and is_unspaced(run[0], run[0])
            found.extend(run[place : place + 2] for place in range(len(run) - 1)) if is_wide else found.append(run)
    return found


def search_words(text: str) -> list[str]:
    """The words of a text, in lower case, that are looked for: all but the stop words and those that only ask.

    Not those that an answer is proved by (tasks/support.py): "before" and "not" find nothing, and change what is true.
    """
    return [word for word in split_words(text) if word not in _STOPWORDS]


def search_stems(text: str) -> list[str]:
    """The stems of search_words."""
    stem = Stemmer.Stemmer("english").stemWord
    stems: dict[str, str] = {}
    found = []
    for word in search_words(text):
        stemmed = stems.get(word)
        if stemmed is None:
            stemmed = stems[word] = stem(word)
        found.append(stemmed)
    return found


class SentenceIndex:
    """BM25 (k1 = 1.5, b = 0.75, Lucene's idf) over the stemmed words of each sentence."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self.sentences = list(sentences)
        self._stem = Stemmer.Stemmer("english").stemWord
        self._stems: dict[str, str] = {}
        self._told_in: dict[str, array[int]] = {}  # numbers of the sentences that hold a word
        for number, sentence in enumerate(self.sentences):
            for word in set(self._all_words(sentence.text)):
                self._told_in.setdefault(word, array("L")).append(number)
        paragraphs = np.array([sentence.paragraph for sentence in self.sentences])
        self._goes_on = paragraphs[1:] == paragraphs[:-1]  # [sentences - 1]
        self._beside = _rows_beside(self.sentences)
        self._words = [self._search_stems(sentence.text) for sentence in self.sentences]
        for number, others in self._beside.items():
            self._words[number] += [word for other in others for word in self._search_stems(self.sentences[other].text)]
        self._index = None
        if any(self._words):
            self._index = bm25s.BM25()
            self._index.index(self._words, show_progress=False)
        counts = Counter(word for words in self._words for word in set(words))
        self._rarity = {word: math.log(1 + len(self.sentences) / count) for word, count in counts.items()}

    def scores(self, query: str) -> np.ndarray:
        """BM25 score of every sentence: [sentences]."""
        words = [word for word in self._search_stems(query) if word in self._rarity]
        if self._index is None or not words:
            return np.zeros(len(self.sentences))
        return np.asarray(self._index.get_scores(words))

    def search(self, query: str, count: int) -> list[Sentence]:
        """The `count` best sentences, best first; fewer where fewer share a word with the query.

        A sentence has, beside its own score, a share of those of its neighbours in the paragraph.
        """
        scores = self._with_neighbours(self.scores(query))
        best = np.argsort(-scores, kind="stable")[:count]
        return [self.sentences[index] for index in best if scores[index] > 0]

    def _with_neighbours(self, scores: np.ndarray) -> np.ndarray:
        """s'_i = s_i + w (s_{i-1} + s_{i+1}), of the same paragraph: [sentences]."""
        beside = scores[1:] * self._goes_on, scores[:-1] * self._goes_on
        shared = scores.copy()
        shared[:-1] += _NEIGHBOUR_WEIGHT * beside[0]
        shared[1:] += _NEIGHBOUR_WEIGHT * beside[1]
        return shared

    def holder(self, query: str) -> Sentence | None:
        """The sentence that holds every word of the query that the document has, where no other sentence does.

        What would stand beside it in a prompt is of the same words and tells of something else.
        """
        told_in = [set(self._told_in[word]) for word in self._search_stems(query) if word in self._rarity]
        holders = set.intersection(*told_in) if told_in else set[int]()
        return self.sentences[holders.pop()] if len(holders) == 1 else None

    def evidence(self, query: str, count: int, read: int = 0) -> list[Sentence]:
        """The `count` best sentences in the order of the document, for a prompt.

        Where fewer share a word with the query, the neighbours of the best fill the places: a fact is often told in
        two sentences of which one alone holds the words. Where none does, the document's beginning is what is left.
        With the row of a table come its header and the sentence that tells its unit.
        The best `read` of them, which were read before, stand first, so that reading goes on behind them.
        """
        found = [sentence.index for sentence in self.search(query, count)] or [0]
        by_distance = sorted(range(len(self.sentences)), key=lambda index: abs(index - found[0]))
        with_headers = [number for index in found for number in (index, *self._beside.get(index, ()))]
        chosen = list(dict.fromkeys([*with_headers, *by_distance]))[:count]
        return [self.sentences[index] for index in [*sorted(chosen[:read]), *sorted(chosen[read:])]]

    def beside(self, sentence: Sentence) -> list[Sentence]:
        """The sentences without which a row of a table says little: those of its unit and header; none for others."""
        return [self.sentences[number] for number in self._beside.get(sentence.index, ())]

    def support(self, question: str, answer: str) -> Support | None:
        """The sentence that holds most of the answer's words, and among equals most of the question's."""
        wanted = set(self._search_stems(answer)) or set(self._all_words(answer))
        if not wanted or not self.sentences:
            return None
        rarest = math.log(1 + len(self.sentences))
        total = sum(self._rarity.get(word, rarest) for word in wanted)
        covered = np.zeros(len(self.sentences))
        for word in sorted(wanted):
            covered[self._told_in.get(word, [])] += self._rarity.get(word, rarest) / total
        about, rounded = self.scores(f"{question} {answer}"), np.round(covered, 3)
        fullest = np.flatnonzero(rounded == rounded.max())
        best = int(fullest[np.argmax(about[fullest])])
        return Support(self.sentences[best], float(covered[best]))

    def rarity(self, word: str) -> float:
        """The weight of a word by the share of sentences that hold it, highest where none does."""
        return self._rarity.get(self._stemmed(word.lower()), math.log(1 + len(self.sentences)))

    def holding(self, text: str) -> list[int]:
        """Numbers of the sentences that hold a content word of the text, those that hold most of them first."""
        held = Counter(number for word in set(self._search_stems(text)) for number in self._told_in.get(word, ()))
        return [number for number, _ in held.most_common()]

    def coverage(self, text: str, told: str) -> float:
        """The share of the content words of `text` that `told` has, 1 where it has none."""
        known, words = set(self._all_words(told)), self._search_stems(text)
        return sum(word in known for word in words) / len(words) if words else 1.0

    def _all_words(self, text: str) -> list[str]:
        return [self._stemmed(word) for word in split_words(text)]

    def _search_stems(self, text: str) -> list[str]:
        return [self._stemmed(word) for word in search_words(text)]

    def _stemmed(self, word: str) -> str:
        """The stem, one object for all places of the text that have the word."""
        stem = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = self._stem(word)
        return stem


def _rows_beside(sentences: Sequence[Sentence]) -> dict[int, tuple[int, ...]]:
    """For each row of a table, by its place among the sentences, the places of those that it needs beside it."""
    places = {sentence.index: place for place, sentence in enumerate(sentences)}
    return {
        places[row.sentence.index]: tuple(places[each.index] for each in table.context)
        for table in find_tables(sentences)
        if table.context
        for row in table.rows
    }
