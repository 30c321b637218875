"""Examples that a reader is tuned on: behind passages and retrieved sentences, with an answer or with none."""

from __future__ import annotations

from collections import Counter

import pytest

from lift.absorbing.reading_examples import ReadingExamples, ReadingSettings, balanced
from lift.documents.document import Document
from lift.evaluation.records import Question, Record
from lift.models.base_model import BaseModel
from lift.packing.prompts import TEXT_TELLS_NOTHING

PARAGRAPHS = [
    "Ada Quill founded the museum in 1911. It stands on the old quay.",
    "The museum owns 42 lenses. The largest lens weighs three tons.",
    "Bram Holt sells the tickets. Smoking is not allowed in the annex.",
    "The ferry to Saltholm leaves at noon. It carries eleven cars.",
]
QUESTIONS = (
    Question("1", "Who founded the museum in town?", ("Ada Quill",), (PARAGRAPHS[0],), "extractive"),
    Question("2", "How many lenses does it own?", ("42",), (PARAGRAPHS[1],), "extractive"),
    Question("3", "Who sells the tickets there?", ("Bram Holt",), (PARAGRAPHS[2],), "extractive"),
    Question("4", "When does the ferry leave daily?", ("at noon", "noon"), (PARAGRAPHS[3],), "extractive"),
)
NOBODY_KNOWS = Question("5", "Who painted the ferry?", (), (), "unanswerable")


def record(questions: tuple[Question, ...] = QUESTIONS, source: str = "test", name: str = "merrow") -> Record:
    return Record(name, Document(name, "\n\n".join(PARAGRAPHS), source), questions)


def examples(base: BaseModel, of: Record, settings: ReadingSettings) -> list[tuple[str, str]]:
    """Prompt and answer of each."""
    made = ReadingExamples(base.tokenizer, settings)
    found = []
    for group in made.groups(of, list(of.questions)):
        for example in group:
            prompt, answer = example.prompt, example.ids[len(example.prompt) :]
            found.append((base.tokenizer.decode(prompt), base.tokenizer.decode(answer, skip_special_tokens=True)))
    return found


def test_an_answered_question_stands_behind_a_text_that_tells_it(tiny_model: BaseModel) -> None:
    for prompt, answer in examples(tiny_model, record(), ReadingSettings(absent_share=0, polar_share=0)):
        assert answer.strip() in prompt


def test_a_question_that_nobody_could_answer_is_refused(tiny_model: BaseModel) -> None:
    found = examples(tiny_model, record((*QUESTIONS, NOBODY_KNOWS)), ReadingSettings(absent_share=0, polar_share=0))
    told = [answer.strip() for prompt, answer in found if "painted" in prompt]
    assert told == [TEXT_TELLS_NOTHING]


def test_a_question_behind_another_passage_is_refused(tiny_model: BaseModel) -> None:
    found = examples(tiny_model, record(), ReadingSettings(absent_share=0.3, polar_share=0))
    refused = [prompt for prompt, answer in found if answer.strip() == TEXT_TELLS_NOTHING]
    assert 0.15 <= len(refused) / len(found) <= 0.45
    proofs = {question.text: question.answers for question in QUESTIONS}
    for prompt in refused:
        (asked,) = [text for text in proofs if text in prompt]
        assert not any(answer in prompt for answer in proofs[asked])


def test_yes_no_questions_are_made_of_the_text_of_their_prompt(tiny_model: BaseModel) -> None:
    found = examples(tiny_model, record(), ReadingSettings(absent_share=0, polar_share=0.4))
    polar = [(prompt, answer.strip()) for prompt, answer in found if answer.strip() in ("Yes", "No")]
    assert {answer for _, answer in polar} == {"Yes", "No"}


def test_a_source_has_no_more_than_its_part_spread_over_its_documents() -> None:
    records = [record(source="many", name=f"m{number}") for number in range(5)] + [record(source="few", name="f")]
    chosen = balanced(records, ReadingSettings(questions_per_source=6))
    counted = Counter[str]()
    for each, questions in chosen:
        counted[each.document.source] += len(questions)
    assert counted == {"many": 6, "few": 4}
    assert max(len(questions) for each, questions in chosen if each.document.source == "many") == 2


@pytest.mark.parametrize("kind", ["multi-span", "extractive"])
def test_parts_of_an_answer_belong_together_only_where_the_source_says_so(tiny_model: BaseModel, kind: str) -> None:
    question = Question("6", "Who works there?", ("Ada Quill", "Bram Holt"), ("\n\n".join(PARAGRAPHS),), kind)
    found = examples(tiny_model, record((question,)), ReadingSettings(absent_share=0, polar_share=0))
    answers = {answer.strip() for _, answer in found}
    assert ("Ada Quill, Bram Holt" in answers) == (kind == "multi-span")
