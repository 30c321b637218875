"""How well a method tells what a document answers from what it does not, by the lines of results.jsonl. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lift.answering import scoring
from lift.answering.abstention import abstains
from lift.evaluation.metrics import refuses


@dataclass(frozen=True)
class AbstentionScores:
    """Counts of questions, and means of SQuAD 2.0's scores, 0 to 1; those of no question are None.

    `abstained`: unanswerable questions that were refused; `refused`: answerable ones that were. `answerable_f1`,
    `answerable_exact`, `no_answer`: HasAns_f1, HasAns_exact and NoAns_f1 (the same as NoAns_exact) of the official
    script, `f1` and `exact` its scores over all questions. An answer that abstains is its empty prediction.
    """

    unanswerable: int
    abstained: int
    answerable: int
    refused: int
    answerable_f1: float | None
    answerable_exact: float | None
    no_answer: float
    f1: float
    exact: float

    @property
    def missed(self) -> int:
        """Unanswerable questions that were answered all the same, or failed with an error."""
        return self.unanswerable - self.abstained

    @property
    def refused_share(self) -> float | None:
        """Of the answerable questions, those that were refused."""
        return self.refused / self.answerable if self.answerable else None

    @property
    def precision(self) -> float | None:
        """Of all refusals, those that were right; None where nothing was refused."""
        refusals = self.abstained + self.refused
        return self.abstained / refusals if refusals else None

    @property
    def recall(self) -> float:
        """Of the unanswerable questions, those that were refused."""
        return self.abstained / self.unanswerable

    @property
    def abstention_f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.abstained / (self.abstained + self.refused + self.unanswerable)


def measure_abstention(rows: Sequence[Mapping[str, Any]]) -> AbstentionScores | None:
    """The scores of one method by its lines of results.jsonl; None where every question has an answer.

    An answer that failed with an error refuses nothing and is worth 0.
    """
    unanswerable = [row for row in rows if not row["gold"]]
    answerable = [row for row in rows if row["gold"]]
    if not unanswerable:
        return None
    abstained = [float(row["error"] is None and abstains(row["answer"])) for row in unanswerable]
    f1 = [_worth(row, scoring.f1) for row in answerable]
    exact = [_worth(row, scoring.exact_match) for row in answerable]
    return AbstentionScores(
        unanswerable=len(unanswerable),
        abstained=round(sum(abstained)),
        answerable=len(answerable),
        refused=sum(row["error"] is None and refuses(row["answer"], row["gold"]) for row in answerable),
        answerable_f1=fmean(f1) if f1 else None,
        answerable_exact=fmean(exact) if exact else None,
        no_answer=fmean(abstained),
        f1=fmean([*f1, *abstained]),
        exact=fmean([*exact, *abstained]),
    )


def _worth(row: Mapping[str, Any], metric: Callable[[str, Sequence[str]], float]) -> float:
    if row["error"] is not None or refuses(row["answer"], row["gold"]):
        return 0.0
    return metric(row["answer"], row["gold"])
