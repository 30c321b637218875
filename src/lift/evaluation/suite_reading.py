"""Data files -> the records of a suite: limits, excerpts, and what was left out or found faulty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lift.errors import DataError
from lift.evaluation import excerpts
from lift.evaluation.data_files import BadData, Fault
from lift.evaluation.records import Asking, Record
from lift.evaluation.suite_plan import SuitePlan
from lift.evaluation.suites.suite import Reading, Suite
from lift.evaluation.suites.suite_registry import find_suite
from lift.packing.published_prompts import PROMPT_FORMS


@dataclass(frozen=True)
class SuiteRecords:
    """A suite as it will be asked. `left_out`: questions that the excerpts cannot answer; `faults`: in the data."""

    plan: SuitePlan
    suite: Suite
    records: tuple[Record, ...]
    left_out: int
    faults: tuple[Fault, ...]

    @property
    def questions(self) -> int:
        """Questions of all documents."""
        return sum(len(record.questions) for record in self.records)


def _asked(plan: SuitePlan, record: Record) -> Asking:
    """How the record's questions are put, in the words that the plan asks for, else in the suite's own."""
    form = record.asking.form
    if plan.prompt is not None:
        form = replace(PROMPT_FORMS[plan.prompt], answer_prefix=form.answer_prefix)
    if plan.chat is not None:
        form = replace(form, chat=plan.chat)
    if plan.system:
        form = replace(form, system=plan.system)
    limit = plan.answer_tokens or record.asking.max_new_tokens
    return replace(record.asking, form=form.about(record.document.title), max_new_tokens=limit)


def read_suite(plan: SuitePlan, offsets: Callable[[str], list[tuple[int, int]]], *, skip_bad: bool) -> SuiteRecords:
    """Read the documents and questions of `plan`; `offsets` gives the characters of each token of a text.

    Raises UsageError for settings that the suite does not take, DataError for faulty data (with `skip_bad`: where
    nothing is left).
    """
    suite = find_suite(plan.name)
    settings = plan.settings
    suite.check(settings)
    bad = BadData(skip_bad)
    records: list[Record] = []
    known: set[str] = set()
    left_out = 0
    for read in suite.read(Reading(settings, offsets, bad)):
        if settings.limit is not None and len(records) == settings.limit:
            break
        record = read
        if record.id in known:
            file = settings.data.name if settings.data is not None else suite.name
            bad.report(Fault(file, 0, "id", f"expected each document's id once, got {record.id!r} twice"))
            continue
        known.add(record.id)
        if settings.excerpt_tokens:
            record, without = excerpts.excerpt(record, offsets, settings.excerpt_tokens)
            left_out += len(without)
        if settings.questions_limit is not None:
            record = replace(record, questions=record.questions[: settings.questions_limit])
        if record.questions:
            records.append(replace(record, asking=_asked(plan, record)))
    if not records:
        found = f"; {len(bad.faults)} faults, the first: {bad.faults[0]}" if bad.faults else ""
        raise DataError(f"expected documents with questions for the suite {plan.title}, found none{found}")
    return SuiteRecords(plan, suite, tuple(records), left_out, tuple(bad.faults))
