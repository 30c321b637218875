"""The task generator `openai` over HTTP, with the real client against a scripted endpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Reply, ScriptedEndpoint, completion, failure

from lift.documents.sentences import Sentence
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import GenerationError, ReplyCacheError
from lift.recipes.recipe import load_recipe
from lift.tasks import endpoint_generator
from lift.tasks.endpoint_generator import THREAD_NAME
from lift.tasks.generation import TaskGenerator
from lift.tasks.generator import open_generator

NAMES = ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel"]


@pytest.fixture(autouse=True)
def quick_and_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_generator, "RETRY_POLICY", RetryPolicy(timeout_s=600.0, first_wait_s=0.01))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def sentences(count: int) -> list[Sentence]:
    texts = [f"House {NAMES[number % 8]}{number} has {number + 100} rooms." for number in range(count)]
    return [Sentence(index, text, index * 100, index * 100 + len(text), 0) for index, text in enumerate(texts)]


def opened(endpoint: ScriptedEndpoint | str, count: int, *overrides: str) -> TaskGenerator:
    url = endpoint if isinstance(endpoint, str) else endpoint.base_url
    wanted = ["generator.kind=openai", "generator.model=m", f"generator.base_url={url}", *overrides]
    return open_generator("Houses", sentences(count), load_recipe("default", wanted), None, "en")  # type: ignore[arg-type]


def number_of(request: dict[str, Any]) -> int:
    """Which sentence a request of family B is about."""
    found = re.search(r"Last part: House [A-Z][a-z]+(\d+)", request["messages"][-1]["content"])
    assert found
    return int(found[1])


def tasks_about(number: int, answer: str | None = None) -> str:
    name = f"{NAMES[number % 8]}{number}"
    task = {"question": f"How many rooms has house {name}?", "answer": answer or f"{number + 100} rooms"}
    return json.dumps({"tasks": [task]})


def truthful(request: dict[str, Any]) -> Reply:
    return tasks_about(number_of(request))


def first_time_only(special: Callable[[dict[str, Any]], Reply], number: int) -> Callable[[dict[str, Any]], Reply]:
    """`special` for the first request about sentence `number`, the truth ever after and for all others."""
    met: list[bool] = []

    def reply(request: dict[str, Any]) -> Reply:
        if number_of(request) == number and not met:
            met.append(True)
            return special(request)
        return truthful(request)

    return reply


def endpoint_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith((THREAD_NAME, "asyncio"))]


def test_order_is_that_of_the_document_whatever_comes_first() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        time.sleep((11 - number_of(request)) * 0.02)
        return truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 12)
        assert (generator.counts.requests, generator.cached_requests) == (12, 0)
        pieces = list(generator.stream())
    assert [piece.position for piece in pieces] == list(range(1, 13))
    assert [piece.tasks[0].answer for piece in pieces] == [f"{number + 100} rooms" for number in range(12)]
    assert [piece.tasks[0].evidence for piece in pieces] == [(number,) for number in range(12)]
    assert pieces[0].tasks[0].origin == "openai:m"
    assert generator.counts.as_dict() == {
        "requests": 12, "answered": 12, "from_cache": 0, "failed": {}, "retried": {}, "kept": 12, "rejected": {},
    }  # fmt: skip
    assert not endpoint_threads()


def test_the_first_piece_comes_before_the_last_reply() -> None:
    last_may_go = threading.Event()

    def reply(request: dict[str, Any]) -> Reply:
        if number_of(request) == 3:
            assert last_may_go.wait(10)
        return truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        stream = opened(endpoint, 4).stream()
        assert next(stream).position == 1
        assert next(stream).position == 2
        last_may_go.set()
        assert [piece.position for piece in stream] == [3, 4]


def test_a_slow_consumer_loses_nothing() -> None:
    with ScriptedEndpoint(truthful) as endpoint:
        positions = []
        for piece in opened(endpoint, 30).stream():
            time.sleep(0.01)
            positions.append(piece.position)
    assert positions == list(range(1, 31))


def test_what_is_sent() -> None:
    with ScriptedEndpoint(truthful) as endpoint:
        list(opened(endpoint, 1, "generator.max_output_tokens=77", "generator.instruction=Only rooms.").stream())
    [request], [headers] = endpoint.requests, endpoint.headers
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.0, 77)
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["tasks"]
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "Only rooms." in request["messages"][0]["content"]
    assert headers["authorization"] == "Bearer unset"


def test_no_more_requests_at_once_than_allowed() -> None:
    with ScriptedEndpoint(truthful, answer_s=0.03) as endpoint:
        list(opened(endpoint, 20, "generator.concurrency=4").stream())
    assert endpoint.most_at_once == 4
    with ScriptedEndpoint(truthful, answer_s=0.3) as endpoint:
        list(opened(endpoint, 20, "generator.concurrency=64").stream())
    assert endpoint.most_at_once == 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_too_many_requests_waits_as_long_as_asked(form: str) -> None:
    def busy(_: dict[str, Any]) -> Reply:
        asked = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        return failure(429, "slow down", {"Retry-After": asked})

    with ScriptedEndpoint(first_time_only(busy, 0)) as endpoint:
        generator = opened(endpoint, 2)
        assert [len(piece.tasks) for piece in generator.stream()] == [1, 1]
    assert generator.counts.retried == {"HTTP 429": 1}
    assert generator.counts.failed == {}
    assert len(endpoint.requests) == 3
    assert endpoint.arrived_s[-1] - endpoint.arrived_s[0] >= 0.95
    again = [request for request in endpoint.requests if number_of(request) == 0]
    assert [request["temperature"] for request in again] == [0.0, 0.0]


def test_a_request_that_fails_for_good_leaves_the_others_alone() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        return failure(500, "out of memory") if number_of(request) == 1 else truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 4, "generator.retries=2")
        pieces = list(generator.stream())
        assert [len(piece.tasks) for piece in pieces] == [1, 0, 1, 1]
        assert [piece.position for piece in pieces] == [1, 2, 3, 4]
        assert generator.counts.failed == {"HTTP 500": 1}
        assert generator.counts.retried == {"HTTP 500": 2}
        assert (generator.counts.answered, generator.counts.kept, len(endpoint.requests)) == (3, 3, 6)
        # what failed is asked for again by the next run, and nothing else
        later = opened(endpoint, 4, "generator.retries=0")
        assert later.cached_requests == 3
        list(later.stream())
        assert len(endpoint.requests) == 7


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (422, 1), (408, 3), (409, 3), (429, 3), (503, 3)], ids=str)
def test_only_what_can_mend_is_tried_again(status: int, tries: int) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        return failure(status, "no") if number_of(request) == 2 else truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 4, "generator.retries=2")
        list(generator.stream())
    assert generator.counts.failed == {f"HTTP {status}": 1}
    assert len([request for request in endpoint.requests if number_of(request) == 2]) == tries


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("I would rather not.", "not JSON"),
        ((200, {}, completion(tasks_about(1)[:-9], "length")), "cut off"),
        ('[{"question": "How many rooms?"}]', "not of the schema"),
        ((200, {}, completion(None)), "not a chat completion"),
        ((200, {}, '{"choices": [{"mess'), "not a chat completion"),
        ((200, {"Content-Type": "text/html"}, "<html>Welcome</html>"), "not a chat completion"),
        ((200, {}, {"choices": []}), "not a chat completion"),
    ],
)
def test_replies_that_cannot_be_read_are_asked_for_again(bad: Reply, reason: str) -> None:
    with ScriptedEndpoint(first_time_only(lambda _: bad, 1)) as endpoint:
        generator = opened(endpoint, 2)
        assert [len(piece.tasks) for piece in generator.stream()] == [1, 1]
    assert generator.counts.retried == {reason: 1}
    assert generator.counts.failed == {}
    temperatures = [request["temperature"] for request in endpoint.requests if number_of(request) == 1]
    # greedy would repeat what could not be read, but not what never came
    assert temperatures == ([0.0, 0.0] if reason == "not a chat completion" else [0.0, 0.7])


def test_replies_that_are_never_readable_are_not_kept() -> None:
    with ScriptedEndpoint(lambda _: "nonsense") as endpoint:
        generator = opened(endpoint, 3, "generator.retries=1")
        with pytest.raises(GenerationError, match=r"no usable reply to any of 3 requests \(3 not JSON\)"):
            list(generator.stream())
        assert (len(endpoint.requests), generator.counts.answered) == (6, 0)
        assert opened(endpoint, 3).cached_requests == 0


def test_lies_are_not_stored() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        number = number_of(request)
        return tasks_about(number, "900 rooms" if number % 2 else None)

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 6)
        pieces = list(generator.stream())
    assert [len(piece.tasks) for piece in pieces] == [1, 0, 1, 0, 1, 0]
    assert generator.counts.as_dict() == {
        "requests": 6, "answered": 6, "from_cache": 0, "failed": {}, "retried": {}, "kept": 3,
        "rejected": {"unsupported": 3},
    }  # fmt: skip
    assert len(endpoint.requests) == 6


def test_a_window_whose_evidence_is_invented_is_asked_about_again() -> None:
    seen: list[str] = []

    def reply(request: dict[str, Any]) -> Reply:
        shown = request["messages"][-1]["content"]
        name, number, rooms = re.findall(r"House (\w+?)(\d+) has (\d+) rooms", shown)[0]
        evidence = f"House {name}{number} has {rooms} rooms."
        task = {"question": f"How many rooms has {name}{number}?", "answer": rooms, "evidence": [evidence]}
        if shown not in seen:
            seen.append(shown)
            task["evidence"] = ["It is well known."]
        return json.dumps([task])

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 60, "tasks.per_document=5")
        pieces = list(generator.stream())
        assert generator.counts.retried == {"evidence not in the text": 5}
        assert (generator.counts.kept, generator.counts.rejected) == (5, {})
        assert [piece.position for piece in pieces] == [12, 24, 36, 48, 60]
        assert all(f"{task.evidence[0] + 100}" == task.answer for piece in pieces for task in piece.tasks)
        seen.clear()
        more = ["generator.retries=0", "generator.instruction=Only rooms."]
        hopeless = opened(endpoint, 60, "tasks.per_document=5", *more)
        # five others are asked for in their place, once
        assert [len(piece.tasks) for piece in hopeless.stream()] == [0] * 10
        assert hopeless.counts.rejected == {"evidence not in the text": 10}
        assert hopeless.counts.answered == hopeless.counts.requests == 10


def test_closing_early_ends_everything_under_way() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        if number_of(request):
            endpoint._closing.wait(20)
        return truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        stream = opened(endpoint, 20, "generator.concurrency=5").stream()
        assert next(stream).position == 1
        assert endpoint_threads()
        begun = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - begun < 2
        assert not endpoint_threads()
        time.sleep(0.1)
        assert len(endpoint.requests) <= 6
        assert opened(endpoint, 20).cached_requests == 1


@pytest.mark.parametrize("message", ["'response_format' of type 'json_schema' is not supported", "json_schema: no"])
def test_endpoints_without_schemas_are_asked_without_from_then_on(message: str) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        return failure(400, message) if "response_format" in request else truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        generator = opened(endpoint, 10, "generator.concurrency=1", "generator.retries=0")
        assert sum(len(piece.tasks) for piece in generator.stream()) == 10
        assert ["response_format" in request for request in endpoint.requests] == [True] + [False] * 10
        assert generator.counts.retried == {} == generator.counts.failed


def test_newer_models_get_the_newer_name_of_the_limit() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        if "max_tokens" in request:
            return failure(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return truthful(request)

    with ScriptedEndpoint(reply) as endpoint:
        assert sum(len(piece.tasks) for piece in opened(endpoint, 3, "generator.concurrency=1").stream()) == 3
    assert [request.get("max_completion_tokens") for request in endpoint.requests] == [None, 1024, 1024, 1024]


def test_a_bad_request_that_names_a_format_that_was_not_sent_fails() -> None:
    with ScriptedEndpoint(lambda _: failure(400, "bad response_format")) as endpoint:
        with pytest.raises(GenerationError, match="HTTP 400"):
            list(opened(endpoint, 3, "generator.concurrency=1").stream())
        assert len(endpoint.requests) == 4


def test_cached_replies_cost_no_request() -> None:
    with ScriptedEndpoint(truthful) as endpoint:
        first = list(opened(endpoint, 8).stream())
        again = opened(endpoint, 8)
        assert again.cached_requests == 8
        assert list(again.stream()) == first
        assert (again.counts.answered, again.counts.from_cache, again.counts.kept) == (8, 8, 8)
        assert len(endpoint.requests) == 8
        # what determines a reply is part of its key
        assert opened(endpoint, 8, "generator.temperature=0.5").cached_requests == 0
        assert opened(endpoint, 8, "generator.instruction=Only rooms.").cached_requests == 0
        assert opened(endpoint, 8, "tasks.per_sentence=5").cached_requests == 0
        # a longer document shares what is the same
        longer = opened(endpoint, 10)
        assert longer.cached_requests == 8
        list(longer.stream())
        assert len(endpoint.requests) == 10
        assert opened(endpoint, 10).cached_requests == 10
    # an endpoint that is gone is not missed, and a shorter document has all it needs
    assert list(opened(endpoint, 8).stream()) == first
    assert list(opened(endpoint, 7).stream()) == first[:7]
    assert opened(endpoint, 7).cached_requests == 7


def test_two_at_once_pay_once() -> None:
    with ScriptedEndpoint(truthful, answer_s=0.2) as endpoint:
        results: list[list[Any]] = []
        generators = [opened(endpoint, 6) for _ in range(2)]
        threads = [threading.Thread(target=lambda g=g: results.append(list(g.stream()))) for g in generators]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results[0] == results[1]
        assert len(results[0]) == 6
        assert len(endpoint.requests) == 6
        assert sorted(generator.counts.from_cache for generator in generators) == [0, 6]


def test_a_killed_run_resumes_with_what_is_missing() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        if number_of(request) >= 5 and not resumed:
            endpoint._closing.wait(20)
        return truthful(request)

    resumed: list[bool] = []
    script = """
        import sys
        import test_endpoint_generator as test
        for piece in test.opened(sys.argv[1], 8).stream():
            print(piece.position, flush=True)
    """
    with ScriptedEndpoint(reply) as endpoint:
        here = Path(__file__).resolve()
        paths = [here.parents[2] / "src", here.parent, here.parents[1]]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        command = [sys.executable, "-c", textwrap.dedent(script), endpoint.base_url]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if line.strip() == "5":
                    while len(endpoint.requests) < 8:  # those that were sent may not have come yet
                        time.sleep(0.01)
                    process.send_signal(signal.SIGKILL)
                    break
            assert process.wait(10) == -signal.SIGKILL
        assert len(endpoint.requests) == 8
        resumed.append(True)
        generator = opened(endpoint, 8)
        assert generator.cached_requests == 5
        assert [len(piece.tasks) for piece in generator.stream()] == [1] * 8
        assert sorted(map(number_of, endpoint.requests[8:])) == [5, 6, 7]
        assert (generator.counts.from_cache, generator.counts.answered) == (5, 8)
        assert opened(endpoint, 8).cached_requests == 8


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "generator.model")]
)
def test_what_every_request_would_meet_ends_all_at_once(status: int, advice: str) -> None:
    with ScriptedEndpoint(lambda _: failure(status, "not\nyou")) as endpoint:
        with pytest.raises(GenerationError, match=f"HTTP {status}") as caught:
            list(opened(endpoint, 50, "generator.concurrency=2").stream())
        assert len(endpoint.requests) <= 5
    assert "\n" not in str(caught.value) and advice in str(caught.value)
    assert not endpoint_threads()


def test_nobody_there_is_said_soon() -> None:
    with ScriptedEndpoint(truthful) as endpoint:
        pass
    begun = time.monotonic()
    with pytest.raises(GenerationError, match="no connection") as caught:
        list(opened(endpoint, 50).stream())
    assert time.monotonic() - begun < 3
    assert "\n" not in str(caught.value) and endpoint.base_url in str(caught.value)


def test_a_reply_that_takes_too_long_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_generator, "RETRY_POLICY", RetryPolicy(timeout_s=0.3, first_wait_s=0.01))

    def late(request: dict[str, Any]) -> Reply:
        time.sleep(0.8)
        return truthful(request)

    with ScriptedEndpoint(first_time_only(late, 1)) as endpoint:
        generator = opened(endpoint, 3)
        assert sum(len(piece.tasks) for piece in generator.stream()) == 3
    assert generator.counts.retried == {"timeout": 1}


def test_a_key_is_wanted_where_no_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GenerationError, match="OPENAI_API_KEY"):
        opened("", 1)
    with ScriptedEndpoint(truthful) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
        assert len(list(opened("", 1).stream())) == 1
    assert endpoint.headers[0]["authorization"] == "Bearer sk-own"


def test_an_address_without_a_scheme_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(GenerationError, match=r"got 'localhost:8000/v1'"):
        opened("localhost:8000/v1", 1)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(GenerationError, match=re.escape('pip install "lift-memory[openai]"')):
        opened("http://127.0.0.1:9/v1", 1)


def test_a_damaged_cache_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "tasks" / "replies-1.sqlite3"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ReplyCacheError, match="LIFT_CACHE") as caught:
        opened("http://127.0.0.1:9/v1", 1)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
