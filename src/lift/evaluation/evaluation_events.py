"""Typed events of an evaluation, as it runs."""

from __future__ import annotations

from dataclasses import dataclass

from lift.absorbing.absorption_events import AbsorptionEvent


@dataclass(frozen=True)
class SuiteRead:
    """A suite's data was read. `left_out`: questions that the excerpt rule takes out; `faults` of the data, if any."""

    suite: str
    documents: int
    questions: int
    left_out: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Absorbing:
    """A memory is being made."""

    suite: str
    document: str
    recipe: str
    event: AbsorptionEvent


@dataclass(frozen=True)
class Answered:
    """A method has answered a document. `score`: mean of `metric`, 0 to 1; `reused`: all was known before.

    `done` of `total` documents and methods are finished, `eta_s` is what the others may take.
    """

    suite: str
    document: str
    method: str
    metric: str
    score: float
    questions: int
    errors: int
    reused: bool
    done: int
    total: int
    eta_s: float


EvaluationEvent = SuiteRead | Absorbing | Answered
