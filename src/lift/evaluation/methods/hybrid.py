"""Retrieval by words and meaning: reciprocal rank fusion (Cormack et al. 2009, k = 60) of BM25 and embeddings."""

import numpy as np

from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question

_K = 60


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """The best sentences by the sum of 1 / (k + rank) over both rankings."""
    lookup = asked.lookup
    scores = lookup.words.scores(question.text)
    # a sentence that shares no word with the question has no rank by words
    by_words = [int(index) for index in np.argsort(-scores, kind="stable") if scores[index] > 0]
    fused: dict[int, float] = {}
    for ranking in (by_words, lookup.meanings.ranked(question.text)):
        for rank, index in enumerate(ranking, 1):
            fused[index] = fused.get(index, 0.0) + 1 / (_K + rank)
    best = sorted(fused, key=lambda index: (-fused[index], index))[: asked.retrieved]
    return fitted(lookup.in_order(best), question, asked)


METHOD = Method("hybrid", "the base model with the sentences found by BM25 and embeddings together", "evidence", choose)
