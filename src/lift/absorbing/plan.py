"""The plan of an absorption: its numbers, as the command line and the server show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The cost of absorbing a document, and after how many questions it has paid.

    `full_read_s` and `ask_s`: seconds of one question with the whole text in the prompt and with none of it;
    `full_read_s` is None where the text does not fit the window, and `break_even_questions` where nothing is saved.
    `requests` to a language model that writes the tasks, `cached_requests` of them are answered already; its tasks are
    not known yet, so those of the rules stand in for them. `warnings`: sentences about what of the original is not in
    the text, and what no questions are made of.
    """

    title: str
    tokens: int
    sentences: int
    tasks: int
    epochs: float
    train_tokens: int
    tokens_per_s: float
    seconds: float
    peak_bytes: int
    adapter_bytes: int
    full_read_s: float | None
    ask_s: float
    break_even_questions: int | None
    requests: int
    cached_requests: int
    warnings: tuple[str, ...]
