"""The ceiling of reading: the passages that prove the answer, or that hold none, as the benchmark gives them."""

from lift.evaluation.methods.method import AskedQuestion, Method, ShownPassage, fitted
from lift.evaluation.records import Question


def choose(question: Question, asked: AskedQuestion) -> ShownPassage:
    """The question's own evidence."""
    if not question.evidence:
        return ShownPassage(None, refused="the data gives no evidence for this question")
    return fitted("\n".join(question.evidence), question, asked)


METHOD = Method(
    "oracle",
    "the base model with the evidence that the data gives; not asked what has neither an answer nor a passage",
    "gold",
    choose,
    needs_evidence=True,
)
