"""Retrieval by meaning: the sentences whose embeddings are nearest to the question's."""

from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """The best sentences by embedding, in the order of the document."""
    best = asked.lookup.meanings.ranked(question.text)[: asked.retrieved]
    return fitted(asked.lookup.in_order(best), question, asked)


METHOD = Method("embeddings", "the base model with the sentences nearest by all-MiniLM-L6-v2", "evidence", choose)
