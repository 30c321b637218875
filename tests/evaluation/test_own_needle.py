"""A needle of one's own in a haystack, as the benchmark was published, with its question and keywords."""

from __future__ import annotations

from typing import Any

import pytest

from lift.errors import UsageError
from lift.evaluation.data_files import BadData
from lift.evaluation.metrics import score
from lift.evaluation.suites import niah
from lift.evaluation.suites.suite import Reading, SuiteSettings

NEEDLE = "The best thing to do in Merrow is to feed the owls by the pier."
OWN: dict[str, Any] = {"needle": NEEDLE, "question": "What is best to do in Merrow?", "keywords": ("owls", "pier")}


def read(**settings: Any) -> list[Any]:
    offsets = lambda text: [(place, place + 1) for place in range(len(text))]  # noqa: E731
    return list(niah.read(Reading(SuiteSettings(**settings), offsets, BadData())))


def test_every_text_has_the_needle_at_its_depth_below_the_preface() -> None:
    records = read(**OWN, lengths=(600,), depths=(0.0, 0.5, 1.0), preface="Remember what is hidden.")
    assert len(records) == 3
    for record, depth in zip(records, (0.0, 0.5, 1.0), strict=True):
        assert record.document.text.startswith("Remember what is hidden.\n")
        assert record.document.text.count(NEEDLE) == 1
        assert abs(record.document.text.index(NEEDLE) / len(record.document.text) - depth) < 0.25
        (question,) = record.questions
        assert (question.text, question.answers) == (OWN["question"], OWN["keywords"])
        assert record.asking.metrics == ("niah_keywords",)


def test_an_answer_is_right_that_holds_all_keywords() -> None:
    for answer, value in (("Feed the OWLS by the pier", 1.0), ("Feed the owls", 0.0), ("", 0.0)):
        assert score(answer, OWN["keywords"], ["niah_keywords"]) == {"niah_keywords": value}


@pytest.mark.parametrize("given", [{"needle": NEEDLE}, {"question": "Where?"}, {"keywords": ("a",)}])
def test_a_needle_comes_with_its_question_and_keywords(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a needle together with its question and keywords"):
        read(**given, lengths=(600,), depths=(0.5,))
    with pytest.raises(UsageError, match="one needle a text"):
        read(**OWN, lengths=(600,), depths=(0.2, 0.8), needles=2)
