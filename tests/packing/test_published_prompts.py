"""Published prompts: what stands in them, and that a memory is trained and asked in the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished
from lift.answering.answerer import open_memory
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.packing.prompts import IGNORED, PromptForm, answer_ids, prompt_ids, question_example, user_text
from lift.packing.published_prompts import PROMPT_FORMS
from lift.recipes.recipe import PromptName, load_recipe
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler

TEXT = "Ada Quill built the tower of Merrow in 1912. The tower of Merrow has forty steps and a bell."
DOCUMENT = Document("The {question} of Merrow", TEXT, "merrow.txt")


def test_every_name_of_a_prompt_has_its_words() -> None:
    assert set(PROMPT_FORMS) == set(get_args(PromptName))
    for name, form in PROMPT_FORMS.items():
        assert "{context}" in form.reading and "{question}" in form.reading and "{question}" in form.closed_book, name


def test_a_title_stands_in_the_prompt_and_nothing_in_it_is_filled_in() -> None:
    form = PROMPT_FORMS["loogle-v3"].about(DOCUMENT.title)
    assert user_text("Who?", "It rained.", form) == (
        "The article The {question} of Merrow: \nIt rained.\nPlease answer the question based on The {question} of "
        "Merrow.\nQuestion: Who?\nAnswer: "
    )
    assert PROMPT_FORMS["plain"].about("T") == PROMPT_FORMS["plain"]


def test_a_raw_prompt_has_neither_chat_template_nor_special_tokens(tiny_tokenizer: Any) -> None:
    form = PROMPT_FORMS["loogle-v3"].about("T")
    ids = prompt_ids(tiny_tokenizer, "Who?", "It rained.", form)
    assert tiny_tokenizer.decode(ids) == user_text("Who?", "It rained.", form)
    assert not set(ids) & set(tiny_tokenizer.all_special_ids)
    # an answer is set apart by a space there, and not behind a chat template
    assert tiny_tokenizer.decode(answer_ids(tiny_tokenizer, "Ada", form)[:-1]) == " Ada"
    assert tiny_tokenizer.decode(answer_ids(tiny_tokenizer, "Ada")[:-1]) == "Ada"


def test_the_system_speaks_where_the_template_has_that_role(tiny_tokenizer: Any) -> None:
    form = PROMPT_FORMS["article-v3"]
    shown = tiny_tokenizer.decode(prompt_ids(tiny_tokenizer, "Who?", "It rained.", form))
    assert shown.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nThe article: "
    )
    assert shown.endswith("<|im_start|>assistant\n")


def test_an_example_is_the_prompt_of_the_form_and_then_the_answer(tiny_tokenizer: Any) -> None:
    for form in (each.about("T") for each in PROMPT_FORMS.values()):
        example = question_example(tiny_tokenizer, "Who?", "Ada", "It rained.", form=form)
        assert list(example.prompt) == prompt_ids(tiny_tokenizer, "Who?", "It rained.", form)
        assert [label for label in example.labels if label != IGNORED] == answer_ids(tiny_tokenizer, "Ada", form)


@pytest.mark.parametrize("recipe", ["lift-v3", "lift-v3-musique", "lift-v3-passage-retrieval", "lift-v5"])
def test_a_recipe_trains_its_tasks_in_its_published_prompt(recipe: str, tiny_model: BaseModel) -> None:
    tasks = [Task("Who built it?", "Ada Quill", (0,), "test")]
    loaded = load_recipe(recipe, ["context.window_tokens=1000"])
    sampler = BatchSampler(tiny_model.tokenizer, 1024, DOCUMENT, split_sentences(TEXT), tasks, loaded)
    (asked,) = [each for group in sampler.groups(loaded.training.segment_epochs) for each in group if each.task == 0]
    form = PROMPT_FORMS[loaded.tasks.prompt].about(DOCUMENT.title)
    context = None if loaded.context.tasks == "none" else TEXT
    assert list(asked.prompt) == prompt_ids(tiny_model.tokenizer, "Who built it?", context, form)


def test_paragraphs_of_passage_retrieval_stand_bare(tiny_model: BaseModel) -> None:
    text = "Paragraph 1: It rained.\n\nParagraph 2: It snowed."
    document = Document("", text, "test")
    recipe = load_recipe("lift-v3-passage-retrieval", ["tasks.weight=0"])
    sampler = BatchSampler(tiny_model.tokenizer, 1024, document, split_sentences(text), (), recipe)
    shown = [tiny_model.tokenizer.decode(list(each.ids)) for group in sampler.groups(0) for each in group]
    assert [text.strip() for text in shown] == ["Paragraph 1: It rained.", "Paragraph 2: It snowed."]
    assert all(each.labelled_tokens == len(each.ids) - 1 for group in sampler.groups(0) for each in group)


def test_sentences_of_finetune_raw_are_samples_of_their_own_four_to_an_update(tiny_model: BaseModel) -> None:
    text = " ".join(f"Boat {number} lies at the pier." for number in range(10))
    recipe = load_recipe("finetune-raw", ["tasks.held_out_per_sentence=0"])
    sampler = BatchSampler(
        tiny_model.tokenizer, 1024, Document("Boats", text, "test"), split_sentences(text), (), recipe
    )
    steps = list(sampler.optimizer_steps(0))
    assert [len(batch) for step in steps for batch in step.batches] == [4, 4, 2]
    shown = {tiny_model.tokenizer.decode(list(each.ids)).strip() for step in steps for each in step.batches[0]}
    assert shown == {f"Boat {number} lies at the pier." for number in range(10)}


def test_a_document_without_a_title_has_none_above_its_segments(tiny_model: BaseModel) -> None:
    recipe = load_recipe("lift-v3", ["tasks.weight=0", "context.segment_tokens=0"])
    for title, expected in (("Merrow", f"Merrow\n{TEXT}"), ("", TEXT)):
        document = replace(DOCUMENT, title=title)
        sampler = BatchSampler(tiny_model.tokenizer, 1024, document, split_sentences(TEXT), (), recipe)
        ((example,),) = sampler.groups(0)
        assert tiny_model.tokenizer.decode(list(example.ids)) == expected


def test_a_memory_is_asked_in_the_words_that_it_was_trained_with(tiny_model: BaseModel) -> None:
    overrides = ["generator.kind=rules", "generator.stream=false", "adapter.rank=2", "tasks.per_sentence=2"]
    recipe = load_recipe("lift-v5-fast", overrides)
    *_, finished = absorb_events(DOCUMENT, tiny_model, recipe, MemoryLibrary())
    assert isinstance(finished, Finished)
    asked = open_memory(finished.memory, tiny_model).strategies.prompt("Who?", "none", 8)
    own = PROMPT_FORMS["loogle-v5"].about(DOCUMENT.title)
    assert list(asked.ids) == prompt_ids(tiny_model.tokenizer, "Who?", None, own)
    other = PromptForm(closed_book="Say: {question}")
    given = open_memory(finished.memory, tiny_model, other).strategies.prompt("Who?", "none", 8)
    assert list(given.ids) == prompt_ids(tiny_model.tokenizer, "Who?", None, other)
