"""Questions are prepared beside the engine: what is long or slow about one of them holds up no other memory's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import put_memory

from lift.errors import UsageError
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.packing.prompts import dialogue_ids
from lift.serving import conversation
from lift.serving.conversation import Conversations, Dialogue
from lift.serving.engine import Engine
from lift.serving.request import Message, Request, Sampling

SHORT = Sampling(max_tokens=8)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no question to the memory "slow" is prepared."""
    begin, event = Conversations.begin, threading.Event()

    def begun(self: Conversations, request: Request, memory: Any) -> Any:
        assert request.memory != "slow" or event.wait(60)
        return begin(self, request, memory)

    monkeypatch.setattr(Conversations, "begin", begun)
    return event


@pytest.fixture
def engine(tiny_model: BaseModel, tmp_path: Path, held: threading.Event) -> Iterator[Engine]:
    library = MemoryLibrary(tmp_path / "library")
    for number, name in enumerate(("slow", "quick")):
        put_memory(library, tiny_model, name, number)
    engine = Engine(tiny_model, library)
    engine.start()
    yield engine
    engine.close(5)


def asked(memory: str | None, text: str, **changes: Any) -> Request:
    return Request(memory, (Message("user", text),), sampling=SHORT, **changes)


def test_a_question_that_is_slow_to_prepare_holds_up_nobody_else(engine: Engine, held: threading.Event) -> None:
    slow = [engine.submit(asked("slow", f"Who founded it in {year}?")) for year in range(1900, 1904)]
    late = engine.submit(asked("slow", "Who else?", deadline_s=0.2))
    assert engine.submit(asked("quick", "Who founded it?")).result(30).finish_reason in ("stop", "length")
    assert engine.submit(asked(None, "Who?")).result(30)
    # one whose time is over is told so though it was never prepared
    assert late.result(30).finish_reason == "timeout"
    slow[1].cancel()
    assert slow[1].result(30).finish_reason == "cancelled"
    assert not slow[0].done
    held.set()
    assert {slow[0].result(30).finish_reason, slow[3].result(30).finish_reason} <= {"stop", "length"}


def test_what_never_fits_the_window_is_refused_before_it_is_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*_: object, **__: object) -> None:
        raise AssertionError("it was tokenised")

    monkeypatch.setattr(type(engine.base.tokenizer), "__call__", reads)
    long = "Who? " * 400_000
    turn = Message("user", "Who?")
    for request in (
        asked("quick", long),
        asked(None, long),
        Request("quick", prompt=long),
        Request(None, (Message("system", long), turn)),
    ):
        with pytest.raises(UsageError, match=r"at most 16,384 characters .* window of 1024 tokens"):
            engine.submit(request)


def test_a_long_dialogue_is_not_read_again_for_each_turn_that_is_dropped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []

    def ids(tokenizer: Any, turns: Any) -> list[int]:
        rendered.append(sum(len(said) for _, said in turns))
        return dialogue_ids(tokenizer, turns)

    monkeypatch.setattr(conversation, "dialogue_ids", ids)
    turns = [Message(("user", "assistant")[number % 2], f"said {number} " * 100) for number in range(998)]
    answer = engine.submit(
        Request("quick", (*turns, Message("user", "Who founded it?")), context="none", sampling=SHORT)
    )
    assert answer.result(60).dropped_turns == len(turns)
    assert max(rendered) < 16_384 and len(rendered) < 20


_SAID = st.text("ab é\n", max_size=60) | st.integers(1, 900).map("word ".__mul__)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), _SAID), max_size=12), st.integers(40, 900))
def test_as_many_turns_are_kept_as_fit(tiny_tokenizer: Any, turns: list[tuple[str, str]], limit_tokens: int) -> None:
    messages = [*(Message(*turn) for turn in turns), Message("user", "Who founded the museum?")]
    found = Dialogue(tiny_tokenizer, messages, limit_tokens)
    ids = found.ids("Who founded the museum?", None)
    system = [turn for turn in turns if turn[0] == "system"]
    others = [turn for turn in turns if turn[0] != "system"]
    starts = [0, *(place for place in range(1, len(others)) if others[place][0] == "user"), len(others)]
    prompts = {
        start: dialogue_ids(tiny_tokenizer, [*system, *others[start:], ("user", "Who founded the museum?")])
        for start in starts
    }
    start = next((start for start in starts if len(prompts[start]) <= limit_tokens), len(others))
    assert ids == prompts[start]
    assert found.dropped_turns == start
