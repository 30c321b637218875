"""Reader and memory judge answers by how likely they are."""

from __future__ import annotations

import pytest
import torch

from lift.answering.reranking import log_probabilities, vote
from lift.models.base_model import BaseModel
from lift.packing.prompts import answer_ids, prompt_ids

QUESTIONS = ["When did the tower burn?", "Who sells the tickets?"]
ANSWERS = [["1907", "in 1911", "never"], ["Bram Holt"]]


def one_by_one(base: BaseModel, prompt: list[int], answer: str) -> float:
    """log P of the answer and its end, a forward pass of its own."""
    target = answer_ids(base.tokenizer, answer)
    with torch.no_grad():
        odds = base.model(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(target) - 1)
    return sum(float(odds[place, token]) for place, token in zip(places, target, strict=True))


def test_log_probabilities_are_those_of_each_answer_alone(tiny_model: BaseModel) -> None:
    prompts = [prompt_ids(tiny_model.tokenizer, question) for question in QUESTIONS]
    found = log_probabilities(tiny_model.model, tiny_model.tokenizer, prompts, ANSWERS)
    for prompt, answers, values in zip(prompts, ANSWERS, found, strict=True):
        wanted = [one_by_one(tiny_model, prompt, answer) for answer in answers]
        assert values == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("reading", "recalling", "prior", "pmi_weight", "chosen"),
    [
        ([-1.0, -2.0], [-5.0, -5.0], [-5.0, -5.0], 0.5, 0),  # the memory is of two minds: what was read
        ([-1.0, -2.0], [-9.0, -1.0], [-9.0, -9.0], 0.5, 1),  # the memory knows better
        ([-1.0, -2.0], [-9.0, -1.0], [-9.0, -1.0], 0.5, 0),  # as likely without the document
        ([-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], 0.5, 0),
        ([-1.0, -2.0], [-2.5, -1.0], [-1.0, -1.0], 0.5, 0),
        ([-1.0, -2.0], [-2.5, -1.0], [-1.0, -1.0], 1.0, 1),  # the same, and the memory's voice is louder
    ],
)
def test_the_vote(
    reading: list[float], recalling: list[float], prior: list[float], pmi_weight: float, chosen: int
) -> None:
    scores = vote(reading, recalling, prior, pmi_weight=pmi_weight)
    assert scores.index(max(scores)) == chosen


def test_without_a_vote_of_the_memory_the_reader_decides() -> None:
    assert vote([-2.0, -1.0, -1.0]) == [-2.0, -1.0, -1.0]
