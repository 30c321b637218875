"""The official openai client, unchanged, against a server: models, answers, streams, files, jobs and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback
import openai
import pytest
from live_server import Live, ScriptedEngine, answer, completion, eventually, put_memory, serving

from lift.documents.sentences import split_sentences
from lift.errors import QueueFull
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.packing.prompts import MAX_ANSWER_TOKENS
from lift.serving.request import Message, Request, Sampling, TextDelta

QUESTION: list[Any] = [{"role": "user", "content": "Who founded the museum?"}]


def client_of(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def live(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    root = tmp_path / "library"
    with serving(tiny_model, root) as server:
        put_memory(server.library, tiny_model, "quill", 1)
        put_memory(server.library, tiny_model, "naïve — no.2"[:5] + " two", 2)
        yield server


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return client_of(live)


@pytest.fixture
def scripted(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model), answer_s=77.0) as server:
        yield server


def test_the_base_and_every_memory_on_it_are_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list().data}
    assert list(models) == ["tiny", "naïve two", "quill"]
    assert models["tiny"].parent is None and models["quill"].parent == "tiny"  # type: ignore[attr-defined]
    assert client.models.retrieve("naïve two").id == "naïve two"
    assert client.models.delete("naïve two").deleted
    assert [model.id for model in client.models.list().data] == ["tiny", "quill"]
    with pytest.raises(openai.NotFoundError, match="naïve two"):
        client.models.retrieve("naïve two")
    with pytest.raises(openai.BadRequestError, match="base model"):
        client.models.delete("tiny")


def test_memories_of_other_weights_are_no_models(live: Live, tiny_model: BaseModel) -> None:
    other = BaseModel(tiny_model.model, tiny_model.tokenizer, "other", "1" * 64)
    put_memory(live.library, other, "foreign")
    client = client_of(live)
    assert "foreign" not in [model.id for model in client.models.list().data]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("foreign")
    with pytest.raises(openai.ConflictError, match="foreign"):
        client.chat.completions.create(model="foreign", messages=QUESTION)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_for_prose_is_quoted_where_the_base_writes_nonsense(live: Live, stream: bool) -> None:
    request = "Summarize what is told about the museum."
    memory = live.library["quill"]
    quoted = " ".join(sentence.text for sentence in split_sentences(memory.document.text)[:3])

    def say(model: str, text: str, **options: Any) -> Any:
        return client_of(live).chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], stream=stream, **options
        )

    if stream:
        pieces = [chunk.choices[0].delta.content for chunk in say("quill", request) if chunk.choices]
        assert "".join(piece or "" for piece in pieces) == quoted
        return
    said = say("quill", request)
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == (quoted, "stop")
    assert said.lift["context"] == "evidence"
    assert said.usage.completion_tokens > MAX_ANSWER_TOKENS, "expected the base to have written at length"
    few = say("quill", request, max_tokens=6).choices[0].message.content
    assert len(few) < len(quoted), "expected no quotation that is longer than what was asked for"


@pytest.mark.parametrize("model", ["quill", "tiny"])
def test_an_answer_is_the_engines_with_its_usage_and_evidence(live: Live, model: str) -> None:
    said = client_of(live).chat.completions.create(model=model, messages=QUESTION, max_tokens=6)
    asked = Request(
        None if model == "tiny" else model,
        (Message("user", QUESTION[0]["content"]),),
        sampling=Sampling(max_tokens=6),
    )
    expected = live.engine.submit(asked).result(30)
    assert said.object == "chat.completion" and said.model == model
    assert said.choices[0].message.content == expected.text
    assert said.choices[0].finish_reason == ("stop" if expected.finish_reason == "stop" else "length")
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (
        expected.prompt_tokens,
        expected.completion_tokens,
    )
    lift = said.lift  # type: ignore[attr-defined]
    assert (lift["context"], lift["supported"]) == (expected.context, expected.supported)
    assert [each["sentence"] for each in lift["evidence"]] == [each.sentence for each in expected.evidence]


@pytest.mark.parametrize("context", ["none", "evidence", "full", "auto"])
def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, context: str) -> None:
    options: dict[str, Any] = {
        "model": "quill",
        "messages": QUESTION,
        "max_tokens": 9,
        "extra_body": {"context": context},
    }
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(each.choices[0].delta.content or "" for each in chunks[:-1]) == whole.choices[0].message.content
    assert [each.choices[0].finish_reason for each in chunks[:-1]][-1] == whole.choices[0].finish_reason
    assert {each.id for each in chunks} == {chunks[0].id}
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(each.usage is None for each in chunks[:-1])
    said, streamed = whole.lift, chunks[-1].lift  # type: ignore[attr-defined]
    assert {**said, "seconds": 0, "seconds_waiting": 0} == {**streamed, "seconds": 0, "seconds_waiting": 0}


def test_without_usage_the_last_chunk_carries_the_evidence(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="quill", messages=QUESTION, max_tokens=4, stream=True))
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert chunks[-1].lift["evidence"] is not None  # type: ignore[attr-defined]
    assert all("lift" not in chunk.model_extra for chunk in chunks[:-1] if chunk.model_extra is not None)


def test_several_answers_are_drawn_apart_and_again_with_the_same_seed(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "quill",
        "messages": QUESTION,
        "n": 3,
        "seed": 7,
        "temperature": 1.5,
        "max_tokens": 12,
        "extra_body": {"context": "none"},
    }
    first, again = (client.chat.completions.create(**options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]
    assert first.usage is not None and first.usage.completion_tokens > 12
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**options, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_every_token_is_told_with_its_rivals(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "quill",
        "messages": QUESTION,
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 3,
        "extra_body": {"context": "none"},
    }
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content
    assert len(choice.logprobs.content) <= 5
    for token in choice.logprobs.content:
        odds = [rival.logprob for rival in token.top_logprobs]
        assert len(odds) == 3 and odds == sorted(odds, reverse=True)
        assert token.logprob == pytest.approx(odds[0], abs=1e-4)  # greedy: the likeliest was taken
    streamed = [
        token
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices[0].logprobs is not None
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in choice.logprobs.content]


def test_a_text_is_continued_as_it_stands(client: openai.OpenAI, live: Live) -> None:
    said = client.completions.create(model="quill", prompt="Ada Quill", max_tokens=5, logprobs=2)
    assert said.object == "text_completion" and said.usage is not None and said.usage.prompt_tokens > 0
    logprobs = said.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.text_offset and logprobs.top_logprobs
    assert logprobs.text_offset[0] == 0 and len(logprobs.text_offset) == len(logprobs.tokens)
    assert all(len(rivals) <= 2 for rivals in logprobs.top_logprobs)
    pieces = [
        chunk.choices[0].text
        for chunk in client.completions.create(model="quill", prompt=["Ada Quill"], max_tokens=5, stream=True)
    ]
    assert "".join(pieces) == said.choices[0].text


def test_stop_texts_and_limits_end_an_answer(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "temperature": 1.5, "seed": 1}
    options["max_completion_tokens"] = 40
    whole = client.chat.completions.create(**options).choices[0]
    assert whole.message.content
    assert (
        client.chat.completions.create(**{**options, "max_completion_tokens": 2}).choices[0].finish_reason == "length"
    )
    cut = next(char for char in whole.message.content[1:] if char.isascii() and char.isprintable() and char != " ")
    stopped = client.chat.completions.create(**options, stop=[cut, "never said"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole.message.content[: whole.message.content.index(cut)].strip()


def test_what_changes_no_answer_is_accepted(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="quill", messages=QUESTION, max_tokens=4)
    dressed = client.chat.completions.create(
        model="quill",
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}],
        max_tokens=4,
        user="anna",
        store=False,
        metadata={"team": "a"},
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        tool_choice="none",
        n=1,
        top_p=1,
        stop=None,
    )
    assert dressed.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"context": "everything"}}, "context"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "expected stop to be a text or at most 4 items, got 5 items"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1024}, "window"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "   "}]}, "question"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "user"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(scripted: Live, changes: dict[str, Any], word: str) -> None:
    client = client_of(scripted)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, **changes})
    body: Any = refused.value.body
    assert set(body) == {"message", "type", "param", "code"} and body["type"] == "invalid_request_error"
    assert word in body["message"]
    assert scripted.engine.taken == []


def test_the_least_top_p_is_greedy(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 8}
    greedy = client.chat.completions.create(**options).choices[0].message.content
    drawn = client.chat.completions.create(**options, temperature=1.5, top_p=0, seed=3).choices[0].message.content
    assert drawn == greedy


def test_a_question_that_leans_on_the_dialogue_is_asked_in_full(client: openai.OpenAI) -> None:
    turns: list[Any] = [
        {"role": "user", "content": "Who founded the museum?"},
        {"role": "assistant", "content": "Ada Quill"},
        {"role": "user", "content": "And when?"},
    ]
    options: dict[str, Any] = {"model": "quill", "max_tokens": 6, "extra_body": {"context": "evidence"}}
    said = client.chat.completions.create(messages=turns, **options)
    alone = client.chat.completions.create(
        messages=[{"role": "user", "content": "When was the museum founded?"}], **options
    )
    assert said.lift["asked_as"] == "When was the museum founded?"  # type: ignore[attr-defined]
    assert alone.lift["asked_as"] is None  # type: ignore[attr-defined]
    assert said.choices[0].message.content == alone.choices[0].message.content
    assert said.usage == alone.usage


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="../quill", messages=QUESTION)
    assert missing.value.code == "model_not_found"


def test_a_full_queue_says_when_to_come_back(scripted: Live) -> None:
    scripted.engine.refusal = QueueFull("too many questions wait", 6.2)
    with pytest.raises(openai.RateLimitError) as full:
        client_of(scripted).chat.completions.create(model="tiny", messages=QUESTION)
    assert full.value.response.headers["Retry-After"] == "7"
    assert full.value.code == "queue_full"


def test_where_one_of_several_answers_is_refused_the_others_are_given_up(scripted: Live) -> None:
    engine = scripted.engine
    taken = engine.submit

    def submit(request: Request) -> Any:
        engine.refusal = QueueFull("too many questions wait", 1) if len(engine.taken) == 2 else None
        return taken(request)

    engine.submit = submit
    with pytest.raises(openai.RateLimitError):
        client_of(scripted).chat.completions.create(model="tiny", messages=QUESTION, n=4)
    assert [handle.cancelled for handle in engine.taken] == [True, True]


@pytest.mark.parametrize(("reason", "status"), [("timeout", 504), ("cancelled", 503)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_never_began_has_a_status_of_its_own(
    scripted: Live, reason: str, status: int, stream: bool
) -> None:
    def end() -> None:
        scripted.engine.wait_for(1)[0].finish(completion(finish_reason=reason))

    threading.Thread(target=end).start()
    with pytest.raises(openai.InternalServerError) as failed:
        client_of(scripted).chat.completions.create(model="tiny", messages=QUESTION, stream=stream)
    assert failed.value.status_code == status
    assert scripted.engine.taken[0].request.deadline_s == 77.0


def test_a_cut_answer_is_told_as_cut(scripted: Live) -> None:
    def end() -> None:
        handle = scripted.engine.wait_for(1)[0]
        handle.put(TextDelta("half"))
        handle.finish(completion("half", finish_reason="timeout"))

    threading.Thread(target=end).start()
    said = client_of(scripted).chat.completions.create(model="tiny", messages=QUESTION)
    assert said.choices[0].finish_reason == "length" and said.lift["timed_out"] is True  # type: ignore[attr-defined]


def test_a_failure_in_the_middle_of_a_stream_reaches_the_client(scripted: Live) -> None:
    stream_of = client_of(scripted).chat.completions

    def fail() -> None:
        handle = scripted.engine.wait_for(1)[0]
        handle.put(TextDelta("so far"))
        handle.finish(ValueError("a secret of the document"))

    threading.Thread(target=fail).start()
    seen = ""
    with pytest.raises(openai.APIError) as failed:
        for chunk in stream_of.create(model="tiny", messages=QUESTION, stream=True):
            seen += chunk.choices[0].delta.content or ""
    assert seen == "so far"
    assert "secret" not in failed.value.message


def test_a_whole_dialogue_reaches_the_engine(scripted: Live) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ada."},
        {"role": "user", "content": [{"type": "text", "text": "When"}, {"type": "text", "text": "?"}]},
    ]
    threading.Thread(target=lambda: answer(scripted.engine.wait_for(1)[0], "19", "11")).start()
    said = client_of(scripted).chat.completions.create(
        model="tiny", messages=turns, temperature=0.5, top_p=0.9, seed=3, stop="\n", max_tokens=8
    )
    assert said.choices[0].message.content == "1911"
    request = scripted.engine.taken[0].request
    assert [(each.role, each.content) for each in request.messages] == [
        ("system", "Be brief."),
        ("user", "Who?"),
        ("assistant", "Ada."),
        ("user", "When?"),
    ]
    assert request.sampling == Sampling(8, 0.5, 0.9, 3, ("\n",), None)


def test_a_document_is_uploaded_absorbed_and_asked(tiny_directory: Path, tmp_path: Path) -> None:
    base = load_model(str(tiny_directory), device="cpu")
    with serving(base, tmp_path / "library", worker=str(tiny_directory)) as live:
        client = client_of(live)
        document = tmp_path / "museum.md"
        document.write_text("# Museum\n\nAda Quill founded the lighthouse museum of Port Merrow in 1911.", "utf-8")
        with document.open("rb") as file:
            stored = client.files.create(file=file, purpose="fine-tune")
        assert (stored.filename, stored.status, stored.bytes) == ("museum.md", "processed", document.stat().st_size)
        assert client.files.content(stored.id).read() == document.read_bytes()
        job = client.fine_tuning.jobs.create(
            model="tiny-model",
            training_file=stored.id,
            suffix="port merrow",
            seed=5,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            metadata={"title": "The museum", "recipe": "fast", "budget_s": "60"},
        )
        assert job.status in ("queued", "running") and job.seed == 5 and job.hyperparameters.n_epochs == 2
        eventually(lambda: live.store.job(job.id).ended, 60)
        done = client.fine_tuning.jobs.retrieve(job.id)
        assert (done.status, done.error, done.fine_tuned_model) == ("succeeded", None, "port merrow")
        assert (
            done.finished_at
            and done.trained_tokens
            and done.metadata
            == {
                "title": "The museum",
                "recipe": "fast",
                "budget_s": "60",
                "priority": "0",
            }
        )
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))  # follows the pages
        assert len(events) == len({event.id for event in events}) == len(live.store.events(job.id))
        assert any(event.type == "metrics" and "train_loss" in dict(event.data) for event in events)  # type: ignore[call-overload]
        assert [each.id for each in client.fine_tuning.jobs.list().data] == [job.id]
        said = client.chat.completions.create(model="port merrow", messages=QUESTION, max_tokens=4)
        assert said.choices[0].message.content is not None
        assert client.files.delete(stored.id).deleted and client.files.list().data == []


def test_a_job_is_cancelled_and_a_wrong_one_is_refused(live: Live, client: openai.OpenAI) -> None:
    stored = client.files.create(file=("a.txt", b"Ada Quill founded it."), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=stored.id)
    with pytest.raises(openai.ConflictError, match="needed"):
        client.files.delete(stored.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve("ftjob-nothing")
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model="quill", training_file=stored.id)
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model="tiny", training_file="file-nothing")
    for wrong in (
        {"suffix": "../up"},
        {"metadata": {"recipe": "/etc/recipe.toml"}},
        {"metadata": {"budget_s": "soon"}},
        {"metadata": {"budget_s": "-1"}},
        {"validation_file": stored.id},
        {"hyperparameters": {"batch_size": 4}},
        {"method": {"type": "dpo"}},
    ):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.create(model="tiny", training_file=stored.id, **wrong)  # type: ignore[arg-type]
    assert len(live.store.jobs()) == 1


def test_a_body_that_is_no_json_is_refused_in_the_same_shape(live: Live) -> None:
    said = loopback.post(
        f"{live.url}/v1/chat/completions", content=b'{"model": ', headers={"Content-Type": "application/json"}
    )
    assert said.status_code == 400 and said.json()["error"]["code"] == "invalid_json"
    half = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'
    for content, word in ((half, "surrogate"), (b"[]", "object")):
        said = loopback.post(
            f"{live.url}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
        assert said.status_code == 400 and word in said.json()["error"]["message"]
    for path, status in (("/v1/nothing", 404), ("/v1/chat/completions", 405)):
        said = loopback.get(live.url + path)
        assert said.status_code == status and set(said.json()["error"]) == {"message", "type", "param", "code"}
