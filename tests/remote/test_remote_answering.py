"""From a text to a memory at an endpoint and to its answers, over HTTP with the real openai client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_vendor import KEY, MODEL, Fault, ScriptedVendor, problem

from lift.absorbing.absorption_events import Finished, Prepared, Probing
from lift.documents.document import Document, Place
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import InterruptedAbsorption, LibraryError, RemoteError, UsageError, WrongBaseModelError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.recipes.recipe import Recipe, RemoteSettings, load_recipe
from lift.remote.finetuning_jobs import ProviderJobEvent
from lift.remote.remote_absorbing import absorb_remotely, cancel_remotely
from lift.remote.remote_answering import RemoteAnswerer, open_remote_memory
from lift.remote.remote_model import base_fingerprint, base_id, is_remote, read_remote_model, remote_name
from lift.tasks.selection import hold_some_out
from lift.tasks.task import Task

FAST = RetryPolicy(timeout_s=0.5, tries=3, first_wait_s=0.001, longest_wait_s=0.02)
RECIPE = Recipe.parse(
    {
        "name": "remote",
        "segments": {"weight": 1, "length_tokens": 32, "step_tokens": 16},
        "tasks": {"weight": 1, "per_sentence": 8},
    },
    "test",
)
STORY = (
    "The harbour board of Bergen elected Ingrid Holm as its chair in March 1932. "
    "Olaf Berg bought a steam crane from a firm in Glasgow for 4,500 crowns. "
    "A storm destroyed the old fish market in October 1934. "
    "Karen Lund designed a new hall of red brick for the merchants of the town. "
    "The bishop opened the hall on a rainy morning in May 1936. "
)
TEXT = STORY + " ".join(f"Member {n} of the council spoke about pier number {n * 7}." for n in range(30))
DOCUMENT = Document("Minutes", TEXT, "minutes.txt", (Place(0, page=1),))
CHAT = "POST /chat/completions"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def vendor() -> Iterator[ScriptedVendor]:
    with ScriptedVendor() as running:
        yield running


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


def absorb(vendor: ScriptedVendor, library: MemoryLibrary, document: Document = DOCUMENT, **options: Any) -> list[Any]:
    settings = RemoteSettings(base_url=vendor.url, poll_s=0.002, probes=4, **options.pop("settings", {}))
    asked: dict[str, Any] = {"confirm": lambda _: True, "retry_policy": FAST, **options}
    return list(absorb_remotely(document, MODEL, RECIPE.model_copy(update={"remote": settings}), library, **asked))


def cancel(vendor: ScriptedVendor, library: MemoryLibrary) -> str:
    settings = RemoteSettings(base_url=vendor.url, poll_s=0.002, probes=4)
    recipe = RECIPE.model_copy(update={"remote": settings})
    return cancel_remotely(DOCUMENT, MODEL, recipe, library, retry_policy=FAST)


def opened(vendor: ScriptedVendor, memory: StoredMemory) -> RemoteAnswerer:
    return open_remote_memory(memory, base_url=vendor.url, retry_policy=FAST)


@pytest.fixture
def memory(vendor: ScriptedVendor, library: MemoryLibrary) -> StoredMemory:
    return absorb(vendor, library, settings={"window_tokens": 256})[-1].memory


def test_a_memory_is_made_and_says_what_it_is(vendor: ScriptedVendor, library: MemoryLibrary) -> None:
    asked: list[str] = []
    vendor.answer = lambda prompt: asked.append(prompt) or TEXT
    events = absorb(vendor, library, name="minutes")
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.report is not None
    assert len(asked) >= 1
    assert [event.probes for event in events if isinstance(event, Probing)] == [len(asked)]
    assert finished.report.recalled == finished.report.probed
    memory = library["minutes"]
    assert memory.problems() == []
    assert is_remote(memory)
    manifest = memory.manifest
    assert (manifest.base.id, manifest.base.fingerprint) == (base_id(MODEL), base_fingerprint(MODEL, vendor.url))
    assert manifest.sizes.adapter_parameters == 0
    assert (manifest.cost.tokens, manifest.cost.steps) == (1234, 2)
    remote = read_remote_model(memory)
    assert remote.model.startswith(f"ft:{MODEL}:")
    assert (remote.base_url, remote.job_id) == (vendor.url, "ftjob-1")
    assert [row["loss"] for row in memory.training] == [2.5, 1.25]
    assert memory.document == DOCUMENT
    sent = vendor.contents["file-1"].decode()
    lines = [json.loads(line)["messages"] for line in sent.splitlines()]
    trained = [(task.question, task.answer) for task in memory.tasks if not task.held_out]
    assert [(user["content"], assistant["content"]) for user, assistant in lines[-len(trained) :]] == trained
    (told,) = [event for event in events if isinstance(event, Prepared)]
    assert (told.tasks, told.held_out) == (len(trained), len(memory.tasks) - len(trained))
    held_out = {task.question for task in memory.tasks if task.held_out}
    assert sorted(asked) == sorted(probe.question for probe in finished.report.probes)
    assert set(asked) <= held_out
    assert not held_out & {user["content"] for user, _ in lines}
    assert not [path for path in library.root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not list((library.root / ".absorbing").iterdir())


def test_the_same_again_asks_nothing_and_another_window_pays_nothing(
    vendor: ScriptedVendor, library: MemoryLibrary
) -> None:
    first = absorb(vendor, library, name="minutes")[-1].memory
    vendor.asked.clear()
    (again,) = absorb(vendor, library, confirm=lambda _: pytest.fail("nothing is to be paid"))
    assert (again.memory.name, again.reused, vendor.asked) == (first.name, True, [])
    (copy,) = absorb(vendor, library, name="copy")
    assert copy.memory.name == "copy"
    other = absorb(vendor, library, name="other", settings={"window_tokens": 999}, confirm=lambda _: False)[-1]
    assert read_remote_model(other.memory).window_tokens == 999
    assert len(vendor.jobs) == 1


def test_a_fault_after_the_training_costs_nothing_again(vendor: ScriptedVendor, library: MemoryLibrary) -> None:
    vendor.fail(CHAT, *[Fault(500)] * 50)
    with pytest.raises(RemoteError, match="could not ask the model"):
        absorb(vendor, library)
    vendor._faults.clear()
    events = absorb(vendor, library, confirm=lambda _: pytest.fail("it is paid for"))
    assert isinstance(events[-1], Finished)
    assert len([event for event in events if isinstance(event, ProviderJobEvent) and event.metrics]) == 2
    assert len(vendor.jobs) == 1


def test_what_is_taken_or_refused_is_said_before_anything_is_sent(
    vendor: ScriptedVendor, library: MemoryLibrary
) -> None:
    absorb(vendor, library, name="minutes")
    other = Document("Other", TEXT + " More was said.", "other.txt")
    vendor.asked.clear()
    with pytest.raises(LibraryError, match="'minutes'"):
        absorb(vendor, library, other, name="minutes")
    with pytest.raises(RemoteError, match="at least 10 lines"):
        absorb(vendor, library, Document("Short", "One word.", "short.txt"))
    assert not vendor.asked


def test_the_text_is_cut_in_the_middle_to_the_window(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    vendor.answer = lambda _prompt: "Karen Lund designed a new hall"
    answer = opened(vendor, memory).ask("What did Karen Lund design?")
    prompt = vendor.chats[-1]["messages"][0]["content"]
    assert prompt.startswith(TEXT[:100])
    assert "..." in prompt
    assert prompt.endswith(f"{TEXT[-100:]}\n\nWhat did Karen Lund design?")
    assert len(prompt) <= 4 * 256
    assert (answer.context, answer.truncated, answer.supported, answer.prompt_tokens) == ("truncated", True, True, 77)
    assert answer.evidence[0].sentence == 3
    assert answer.evidence[0].place == Place(0, page=1)
    assert vendor.chats[-1]["model"] == read_remote_model(memory).model
    assert vendor.chats[-1]["temperature"] == 0


def test_the_other_contexts(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    answerer = opened(vendor, memory)
    vendor.answer = lambda _prompt: "zzz qqq"
    closed = answerer.ask("Who spoke?", "none")
    assert vendor.chats[-1]["messages"][0]["content"] == "Who spoke?"
    assert (closed.supported, closed.evidence, closed.truncated) == (False, (), False)
    answerer.ask("Who spoke about pier number 77?", "evidence")
    prompt = vendor.chats[-1]["messages"][0]["content"]
    assert "Member 11 of the council" in prompt
    assert len(prompt) < 300
    with pytest.raises(UsageError, match="does not fit the window of 256"):
        answerer.ask("Who spoke?", "full")
    with pytest.raises(UsageError, match="'some'"):
        answerer.ask("Who spoke?", "some")
    with pytest.raises(UsageError, match="empty"):
        answerer.ask(" ")


def test_many_questions_are_answered_in_their_order(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    vendor.answer = lambda prompt: prompt.removeprefix("Question ")
    vendor.fail(CHAT, Fault(429, problem("slow down"), {"Retry-After": "0.01"}), Fault(reset=True))
    pieces: list[str] = []
    answerer = opened(vendor, memory)
    answers = answerer.ask_many([f"Question {n}" for n in range(20)], "none", batch_size=4, on_text=pieces.append)
    assert [answer.text for answer in answers] == [str(n) for n in range(20)] == pieces
    assert answerer.endpoint.retries == 2


def test_a_window_that_was_overestimated_is_shrunk(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    vendor.window_chars = 600
    assert opened(vendor, memory).ask("Who spoke?").truncated
    assert 300 < len(vendor.chats[-1]["messages"][0]["content"]) <= 600
    vendor.window_chars = 60
    with pytest.raises(RemoteError, match="too long"):
        opened(vendor, memory).ask("Who spoke?")


@pytest.mark.parametrize("reply", [b"{", {"choices": []}, {"choices": [{"message": {"content": None}}]}, []])
def test_an_answer_that_is_none_ends_in_one_sentence(vendor: ScriptedVendor, memory: StoredMemory, reply: Any) -> None:
    vendor.fail(CHAT, *[Fault(200, reply)] * 3)
    with pytest.raises(RemoteError, match="cannot be understood") as caught:
        opened(vendor, memory).ask("Who spoke?")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_gone_is_said(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    vendor.jobs.clear()
    with pytest.raises(RemoteError, match="does not offer that model"):
        opened(vendor, memory).ask("Who spoke?")


def test_the_key_goes_only_where_the_user_sends_it(
    vendor: ScriptedVendor, memory: StoredMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.asked.clear()
    with pytest.raises(RemoteError, match="set OPENAI_BASE_URL to it"):
        open_remote_memory(memory, retry_policy=FAST)
    assert not vendor.asked
    monkeypatch.setenv("OPENAI_BASE_URL", vendor.url + "/")
    assert open_remote_memory(memory, retry_policy=FAST).ask("Who spoke?").text


def test_a_memory_of_something_else_is_refused(memory: StoredMemory, vendor: ScriptedVendor) -> None:
    path = memory.directory / "adapter" / "adapter_config.json"
    manifest = memory.manifest
    for change, error in ({"base": "other"}, WrongBaseModelError), ({"window_tokens": "x"}, LibraryError):
        content = json.dumps({**memory.adapter_config, **change}).encode()
        path.write_bytes(content)
        changed = StoredMemory("changed", memory.directory, manifest)
        with pytest.raises(LibraryError, match="lift verify"):
            opened(vendor, changed)
        changed.__dict__["adapter_config"] = json.loads(content)
        with pytest.raises(error):
            opened(vendor, changed)


def test_names_of_remote_models() -> None:
    assert remote_name("openai:gpt-4o-mini") == "gpt-4o-mini"
    assert remote_name("smollm2") is None
    with pytest.raises(UsageError, match="openai:NAME"):
        remote_name("openai: ")
    assert base_fingerprint("a", "https://x/v1") != base_fingerprint("a", "https://y/v1")


def test_a_job_that_was_left_running_can_be_cancelled_and_a_new_one_started(
    vendor: ScriptedVendor, library: MemoryLibrary
) -> None:
    with pytest.raises(UsageError, match="nothing to cancel"):
        cancel(vendor, library)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedAbsorption, match="goes on at"):
        absorb(vendor, library, stop=stop)
    assert "ftjob-1 is cancelled" in cancel(vendor, library)
    assert vendor.jobs["ftjob-1"]["status"] == "cancelled"
    memory = absorb(vendor, library)[-1].memory
    assert len(vendor.jobs) == 2
    assert read_remote_model(memory).job_id == "ftjob-2"


def test_a_question_sends_no_control_token(vendor: ScriptedVendor, memory: StoredMemory) -> None:
    asked: list[str] = []
    vendor.answer = lambda prompt: asked.append(prompt) or "yes"
    opened(vendor, memory).ask("Who says <|im_end|>?", "none")
    assert asked == ["Who says < |im_end|>?"]


@pytest.mark.parametrize("overrides", [[], ["tasks.per_sentence=1"], ["tasks.weight=0"]], ids=" ".join)
def test_the_published_recipe_always_ends_with_a_report(
    overrides: list[str], vendor: ScriptedVendor, library: MemoryLibrary
) -> None:
    small = ["segments.length_tokens=32", "segments.step_tokens=16", f"remote.base_url={vendor.url}"]
    recipe = load_recipe("openai-finetune", [*small, "remote.poll_s=0.002", "remote.probes=4", *overrides])
    vendor.answer = lambda prompt: TEXT
    made = absorb_remotely(DOCUMENT, MODEL, recipe, library, confirm=lambda _: True, retry_policy=FAST)
    *_, finished = made
    assert isinstance(finished, Finished)
    assert finished.report is not None and finished.report.probed
    trained = [task for task in finished.memory.tasks if not task.held_out]
    assert bool(trained) == (recipe.tasks.weight > 0)


def test_one_task_in_ten_is_held_out_where_none_is() -> None:
    tasks = [Task(f"What is {number}?", str(number), (number,), "test") for number in range(21)]
    assert [task.held_out for task in hold_some_out(tasks, trained=True)].count(True) == 2
    assert hold_some_out(tasks[:1], trained=True) == tasks[:1]
    held = [replace(tasks[0], held_out=True), *tasks[1:]]
    assert hold_some_out(held, trained=True) == held
    assert all(task.held_out for task in hold_some_out(tasks, trained=False))
