"""Follow-up questions: what leans on earlier turns is asked in full, or searched for with their words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.follow_up import PosedQuestion, pose_question
from lift.documents.read import read_document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import split_sentences

DIALOGUES = Path(__file__).parents[1] / "data" / "follow_ups"
FOUNDED = ("Who founded the brewery?", "Greta Holt")
PRICE = ("How much does a tour cost for adults?", "6 marks")


@pytest.mark.parametrize(
    ("exchanges", "question", "full"),
    [
        ([FOUNDED], "And when?", "When was the brewery founded?"),
        ([FOUNDED], "When exactly?", "When was the brewery founded?"),
        ([FOUNDED, ("And when?", "1742")], "And where?", "Where was the brewery founded?"),
        ([FOUNDED], "Who sold it?", "Who sold the brewery?"),
        ([FOUNDED], "When did she sell it?", "When did Greta Holt sell the brewery?"),
        ([FOUNDED], "What was her trade?", "What was Greta Holt's trade?"),
        ([FOUNDED], "What about the bakery?", "Who founded the bakery?"),
        ([FOUNDED], "And who runs the bakery?", "Who runs the bakery?"),
        ([("Who keeps the inn?", "Sven Dahl")], "Since when?", "Since when does Sven Dahl keep the inn?"),
        ([("Who wrote the rules?", "Omar Finch")], "Why?", "Why were the rules written?"),
        ([("When was the dome rebuilt?", "1926")], "By whom?", "By whom was the dome rebuilt?"),
        ([("What did Ida Moss buy?", "The mill")], "For how much?", "For how much did Ida Moss buy the mill?"),
        ([PRICE], "And for children?", "How much does a tour cost for children?"),
        ([PRICE], "What about children?", "How much does a tour cost for children?"),
        ([PRICE], "And in winter?", "How much does a tour cost for adults in winter?"),
        ([("Is the inn open in May?", "No")], "And in June?", "Is the inn open in June?"),
        ([("Are dogs allowed in the inn?", "No")], "And on the ferry?", "Are dogs allowed on the ferry?"),
    ],
)
def test_a_question_that_can_mean_one_thing_is_asked_in_full(
    exchanges: list[tuple[str, str]], question: str, full: str
) -> None:
    assert pose_question(exchanges, question) == PosedQuestion(full, full)


@pytest.mark.parametrize(
    "question",
    [
        "Who keeps the inn?",
        "Does the inn have its own stable?",
        "Is it allowed to fish?",
        "Is there a stable?",
        "Summarise the text.",
        "What colour is the door of the chapel?",
        "Opening hours?",
    ],
)
def test_a_question_that_says_itself_what_it_means_is_left_alone(question: str) -> None:
    assert pose_question([FOUNDED], question) == PosedQuestion(question, question)


@pytest.mark.parametrize(
    ("exchanges", "question"),
    [
        ([("Are dogs allowed in the inn?", "No")], "Why?"),
        ([FOUNDED], "And the price?"),
        ([FOUNDED], "Who else?"),
        ([FOUNDED], "What happened to them?"),
        ([FOUNDED], "Und wann?"),
        ([("Did Ida Moss meet Ada Quill?", "Yes")], "Where did she live?"),
    ],
)
def test_what_rules_cannot_tell_is_searched_for_with_the_words_of_the_turn_before(
    exchanges: list[tuple[str, str]], question: str
) -> None:
    posed = pose_question(exchanges, question)
    assert not posed.is_complete
    assert posed.question == question
    assert posed.searched.startswith(question)
    for word in (*exchanges[-1][0].split(), *exchanges[-1][1].split()):
        assert word in posed.searched
    assert posed.alone == f"{exchanges[-1][0]} {exchanges[-1][1]}.\n{question}"


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=3), st.text(max_size=60))
def test_every_dialogue_has_a_question_to_ask(exchanges: list[tuple[str, str]], question: str) -> None:
    posed = pose_question(exchanges, question)
    assert posed.is_complete == (posed.earlier == "")
    if posed.is_complete:
        assert posed.searched == posed.question == posed.alone
    assert pose_question([], question) == PosedQuestion(question, question)


def test_a_long_question_is_no_follow_up() -> None:
    question = "the mill it " * 20_000
    assert pose_question([FOUNDED, (question, question)], question).question == question


def found_in_dialogues(searched: Callable[[list[tuple[str, str]], str], str]) -> int:
    """In how many of the dialogues the sentence that answers is among those that are read."""
    found = 0
    for line in (DIALOGUES / "dialogues.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        turns = record["turns"]
        query = searched(list(zip(turns[::2], turns[1::2], strict=True)), record["question"])
        index = SentenceIndex(split_sentences(read_document(DIALOGUES / record["text"]).text))
        alone = index.holder(query)
        read = [alone] if alone else index.evidence(query, 3)
        found += any(record["evidence"] in sentence.text for sentence in read)
    return found


@pytest.mark.slow
def test_the_evidence_of_follow_ups_is_found() -> None:
    assert found_in_dialogues(lambda _exchanges, question: question) <= 14
    assert found_in_dialogues(lambda exchanges, question: pose_question(exchanges, question).searched) >= 18
