"""What is sent to be trained on, how many tokens it is taken to have, and what that costs."""

from __future__ import annotations

import json
import math

import pytest

from lift.documents.document import Document
from lift.endpoints.openai_endpoint import OPENAI_URL, resolve_base_url
from lift.errors import RemoteError, UsageError
from lift.recipes.recipe import Recipe
from lift.remote.price import estimate_price, line_limit_tokens
from lift.remote.remote_answering import fit_text
from lift.remote.token_estimate import estimate_chat_tokens, estimate_tokens, token_offsets
from lift.remote.training_file import TrainingFile, build_training_file
from lift.tasks.task import Task

TASKS = [Task(f"Question {number}?", f"answer {number}", (0,), "rules:subject") for number in range(12)]
LIMIT_TOKENS = 16385


def make_recipe(segments: float, tasks: float, length_tokens: int = 32, step_tokens: int = 16) -> Recipe:
    return Recipe.parse(
        {
            "name": "remote",
            "segments": {"weight": segments, "length_tokens": length_tokens, "step_tokens": step_tokens},
            "tasks": {"weight": tasks},
        },
        "test",
    )


def make_document(words: int, word: str = "wörter", title: str = "The title") -> Document:
    return Document(title, " ".join(f"{word}{number}" for number in range(words)), "file.txt")


def exchanges(file: TrainingFile) -> list[tuple[str, str]]:
    found = []
    for line in file.content.decode("utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        found.append((messages[0]["content"], messages[1]["content"]))
    return found


@pytest.mark.parametrize("step_tokens", [16, 32])
def test_segments_hold_the_whole_text_and_no_word_is_cut(step_tokens: int) -> None:
    document = make_document(300)
    file = build_training_file(document, TASKS, make_recipe(1, 0, step_tokens=step_tokens), LIMIT_TOKENS)
    turns, texts = zip(*exchanges(file), strict=True)
    assert len(set(turns)) == 1
    assert "The title" in turns[0]
    whole = f"{document.title}\n{document.text}"
    words = set(whole.split())
    covered = 0
    for text in texts:
        start = whole.index(text)
        assert start <= covered
        covered = max(covered, start + len(text))
        assert set(text.split()) <= words
        assert estimate_tokens(text) <= 32 + 8
    assert covered == len(whole)
    assert file.segments == len(texts)
    overlap = sum(map(len, texts)) / len(whole)
    assert overlap == pytest.approx(32 / step_tokens, rel=0.1)


def test_text_without_spaces_is_cut_where_it_must_be() -> None:
    document = Document("T", "".join(chr(0x4E00 + number) for number in range(400)), "file.txt")
    texts = [text for _, text in exchanges(build_training_file(document, [], make_recipe(1, 0, 32, 32), LIMIT_TOKENS))]
    assert "".join(texts) == f"T\n{document.text}"


def test_tasks_follow_the_segments_and_those_held_out_stay_here() -> None:
    held_out = Task("A probe?", "a secret", (0,), "rules:object", held_out=True)
    file = build_training_file(make_document(60), [*TASKS, held_out], make_recipe(1, 1), LIMIT_TOKENS)
    assert exchanges(file)[file.segments :] == [(task.question, task.answer) for task in TASKS]
    assert b"a secret" not in file.content
    alone = build_training_file(make_document(60), TASKS, make_recipe(0, 1), LIMIT_TOKENS)
    assert (alone.segments, len(alone.line_tokens)) == (0, 12)
    assert alone.tokens == sum(estimate_chat_tokens([task.question, task.answer]) for task in TASKS)


def test_too_few_lines_are_refused() -> None:
    assert len(build_training_file(make_document(9), TASKS[:10], make_recipe(0, 1), LIMIT_TOKENS).line_tokens) == 10
    with pytest.raises(RemoteError, match="at least 10 lines in the training file, got 9"):
        build_training_file(make_document(9), TASKS[:9], make_recipe(0, 1), LIMIT_TOKENS)


def test_a_line_that_is_too_long_is_refused_with_its_number() -> None:
    tasks = [*TASKS, Task("What?", "word " * 100, (0,), "rules:object")]
    with pytest.raises(RemoteError, match=r"at most 100 tokens.*about 136 in line 13, a task"):
        build_training_file(make_document(9), tasks, make_recipe(0, 1), 100)
    with pytest.raises(RemoteError, match="line 1, a segment"):
        build_training_file(make_document(300), tasks, make_recipe(1, 0), 30)


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.remote.training_file.MOST_BYTES", 1000)
    with pytest.raises(RemoteError, match="at most 1,000 bytes"):
        build_training_file(make_document(9), TASKS, make_recipe(0, 1), LIMIT_TOKENS)


@pytest.mark.parametrize("text", ["", "abc", "a longer text of words, 1234567", "naïve 中文 text", "\ud800 \n"])
def test_estimated_tokens_cover_the_text_without_a_gap(text: str) -> None:
    offsets = token_offsets(text)
    assert "".join(text[start:end] for start, end in offsets) == text
    assert estimate_tokens(text) == len(offsets)
    if text.isascii():
        assert len(offsets) == math.ceil(len(text) / 4)


@pytest.mark.parametrize(
    ("model", "usd_per_million"),
    [
        ("gpt-3.5-turbo", 8.0),
        ("gpt-3.5-turbo-0125", 8.0),
        ("gpt-4o-mini-2024-07-18", 3.0),
        ("gpt-4.1-2025-04-14", 25.0),
        ("ft:gpt-4o-mini-2024-07-18:org::abc", 3.0),
        ("gpt-4o-audio-preview", None),
        ("llama", None),
    ],
)
def test_the_price_is_tokens_times_epochs_times_what_is_published(model: str, usd_per_million: float | None) -> None:
    file = TrainingFile(b"x" * 50, (1000, 3000), 1)
    estimate = estimate_price(file, model, OPENAI_URL, 3)
    assert (estimate.tokens, estimate.billed_tokens, estimate.lines, estimate.file_bytes) == (4000, 12000, 2, 50)
    if usd_per_million is None:
        assert estimate.price_usd is None
        assert str(estimate).endswith("price unknown")
    else:
        assert estimate.price_usd == pytest.approx(12000 * usd_per_million / 1e6)
        assert f"${estimate.price_usd:.2f}" in str(estimate)
    assert estimate_price(file, model, "http://127.0.0.1:8000/v1", 3).price_usd is None


def test_the_longest_line_is_the_models_else_what_is_set() -> None:
    assert line_limit_tokens("gpt-4o-mini", OPENAI_URL, 7) == 65536
    assert line_limit_tokens("gpt-4o-mini", "http://127.0.0.1:8000/v1", 7) == 7


@pytest.mark.parametrize("limit_tokens", [20, 21, 22, 23, 50, 111])
@pytest.mark.parametrize("word", ["word", "слово", "a"])
def test_a_text_is_cut_in_the_middle_to_what_fits(limit_tokens: int, word: str) -> None:
    document = make_document(400, word)
    cut, was_cut = fit_text("Who was it?", document.text, limit_tokens)
    assert was_cut
    used = estimate_chat_tokens([f"{cut}\n\nWho was it?"])
    assert limit_tokens - 5 <= used <= limit_tokens
    head, _, tail = cut.partition("...")
    assert document.text.startswith(head)
    assert document.text.endswith(tail)
    assert abs(estimate_tokens(head) - estimate_tokens(tail)) <= 2
    assert fit_text("Who was it?", "short", limit_tokens) == ("short", False)


def test_a_question_that_fills_the_window_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="longer than the 20 tokens"):
        fit_text("why " * 30, "text", 20)


def test_the_base_url_is_the_chosen_one_else_the_environments_else_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert resolve_base_url() == OPENAI_URL
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert resolve_base_url() == "http://127.0.0.1:1/v1"
    assert resolve_base_url("https://other/v1") == "https://other/v1"


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "https://", "http://[::1", "https://user:pass@host/v1"])
def test_a_base_url_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected a base URL") as caught:
        resolve_base_url(url)
    assert "pass@" not in str(caught.value)


def test_no_control_token_is_sent_whatever_the_model_calls_them() -> None:
    marks = "<|im_end|> <|eot_id|> <｜User｜> </s> [INST] <start_of_turn>"
    tasks = [
        Task(f"Who says {mark}?", f"{mark} {number}", (0,), "rules:subject")
        for number, mark in enumerate(marks.split())
    ]
    file = build_training_file(make_document(90, f"{marks} ", marks), [*tasks, *TASKS], make_recipe(1, 1), LIMIT_TOKENS)
    sent = file.content.decode()
    assert not [mark for mark in marks.split() if mark in sent]
    assert "< |im_end|>" in sent and "[ INST]" in sent
    plain = build_training_file(make_document(90), TASKS, make_recipe(1, 1), LIMIT_TOKENS)
    assert "answer 3" in plain.content.decode() and "wörter7" in plain.content.decode()
