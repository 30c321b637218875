"""Which answers say that nothing answers the question, and which merely hold such words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.abstention import MEMORY_TELLS_NOTHING, abstains
from lift.packing.prompts import TEXT_TELLS_NOTHING

REFUSALS = [
    TEXT_TELLS_NOTHING,
    MEMORY_TELLS_NOTHING,
    "the text does not tell",
    "",
    " \n",
    "...",
    "The text does not mention the price of the boat.",
    "The passage doesn't say.",
    "The passage doesn’t specify who paid for it.",
    "This document does not explicitly state when the ferry was sold.",
    "The provided text does not contain any information about the mayor.",
    "The given context does not provide enough information to answer the question.",
    "The article makes no mention of a second bridge.",
    "The text contains no information on that.",
    "The passage says nothing about his wife.",
    "not mentioned in the passage",
    "Not mentioned.",
    "**Not stated**",
    "It is not mentioned.",
    "The name of the captain is not mentioned in the text.",
    "The captain's name was not given in the passage.",
    "The price isn't specified in the provided document.",
    "It is not stated who sold it.",
    "unanswerable",
    "Unanswerable.",
    "This question is unanswerable based on the passage.",
    "The question cannot be answered from the text.",
    "There is no information about the price.",
    "There's no mention of a dog in the text.",
    "There is no answer to this question in the passage.",
    "No information is given in the text.",
    "No information available",
    "no answer",
    "cannot be determined from the text",
    "It cannot be determined.",
    "The age of the ship cannot be determined from the given passage.",
    "Based on the passage, it is not possible to say who built it.",
    "Based on the given text, there is no information about the owner.",
    "It is unclear from the text whether dogs are allowed.",
    "There is not enough information to answer.",
    "Insufficient information",
    "I don't know.",
    "I do not know who sold it.",
    "I don't know the answer to that question.",
    "Sorry, I don't know.",
    "I'm sorry, but the document does not mention a garden.",
    "I'm sorry. The text does not say.",
    "Unfortunately, the passage does not reveal her age.",
    "I cannot answer this question based on the text.",
    "I could not find any information about that.",
    "I'm not sure.",
    "Given the passage, it is not possible to tell who built it.",
    "I'm unable to answer that.",
    "Unable to determine from the passage",
    "Unknown",
    "The answer is unknown.",
    "N/A",
    "Answer: not given",
    "The text does not say who founded it. It is about a museum and its lenses.",
    "The passage does not mention a king, but it speaks of a queen.",
]
ANSWERS = [
    "Ada Quill",
    "No",
    "No one",
    "nothing",
    "None of them",
    "not",
    "The Tomb of the Unknown Soldier",
    "The unknown soldier lies there.",
    "The cause of the fire is unknown.",
    "an unknown painter from Leiden",
    "Because the letter did not mention money.",
    "The contract does not mention pets, so they are allowed.",
    "He said that the text does not mention his name.",
    "She answered that it was not mentioned in the document.",
    "They did not know who had sold the boat.",
    "He does not know how to swim.",
    "I don't know how to swim, he told the captain.",
    '"I don\'t know much about lenses," Quill said.',
    "There is no information desk at the station.",
    "There is no evidence that he was guilty.",
    "There is no answer to the riddle of the sphinx.",
    "There is no smoking in the hall.",
    "The cause could not be determined by the doctors.",
    "Not given a licence, he sold the ferry.",
    "Not included in the price",
    "Not available on Sundays",
    "No information was passed to the crew before the storm.",
    "No answers came from the harbour for two days.",
    "The document does not include pictures, to save space.",
    "The story does not end happily.",
    "The text tells of a ferry.",
    "The text mentions a ferry.",
    "Ada Quill. The text does not say when.",
    "Ada Quill, but the passage does not mention the year.",
    "The report did not say how many had died, and the mayor resigned.",
    "The memory of the storm does not fade.",
    "I think Ada Quill did.",
    "I don't know, but it was probably Ada Quill.",
    "The text does not say, but I think it was Bram Holt.",
    "I am not sure he was a captain; he was a pilot.",
    "It cannot be sold before 1950.",
    "42 unanswerable letters",
    "Questions that cannot be answered were called koans.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_an_answer_that_says_that_nothing_answers_abstains(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_with_such_words_about_something_else_does_not_abstain(answer: str) -> None:
    assert not abstains(answer)


@pytest.mark.parametrize("answer", [each for each in REFUSALS if each.strip(" .\n")])
def test_case_marks_and_articles_make_no_difference(answer: str) -> None:
    assert abstains(answer.upper())
    assert abstains(f'  "{answer}"  ')


@given(st.text(max_size=200))
def test_any_text_is_judged_the_same_every_time(answer: str) -> None:
    assert abstains(answer) == abstains(f" {answer} ")
