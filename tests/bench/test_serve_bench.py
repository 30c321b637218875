"""What `lift bench serve` counts: servers that lie are found out, and a naive server answers as a memory does."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lift.adapters.adapter import attached
from lift.adapters.resident import release
from lift.answering.answerer import open_memory
from lift.bench.arithmetic import percentile
from lift.bench.harbours import MOST, Harbour, fill_library, harbours
from lift.bench.load_generator import Load, TimedReply, put_under, summary
from lift.bench.naive_server import NaiveServer
from lift.bench.processes import Served, serving_process
from lift.bench.serve_bench import LIFT, LLAMA, NAIVE, ONE, ServePlan, bench_serve
from lift.errors import BenchError, UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, load_recipe

PLACES = harbours(6)
QUICK = Load(clients=6, seconds=0.5)


def recipe() -> Recipe:
    return load_recipe("fast", ("adapter.rank=2",))


class LyingServer(ThreadingHTTPServer):
    """Answers with the memory's own secret, but for memories whose `lies` say what happens instead."""

    daemon_threads = True

    def __init__(self, lies: Mapping[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Liar)
        self.lies = lies or {}
        self.asked: list[dict[str, Any]] = []


class _Liar(BaseHTTPRequestHandler):
    server: LyingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        lie = self.server.lies.get(body["model"], "")
        if lie == "refuse":
            self.send_error(429, "busy")
            return
        self.send_response(200)
        self.end_headers()
        secret = next(place.secret for place in PLACES if place.memory == body["model"])
        if lie == "another's":
            secret = next(place.secret for place in PLACES if place.memory != body["model"])
        if lie == "error":
            self._say(json.dumps({"error": {"message": "out of memory"}}))
        elif lie != "silent":
            for piece in ("", "It is ", secret[:3], f"{secret[3:].upper()}."):
                self._say(json.dumps({"choices": [{"delta": {"content": piece}}]}))
        if lie != "cut":
            self._say("[DONE]")

    def _say(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextmanager
def listening(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def counted(replies: list[TimedReply], load: Load = QUICK) -> dict[str, Any]:
    return summary(replies, load, PLACES, len)


# the library


@given(st.integers(2, MOST))
def test_no_memory_tells_what_another_knows(count: int) -> None:
    places = harbours(count)
    assert len({place.memory for place in places}) == count
    secrets = {place.secret for place in places}
    assert len(secrets) == count
    for place in places:
        assert [secret for secret in secrets if secret in f"{place.text} {place.questions}"] == [place.secret]
        assert all(place.memory in question.lower() for question in place.questions)


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_number_of_memories_that_cannot_be(count: int) -> None:
    with pytest.raises(UsageError, match=f"got {count}"):
        harbours(count)


def test_memories_differ_and_begin_where_they_read_from(tiny_model: BaseModel, tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path)
    fill_library(library, tiny_model, recipe(), PLACES[:3])
    assert not attached(tiny_model.model)
    memories = [library[place.memory] for place in PLACES[:3]]
    assert [memory.document.text for memory in memories] == [place.text for place in PLACES[:3]]
    assert all(memory.problems() == [] for memory in memories)
    assert memories[0].manifest.recipe["adapter"]["warm_start"] == "auto"
    states = [memory.load_adapter_state() for memory in memories]
    for name in states[0]:
        assert not torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[1][name], states[2][name])
        assert torch.allclose(states[0][name].float(), states[1][name].float(), atol=0.1)


# the load


def test_an_honest_server(tiny_model: BaseModel) -> None:
    server = LyingServer()
    with listening(server) as url:
        replies = put_under(url, QUICK, PLACES)
    assert len(replies) == len(server.asked)
    assert {body["model"] for body in server.asked} == {place.memory for place in PLACES}
    assert all(body["stream"] and body["context"] == "auto" for body in server.asked)
    assert {body["messages"][0]["content"] for body in server.asked} <= {q for place in PLACES for q in place.questions}
    for reply in replies:
        assert reply.text.lower() == f"it is {PLACES[reply.place].secret}."
        assert reply.first_s is not None
        assert reply.begun_s <= reply.first_s <= reply.ended_s
    row = counted(replies)
    assert (row["lost"], row["mixed"], row["failures"], row["faults"]) == (0, 0, 0, {})
    assert row["own"] == row["answers"] > 0


def test_a_server_that_lies_is_found_out() -> None:
    lies = ["another's", "refuse", "error", "cut", "silent"]
    server = LyingServer({place.memory: lie for place, lie in zip(PLACES, lies, strict=False)})
    with listening(server) as url:
        replies = put_under(url, QUICK, PLACES)
    alone = {place: counted([reply for reply in replies if reply.place == place]) for place in range(6)}

    def verdict(place: int) -> list[bool]:
        row = alone[place]
        total = row["answers"] + row["lost"]
        assert total == sum(reply.place == place for reply in replies) > 0
        assert {row[key] for key in ("lost", "mixed", "failures", "own")} <= {0, total}
        return [row[key] > 0 for key in ("lost", "mixed", "failures", "own")]

    assert verdict(0) == [False, True, False, False]
    assert verdict(1) == [True, False, True, False]
    assert verdict(2) == [True, False, True, False]
    assert verdict(3) == [True, False, False, True]
    assert verdict(4) == [True, False, False, False]
    assert verdict(5) == [False, False, False, True]
    assert any("429" in fault for fault in alone[1]["faults"])
    assert alone[2]["faults"].keys() == {"error: out of memory"}


def test_a_server_that_is_not_there() -> None:
    with listening(LyingServer()) as url:
        pass
    replies = put_under(url, Load(2, 0.05), PLACES)
    assert replies
    assert all(reply.lost and reply.fault and "ConnectionRefused" in reply.fault for reply in replies)
    assert counted(replies, Load(2, 0.05))["answer_s"] is None


def test_throughput_is_that_of_the_time_until_the_last_answer() -> None:
    def reply(begun_s: float, ended_s: float, text: str = "one", whole: bool = True) -> TimedReply:
        return TimedReply(0, begun_s, begun_s + 1, ended_s, text, whole)

    replies = [reply(4, 8), reply(8, 25), reply(20, 30), reply(9, 11, "part", whole=False)]
    row = counted(replies, Load(clients=3, seconds=22.0))
    assert (row["answers"], row["lost"], row["failures"], row["own"]) == (3, 1, 0, 0)
    assert (row["seconds"], row["took_s"]) == (22, 30)
    assert row["requests_per_s"] == 3 / 30
    assert row["tokens_per_s"] == 9 / 30
    assert row["answer_s"] == {"p50": 10, "p95": 17}
    assert row["first_token_s"] == {"p50": 1, "p95": 1}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 0.5)


# the sides


def test_the_naive_server_answers_as_a_memory_does(tiny_model: BaseModel, tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path)
    fill_library(library, tiny_model, recipe(), PLACES[:2])
    server = NaiveServer(tiny_model, library)
    with listening(server) as url:
        assert url == server.url
        replies = put_under(url, Load(2, 0.2, "none"), PLACES[:2])
        unknown = put_under(url, Load(2, 0.01, "none"), [Harbour("nowhere", "", "nothing", ("Who?",))])
    place = PLACES[replies[0].place]
    expected = {open_memory(library[place.memory], tiny_model).ask(each, "none").text for each in place.questions}
    release(tiny_model.model)
    assert replies[0].whole
    assert replies[0].text.strip() in expected
    assert all(reply.lost and "nowhere" in (reply.fault or "") for reply in unknown)


def test_the_sides_are_asked_in_turns_and_compared(tiny_model: BaseModel) -> None:
    started: list[tuple[str, list[str]]] = []
    ended: list[str] = []
    asked: list[list[dict[str, Any]]] = []

    @contextmanager
    def serving(side: str, root: Path, model: str, plan: ServePlan) -> Iterator[Served]:
        assert len(ended) == len(started)
        started.append((side, MemoryLibrary(root).names()))
        assert model == tiny_model.id
        server = LyingServer({PLACES[1].memory: "another's"} if side == NAIVE else {})
        with listening(server) as url:
            yield Served(url, lambda: 7)
        asked.append(server.asked)
        ended.append(side)

    plan = ServePlan(clients=3, memories=3, seconds=1.2, llama_server=Path("llama-server"))
    said: list[str] = []
    result = bench_serve(tiny_model, recipe(), plan, say=said.append, serving=serving)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = sorted(place.memory for place in PLACES[:3])
    assert started == [(LIFT, names), (NAIVE, names), (LLAMA, names)]
    rows = {row["side"]: row for row in result["rows"]}
    assert [(side, row["clients"], row["seconds"]) for side, row in rows.items()] == [
        (LIFT, 3, 0.6),
        (ONE, 1, 0.3),
        (NAIVE, 3, 0.3),
        (LLAMA, 3, 0.6),
    ]
    assert all(row["peak_bytes"] == 7 and row["lost"] == 0 for row in rows.values())
    assert rows[LIFT]["mixed"] == rows[ONE]["mixed"] == 0 < rows[NAIVE]["mixed"]
    for side, ratio in result["speedup"].items():
        assert ratio["requests_per_s"] == rows[LIFT]["requests_per_s"] / rows[side]["requests_per_s"]
        assert ratio["answer_s"]["p95"] == rows[side]["answer_s"]["p95"] / rows[LIFT]["answer_s"]["p95"]
    # each memory was asked once before, and these answers are not counted
    assert all({body["model"] for body in first[:3]} == set(names) for first in asked)
    assert len(asked[0]) == 3 + rows[LIFT]["answers"] + rows[ONE]["answers"]
    assert len(asked[1]) == 3 + rows[NAIVE]["answers"]
    assert len(said) == 5
    everywhere = replace(plan, vllm_url="http://127.0.0.1:1")
    assert list(everywhere.engines) == ["vllm", LLAMA]
    with pytest.raises(UsageError, match=r"adapter\.activated=false"):
        bench_serve(tiny_model, recipe(), everywhere, say=said.append, serving=serving)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"context": "full"}, "auto or none"), ({"seconds": 0.0}, "seconds"), ({"clients": 1}, "clients")],
)
def test_a_plan_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ServePlan(**changes).check()


# processes

SERVER = """
import json, os, sys, time
print("out of breath", file=sys.stderr, flush=True)
print(json.dumps({"url": str(os.getpid())}), flush=True)
time.sleep(60)
"""


def test_a_server_runs_as_long_as_the_block_and_its_memory_is_known() -> None:
    with serving_process(["-c", SERVER]) as served:
        os.kill(int(served.url), 0)
        peak = served.peak_bytes()
        assert peak is None or peak > 1_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(int(served.url), 0)


def test_a_server_that_does_not_start_is_said() -> None:
    with pytest.raises(BenchError, match="no model"), serving_process(["-c", "raise SystemExit('no model')"]):
        pass


def test_a_server_that_is_ended_from_outside_is_said() -> None:
    with (
        pytest.raises(BenchError, match=r"exit status -9 \(out of breath\)"),
        serving_process(["-c", SERVER]) as served,
    ):
        os.kill(int(served.url), signal.SIGKILL)
        os.waitid(os.P_PID, int(served.url), os.WEXITED | os.WNOWAIT)
        assert served.peak_bytes() is None
