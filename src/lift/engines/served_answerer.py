"""Questions to memories on a model that a server computes: the same strategies, each request a sequence there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lift.adapters.resident import Load
from lift.answering.answer import Answer, check_questions
from lift.answering.answerer import ShownText, stored_adapters, strategies_of
from lift.answering.steps import GenerateRequest, ModelRequest, run_strategies
from lift.answering.strategies import Strategies
from lift.documents.document import Document
from lift.engines.served_model import ServedModel
from lift.inference.sampling import SamplingParams
from lift.inference.scheduler import SequenceState
from lift.memories.memory import StoredMemory
from lift.models.control_tokens import decode_content
from lift.packing.prompts import PLAIN_FORM, answer_ids

RESIDENT_MEMORIES = 32


def open_served_memory(memory: StoredMemory, base: ServedModel) -> ServedAnswerer:
    """Answer from a memory on a served model; the server loads its adapters with the first question.

    Raises WrongBaseModelError for a memory of other weights, UsageError for one that the server has no place for, with
    the way out, and LibraryError where its files are damaged.
    """
    strategies, loads = _opened(memory, base)
    return ServedAnswerer(base, strategies, loads)


class ServedAnswerer:
    """Answers questions about one document as answering.Answerer does; any number of threads may ask at once."""

    def __init__(self, base: ServedModel, strategies: Strategies, loads: Mapping[str, Load]) -> None:
        self.base = base
        self.strategies = strategies
        self._loads = loads

    @property
    def document(self) -> Document:
        """The document that is asked about."""
        return self.strategies.document

    def ask(self, question: str, context: str = "auto", *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer one question; `on_text` gets the text piece by piece. See ask_many for what is raised."""
        return self.ask_many([question], context, on_text=on_text)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        context: str = "auto",
        *,
        max_new_tokens: int | None = None,
        batch_size: int = 16,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer in the order of the questions, at most `batch_size` texts at a time.

        Raises UsageError for an unknown context, an empty question, or a text that does not fit the window, and
        EngineError where the server refuses, or does not come back.
        """
        check_questions(questions, context)
        streamed = on_text if len(questions) == 1 and self.strategies.in_one_step(context, questions[0]) else None
        asked = [(self.strategies, question) for question in questions]
        answers = _answer(self.base, asked, self._loads, context, max_new_tokens, batch_size, streamed)
        if on_text and streamed is None:
            for answer in answers:
                on_text(answer.text)
        return answers


def ask_served_memories(
    base: ServedModel,
    asked: Sequence[tuple[StoredMemory, str]],
    context: str = "none",
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
) -> list[Answer]:
    """The answer of each memory to its question, in the order asked, as many_memories.ask_memories.

    Raises as open_served_memory and ServedAnswerer.ask_many.
    """
    check_questions([question for _, question in asked], context)
    opened = {memory: _opened(memory, base) for memory, _ in asked}
    loads = {key: load for _, found in opened.values() for key, load in found.items()}
    ways = [(opened[memory][0], question) for memory, question in asked]
    return _answer(base, ways, loads, context, max_new_tokens, batch_size, None)


def _opened(memory: StoredMemory, base: ServedModel) -> tuple[Strategies, dict[str, Load]]:
    """The strategies to a memory's answers, and the adapters that they name."""
    key, reader, loads = stored_adapters(memory, base)
    base.connection.server.check_memory(memory)
    return strategies_of(memory, base, PLAIN_FORM, key, reader), loads


def _answer(
    base: ServedModel,
    asked: Sequence[tuple[Strategies, str]],
    loads: Mapping[str, Load],
    context: str,
    max_new_tokens: int | None,
    batch_size: int,
    on_text: Callable[[str], None] | None,
) -> list[Answer]:
    """Run all strategies side by side; the time of an answer is its share of the whole."""
    backend = base.backend(batch_size)
    started = time.perf_counter()
    with backend.opened():
        backend.hold(loads, max(RESIDENT_MEMORIES, len(loads)))

        def execute(requests: Sequence[ModelRequest]) -> list[Any]:
            quotes = asked[0][0].quotes
            shown = ShownText(base.tokenizer, on_text, quotes) if on_text else None
            rows = [_sequences(base, request) for request in requests]
            told: dict[SequenceState, list[int]] = {row: [] for each in rows for row in each}
            scores: dict[SequenceState, float] = {}
            for output in backend.run(list(told)):
                if output.logprob is not None:
                    scores[output.row] = output.logprob
                elif output.sampled is not None and output.sampled.token is not None:
                    told[output.row].append(output.sampled.token)
                    if shown:
                        shown.hear(0, output.sampled.token)
            if shown:
                shown.close()
            return [
                decode_content(base.tokenizer, told[each[0]]).strip()
                if isinstance(request, GenerateRequest)
                else [scores[row] for row in each]
                for request, each in zip(requests, rows, strict=True)
            ]

        answers = run_strategies([way.to(question, context, max_new_tokens) for way, question in asked], execute)
    seconds = (time.perf_counter() - started) / max(len(asked), 1)
    return [replace(answer, seconds=seconds) for answer in answers]


def _sequences(base: ServedModel, request: ModelRequest) -> list[SequenceState]:
    """A sequence for a text, and one for each answer that is to be judged."""
    if isinstance(request, GenerateRequest):
        sampling = SamplingParams(excluded=request.excluded)
        return [SequenceState(request.prompt_ids, request.adapter, sampling, request.max_new_tokens)]
    return [
        SequenceState(request.prompt_ids, request.adapter, answer=answer_ids(base.tokenizer, answer))
        for answer in request.answers
    ]
