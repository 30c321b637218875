"""A model at an endpoint as reader, over HTTP with the real client against a scripted endpoint."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted_endpoint import Reply, ScriptedEndpoint, completion, failure

from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import RemoteError, UsageError
from lift.evaluation.reader import QuestionBatch, Reader
from lift.evaluation.remote_reader import RemoteReader, Unreachable, open_remote_reader
from lift.packing.prompts import PLAIN_FORM, PromptForm
from lift.remote.remote_model import base_fingerprint
from lift.remote.token_estimate import estimate_chat_tokens

FAST = RetryPolicy(timeout_s=2, tries=2, first_wait_s=0.001, longest_wait_s=0.01)
URL = "http://127.0.0.1:9/v1"
FORM = PromptForm(reading="Read: {context}\nNow answer: {question}", closed_book="Tell: {question}")
BARE = PromptForm(reading="{context} {question}", chat=False, answer_prefix=" The answer is")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-scripted")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def opened(endpoint: ScriptedEndpoint | str, window_tokens: int = 200) -> RemoteReader:
    url = endpoint if isinstance(endpoint, str) else endpoint.base_url
    return open_remote_reader("openai:m", url, window_tokens, FAST)


def said(request: dict[str, Any]) -> str:
    text: str = request["messages"][0]["content"]
    return text


def echo(request: dict[str, Any]) -> str:
    return f" {said(request).split()[-1]} "


def offering_completions(endpoint: ScriptedEndpoint) -> ScriptedEndpoint:
    """The same endpoint, which answers at /v1/completions too."""
    chat_only: Any = endpoint._server.RequestHandlerClass

    class Both(chat_only):
        def do_POST(self) -> None:
            self.path = self.path.replace("/v1/completions", "/v1/chat/completions")
            super().do_POST()

    endpoint._server.RequestHandlerClass = Both
    return endpoint


def test_it_is_a_reader_that_says_which_model_it_is() -> None:
    reader: Reader = opened(URL, 99)
    assert (reader.id, reader.window_tokens) == ("openai:m", 99)
    assert reader.fingerprint == base_fingerprint("m", URL)
    assert open_remote_reader("openai:m", "http://other/v1").fingerprint != reader.fingerprint
    for name in ("smollm2", "openai:"):
        with pytest.raises(UsageError, match="openai:NAME"):
            open_remote_reader(name, URL)


def test_questions_are_answered_greedily_in_their_order_several_at_once() -> None:
    questions = [f"Which one? n{n}" for n in range(20)]
    contexts = ["A text." if n % 2 else None for n in range(20)]
    with ScriptedEndpoint(echo, answer_s=0.02) as endpoint:
        replies = opened(endpoint).read(QuestionBatch(questions, contexts, FORM, 7))
        assert 1 < endpoint.most_at_once <= 8
    assert [reply.text for reply in replies] == [f"n{n}" for n in range(20)]
    assert replies[0].prompt == "Tell: Which one? n0"
    assert replies[1].prompt == "Read: A text.\nNow answer: Which one? n1"
    assert sorted(map(said, endpoint.requests)) == sorted(reply.prompt for reply in replies)
    assert {(request["model"], request["temperature"], request["max_tokens"]) for request in endpoint.requests} == {
        ("m", 0, 7)
    }
    assert all((reply.prompt_tokens, reply.answer_tokens, reply.error) == (1, 1, None) for reply in replies)
    assert len({reply.seconds for reply in replies}) == 1
    assert not any(reply.alone for reply in replies)


def test_one_by_one_is_one_request_at_a_time() -> None:
    with ScriptedEndpoint(echo, answer_s=0.01) as endpoint:
        replies = opened(endpoint).read(QuestionBatch(["a", "b", "c"], [None] * 3, PLAIN_FORM, 4, one_by_one=True))
        assert endpoint.most_at_once == 1
    assert [reply.text for reply in replies] == ["a", "b", "c"]
    assert all(reply.alone and reply.seconds >= 0.01 for reply in replies)
    assert opened(endpoint).read(QuestionBatch([], [], PLAIN_FORM, 4)) == []


def test_tokens_are_estimated_where_they_are_not_counted() -> None:
    body = {**completion("12345678"), "usage": None}
    with ScriptedEndpoint(lambda _: (200, {}, body)) as endpoint:
        (reply,) = opened(endpoint).read(QuestionBatch(["What is it?"], [None], PLAIN_FORM, 4))
    assert (reply.prompt_tokens, reply.answer_tokens) == (estimate_chat_tokens(["What is it?"]), 2)


def test_a_failing_question_has_its_error_and_the_others_their_answers() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        problems = {
            "flagged": failure(400, "content policy"),
            "broken": failure(500, "no luck"),
            "long": (400, {}, {"error": {"message": "too many", "code": "context_length_exceeded", "param": None}}),
            "odd": (200, {}, {"choices": []}),
            "page": (200, {"Content-Type": "text/html"}, "<html>"),
            "half": (200, {}, '{"choices": [{"mess'),
            "none": (200, {}, completion(None)),
        }
        return problems.get(said(request), "fine")

    questions = ["a", "flagged", "broken", "long", "odd", "page", "half", "none", "b"]
    with ScriptedEndpoint(reply) as endpoint:
        replies = opened(endpoint).read(QuestionBatch(questions, [None] * 9, PLAIN_FORM, 4))
    assert [each.text for each in replies] == ["fine", *[""] * 7, "fine"]
    errors = [each.error for each in replies]
    assert errors[0] is None
    assert errors[8] is None
    wanted = ["content policy", "no luck", "smaller window than 200", *["cannot be understood"] * 4]
    assert [want for want, error in zip(wanted, errors[1:8], strict=True) if want in (error or "")] == wanted
    assert [each.prompt for each in replies] == questions


def test_a_rate_limit_is_waited_for() -> None:
    waits = iter([failure(429, "slow down", {"Retry-After": "0.01"})])
    with ScriptedEndpoint(lambda request: next(waits, None) or echo(request)) as endpoint:
        (reply,) = opened(endpoint).read(QuestionBatch(["Is it so?"], [None], PLAIN_FORM, 4))
    assert (reply.text, reply.error, len(endpoint.requests)) == ("so?", None, 2)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "invalid_api_key", "does not accept the API key"),
        (404, "model_not_found", "does not offer that model"),
        (429, "insufficient_quota", "quota"),
    ],
)
def test_a_refusal_of_key_model_or_account_is_raised(status: int, code: str, message: str) -> None:
    body = {"error": {"message": "no", "type": "t", "code": code, "param": None}}
    with ScriptedEndpoint(lambda _: (status, {}, body)) as endpoint:
        with pytest.raises(RemoteError, match=message):
            opened(endpoint).read(QuestionBatch([str(n) for n in range(100)], [None] * 100, PLAIN_FORM, 4))
        with pytest.raises(RemoteError, match=message):
            opened(endpoint).read(QuestionBatch(["Who?"], [None], BARE, 4))
    assert len(endpoint.requests) < 50


def test_an_endpoint_that_is_not_there_is_raised_at_once() -> None:
    with ScriptedEndpoint(echo) as endpoint:
        pass
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"could not ask the model at .* in 2 tries"):
        opened(endpoint).read(QuestionBatch([str(n) for n in range(50)], [None] * 50, PLAIN_FORM, 4))
    assert time.monotonic() - started < 2


def test_the_beginning_of_an_answer_is_the_last_line_of_a_chat() -> None:
    form = PromptForm(answer_prefix=" The answer is")
    with ScriptedEndpoint(lambda request: "The answer is 42" if "6" in said(request) else "41") as endpoint:
        replies = opened(endpoint).read(QuestionBatch(["6 * 7?", "40 + 1?"], ["Sums.", None], form, 4))
    assert [reply.prompt for reply in replies] == ["Sums.\n\n6 * 7?\nThe answer is", "40 + 1?\nThe answer is"]
    assert [reply.text for reply in replies] == ["42", "41"]


def test_a_form_without_chat_is_completed() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        return 200, {}, {"choices": [{"index": 0, "text": f" {len(request['prompt'])}\n"}], "usage": None}

    with offering_completions(ScriptedEndpoint(reply)) as endpoint:
        reader = opened(endpoint)
        (found,) = reader.read(QuestionBatch(["Who?"], ["A text."], BARE, 5))
    assert found.prompt == endpoint.requests[0]["prompt"] == "A text. Who? The answer is"
    assert (found.text, reader.notes) == (str(len(found.prompt)), ())
    assert (endpoint.requests[0]["temperature"], endpoint.requests[0]["max_tokens"]) == (0, 5)
    assert "messages" not in endpoint.requests[0]


def test_where_nothing_completes_the_chat_is_asked_and_it_is_said() -> None:
    chat_only = failure(404, "This is a chat model")
    with ScriptedEndpoint(lambda request: chat_only if "prompt" in request else echo(request)) as endpoint:
        for offer in (lambda it: it, offering_completions):  # no such path, then the path but not for this model
            reader = opened(offer(endpoint))
            (found,) = reader.read(QuestionBatch(["Who?"], ["A text."], BARE, 5))
            assert (found.prompt, found.text) == ("A text. Who?\nThe answer is", "is")
            assert len(reader.notes) == 1
            assert "no /completions for m" in reader.notes[0]
        tried = len(endpoint.requests)
        reader.read(QuestionBatch(["Who?"], ["A text."], BARE, 5))
        assert len(endpoint.requests) == tried + 1


TEXT = " ".join(f"Member {n} spoke about pier {n * 7}." for n in range(40))


def test_the_document_alone_is_cut_to_the_window() -> None:
    reader = opened(URL, 100)
    assert reader.fit("Who spoke?", "Short.", FORM, 20) == ("Short.", False)
    cut, was_cut = reader.fit("Who spoke?", TEXT, FORM, 20)
    assert was_cut
    head, tail = cut.split("...")
    assert TEXT.startswith(head)
    assert TEXT.endswith(tail)
    assert 60 < estimate_chat_tokens([f"Read: {cut}\nNow answer: Who spoke?"]) <= 80
    longer = PromptForm(reading=FORM.reading, answer_prefix="And the answer to all of that is:")
    assert len(reader.fit("Who spoke?", TEXT, longer, 20)[0]) < len(cut)
    with pytest.raises(UsageError, match="raise the window of openai:m"):
        reader.fit("Who? " * 200, TEXT, FORM, 20)


@cache
def one_reader() -> RemoteReader:
    """A reader for every example: to open a client takes long."""
    return opened(URL)


@example("é" * 300, 100, FORM)  # no piece of it joins a run of its neighbours
@settings(deadline=None)
@given(st.text(max_size=400), st.integers(40, 120), st.sampled_from([FORM, BARE, PLAIN_FORM]))
def test_what_fits_is_within_the_window_by_estimate(text: str, window_tokens: int, form: PromptForm) -> None:
    reader = one_reader()
    reader.window_tokens = window_tokens
    cut, was_cut = reader.fit("Who?", text, form, 8)
    prefix = f"\n{form.answer_prefix.strip()}" if form.answer_prefix else ""
    prompt = form.reading.replace("{context}", cut).replace("{question}", "Who?") + prefix
    assert estimate_chat_tokens([prompt]) <= window_tokens - 8
    assert was_cut or cut == text
    spans = reader.offsets(text)
    assert "".join(text[start:end] for start, end in spans) == text
