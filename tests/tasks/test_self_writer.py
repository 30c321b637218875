"""The task generator `self`: the base model writes, what it cannot write is counted, what it wrote is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lift.documents.sentences import Sentence
from lift.errors import GenerationError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import load_recipe
from lift.tasks.generation import TaskGenerator
from lift.tasks.generator import open_generator

NAMES = ["Alder", "Birch", "Cedar", "Dogwood"]


def sentences(count: int, length: int = 0) -> list[Sentence]:
    texts = [f"House {NAMES[number % 4]} has {number + 100} rooms.".ljust(length, "x") for number in range(count)]
    return [Sentence(index, text, index * 100, index * 100 + len(text), 0) for index, text in enumerate(texts)]


def opened(base: BaseModel, count: int, *overrides: str, length: int = 0) -> TaskGenerator:
    # the tiny model's tokens are bytes, and its window has 1024 of them: the instructions nearly fill it
    wanted = ["generator.kind=self", "generator.max_output_tokens=16", *overrides]
    return open_generator("Houses", sentences(count, length), load_recipe("default", wanted), base, "en")


@pytest.fixture
def wide_model(tiny_model: BaseModel) -> BaseModel:
    """The tiny model with a window of 8192 bytes."""
    tiny_model.model.config.max_position_embeddings = 8192
    return tiny_model


class ScriptedWriter:
    """Stands for generate: answers from `replies`, a list a call, and records what it was asked."""

    def __init__(self, tokenizer: Any, *replies: list[str]) -> None:
        self.tokenizer = tokenizer
        self.replies = list(replies)
        self.prompts: list[list[str]] = []
        self.temperatures: list[float] = []
        self.seeds: list[int] = []

    def __call__(self, model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.prompts.append([self.tokenizer.decode(prompt) for prompt in prompts])
        self.temperatures.append(options["temperature"])
        self.seeds.append(options["generator"].initial_seed())
        replies = self.replies.pop(0)
        assert len(replies) == len(prompts)
        return [self.tokenizer(reply)["input_ids"][: options["max_new_tokens"]] for reply in replies]


def script(monkeypatch: pytest.MonkeyPatch, base: BaseModel, *replies: list[str]) -> ScriptedWriter:
    writer = ScriptedWriter(base.tokenizer, *replies)
    monkeypatch.setattr("lift.inference.generate.generate", writer)
    return writer


def about(number: int) -> str:
    return f"Question: How many rooms has house {NAMES[number]}?\nAnswer: {number + 100} rooms"


LONG = "generator.max_output_tokens=400"


def test_a_model_that_writes_nonsense_is_named_with_what_came_of_it(wide_model: BaseModel) -> None:
    generator = opened(wide_model, 3, "generator.retries=1")
    with pytest.raises(GenerationError, match=r"base model tiny, got no usable reply to any of 3 requests") as caught:
        list(generator.stream())
    assert "\n" not in str(caught.value)
    assert generator.counts.retried == {"no labelled lines": 3}
    assert generator.counts.failed == {"no labelled lines": 3}
    assert opened(wide_model, 3).cached_requests == 0


def test_greedy_first_and_only_failures_sampled_again(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    writer = script(
        monkeypatch,
        wide_model,
        [about(0), "I do not know.", "Question: What?\nAnswer: no"],
        ["Who knows?"],
        [about(1)],
    )
    generator = opened(wide_model, 3, LONG)
    pieces = list(generator.stream())
    assert [[task.answer for task in piece.tasks] for piece in pieces] == [["100 rooms"], ["101 rooms"], []]
    assert [piece.position for piece in pieces] == [1, 2, 3]
    assert pieces[1].tasks[0].origin == "self" and pieces[1].tasks[0].evidence == (1,)
    assert writer.temperatures == [0.0, 0.7, 0.7]
    assert writer.seeds[1] != writer.seeds[2]
    assert generator.counts.as_dict() == {
        "requests": 3, "answered": 3, "from_cache": 0, "failed": {}, "retried": {"no labelled lines": 2}, "kept": 2,
        "rejected": {"names nothing of the text": 1},
    }  # fmt: skip


def test_what_was_written_once_is_not_written_again(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    writer = script(monkeypatch, wide_model, [about(0), "?", about(2)], [about(1)])
    first = opened(wide_model, 3, LONG, "generator.retries=0")
    assert [len(piece.tasks) for piece in first.stream()] == [1, 0, 1]
    again = opened(wide_model, 3, LONG, "generator.retries=0")
    assert again.cached_requests == 2
    assert [len(piece.tasks) for piece in again.stream()] == [1, 1, 1]
    assert [len(prompts) for prompts in writer.prompts] == [3, 1]
    assert (again.counts.from_cache, again.counts.answered) == (2, 3)
    whole = opened(wide_model, 3, LONG)
    assert whole.cached_requests == 3 and len(list(whole.stream())) == 3
    other = BaseModel(wide_model.model, wide_model.tokenizer, "tiny", "1" * 64)
    assert opened(other, 3, LONG).cached_requests == 0


def test_closing_early_keeps_what_was_written(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    monkeypatch.setattr("lift.tasks.self_writer.BATCH_REQUESTS", 2)
    writer = script(monkeypatch, wide_model, [about(0), about(1)], [about(2)])
    stream = opened(wide_model, 3, LONG).stream()
    assert next(stream).position == 1
    stream.close()  # type: ignore[attr-defined]
    assert len(writer.prompts) == 1
    later = opened(wide_model, 3, LONG)
    assert later.cached_requests == 2
    assert sum(len(piece.tasks) for piece in later.stream()) == 3
    assert opened(wide_model, 3, LONG).cached_requests == 3


def test_a_reply_that_was_cut_off_loses_its_last_line(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    script(monkeypatch, wide_model, [f"{about(0)}\nQuestion: How many rooms?\nAnswer: 100 ro" + " " * 400])
    generator = opened(wide_model, 1, "generator.max_output_tokens=100", "generator.retries=0")
    [piece] = generator.stream()
    assert [task.answer for task in piece.tasks] == ["100 rooms"]
    assert generator.counts.rejected == {"malformed": 1}


def test_windows_want_evidence(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    lie, truth = (f"{about(0)}\nEvidence: House Alder has {rooms} rooms." for rooms in (900, 100))
    writer = script(monkeypatch, wide_model, [lie], [truth])
    generator = opened(wide_model, 2, LONG, "tasks.per_document=1")
    [piece] = generator.stream()
    assert [task.evidence for task in piece.tasks] == [(0,)]
    assert piece.position == 2
    assert generator.counts.retried == {"evidence not in the text": 1}
    assert "Evidence: ..." in writer.prompts[0][0]


def test_the_prompt_is_one_turn_of_the_user(monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel) -> None:
    writer = script(monkeypatch, wide_model, [about(0)])
    list(opened(wide_model, 1, LONG, "generator.instruction=Only rooms.").stream())
    [[prompt]] = writer.prompts
    assert prompt.startswith("<|im_start|>user\n") and prompt.endswith("<|im_start|>assistant\n")
    assert prompt.count("<|im_start|>") == 2
    assert "Only rooms." in prompt and "Last part: House Alder has 100 rooms." in prompt


def test_models_without_a_chat_template_go_on_from_the_first_label(
    monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel
) -> None:
    monkeypatch.setattr(wide_model.tokenizer, "chat_template", None)
    writer = script(monkeypatch, wide_model, [about(0).removeprefix("Question:")])
    [piece] = opened(wide_model, 1, LONG).stream()
    assert piece.tasks[0].answer == "100 rooms"
    assert writer.prompts[0][0].endswith("\n\nQuestion:")


def test_what_does_not_fit_the_window_is_left_out_farthest_first(
    monkeypatch: pytest.MonkeyPatch, wide_model: BaseModel
) -> None:
    wide_model.model.config.max_position_embeddings = 2600
    writer = script(monkeypatch, wide_model, [about(number) for number in range(4)])
    list(opened(wide_model, 4, "generator.max_output_tokens=100", length=300).stream())
    assert all(len(prompt.encode()) <= 2600 - 100 for prompt in writer.prompts[0])
    assert "100 rooms" not in writer.prompts[0][3] and "102 rooms" in writer.prompts[0][3]
    wide_model.model.config.max_position_embeddings = 1024
    with pytest.raises(GenerationError, match="longer window"):
        opened(wide_model, 1, length=900)
