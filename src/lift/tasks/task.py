"""A task: one synthetic question about the document, its answer, and the sentences that prove it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One auxiliary (synthetic) question and answer (method 1.2, 3.1).

    `evidence` holds the indices of the document's sentences that the answer came from, the first of them the one
    that contains it. `origin` names the generator and rule, e.g. "rules:subject". `weight` scales the task's share of
    the loss: its usefulness as judged by its generator. `held_out` tasks are never trained on; they probe recall.
    """

    question: str
    answer: str
    evidence: tuple[int, ...]
    origin: str
    weight: float = 1.0
    held_out: bool = False
