"""Retrieval by words: the sentences that BM25 finds."""

from lift.documents.sentences import joined
from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """The best sentences by BM25, in the order of the document."""
    found = asked.lookup.words.evidence(question.text, asked.retrieved)
    return fitted(joined(found), question, asked)


METHOD = Method("bm25", "the base model with the sentences that BM25 finds", "evidence", choose)
