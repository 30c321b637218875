"""What a chat template says by itself is no answer to a question about a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_templates import build_tokenizer
from conftest import tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.answerer import Answerer
from lift.answering.steps import ModelRequest, ScoreRequest, run_strategies
from lift.answering.strategies import AnsweringAdapters, Strategies
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.models.base_model import BaseModel
from lift.models.template_text import TemplateQuotes, template_text
from lift.serving.detokenizer import IncrementalDetokenizer

TOLD = "You are Heron, created by Moor Labs. You are a helpful assistant."
TEXT = "The ferry leaves at nine. Ada Quill keeps the light. Moor Labs measured the tide in 1907."
QUESTION = "When does the ferry leave?"


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(model=tiny_llama(), tokenizer=build_tokenizer("chatml"), id="tiny", fingerprint="0" * 64)


def quotes(text: str = TEXT) -> TemplateQuotes:
    return TemplateQuotes((TOLD,), text)


@pytest.mark.parametrize(
    ("family", "told"), [("chatml", (TOLD,)), ("llama3", ()), ("gemma", ()), ("mistral", ()), ("phi3", ())]
)
def test_the_text_of_a_template_is_found(family: str, told: tuple[str, ...]) -> None:
    assert template_text(build_tokenizer(family)) == told


def test_text_that_is_said_beside_a_system_message_too_is_found() -> None:
    tokenizer = build_tokenizer("llama3")
    tokenizer.chat_template = (
        "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: March 2030\n\n' }}"
        "{{ '<|eot_id|>' }}" + tokenizer.chat_template
    )
    assert template_text(tokenizer) == ("Cutting Knowledge Date: March 2030",)


@pytest.mark.parametrize(
    ("answer", "given_answer"),
    [
        (TOLD, ""),
        ("You are a helpful assistant.", ""),
        ("a helpful assistant", ""),
        ("Heron", ""),
        ("heron, created by", ""),
        ("At nine. You are Heron, created by Moor", "At nine."),
        ("At nine.", "At nine."),
        ("You are to be there at nine.", "You are to be there at nine."),
        ("a helpful keeper", "a helpful keeper"),
        ("created by Ada Quill", "created by Ada Quill"),
        ("Moor Labs", "Moor Labs"),
        ("assistant", "assistant"),
        ("", ""),
    ],
)
def test_quotations_are_cut_unless_the_document_has_them(answer: str, given_answer: str) -> None:
    assert quotes().without(answer) == given_answer


def test_a_document_that_says_the_same_may_be_quoted() -> None:
    assert quotes(f"It begins so: {TOLD} Then it ends.").without(TOLD) == TOLD


words = st.lists(st.sampled_from([*TOLD.replace(".", "").split(), "ferry", "nine."]), max_size=12).map(" ".join)


@given(words, st.integers(1, 4))
def test_a_stream_shows_the_answer_that_is_given_in_the_end(answer: str, step: int) -> None:
    shown, quoted = "", quotes()
    for end in range(step, len(answer) + step, step):
        text = answer[:end]
        if quoted.begin(text, ended=end >= len(answer)) is not None:
            break
        safe = text[: quoted.safe_end(text)]
        assert safe.startswith(shown)
        shown = safe
    assert quoted.without(answer).startswith(shown)


def answer_of(base: BaseModel, adapters: AnsweringAdapters, context: str, said: dict[str | None, str]) -> str:
    """The answer where each adapter says always the same, and judges all alike."""
    routes = Strategies(base, Document("Island", TEXT, "test"), split_sentences(TEXT), adapters)

    def fulfil(wants: Sequence[ModelRequest]) -> list[Any]:
        return [[-1.0] * len(want.answers) if isinstance(want, ScoreRequest) else said[want.adapter] for want in wants]

    (answer,) = run_strategies([routes.to(QUESTION, context, 8)], fulfil)
    return answer.text


@pytest.mark.parametrize("context", ["none", "evidence", "full", "truncated"])
def test_an_answer_that_quotes_the_template_is_no_answer(base: BaseModel, context: str) -> None:
    adapters = AnsweringAdapters("memory", "reader")
    assert answer_of(base, adapters, context, {"memory": TOLD}) == ""
    assert answer_of(base, adapters, context, {"memory": "At nine"}) == "At nine"


@pytest.mark.parametrize("said", [{"memory": TOLD, "reader": "nine"}, {"memory": "nine", "reader": "Heron"}])
def test_the_next_candidate_is_given(base: BaseModel, said: dict[str | None, str]) -> None:
    assert answer_of(base, AnsweringAdapters("memory", "reader"), "auto", said) == "nine"
    assert answer_of(base, AnsweringAdapters("memory", "reader", cites=True), "none", {**said}) == "nine"


def test_no_piece_of_a_quotation_is_shown_while_it_is_generated(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = base.tokenizer(f"At nine. {TOLD}", add_special_tokens=False)["input_ids"]

    def speak(_model: Any, prompts: Sequence[Any], *, on_token: Any = None, **_: Any) -> list[list[int]]:
        for token in ids:
            if on_token:
                on_token(0, token)
        return [ids for _ in prompts]

    monkeypatch.setattr("lift.answering.answerer.generate", speak)
    answerer = Answerer.of(base, None, Document("Island", TEXT, "test"), split_sentences(TEXT))
    pieces: list[str] = []
    answer = answerer.ask(QUESTION, "full", on_text=pieces.append)
    assert answer.text == "At nine." == "".join(pieces)


def test_the_text_stream_of_the_server_ends_before_a_quotation(base: BaseModel) -> None:
    stream = IncrementalDetokenizer(base.tokenizer, quotes=quotes())
    pieces = []
    for token in base.tokenizer(f"At nine. {TOLD} So be it.", add_special_tokens=False)["input_ids"]:
        pieces.append(stream.append(token))
        if stream.stopped:
            break
    assert stream.stopped
    assert "".join(piece.text for piece in pieces if piece) == "At nine." == stream.text


@pytest.mark.slow
def test_the_default_model_has_a_text_of_its_own(smollm2: BaseModel, tmp_path: Path) -> None:
    (told,) = template_text(smollm2.tokenizer)
    assert told.startswith("You are a helpful AI assistant")
    quoted = TemplateQuotes((told,), TEXT)
    assert [quoted.without(each) for each in (told, "SmolLM", "Hugging Face", "1907")] == ["", "", "", "1907"]
