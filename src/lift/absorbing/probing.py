"""The held-out questions of a run are asked: as many as its budget allows, and no longer than there is time."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from lift.absorbing.absorption_events import Probing
from lift.absorbing.preparation import PreparedDocument
from lift.absorbing.recall_report import (
    PROBE_BATCH,
    PROBE_TOKENS,
    Probe,
    RecallReport,
    TimeIsOver,
    choose_probes,
    passes_until,
    probe_recall,
    spread,
)
from lift.absorbing.run_clock import LONGEST_PROBE_SHARE
from lift.absorbing.session import Session
from lift.answering.answerer import Answerer
from lift.packing.published_prompts import PROMPT_FORMS
from lift.tasks.task import Task

# Of a budget, what asking the held-out questions may take, as planned.
_PROBE_SHARE = 0.08
_PROBE_MARGIN = 1.2
# Passes of the model that say how long a batch of questions takes, and the share of a budget that they may take.
_TIMED_PASSES = 8
_TIMED_SHARE = 0.03
_LONGEST_TIMED_S = 10.0
# A batch of questions begins where this share of the time that it is expected to take is left.
_HOPEFUL_SHARE = 0.7


def probe(session: Session, made: PreparedDocument, probes: Sequence[Task]) -> RecallReport:
    """As ask_probes, without its events."""
    events = ask_probes(session, made, probes)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            report: RecallReport = stop.value
            return report


def ask_probes(
    session: Session, made: PreparedDocument, probes: Sequence[Task], *, longest_s: float = math.inf
) -> Generator[Probing, None, RecallReport]:
    """Ask `probes` closed book, as many of them as there is time for in `longest_s` and before saving.

    Probing is told before the first batch of questions and after each one.
    """
    run = session.clock
    answerer = _answerer(session, made)
    clock, order = run.budget.clock, spread(probes) if run.is_bounded else list(probes)
    ends_at = min(run.budget.ends_at - run.saving_s, clock() + longest_s)
    asked: list[Probe] = []
    expected_s = run.batch_s * run.slowness
    for first in range(0, len(order), PROBE_BATCH):
        begun = clock()
        batches = math.ceil((len(order) - first) / PROBE_BATCH)
        yield Probing(
            len(order), len(asked), min(batches * expected_s, max(ends_at - begun, 0.0)) if expected_s else None
        )
        # a batch whose time is over is lost, so none begins that has little hope of ending
        if begun + _HOPEFUL_SHARE * expected_s > ends_at:
            break
        try:
            with passes_until(session.base.model, lambda _: clock() > ends_at):
                report = probe_recall(answerer, len(made.sentences), order[first : first + PROBE_BATCH])
        except TimeIsOver:
            break
        asked.extend(report.probes)
        expected_s = clock() - begun
    return RecallReport(tuple(sorted(asked, key=lambda probe: probe.sentence)), len(made.sentences))


def _answerer(session: Session, made: PreparedDocument) -> Answerer:
    """Asks what is being trained, in the words that its recipe trains."""
    form = PROMPT_FORMS[session.recipe.tasks.prompt].about(made.document.title)
    return Answerer.of(session.base, session.adapter, made.document, made.sentences, form=form)


def affordable_probes(session: Session, made: PreparedDocument, tasks: Sequence[Task]) -> tuple[list[Task], float]:
    """The held-out tasks that a small share of the budget allows to ask, and the seconds that will take.

    The first passes of a batch are timed on the adapter as it is: a batch takes about as long, whatever is in it.
    """
    run = session.clock
    probes = choose_probes(tasks)
    if not probes:
        return [], 0.0
    clock = run.budget.clock
    begun, passes = clock(), 0
    limit_s = run.budget.share_of(_TIMED_SHARE, _LONGEST_TIMED_S)

    def is_timed(before: int) -> bool:
        nonlocal passes
        passes = before
        return before >= _TIMED_PASSES or (before > 0 and clock() - begun > limit_s)

    answerer = _answerer(session, made)
    try:
        with passes_until(session.base.model, is_timed):
            probe_recall(answerer, len(made.sentences), probes[:PROBE_BATCH])
        pass_s = (clock() - begun) / max(passes + 1, 1)
    except TimeIsOver:
        pass_s = (clock() - begun) / max(passes, 1)
    pass_s *= _PROBE_MARGIN
    run.batch_s = pass_s * _most_passes(min(len(probes), PROBE_BATCH))
    if run.is_bounded and run.batch_s:
        batches = int(run.budget.share_of(_PROBE_SHARE) / run.batch_s)
        if batches:
            probes = choose_probes(tasks, batches * PROBE_BATCH)
        else:  # a part of a batch is better than no report
            rows = int(run.budget.share_of(LONGEST_PROBE_SHARE) / pass_s) - _most_passes(0)
            probes = choose_probes(tasks, min(rows, PROBE_BATCH)) if rows > 0 else []
            run.batch_s = pass_s * _most_passes(len(probes))
    return probes, run.batch_s * math.ceil(len(probes) / PROBE_BATCH)


def _most_passes(rows: int) -> int:
    """Forward passes of one batch of so many questions, at the most.

    What their prompts share is read in one, the rest of each prompt in one where no other is as long, and then comes
    one for each token of the answers.
    """
    return 1 + rows + PROBE_TOKENS
