from typing import Any

import pytest
from chat_templates import build_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.errors import UsageError
from lift.prompts import (
    ELLIPSIS,
    IGNORED,
    dialogue_ids,
    end_of_answer_id,
    fit_context,
    prompt_ids,
    question_example,
    segment_example,
    truncate_middle,
    user_text,
)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@relaxed
@given(texts, texts)
def test_loss_is_taken_on_the_answer_and_its_end_token_alone(tiny_tokenizer: Any, question: str, answer: str) -> None:
    example = question_example(tiny_tokenizer, question, answer)
    labelled = [label for label in example.labels if label != IGNORED]
    assert tiny_tokenizer.decode(labelled[:-1]) == answer
    assert labelled[-1] == end_of_answer_id(tiny_tokenizer) == tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert example.labels[-len(labelled) :] == example.ids[-len(labelled) :]
    assert set(example.labels[: -len(labelled)]) == {IGNORED}


@relaxed
@given(texts, texts)
def test_a_training_prompt_is_the_generation_prompt_token_for_token(
    tiny_tokenizer: Any, question: str, answer: str
) -> None:
    example = question_example(tiny_tokenizer, question, answer, context="A text.")
    prompt = prompt_ids(tiny_tokenizer, question, "A text.")
    assert list(example.ids[: len(prompt)]) == prompt
    rendered = tiny_tokenizer.apply_chat_template(
        [{"role": "user", "content": user_text(question, "A text.")}, {"role": "assistant", "content": answer}],
        tokenize=False,
    )
    assert rendered.startswith(tiny_tokenizer.decode(list(example.ids)))


def test_a_base_model_without_a_template_gets_question_and_answer(tiny_tokenizer: Any) -> None:
    template, tiny_tokenizer.chat_template = tiny_tokenizer.chat_template, None
    try:
        example = question_example(tiny_tokenizer, "Who?", "Ada")
        assert tiny_tokenizer.decode(list(example.ids)) == "Who?\nAnswer: Ada<|im_end|>"
    finally:
        tiny_tokenizer.chat_template = template


def test_a_segment_is_trained_on_every_token_that_has_one_before_it() -> None:
    assert segment_example([5, 6, 7]).labels == (IGNORED, 6, 7)


@given(st.text("abcdef", min_size=1, max_size=60), st.integers(0, 70))
def test_truncation_keeps_head_and_tail(text: str, keep: int) -> None:
    offsets = [(index, index + 1) for index in range(len(text))]
    cut = truncate_middle(text, offsets, keep)
    if keep >= len(text):
        assert cut == text
    else:
        head, tail = cut.split(ELLIPSIS)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) == keep
        assert 0 <= len(head) - len(tail) <= 1


@relaxed
@given(texts, st.integers(0, 200))
def test_only_the_document_is_ever_cut(tiny_tokenizer: Any, question: str, spare: int) -> None:
    document = "0123456789" * 30
    limit = len(prompt_ids(tiny_tokenizer, question, ELLIPSIS)) + spare
    text, cut = fit_context(tiny_tokenizer, question, document, limit)
    ids = prompt_ids(tiny_tokenizer, question, text)
    assert cut
    assert limit - 1 <= len(ids) <= limit
    assert user_text(question, text) in tiny_tokenizer.decode(ids)
    assert ELLIPSIS in text


def test_a_text_that_fits_is_left_whole(tiny_tokenizer: Any) -> None:
    assert fit_context(tiny_tokenizer, "Who?", "A short text.", 500) == ("A short text.", False)


def test_a_question_longer_than_the_window_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="expected a question that fits"):
        fit_context(tiny_tokenizer, "Who? " * 50, "A text.", 40)


@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_system_messages_stand_in_the_first_user_turn_where_there_is_no_such_role(family: str) -> None:
    tokenizer = build_tokenizer(family)
    turns = [("user", "Who?"), ("assistant", "Ada"), ("user", "When?")]
    told = [("system", "Be brief."), *turns, ("system", "No names.")]
    expected = [("user", "Be brief.\n\nNo names.\n\nWho?"), *turns[1:]]
    assert dialogue_ids(tokenizer, told) == dialogue_ids(tokenizer, expected)
    assert dialogue_ids(tokenizer, [("system", "Be brief."), ("user", "Who?")]) == prompt_ids(
        tokenizer, "Be brief.\n\nWho?"
    )


def test_a_role_that_the_template_leaves_out_without_a_word_is_none() -> None:
    tokenizer = build_tokenizer("phi3")
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{{ '<|assistant|>' }}"
    )
    told = dialogue_ids(tokenizer, [("system", "the keeper of"), ("user", "the boat")])
    assert told == prompt_ids(tokenizer, "the keeper of\n\nthe boat")


@pytest.mark.parametrize("family", ["chatml", "llama3", "phi3"])
def test_a_system_role_is_used_where_there_is_one(family: str) -> None:
    tokenizer = build_tokenizer(family)
    turns = [("system", "Be brief."), ("user", "Who?")]
    messages = [{"role": role, "content": said} for role, said in turns]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert dialogue_ids(tokenizer, turns) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_a_dialogue_that_the_template_refuses_is_still_refused() -> None:
    with pytest.raises(UsageError, match="must alternate"):
        dialogue_ids(build_tokenizer("gemma"), [("user", "Who?"), ("user", "When?")])
