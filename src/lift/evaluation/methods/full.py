"""Full in-context learning: the whole document, refused where it does not fit."""

from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """The whole document, or the reason why not."""
    passage = fitted(asked.record.document.text, question, asked)
    if passage.cut:
        reason = f"the whole text does not fit the window of {asked.reader.window_tokens:,} tokens"
        return ShownPassage(None, refused=reason)
    return passage


METHOD = Method("full", "the base model with the whole document", "full", choose)
