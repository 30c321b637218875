"""vLLM as the engine: the answers of Lift's own, whatever is loaded, unloaded, killed or asked meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import tiny_llama
from engines.scripted_vllm import ScriptedVllm
from engines.served import CONTEXTS, QUESTIONS, put_served, write_reader
from live_server import eventually, serving
from memory_drafts import make_draft

import lift
from lift.answering.answer import Answer
from lift.answering.answerer import open_memory
from lift.cli import run
from lift.engines.engine_settings import EngineSettings
from lift.engines.http_server import HttpServer
from lift.engines.served_answerer import ask_served_memories, open_served_memory
from lift.engines.served_model import ServedModel, serve_model
from lift.errors import EngineError, LiftError, ModelError, UsageError, WrongBaseModelError
from lift.inference.generate import generate
from lift.inference.sampling import SamplingParams
from lift.inference.scheduler import SequenceState
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import prompt_ids
from lift.serving.engine import Engine
from lift.serving.request import Message, Request, Sampling

Served = Callable[..., ServedModel]


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


@pytest.fixture
def computing(tiny_tokenizer: Any) -> BaseModel:
    """The model that the server computes with: the same weights, and no adapter of Lift's."""
    return BaseModel(model=tiny_llama().eval(), tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)


@pytest.fixture
def vllm(computing: BaseModel) -> Iterator[ScriptedVllm]:
    with ScriptedVllm(computing) as server:
        yield server


@pytest.fixture
def served(tiny_model: BaseModel, library: MemoryLibrary) -> Iterator[Served]:
    """The tiny model, computed by a server; let go of after the test."""
    opened: list[ServedModel] = []

    def serve(server: ScriptedVllm) -> ServedModel:
        opened.append(serve_model(tiny_model, EngineSettings("vllm", server.url), library.root))
        return opened[-1]

    yield serve
    for each in opened:
        each.close()


def texts(answers: list[Answer]) -> list[tuple[str, str, bool]]:
    return [(answer.text, answer.context, answer.supported) for answer in answers]


def question(memory: StoredMemory | None, text: str, context: str = "none", **sampling: Any) -> Request:
    settings = Sampling(**{"max_tokens": 12, **sampling})
    return Request(memory.name if memory else None, (Message("user", text),), context=context, sampling=settings)


@pytest.mark.parametrize("cites", [False, True])
def test_answers_are_those_of_lifts_own_engine(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served, tmp_path: Path, cites: bool
) -> None:
    reader = write_reader(tiny_model, tmp_path / "reader")
    memory = put_served(library, tiny_model, 1, reader=reader, cites=cites)
    own = open_memory(memory, tiny_model)
    asked = QUESTIONS[::2]
    expected = {context: texts(own.ask_many(asked, context, max_new_tokens=12)) for context in CONTEXTS}
    answerer = open_served_memory(memory, served(vllm))
    for context in CONTEXTS:
        assert texts(answerer.ask_many(asked, context, max_new_tokens=12)) == expected[context]
    assert len(vllm.loaded) == 2  # the memory and its reader
    assert set(vllm.judged) == set(vllm.loaded)  # both have judged answers


def test_many_memories_answer_each_with_its_own_adapter_and_few_stay_loaded(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(6)]
    asked = [(memory, text) for text in QUESTIONS[:2] for memory in memories]
    expected = [open_memory(memory, tiny_model).ask_many([text], "none", max_new_tokens=8)[0] for memory, text in asked]
    assert len({answer.text for answer in expected}) > 6
    base = served(vllm)
    assert texts(ask_served_memories(base, asked, max_new_tokens=8)) == texts(expected)

    engine = Engine(base, library, rows=4, resident=2, backend=base.backend(4))
    engine.start()
    try:
        handles = [engine.submit(question(memory, text, max_tokens=8)) for memory, text in asked]
        assert [handle.result(60).text for handle in handles] == [answer.text for answer in expected]
        assert len(vllm.loaded) <= 3
        assert vllm.unloads
    finally:
        engine.close(5)


def test_a_memory_absorbed_again_answers_as_the_new_version(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    base = served(vllm)
    engine = Engine(base, library, backend=base.backend(8))
    engine.start()
    try:
        said = []
        for seed in (1, 2):
            memory = put_served(library, tiny_model, 1, seed=seed, replace=seed == 2)
            engine.forget(memory.name)
            said.append(engine.submit(question(memory, QUESTIONS[0])).result(60).text)
            assert (
                said[-1] == open_memory(memory, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=12)[0].text
            )
        assert said[0] != said[1]
        assert len(set(vllm.loads)) == len({path for path in vllm.loaded.values()}) == 2
    finally:
        engine.close(5)


def test_nothing_is_lost_or_said_twice_where_vllm_is_killed(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(4)]
    asked = [(memory, text) for memory in memories for text in QUESTIONS]
    expected = [
        open_memory(memory, tiny_model).ask_many([text], "none", max_new_tokens=24)[0] for memory, text in asked
    ]
    with ScriptedVllm(computing, token_s=0.01) as vllm:
        base = served(vllm)
        engine = Engine(base, library, backend=base.backend(8))
        engine.start()
        try:
            handles = [engine.submit(question(memory, text, max_tokens=24)) for memory, text in asked]
            for _ in range(2):
                eventually(lambda: vllm.under_way > 2)
                vllm.restart(after_s=0.3)
            answers = [handle.result(120) for handle in handles]
            assert [answer.text for answer in answers] == [answer.text for answer in expected]
            assert ["".join(delta.text for delta in handle.deltas()) for handle in handles] == [
                answer.text for answer in expected
            ]
        finally:
            engine.close(5)
        assert len(vllm.loads) > len(memories)


def test_a_question_that_the_server_dies_of_fails_alone(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = put_served(library, tiny_model, 1)
    answer = ScriptedVllm._stream

    def stream(server: ScriptedVllm, handler: Any, body: dict[str, Any], model: Any) -> None:
        if body["max_tokens"] == 13:
            handler.close_connection = True
            return
        answer(server, handler, body, model)

    monkeypatch.setattr(ScriptedVllm, "_stream", stream)
    monkeypatch.setattr("lift.engines.remote_backend._FIRST_PAUSE_S", 0.001)
    base = served(vllm)
    engine = Engine(base, library, backend=base.backend(4))
    engine.start()
    try:
        deadly = engine.submit(question(memory, QUESTIONS[0], max_tokens=13))
        assert engine.submit(question(memory, QUESTIONS[0], max_tokens=12)).result(60).finish_reason
        with pytest.raises(EngineError, match="vLLM"):
            deadly.result(60)
    finally:
        engine.close(5)


def test_adapters_that_an_earlier_process_loaded_are_used_and_unloaded(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(3)]
    ask_served_memories(served(vllm), [(memory, QUESTIONS[0]) for memory in memories], max_new_tokens=4)
    assert len(vllm.loads) == 3
    base = served(vllm)
    assert base.connection.server.resident == 3
    ask_served_memories(base, [(memories[0], QUESTIONS[0])], max_new_tokens=4)
    assert len(vllm.loads) == 3
    base.connection.server.keep(1)
    other = put_served(library, tiny_model, 7)
    backend = base.backend(2)
    engine = Engine(base, library, resident=1, backend=backend)
    engine.start()
    try:
        engine.submit(question(other, QUESTIONS[0])).result(60)
    finally:
        engine.close(5)
    assert len(vllm.loaded) == 1


def test_an_adapter_of_that_name_from_elsewhere_is_never_asked(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    other = put_served(library, tiny_model, 2)
    base = served(vllm)
    ask_served_memories(base, [(memory, QUESTIONS[0]), (other, QUESTIONS[0])], max_new_tokens=4)
    name, elsewhere = vllm.loads
    vllm.restart()
    vllm._lists[0][name] = vllm._lists[0][name] = str(library.root / "stranger")
    vllm._weights[name, str(library.root / "stranger")] = vllm.base.model
    found = ask_served_memories(served(vllm), [(memory, QUESTIONS[0])], max_new_tokens=12)[0].text
    assert found == open_memory(memory, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=12)[0].text
    assert "stranger" not in vllm.loaded[name]
    assert elsewhere not in vllm.loaded


def test_several_api_servers_behind_one_address_are_refused(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    with ScriptedVllm(computing, api_servers=2) as vllm, pytest.raises(EngineError, match="--api-server-count 1"):
        open_served_memory(memory, served(vllm)).ask(QUESTIONS[0], "none")


def test_older_versions_load_no_adapter_while_a_request_is_under_way(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(3)]
    expected = [
        open_memory(each, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=24)[0].text for each in memories
    ]
    with ScriptedVllm(computing, version="0.31.0", token_s=0.02) as vllm:
        base = served(vllm)
        engine = Engine(base, library, backend=base.backend(8))
        engine.start()
        try:
            handles = []
            for memory in memories:
                handles.append(engine.submit(question(memory, QUESTIONS[0], max_tokens=24)))
                eventually(lambda: bool(vllm.asked))
            assert [handle.result(60).text for handle in handles] == expected
        finally:
            engine.close(5)


def test_after_a_failure_of_judging_answers_are_judged_while_nothing_else_is_under_way(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served, tmp_path: Path
) -> None:
    memory = put_served(library, tiny_model, 1, reader=write_reader(tiny_model, tmp_path / "reader"), cites=True)
    expected = texts(open_memory(memory, tiny_model).ask_many(QUESTIONS, "auto", max_new_tokens=8))
    with ScriptedVllm(computing, on_cpu=True, token_s=0.01) as vllm:
        answerer = open_served_memory(memory, served(vllm))
        assert texts(answerer.ask_many(QUESTIONS, "auto", max_new_tokens=8)) == expected
        faults = vllm.faults
        assert faults
        assert texts(answerer.ask_many(QUESTIONS, "auto", max_new_tokens=8)) == expected
        assert vllm.faults == faults


def test_what_cannot_be_served_is_refused_with_the_way_out(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    activated = put_served(library, tiny_model, 1, activated=True)
    plain = put_served(library, tiny_model, 2)
    foreign = put_served(library, tiny_model, 3)
    with ScriptedVllm(computing, loads_adapters=False) as vllm:
        base = served(vllm)
        with pytest.raises(UsageError, match="vLLM knows no Activated LoRA") as told:
            open_served_memory(activated, base)
        said = str(told.value)
        assert "`lift export 'mill 1' --to vllm DIR --convert --keep NEW`" in said
        assert said.endswith("with --recipe portable, or ask it with --engine own or llama.cpp")
        with pytest.raises(UsageError, match="Activated LoRA"):
            engine = Engine(base, library, backend=base.backend(2))
            engine.submit(question(activated, QUESTIONS[0]))
        with pytest.raises(EngineError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            open_served_memory(plain, base).ask(QUESTIONS[0], "none")
        other = BaseModel(tiny_llama(1), tiny_model.tokenizer, "other", "1" * 64)
        elsewhere = serve_model(other, EngineSettings("vllm", vllm.url), library.root)
        with contextlib.closing(elsewhere), pytest.raises(WrongBaseModelError):
            open_served_memory(foreign, elsewhere)
        with pytest.raises(UsageError, match="expected a model that this process computes"):
            lift.absorb(foreign.document, base)
    with pytest.raises(EngineError, match=r"got none .*--engine-url"):
        serve_model(tiny_model, EngineSettings("vllm", vllm.url), library.root)


def test_a_model_of_another_tokenizer_is_refused(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedVllm, "_tokenize", lambda _self, handler, _body: handler.reply({"tokens": [7, 8]}))
    with pytest.raises(EngineError, match="reads a text as other tokens"):
        serve_model(tiny_model, EngineSettings("vllm", vllm.url), library.root)


@pytest.mark.parametrize("asks", ["/version", "/tokenize"])
def test_a_page_in_place_of_json_is_refused(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    read = HttpServer._read
    page = httpx.Response(200, html="<html>Welcome</html>")
    monkeypatch.setattr(
        HttpServer, "_read", lambda self, path, reply: read(self, path, page if path == asks else reply)
    )
    with pytest.raises(
        EngineError, match=r"expected JSON of vLLM at http://\S+, got something else; check the address"
    ):
        serve_model(tiny_model, EngineSettings("vllm", vllm.url), library.root)


def test_no_more_texts_are_under_way_than_was_said(
    tiny_model: BaseModel,
    library: MemoryLibrary,
    vllm: ScriptedVllm,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    under_way: list[int] = []
    answer = ScriptedVllm._stream

    def stream(server: ScriptedVllm, handler: Any, body: dict[str, Any], model: Any) -> None:
        time.sleep(0.02)
        under_way.append(server.under_way)
        answer(server, handler, body, model)

    monkeypatch.setattr(ScriptedVllm, "_stream", stream)
    answerer = open_served_memory(put_served(library, tiny_model, 1), served(vllm))
    asked = [f"Who saw wheel {number}?" for number in range(6)]
    answers = answerer.ask_many(asked, "none", max_new_tokens=2)
    under_way.clear()
    limited = answerer.ask_many(asked, "none", max_new_tokens=2, batch_size=2)
    assert [each.text for each in limited] == [each.text for each in answers]
    assert max(under_way) <= 2


def test_a_model_is_named_by_its_address_in_a_running_event_loop_too(vllm: ScriptedVllm) -> None:
    async def load() -> None:
        lift.load_model(f"vllm:{vllm.url}")

    with pytest.raises(ModelError, match="/models/tiny"):  # found out at the address, and not here
        asyncio.run(load())


def test_an_engine_for_a_memory_at_an_endpoint_is_refused(
    library: MemoryLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    library.put(make_draft("minutes", base_id="openai:gpt-4o-mini"))
    words = ["--library", str(library.root), "--engine", "vllm", "--engine-url", "http://127.0.0.1:9"]
    assert run(["ask", "minutes", QUESTIONS[0], *words]) == 2
    assert "expected no --engine for 'minutes', which is a model at an endpoint" in capsys.readouterr().err


def test_a_window_that_vllm_has_made_shorter_counts(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    with ScriptedVllm(computing, max_model_len=200) as vllm:
        base = served(vllm)
        assert base.window_tokens == 200
        with pytest.raises(UsageError, match="window of 200 tokens"):
            open_served_memory(memory, base).ask("Who " + "was it " * 40, "none")


def test_sampling_log_probabilities_and_stops_are_those_of_lifts_own_engine(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    base = served(vllm)
    told = {}
    for name, engine in {
        "own": Engine(tiny_model, library),
        "vllm": Engine(base, library, backend=base.backend(4)),
    }.items():
        engine.start()
        try:
            asked = question(memory, QUESTIONS[0], logprobs=3)
            told[name] = [info for delta in engine.submit(asked).deltas() for info in delta.tokens]
            whole = engine.submit(question(memory, QUESTIONS[0])).result(60)
            stop = whole.text[3:5]
            cut = engine.submit(question(memory, QUESTIONS[0], stop=(stop,))).result(60)
            assert cut.text == whole.text[: whole.text.index(stop)].rstrip()
            drawn = [
                engine.submit(question(memory, QUESTIONS[0], temperature=1.0, seed=seed)).result(60).text
                for seed in (1, 1, 2)
            ]
            assert drawn[0] == drawn[1] != drawn[2]
            assert engine.submit(question(None, "Hello")).result(60).supported is None
        finally:
            engine.close(5)
    assert [info.text for info in told["own"]] == [info.text for info in told["vllm"]]
    for own, other in zip(told["own"], told["vllm"], strict=True):
        assert own.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [text for text, _ in own.top] == [text for text, _ in other.top][:3]


def test_an_excluded_token_is_not_chosen_and_the_others_are_those_of_lifts_own_engine(
    tiny_model: BaseModel, vllm: ScriptedVllm, served: Served
) -> None:
    prompt = tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    ((first, *_),) = generate(tiny_model.model, [prompt], max_new_tokens=4, end_ids=set())
    own = generate(tiny_model.model, [prompt], max_new_tokens=4, end_ids=set(), excluded=(first,))
    row = SequenceState(prompt, None, SamplingParams(excluded=(first,)), 4)
    told = [output.sampled.token for output in served(vllm).backend(1).run([row]) if output.sampled]
    assert told == own[0] and first not in told


def test_a_question_that_is_given_up_leaves_the_server(
    tiny_model: BaseModel, library: MemoryLibrary, computing: BaseModel, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    with ScriptedVllm(computing, token_s=0.02) as vllm:
        base = served(vllm)
        engine = Engine(base, library, backend=base.backend(4))
        engine.start()
        try:
            handle = engine.submit(question(memory, QUESTIONS[0], max_tokens=500, stop=("\x00never",)))
            eventually(lambda: vllm.under_way == 1)
            handle.cancel()
            assert handle.result(30).finish_reason == "cancelled"
            eventually(lambda: vllm.under_way == 0)
        finally:
            engine.close(5)


def test_64_callers_of_8_memories_get_no_answer_of_another_while_memories_change(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(8)]
    right = {
        memory.name: open_memory(memory, tiny_model).ask_many(QUESTIONS[:1], "none", max_new_tokens=6)[0].text
        for memory in memories
    }
    base = served(vllm)
    engine = Engine(base, library, rows=8, resident=3, backend=base.backend(8))
    engine.start()
    wrong: list[str] = []

    def ask(number: int) -> None:
        memory = memories[number % 8]
        try:
            text = engine.submit(question(memory, QUESTIONS[0], max_tokens=6)).result(120).text
            if text != right[memory.name]:
                wrong.append(f"{memory.name}: {text!r}")
        except LiftError as error:
            wrong.append(str(error))

    try:
        callers = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        engine.close(5)
    assert wrong == []


def test_the_official_client_is_answered(
    tiny_model: BaseModel, library: MemoryLibrary, vllm: ScriptedVllm, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    base = served(vllm)
    expected = open_memory(memory, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=12)[0].text
    engine = Engine(base, library, backend=base.backend(4))
    with serving(base, library.root, engine=engine) as live:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
        asked: Any = {"model": memory.name, "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 12}
        asked["extra_body"] = {"context": "none"}
        assert client.chat.completions.create(**asked).choices[0].message.content == expected
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**asked, stream=True)
            if chunk.choices
        ]
        assert "".join(pieces) == expected
        vllm.kill()
        vllm._start()
        assert client.chat.completions.create(**asked).choices[0].message.content == expected


def test_a_model_is_named_by_its_address(
    tiny_directory: Path,
    tiny_tokenizer: Any,
    library: MemoryLibrary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lift.models.load import load_model, load_outline

    base = load_model(str(tiny_directory), dtype="float32")
    outline = load_outline(str(tiny_directory))
    assert (outline.fingerprint, outline.identity.tokenizer) == (base.fingerprint, base.identity.tokenizer)
    assert (outline.window_tokens, outline.end_token_ids) == (base.window_tokens, base.end_token_ids)
    assert outline.device.type == "meta"
    memory = put_served(library, base, 1)
    expected = open_memory(memory, base).ask(QUESTIONS[0], "none").text
    monkeypatch.setenv("LIFT_HOME", str(library.root))
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr("lift.engines.served_model.atexit.register", at_exit.append)
    computing = BaseModel(load_model(str(tiny_directory), dtype="float32").model, tiny_tokenizer, "c", "0" * 64)
    with ScriptedVllm(computing) as vllm:
        monkeypatch.setattr(ScriptedVllm, "root", str(tiny_directory), raising=False)
        model = lift.load_model(f"vllm:{vllm.url}/v1")
        assert lift.Library(model=model)[memory.name].ask(QUESTIONS[0], "none").text == expected
        assert lift.ask_many([(lift.Library(model=model)[memory.name], QUESTIONS[0])], "none")[0].text == expected
        for words in (
            ["--engine", "vllm", "--engine-url", vllm.url],
            ["--model", f"vllm:{vllm.url}"],
        ):
            assert run(["ask", memory.name, QUESTIONS[0], "--context", "none", *words]) == 0
            assert capsys.readouterr().out.splitlines()[0] == (expected or "(no answer)")
    assert run(["ask", memory.name, QUESTIONS[0], "--engine", "vllm"]) == 2
    assert "--engine-url" in capsys.readouterr().err
    for close in at_exit:
        close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("asyncio", "lift-engine"))]
