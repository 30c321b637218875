"""Harms of a memory: perplexity on an unrelated text, and the reading of unrelated paragraphs, before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import fmean
from typing import Any

import torch

from lift.answering.scoring import contained, f1
from lift.evaluation.reader import ModelReader, QuestionBatch, Reader
from lift.evaluation.records import Record
from lift.models.base_model import BaseModel
from lift.packing.alora import PlainTextForward, forward_context
from lift.packing.prompts import MAX_ANSWER_TOKENS, PLAIN_FORM

_TEXT_FILE = "alice.txt"
_ARTICLES_FILE = "articles.jsonl"


@dataclass(frozen=True)
class Ability:
    """Scores of a model beside the document: perplexity of a text, and scores of questions with their paragraph."""

    perplexity: float
    questions: int
    contained: float
    f1: float

    def scores(self) -> dict[str, float]:
        """The scores of the questions alone."""
        return {"contained": self.contained, "f1": self.f1}


@dataclass(frozen=True)
class UnrelatedQuestion:
    """A question, the paragraph that answers it, and the reference answers."""

    title: str
    question: str
    paragraph: str
    answers: tuple[str, ...]


def measure_ability(model: ModelReader, reader: Reader, record: Record) -> Ability:
    """Ability of `model` with its memory, or without, on what is unrelated to `record`; `reader` asks it questions."""
    questions = [each for each in unrelated_questions() if each.title != record.document.title]
    asked, shown = [each.question for each in questions], [each.paragraph for each in questions]
    replies = reader.read(QuestionBatch(asked, shown, PLAIN_FORM, MAX_ANSWER_TOKENS))
    model.attach()
    return Ability(
        perplexity(model.base, unrelated_text()),
        len(questions),
        fmean(contained(reply.text, each.answers) for reply, each in zip(replies, questions, strict=True)),
        fmean(f1(reply.text, each.answers) for reply, each in zip(replies, questions, strict=True)),
    )


def harm_row(base: Ability, memory: Ability) -> dict[str, object]:
    """Before and after, as a line of harms.jsonl."""
    return {
        "perplexity_base": base.perplexity,
        "perplexity_memory": memory.perplexity,
        "unrelated_questions": memory.questions,
        "unrelated_base": base.scores(),
        "unrelated_memory": memory.scores(),
    }


@torch.inference_mode()
def perplexity(base: BaseModel, text: str) -> float:
    """exp of the mean negative log-likelihood of each token of `text` given those before it, cut to the window."""
    ids = base.tokenizer(text, return_tensors="pt")["input_ids"][:, : base.window_tokens].to(base.device)  # [1, T]
    with forward_context(PlainTextForward(ids.shape[1])):
        logits = base.model(ids).logits[0, :-1].float()  # [T - 1, vocabulary]
    return math.exp(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())


def unrelated_text() -> str:
    """The text that perplexity is measured on."""
    return (resources.files("lift.evaluation.unrelated") / _TEXT_FILE).read_text("utf-8")


def unrelated_articles() -> list[dict[str, Any]]:
    """The articles that reading is measured on, in the format of the suite qa."""
    lines = (resources.files("lift.evaluation.unrelated") / _ARTICLES_FILE).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def unrelated_questions() -> Sequence[UnrelatedQuestion]:
    """The questions that reading is measured on."""
    return [
        UnrelatedQuestion(article["title"], each["question"], each["evidence"][0], tuple(each["answers"]))
        for article in unrelated_articles()
        for each in article["questions"]
    ]
