"""Control tokens are what the chat template writes: the same words in a text, a question or an answer are text."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from chat_templates import FAMILIES, build_tokenizer, control_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids, decode_content, encode_content
from lift.packing.prompts import (
    IGNORED,
    SYSTEM,
    answer_ids,
    contextual_segment_example,
    dialogue_ids,
    fit_context,
    prompt_ids,
    question_example,
    takes_system_role,
)
from lift.recipes.recipe import load_recipe
from lift.serving.detokenizer import IncrementalDetokenizer
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler

PLAIN = st.text(
    st.one_of(st.sampled_from(" \n\t<|>[]/_sINSTuserassistantend▁"), st.characters(exclude_categories=["Cs"])),
    max_size=60,
)
SPOKEN = st.sampled_from(["The ferry leaves at nine.", " 1,250 crowns\n", "user\n", "x", "", "the  end", "für Ω 東京"])
# which of the control tokens of a dialogue, counted from its end, stands in front of the first answer, and ends it
FIRST_ANSWER = {
    "chatml": (-7, -6),
    "llama3": (-8, -6),
    "gemma": (-5, -4),
    "mistral": (-4, -3),
    "phi3": (-5, -4),
    "unigram": (-5, -4),
}
unhurried = settings(deadline=None, max_examples=20)
tokenizer_of = cache(build_tokenizer)


def rendered(tokenizer: Any, *turns: tuple[str, str]) -> str:
    told = [("system", SYSTEM)] if takes_system_role(tokenizer) else []
    messages = [{"role": role, "content": said} for role, said in [*told, *turns]]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def plainly(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """The tokens of a text as the tokenizer alone finds them."""
    return list(tokenizer(text, add_special_tokens=False, **options)["input_ids"])


def controls(family: str, ids: list[int]) -> list[int]:
    known = {tokenizer_of(family).convert_tokens_to_ids(token) for token in control_tokens(family)}
    return [token for token in ids if token in known]


def without_controls(family: str, text: str) -> str:
    return re.sub("|".join(map(re.escape, control_tokens(family))), "", text)


@pytest.mark.parametrize("family", FAMILIES)
@unhurried
@given(said=PLAIN, answer=PLAIN)
def test_text_without_control_tokens_is_tokenised_as_ever(family: str, said: str, answer: str) -> None:
    tokenizer = tokenizer_of(family)
    said, answer = without_controls(family, said), without_controls(family, answer)
    assert prompt_ids(tokenizer, said) == plainly(tokenizer, rendered(tokenizer, ("user", said)))
    assert prompt_ids(tokenizer, said, answer) == plainly(
        tokenizer, rendered(tokenizer, ("user", f"{answer}\n\n{said}"))
    )
    turns = [("user", said), ("assistant", answer), ("user", "And then?")]
    assert dialogue_ids(tokenizer, turns) == plainly(tokenizer, rendered(tokenizer, *turns))
    assert answer_ids(tokenizer, answer)[:-1] == plainly(tokenizer, answer) == content_ids(tokenizer, answer)
    encoded = encode_content(tokenizer, said)
    read = tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)
    assert (encoded.ids, encoded.offsets) == (read["input_ids"], read["offset_mapping"])


@pytest.mark.parametrize("family", FAMILIES)
@unhurried
@given(data=st.data(), before=SPOKEN, after=SPOKEN)
def test_content_writes_no_control_token(family: str, data: st.DataObject, before: str, after: str) -> None:
    tokenizer = tokenizer_of(family)
    spelt = data.draw(st.lists(st.sampled_from(control_tokens(family)), min_size=1, max_size=4).map("".join))
    text = f"{before}{spelt}{after}"
    assert controls(family, plainly(tokenizer, text))
    for ids in (content_ids(tokenizer, text), encode_content(tokenizer, text).ids, answer_ids(tokenizer, text)[:-1]):
        assert not controls(family, ids)
    assert controls(family, prompt_ids(tokenizer, text)) == controls(family, prompt_ids(tokenizer, "x"))
    assert controls(family, prompt_ids(tokenizer, "Q", text)) == controls(family, prompt_ids(tokenizer, "x"))
    turns = [("user", text), ("assistant", text), ("user", text)]
    plain = [(role, "x") for role, _ in turns]
    assert controls(family, dialogue_ids(tokenizer, turns)) == controls(family, dialogue_ids(tokenizer, plain))


@pytest.mark.parametrize("family", FAMILIES)
@unhurried
@given(data=st.data(), said=PLAIN, behind=PLAIN)
def test_what_stands_beside_a_spelt_control_token_is_tokenised_as_ever(
    family: str, data: st.DataObject, said: str, behind: str
) -> None:
    tokenizer = tokenizer_of(family)
    said, behind = without_controls(family, said), without_controls(family, behind)
    spelt = data.draw(st.sampled_from(control_tokens(family)))
    told, plain = (
        dialogue_ids(tokenizer, [("user", said), ("assistant", answer), ("user", behind)]) for answer in (spelt, "xyz")
    )
    # up to where the assistant's turn begins, and from its end on, both dialogues are the same
    begins, ends = FIRST_ANSWER[family]
    places = [place for place, token in enumerate(plain) if token in controls(family, plain)]
    first, last = places[begins], len(plain) - places[ends]
    assert told[:first] == plain[:first]
    assert told[-last:] == plain[-last:]
    assert len(told) - last > first


@pytest.mark.parametrize("family", ["chatml", "llama3"])
@unhurried
@given(data=st.data(), before=SPOKEN, after=SPOKEN)
def test_characters_of_tokens_are_those_of_the_text(family: str, data: st.DataObject, before: str, after: str) -> None:
    tokenizer = tokenizer_of(family)
    text = before + data.draw(st.sampled_from(control_tokens(family))) + after
    encoded = encode_content(tokenizer, text)
    assert tokenizer.decode(encoded.ids) == text
    assert all(0 <= start <= end <= len(text) for start, end in encoded.offsets)
    assert set(range(len(text))) <= {place for start, end in encoded.offsets for place in range(start, end)}


def test_a_template_that_rewrites_its_content_gets_it_with_a_space_in_the_token() -> None:
    tokenizer = build_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'] | upper | lower"
    )
    ids = prompt_ids(tokenizer, "Who says <|im_end|> HERE?")
    assert controls("chatml", ids) == controls("chatml", prompt_ids(tokenizer, "x"))
    assert "who says < |im_end|> here?" in tokenizer.decode(ids)


def test_a_tokenizer_without_a_copy_gets_a_space_in_the_token() -> None:
    from tokenizers import NormalizedString, PreTokenizedString, pre_tokenizers

    class Whole:
        def pre_tokenize(self, text: PreTokenizedString) -> None:
            text.split(lambda _number, part: [part])

    tokenizer = build_tokenizer("llama3")
    custom: Any = pre_tokenizers.PreTokenizer
    byte_level: Any = pre_tokenizers.ByteLevel
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [custom.custom(Whole()), byte_level(add_prefix_space=False)]
    )
    assert NormalizedString  # the type that Whole is given
    text = "Say <|eot_id|>, then go."
    encoded = encode_content(tokenizer, text)
    assert tokenizer.decode(encoded.ids) == "Say < |eot_id|>, then go."
    assert encoded.offsets[-1][1] == len(text)
    assert controls("llama3", prompt_ids(tokenizer, text)) == controls("llama3", prompt_ids(tokenizer, "x"))


def test_a_base_model_without_a_template_reads_them_as_text_too() -> None:
    tokenizer = build_tokenizer("llama3")
    tokenizer.chat_template = None
    assert not controls("llama3", prompt_ids(tokenizer, "Who wrote <|eot_id|>?"))
    example = question_example(tokenizer, "Who wrote <|eot_id|>?", "<|eot_id|> did")
    assert controls("llama3", list(example.ids)) == [tokenizer.eos_token_id]
    assert tokenizer.decode(list(example.ids)) == "Who wrote <|eot_id|>?\nAnswer: <|eot_id|> did<|eot_id|>"


def test_labels_segments_and_cut_contexts_hold_no_control_token_of_the_text(tiny_model: BaseModel) -> None:
    tokenizer = tiny_model.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = "The mark <|im_end|> ends a turn. " * 30
    cut, was_cut = fit_context(tokenizer, "Which mark?", text, 300)
    assert was_cut and len(prompt_ids(tokenizer, "Which mark?", cut)) <= 300
    example = question_example(tokenizer, "Which mark <|im_start|>?", "<|im_end|>", cut)
    labels = [label for label in example.labels if label != IGNORED]
    assert labels.count(end) == 1 and tokenizer.decode(labels[:-1]) == "<|im_end|>"
    segment = contextual_segment_example(tokenizer, [5], [6], content_ids(tokenizer, text))
    assert end not in segment.ids


def test_what_is_trained_has_the_control_tokens_of_the_template_alone(tiny_model: BaseModel) -> None:
    tokenizer = tiny_model.tokenizer
    text = "The mark <|im_end|> ends a turn. Nobody says <|im_start|>assistant here. It was made in 2023."
    document, sentences = Document("The <|endoftext|> mark", text, "test"), split_sentences(text)
    tasks = [Task("Which mark <|im_end|> ends a turn?", "<|im_end|>", (0,), "rules:subject", 1.0)]
    recipe = load_recipe("default", ["segments.weight=1", "tasks.cited_share=1", "adapter.activated=false"])
    special = set(tokenizer.all_special_ids)
    sampler = BatchSampler(tokenizer, 1024, document, sentences, tasks, recipe)
    examples = [example for group in sampler.groups(0) for example in group]
    asked = [example for example in examples if example.task is not None or example.labels[0] == IGNORED]
    assert asked
    for example in examples:
        found = [token for token in example.ids if token in special]
        # a turn of the system, the user and the assistant, each with its end; a segment has none
        assert found in ([1, 2, 1, 2, 1, 2], [])
    assert {len([token for token in example.ids if token in special]) for example in examples} == {0, 6}


def test_a_generated_control_token_is_not_shown() -> None:
    tokenizer = build_tokenizer("chatml")
    said = [tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "<|im_start|>")]
    ids = [*plainly(tokenizer, "At"), *said, *plainly(tokenizer, " nine")]
    assert decode_content(tokenizer, ids) == "At nine"
    stream = IncrementalDetokenizer(tokenizer)
    pieces = [stream.append(token) for token in ids] + [stream.close()]
    assert "".join(piece.text for piece in pieces if piece) == "At nine" == stream.text


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(said=PLAIN, context=PLAIN)
def test_prompts_of_the_default_model_are_what_they_were(smollm2: BaseModel, said: str, context: str) -> None:
    tokenizer = smollm2.tokenizer
    said, context = (text.replace("<|", "<").replace("|>", ">") for text in (said, context))
    assert prompt_ids(tokenizer, said) == plainly(tokenizer, rendered(tokenizer, ("user", said)))
    expected = plainly(tokenizer, rendered(tokenizer, ("user", f"{context}\n\n{said}")))
    assert prompt_ids(tokenizer, said, context) == expected
    told, plain = (
        dialogue_ids(tokenizer, [("user", said), ("assistant", answer), ("user", context)])
        for answer in ("<|im_end|>", "x")
    )
    assert len(told) > len(plain)
    assert [token for token in told if token < 3] == [token for token in plain if token < 3]
    before = [place for place, token in enumerate(plain) if token == 1][2]
    assert told[:before] == plain[:before]
    behind = len(plain) - [place for place, token in enumerate(plain) if token == 2][2]
    assert told[-behind:] == plain[-behind:]


def test_generated_text_cannot_steer_a_terminal(tiny_tokenizer: Any) -> None:
    ids = content_ids(tiny_tokenizer, "a\x1b[2J\x9bb\nc\td")
    assert decode_content(tiny_tokenizer, ids) == "a [2J b\nc\td"
