"""`make demo`: answers that are asked within a time, kept and gone on with; and all of it on a tiny random model."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Machine

from lift.absorbing.recall_report import TimeIsOver
from lift.answering.answerer import Answerer
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.endpoints.reply_cache import REPLIES_FILE
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe
from lift.training.budget import Clock

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TEXT = "The mill was built in 1804. Its wheel was made of elm. The miller kept two dogs."


@pytest.fixture
def answers() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("demo_answers")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def demo(answers: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The demo's module; its stated time begins with the test, since the test's process is older than the demo's is."""
    module = importlib.import_module("demo")
    monkeypatch.setattr(module, "process_started", time.monotonic)
    return module


class Scripted:
    """Answers each request with its question in capitals, so many seconds of a clock that it moves itself."""

    def __init__(self, answers: Any, seconds: float = 1.0) -> None:
        self.now = 0.0
        self.asked: list[Any] = []
        self._answers = answers
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def __call__(self, request: Any, clock: Clock, ends_at: float) -> Any:
        if clock() + self._seconds > ends_at:
            raise TimeIsOver
        self.now += self._seconds
        self.asked.append(request)
        return self._answers.Reply(request.question.upper(), self._seconds, 7)


def requests(answers: Any, count: int) -> list[Any]:
    return [answers.Request(f"question {number}", "none") for number in range(count)]


def test_what_there_is_no_time_for_is_left_out(answers: Any) -> None:
    asker = Scripted(answers)
    found = answers.ask_all(requests(answers, 5), asker, clock=asker.clock, ends_at=3.5, on_progress=lambda *_: None)
    assert [request.question for request in found] == ["question 0", "question 1", "question 2"]
    assert asker.now <= 3.5


def test_the_progress_tells_how_many_are_done_and_what_the_others_take(answers: Any) -> None:
    asker, told = Scripted(answers, seconds=2.0), []
    answers.ask_all(
        requests(answers, 3), asker, clock=asker.clock, ends_at=100.0, on_progress=lambda *each: told.append(each)
    )
    assert told == [(0, 3, None), (1, 3, 4.0), (2, 3, 2.0)]


def test_the_time_left_is_by_the_context_where_that_was_measured(answers: Any) -> None:
    left = [answers.Request("a", "none"), answers.Request("b", "full"), answers.Request("c", "evidence")]
    assert answers.seconds_left(left, {"none": [1.0, 3.0], "full": [10.0]}) == pytest.approx(2 + 10 + 14 / 3)


def test_an_interrupted_run_asks_only_what_is_missing(answers: Any, tmp_path: Path) -> None:
    path, wanted = tmp_path / "deep" / "kept", requests(answers, 4)
    first, second = Scripted(answers), Scripted(answers)
    options = {"ends_at": 2.0, "on_progress": lambda *_: None}
    answers.ask_all(wanted, first, clock=first.clock, kept=answers.KeptReplies(path), **options)
    found = answers.ask_all(wanted, second, clock=second.clock, kept=answers.KeptReplies(path), **options)
    assert [request.question for request in second.asked] == ["question 2", "question 3"]
    assert [found[request].kept for request in wanted] == [True, True, False, False]
    assert [found[request].text for request in wanted] == [request.question.upper() for request in wanted]


@pytest.mark.parametrize("damage", [b"no database", b"\xff\xfe\n" * 1000])
def test_a_damaged_file_of_kept_answers_costs_only_the_answers(answers: Any, tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    (path / REPLIES_FILE).write_bytes(damage)
    answers.KeptReplies(path).put("a", answers.Reply("yes", 1.5, 3))
    again = answers.KeptReplies(path)
    assert again.get("a") == answers.Reply("yes", 1.5, 3, kept=True)
    assert again.get("b") is None


def test_a_disk_that_refuses_costs_no_answer(answers: Any, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    asker = Scripted(answers)
    kept = answers.KeptReplies(blocker / "kept")
    found = answers.ask_all(
        requests(answers, 2), asker, clock=asker.clock, ends_at=9.0, on_progress=lambda *_: None, kept=kept
    )
    assert len(found) == 2


def test_a_kept_answer_is_of_the_same_weights_text_question_context_and_length(
    answers: Any, tiny_model: BaseModel
) -> None:
    document, other = Document("The mill", TEXT, "test"), Document("The mill", TEXT + " It is gone.", "test")
    asked = answers.Request("Who kept dogs?", "none")
    other_model = BaseModel(tiny_model.model, tiny_model.tokenizer, tiny_model.id, "1" * 64)
    keys = [
        answers.reply_key(tiny_model, document, asked, 32),
        answers.reply_key(other_model, document, asked, 32),
        answers.reply_key(tiny_model, other, asked, 32),
        answers.reply_key(tiny_model, document, answers.Request("Who kept dogs?", "full"), 32),
        answers.reply_key(tiny_model, document, answers.Request("Who kept cats?", "none"), 32),
        answers.reply_key(tiny_model, document, asked, 48),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == answers.reply_key(tiny_model, Document("The mill", TEXT, "test"), asked, 32)


def test_a_slow_model_is_stopped_in_the_middle_of_an_answer(answers: Any, tiny_model: BaseModel) -> None:
    document = Document("The mill", TEXT, "test")
    machine = Machine(tiny_model.model, pass_s=1.0)
    ask = answers.asker_of(Answerer.of(tiny_model, None, document, split_sentences(TEXT)), 32)
    found = answers.ask_all(
        [answers.Request("Who kept two dogs?", "full"), answers.Request("What was made of elm?", "full")],
        ask,
        clock=machine.clock,
        ends_at=5.0,
        on_progress=lambda *_: None,
    )
    assert found == {}
    assert machine.now <= 7.0


def test_the_note_tells_what_was_kept_and_what_was_not_asked(answers: Any) -> None:
    kept, fresh = answers.Reply("four", 2.0, 10, kept=True), answers.Reply("in 1804", 1.0, 10)
    columns = {
        "base": answers.sum_up([kept, kept], [["four"], ["five"]]),
        "memory": answers.sum_up([fresh, None], [["1804"], ["elm"]]),
    }
    assert columns["base"].right == 1
    assert columns["memory"].answered == 1
    told = " ".join(answers.note_of(columns, 2))
    assert "2 answers of “base” are kept from the run before" in told
    assert "1 answers are missing" in told
    assert answers.note_of({"memory": answers.sum_up([fresh], [["1804"]])}, 1) == []


@pytest.mark.slow
def test_the_demo_compares_four_ways(
    demo: Any, tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # a byte-level tokenizer makes the article five times as long as it is for a real model
    tiny_model.model.config.max_position_embeddings = 8192
    quick = load_recipe("default", ["training.epochs=1", "tasks.per_sentence=4", "adapter.rank=2"])
    monkeypatch.setattr(demo, "load_model", lambda **_options: tiny_model)
    monkeypatch.setattr(demo, "load_recipe", lambda: quick)
    monkeypatch.setenv("COLUMNS", "80")
    assert demo.main() == 0
    printed = capsys.readouterr().out
    for shown in ("base, no text", "base, whole text", "memory, no text", "memory, auto", "Larry Ellison", "of 6"):
        assert shown in printed
    assert "kept from the run before" not in printed
    assert "lift ask university-of-chicago" in printed
    assert demo.main() == 0, "a second run finds the memory of the first"
    again = capsys.readouterr()
    assert "absorbed in an earlier run" in again.err
    assert "12 answers of “base, no text” and “base, whole text” are kept from the run before" in " ".join(
        again.out.split()
    )


def test_the_table_is_printed_where_the_absorption_fails(
    demo: Any, tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model.model.config.max_position_embeddings = 8192
    asked = json.loads(demo.QUESTIONS.read_text("utf-8").splitlines()[0])["question"]
    short = demo.ARTICLE.read_text("utf-8")[:600]
    monkeypatch.setattr(demo, "read_document", lambda _path, title: Document(title, short, "test"))
    monkeypatch.setattr(demo, "load_model", lambda **_options: tiny_model)
    monkeypatch.setattr(demo, "BASE_TOKENS", 2)
    monkeypatch.setattr(demo, "absorb_events", failing)
    assert demo.main() == 1
    shown = capsys.readouterr()
    assert asked in shown.out
    assert "demo: the disk is full" in shown.err


def failing(*_arguments: Any, **_options: Any) -> Iterator[Any]:
    from lift.errors import LibraryError

    raise LibraryError("the disk is full")
    yield
