"""Any documents and questions of one's own, in the record format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lift.evaluation.records import Asking, Record
from lift.evaluation.suites.record_format import data_path, parse_record, read_objects, read_records
from lift.evaluation.suites.suite import Reading, Suite

ASKING = Asking(metrics=("contained", "f1", "exact_match"))


def read(reading: Reading) -> Iterator[Record]:
    """One record a line of the file; raises DataError where it cannot be read, or holds a fault that is not skipped."""
    objects = read_objects(data_path(reading), reading.bad)
    yield from read_records(objects, partial(parse_record, asking=ASKING))


SUITE = Suite(
    name="qa",
    summary="documents and questions of your own, one document a line",
    data=(
        'give a JSONL file with one document a line: {"title", "context", "questions": [{"question", "answers": [..]}]}'
        ', in place of context "file", a path beside the data; where you have them id, source, and for a question '
        "id, evidence, type; "
        "answers [] where the document tells none"
    ),
    takes=frozenset({"data"}),
    read=read,
)
