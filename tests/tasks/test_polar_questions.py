"""Yes/no questions made by rules from statements: as they stand, denied, and with one fact exchanged."""

from __future__ import annotations

import pytest

from lift.documents.sentences import split_sentences
from lift.tasks.rules.polar_questions import PolarQuestion, polar_questions


def asked(text: str, seed: int = 0) -> list[PolarQuestion]:
    return polar_questions("Merrow", split_sentences(text), seed=seed)


@pytest.mark.parametrize(
    ("sentence", "question", "yes"),
    [
        ("Smoking is not allowed in the annex.", "Is smoking allowed in the annex?", False),
        ("The museum was founded by Ada Quill.", "Was the museum founded by Ada Quill?", True),
        ("The harbour freezes in January.", "Does the harbour freeze in January?", True),
        ("No visitor may enter the engine room.", "May any visitor enter the engine room?", False),
        ("Visitors must not touch the lenses.", "Must visitors touch the lenses?", False),
    ],
)
def test_a_statement_is_asked_for_whole(sentence: str, question: str, yes: bool) -> None:
    assert (question, yes) in [(each.question, each.yes) for each in asked(sentence)]


def test_an_exchanged_fact_makes_the_answer_no() -> None:
    found = asked("Ada Quill founded the museum in 1911. Bram Holt built the pier in 1874.")
    yes, no = [each for each in found if each.yes], [each for each in found if not each.yes]
    assert {each.question for each in yes} == {
        "Did Ada Quill found the museum in 1911?",
        "Did Bram Holt build the pier in 1874?",
    }
    assert no
    for each in no:
        assert any(fact in each.question for fact in ("1911", "1874", "Quill", "Holt"))
        assert each.question not in {other.question for other in yes}


def test_a_negation_that_cannot_be_turned_is_not_asked_about() -> None:
    found = asked("Nobody but the keeper may light the lamp. Only members vote.")
    assert not found


def test_the_same_seed_asks_the_same() -> None:
    text = "Ada Quill founded the museum in 1911. Bram Holt built the pier in 1874. The lamp burns oil."
    assert asked(text, 3) == asked(text, 3)
