"""Truncated in-context learning: the head and the tail of the document (method 1.5)."""

from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """As much of the document, head and tail, as the window takes."""
    return fitted(asked.record.document.text, question, asked)


METHOD = Method("truncated", "the base model with the document's head and tail, as much as fits", "truncated", choose)
