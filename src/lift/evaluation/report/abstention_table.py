"""The table of what methods do with questions that the document does not answer."""

from __future__ import annotations

from collections.abc import Sequence

from lift.evaluation.abstention_scores import AbstentionScores, measure_abstention
from lift.evaluation.report.tables import Numbered, Table, TableRow, distinct, percent, select, where
from lift.evaluation.run_files import RESULTS_FILE

_COLUMNS = (
    "Method",
    "Unanswerable",
    "Refused rightly",
    "Answered all the same",
    "Answerable, refused",
    "Answerable, refused, %",
    "Precision, %",
    "Recall, %",
    "F1 of refusing, %",
    "HasAns F1, %",
    "HasAns EM, %",
    "NoAns, %",
    "F1, %",
    "EM, %",
)
_NOTE = (
    "Questions that the document does not answer: an answer is right that says so, in any usual words, or is empty. "
    "Answered all the same: the others of them, errors included. Answerable, refused: questions that have an answer, "
    "which was denied. Precision: of all refusals, the right ones; recall: of the unanswerable questions, those that "
    "were refused; F1 of refusing is their harmonic mean. HasAns, NoAns, F1 and EM are those of SQuAD 2.0, over the "
    "questions with an answer, those without, and all; a refusal is its empty prediction."
)


def abstention_table(suite: str, rows: Sequence[Numbered]) -> Table | None:
    """One row a method; None where every question of the suite has an answer."""
    made = []
    for method in distinct(rows, "method"):
        own = where(rows, method=method)
        scores = measure_abstention([row for _, row in own])
        if scores is not None:
            selection = select(RESULTS_FILE, own, suite=suite, method=method)
            numbers = {"f1_of_refusing": scores.abstention_f1, "f1": scores.f1, "exact": scores.exact}
            made.append(TableRow((method, *_cells(scores)), (selection,), numbers))
    return Table("abstention", "Abstention", _NOTE, _COLUMNS, tuple(made)) if made else None


def _cells(scores: AbstentionScores) -> tuple[str, ...]:
    shares = (
        scores.refused_share,
        scores.precision,
        scores.recall,
        scores.abstention_f1,
        scores.answerable_f1,
        scores.answerable_exact,
        scores.no_answer,
        scores.f1,
        scores.exact,
    )
    counts = (str(scores.unanswerable), str(scores.abstained), str(scores.missed))
    return (*counts, f"{scores.refused} of {scores.answerable}", *(percent(share) for share in shares))
