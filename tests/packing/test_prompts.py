import gc
import tracemalloc
from typing import Any

import pytest
from chat_templates import build_tokenizer
from conftest import CHATML
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.models.token_spans import token_spans
from lift.packing.prompts import (
    ELLIPSIS,
    IGNORED,
    SYSTEM,
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
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": user_text(question, "A text.")},
            {"role": "assistant", "content": answer},
        ],
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


@pytest.fixture(scope="module")
def merging_tokenizer() -> Any:
    """A byte-level tokenizer with merges, as those of real models: what joins at a cut may become another token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    build: Any = trainers.BpeTrainer
    trainer = build(
        vocab_size=400,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the lens of the lamp... was ground in the town of Hallby in 1911."] * 9, trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrapped = wrap(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    wrapped.chat_template = CHATML
    return wrapped


def exactly_fitted(tokenizer: Any, question: str, text: str, limit_tokens: int, step_tokens: int) -> tuple[str, bool]:
    """What fit_context gives where every prompt is tokenised whole."""
    if len(prompt_ids(tokenizer, question, text)) <= limit_tokens:
        return text, False
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    keep_tokens = limit_tokens - len(prompt_ids(tokenizer, question, ELLIPSIS))
    while True:
        keep_tokens -= keep_tokens % step_tokens
        cut = truncate_middle(text, offsets, keep_tokens)
        excess = len(prompt_ids(tokenizer, question, cut)) - limit_tokens
        if excess <= 0:
            return cut, True
        keep_tokens -= excess


@relaxed
@given(
    words=st.lists(
        st.sampled_from(["the lens", "of", "Hallby", "1911", "...", ".", "\n\n", " ", "ü", "ground in", "x" * 40]),
        min_size=90,
    ),
    question=st.text("abc the?.\n", min_size=1, max_size=30),
    limit_tokens=st.integers(120, 3000),
    step_tokens=st.sampled_from([1, 32]),
)
def test_a_long_text_is_cut_as_if_every_prompt_were_tokenised_whole(
    merging_tokenizer: Any, words: list[str], question: str, limit_tokens: int, step_tokens: int
) -> None:
    text = (" ".join(words) + " ") * (1 + 5000 // len(" ".join(words)))
    found = fit_context(merging_tokenizer, question, text, limit_tokens, step_tokens)
    assert found == exactly_fitted(merging_tokenizer, question, text, limit_tokens, step_tokens)
    assert len(prompt_ids(merging_tokenizer, question, found[0])) <= limit_tokens


class _Counting:
    """A tokenizer that counts the characters that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self._tokenizer(text, **options)


def test_a_long_text_is_tokenised_once_for_all_its_questions(merging_tokenizer: Any) -> None:
    text = "".join(f"The lens number {number} was ground in the town of Hallby. " for number in range(2000))
    counting = _Counting(merging_tokenizer)
    limit_tokens = 600
    shown = 0
    for number in range(40):
        cut, _ = fit_context(counting, f"Where was lens {number} ground?", text, limit_tokens, 32)
        shown += len(cut)
    assert counting.characters < len(text) + shown


def test_nothing_is_kept_of_the_texts_of_many_questions(merging_tokenizer: Any) -> None:
    text = "".join(f"The lens number {number} was ground in the town of Hallby. " for number in range(400))

    def ask(first: int) -> None:
        for number in range(first, first + 30):
            prompt_ids(merging_tokenizer, f"Where was lens {number} ground?", text)

    ask(0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ask(30)
        gc.collect()
        kept_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept_bytes < len(text)


def test_the_spans_that_are_kept_are_bounded(merging_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.models.token_spans.KEPT_BYTES", 40_000)
    tokenizer = _Counting(merging_tokenizer)
    texts = [f"Text {number}. " + "The lens was ground in Hallby. " * 300 for number in range(6)]
    spans = [token_spans(tokenizer, text) for text in texts]
    assert sum(each.bytes for each in spans) > 40_000
    before = tokenizer.characters
    assert token_spans(tokenizer, texts[-1]) is spans[-1]
    assert tokenizer.characters == before
    assert token_spans(tokenizer, texts[0]) is not spans[0]


@pytest.mark.slow
def test_a_templates_own_system_message_never_comes_up(smollm2: BaseModel) -> None:
    tokenizer = smollm2.tokenizer
    for ids in (prompt_ids(tokenizer, "Who keeps the light?"), dialogue_ids(tokenizer, [("user", "Who keeps it?")])):
        text = tokenizer.decode(ids)
        assert SYSTEM in text
        assert "SmolLM" not in text
