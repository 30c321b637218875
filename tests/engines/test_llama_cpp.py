"""llama.cpp as the engine: the answers of Lift's own, with the adapters that a server can only be started with."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama
from engines.scripted_llama import ScriptedLlama
from engines.served import CONTEXTS, QUESTIONS, put_served, write_reader
from live_server import eventually

from lift.answering.answerer import open_memory, stored_adapter
from lift.engines.adapter_files import AdapterFiles
from lift.engines.engine_settings import EngineSettings
from lift.engines.llama_cpp import LlamaCppServer
from lift.engines.remote_backend import EngineConnection
from lift.engines.served_answerer import ask_served_memories, open_served_memory
from lift.engines.served_model import ServedModel, serve_model
from lift.errors import EngineError, UsageError
from lift.inference.generate import generate
from lift.inference.sampling import SamplingParams, row_generator
from lift.inference.scheduler import SequenceState, StepOutput
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import answer_ids, prompt_ids
from lift.serving.engine import Engine
from lift.serving.request import Message, Request, Sampling

Served = Callable[..., ServedModel]


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


@pytest.fixture
def llama(tiny_tokenizer: Any) -> Iterator[ScriptedLlama]:
    process = ScriptedLlama(BaseModel(tiny_llama().eval(), tiny_tokenizer, "tiny", "0" * 64))
    yield process
    process.stop()


@pytest.fixture
def served(tiny_model: BaseModel, library: MemoryLibrary) -> Iterator[Served]:
    opened: list[ServedModel] = []

    def serve(process: Any = None, url: str = "") -> ServedModel:
        files = AdapterFiles(library.root / ".engines", "gguf", tiny_model)
        connection = EngineConnection(LlamaCppServer(tiny_model, files, url=url, process=process))
        opened.append(ServedModel(tiny_model.model, tiny_model.tokenizer, "tiny", "0" * 64, connection))
        return opened[-1]

    yield serve
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    ("activated", "cites"),
    [
        (True, True),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_lifts_own_engine(
    tiny_model: BaseModel,
    library: MemoryLibrary,
    llama: ScriptedLlama,
    served: Served,
    tmp_path: Path,
    activated: bool,
    cites: bool,
) -> None:
    reader = write_reader(tiny_model, tmp_path / "reader")
    memory = put_served(library, tiny_model, 1, reader=reader, activated=activated, cites=cites)
    own = open_memory(memory, tiny_model)
    answerer = open_served_memory(memory, served(llama))
    for context in CONTEXTS:
        expected = own.ask_many(QUESTIONS[:1], context, max_new_tokens=8)
        found = answerer.ask_many(QUESTIONS[:1], context, max_new_tokens=8)
        assert [each.text for each in found] == [each.text for each in expected]


def test_a_server_is_started_again_with_the_adapters_that_are_wanted(
    tiny_model: BaseModel, library: MemoryLibrary, llama: ScriptedLlama, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number, activated=True) for number in range(5)]
    expected = [
        open_memory(memory, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=8)[0].text
        for memory in memories
    ]
    base = served(llama)
    engine = Engine(base, library, rows=4, resident=2, backend=base.backend(4))
    engine.start()
    try:
        for _ in range(2):
            handles = [
                engine.submit(
                    Request(
                        memory.name, (Message("user", QUESTIONS[0]),), context="none", sampling=Sampling(max_tokens=8)
                    )
                )
                for memory in memories
            ]
            assert [handle.result(60).text for handle in handles] == expected
        llama.stop()  # as by a crash
        handle = engine.submit(
            Request(None, (Message("user", "Hello"),), context="none", sampling=Sampling(max_tokens=4))
        )
        handle.result(60)
    finally:
        engine.close(5)
    assert max(map(len, llama.starts)) <= 3
    assert len(llama.starts) < 13


def test_a_given_answer_is_judged_as_by_lift_whatever_its_tokens(
    tiny_model: BaseModel, library: MemoryLibrary, llama: ScriptedLlama, served: Served
) -> None:
    memory = put_served(library, tiny_model, 1)
    base, prompt = served(llama), tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    own = open_memory(memory, tiny_model)
    from lift.adapters.row_assignment import using
    from lift.answering.reranking import log_probabilities

    answers = ["Bo Finch", "größer — 東京", ""]
    key = own.strategies.adapters.memory
    with using(tiny_model.model, key):
        (expected,) = log_probabilities(tiny_model.model, tiny_model.tokenizer, [prompt], [answers])
    backend = base.backend(4)
    backend.hold({key: lambda: (memory.adapter_config, memory.load_adapter_state())}, 1)
    rows = [SequenceState(prompt, key, answer=answer_ids(tiny_model.tokenizer, answer)) for answer in answers]
    found = {output.row: output.logprob for output in backend.run(rows)}
    assert [found[row] for row in rows] == pytest.approx(expected, abs=1e-3)


def test_tokens_that_are_no_whole_character_are_not_lost(
    tiny_model: BaseModel, llama: ScriptedLlama, served: Served
) -> None:
    base = served(llama)
    prompt = tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    said: dict[str, list[Any]] = {"own": [], "llama": []}
    from lift.serving.backend import LocalBackend

    local = LocalBackend(tiny_model, 2)
    with local.opened():
        local.add([SequenceState(prompt, None, SamplingParams(top_logprobs=0), 60)])
        while local.rows:
            said["own"] += [output.sampled for output in local.step() if output.sampled]
    rows = [SequenceState(prompt, None, SamplingParams(top_logprobs=0), 60)]
    said["llama"] = [output.sampled for output in base.backend(2).run(rows) if output.sampled]
    assert [each.token for each in said["llama"]] == [each.token for each in said["own"]]
    assert any(each.logprob is None for each in said["llama"])
    for own, other in zip(said["own"], said["llama"], strict=True):
        assert other.logprob is None or other.logprob == pytest.approx(own.logprob, abs=1e-3)


def test_a_server_at_an_address_answers_with_its_own_adapters_and_says_which_it_lacks(
    tiny_model: BaseModel, library: MemoryLibrary, llama: ScriptedLlama, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number, activated=True) for number in range(2)]
    expected = open_memory(memories[0], tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=8)[0].text
    base = served(url=llama.start([]))
    with pytest.raises(EngineError, match="was not started with the adapter") as told:
        ask_served_memories(base, [(memories[0], QUESTIONS[0])])
    path = Path(str(told.value).partition("the adapter ")[2].partition(", and loads")[0])
    assert path.is_file()
    base = served(url=llama.start([path]))
    assert ask_served_memories(base, [(memories[0], QUESTIONS[0])], max_new_tokens=8)[0].text == expected
    with pytest.raises(EngineError, match="was not started with the adapter"):
        ask_served_memories(base, [(memories[1], QUESTIONS[0])])
    llama.window_tokens = 150
    assert served(url=llama.start([])).window_tokens == 150


def written(base: ServedModel, memory: StoredMemory) -> Path:
    """The adapter of a memory, as a server at an address is told that it lacks it."""
    with pytest.raises(EngineError, match="was not started with the adapter") as told:
        ask_served_memories(base, [(memory, QUESTIONS[0])])
    return Path(str(told.value).partition("the adapter ")[2].partition(", and loads")[0])


def test_a_server_at_an_address_that_is_started_again_with_others_answers_from_none_of_them_in_silence(
    tiny_model: BaseModel, library: MemoryLibrary, llama: ScriptedLlama, served: Served
) -> None:
    memories = [put_served(library, tiny_model, number) for number in range(2)]
    right = [open_memory(each, tiny_model).ask_many([QUESTIONS[0]], "none", max_new_tokens=6)[0] for each in memories]
    base = served(url=llama.start([]))
    llama.port = int(base.connection.server.url.rpartition(":")[2])
    first, second = (written(base, memory) for memory in memories)
    for paths in ([first, second], [second, first]):
        llama.start(paths)
        found = ask_served_memories(base, [(memory, QUESTIONS[0]) for memory in memories], max_new_tokens=6)
        assert [each.text for each in found] == [each.text for each in right]
    llama.start([second])
    assert written(base, memories[0]) == first


def test_a_question_to_an_adapter_that_a_server_at_an_address_lacks_leaves_the_others_alone(
    tiny_model: BaseModel,
    library: MemoryLibrary,
    llama: ScriptedLlama,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = put_served(library, tiny_model, 1)
    base = served(url=llama.start([]))
    complete = ScriptedLlama._complete
    may_go = threading.Event()

    def wait(server: ScriptedLlama, body: dict[str, Any]) -> dict[str, Any]:
        may_go.wait(10)
        return complete(server, body)

    monkeypatch.setattr(ScriptedLlama, "_complete", wait)
    backend = base.backend(2)
    row = SequenceState(tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0])), None, SamplingParams(), 2)
    backend.add([row])
    eventually(lambda: len(llama.asked) == 1)
    written(base, memory)
    may_go.set()
    outputs: list[StepOutput] = []
    while backend.rows:
        outputs += backend.step()
    assert [output.error for output in outputs if output.end or output.error] == [None]
    assert len(llama.asked) == 1  # not asked a second time, after its connection was closed


def test_who_gives_up_while_the_server_starts_leaves_it_to_the_others(
    tiny_model: BaseModel,
    library: MemoryLibrary,
    llama: ScriptedLlama,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = put_served(library, tiny_model, 1)
    base = served(llama)
    start = ScriptedLlama.start

    def start_slowly(server: ScriptedLlama, adapters: Sequence[Path]) -> str:
        url = start(server, adapters)
        time.sleep(0.2)
        return url

    monkeypatch.setattr(ScriptedLlama, "start", start_slowly)
    key, load = stored_adapter(memory, tiny_model)
    backend = base.backend(2)
    backend.hold({key: load}, 1)
    prompt = tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    given_up, wanted = (SequenceState(prompt, key, SamplingParams(), 2) for _ in range(2))
    backend.add([given_up])
    eventually(lambda: len(llama.starts) == 2)
    backend.abort([given_up])
    outputs = list(backend.run([wanted]))
    assert [output.row for output in outputs if output.end] == [wanted]
    assert len(llama.starts) == 2


def test_a_server_ends_where_python_begins_no_thread_any_more(
    llama: ScriptedLlama, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = served(llama)
    with monkeypatch.context() as ending:
        ending.setattr("concurrent.futures.thread._shutdown", True)  # as when the closings at exit run
        base.close()
    assert not llama.is_running


@pytest.mark.parametrize("name", ["n_vocab", "n_embd"])
def test_a_model_of_another_size_is_refused(
    tiny_model: BaseModel, llama: ScriptedLlama, served: Served, name: str
) -> None:
    config = tiny_model.model.config
    llama.meta = {"n_vocab": config.vocab_size, "n_embd": config.hidden_size}
    url = llama.start([])
    served(url=url)
    llama.meta[name] += 1
    with pytest.raises(EngineError, match=f"got a model of {name}"):
        served(url=url)


def test_the_share_of_the_odds_is_taken_after_the_temperature_as_by_lift(
    tiny_model: BaseModel, llama: ScriptedLlama, served: Served
) -> None:
    sampling = SamplingParams(1.0, 0.9, row_generator(1, tiny_model.device))
    prompt = tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    assert list(served(llama).backend(1).run([SequenceState(prompt, None, sampling, 2)]))
    assert llama.asked[0]["samplers"] == ["temperature", "top_p"]


def test_an_excluded_token_is_not_chosen_and_the_others_are_those_of_lifts_own_engine(
    tiny_model: BaseModel, llama: ScriptedLlama, served: Served
) -> None:
    prompt = tuple(prompt_ids(tiny_model.tokenizer, QUESTIONS[0]))
    ((first, *_),) = generate(tiny_model.model, [prompt], max_new_tokens=4, end_ids=set())
    own = generate(tiny_model.model, [prompt], max_new_tokens=4, end_ids=set(), excluded=(first,))
    row = SequenceState(prompt, None, SamplingParams(excluded=(first,)), 4)
    told = [output.sampled.token for output in served(llama).backend(1).run([row]) if output.sampled]
    assert told == own[0] and first not in told


def test_what_llama_cpp_has_no_place_for_is_refused_with_a_way_to_ask(
    tiny_model: BaseModel, library: MemoryLibrary, llama: ScriptedLlama, served: Served
) -> None:
    plain = put_served(library, tiny_model, 1)
    memory = put_served(library, tiny_model, 2, changed={"use_dora": True})
    base = served(llama)
    assert open_served_memory(plain, base)
    with pytest.raises(UsageError, match=r"lift export 'mill 2' --to gguf DIR --convert --keep NEW.* --engine own$"):
        open_served_memory(memory, base)


def test_what_does_not_go_together_is_said_before_anything_is_loaded(
    tiny_model: BaseModel, library: MemoryLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"#!{sys.executable}\nprint('error: no room')\nraise SystemExit(3)\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for settings, said in [
        (EngineSettings("vllm"), "expected --engine-url"),
        (EngineSettings("own", url="http://a"), "no --engine-url with the engine own"),
        (EngineSettings("vllm", "http://user:pass@a"), "without name and password"),
        (EngineSettings("vllm", "http://a:pass/1@b"), "without name and password"),
        (EngineSettings("vllm", "user:pass?@a"), "without name and password"),
        (EngineSettings("vllm", "http://a?key=pass"), "got 'http://a' and"),
        (EngineSettings("vllm", "http://a:70000"), "got 'http://a:70000'; "),
        (EngineSettings("vllm", "http://a", gguf=program), "no --base-gguf"),
        (EngineSettings("llama.cpp", "http://a", program=program), "no --llama-server with the engine llama.cpp at"),
        (EngineSettings("llama.cpp", program=tmp_path / "none"), "expected the program llama-server at"),
        (EngineSettings("llama.cpp", program=program), "as a GGUF file for llama.cpp"),
    ]:
        with pytest.raises(UsageError, match=said) as told:
            serve_model(tiny_model, settings, library.root)
        assert "pass" not in str(told.value).replace("name and password", "")
    (tmp_path / "base.gguf").write_bytes(b"read by the program alone")
    with pytest.raises(EngineError, match=r"status 3 .*no room"):
        serve_model(tiny_model, EngineSettings("llama.cpp", program=program, gguf=tmp_path / "base.gguf"), library.root)
