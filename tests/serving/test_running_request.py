"""A question in the batch: its rows step by step, and what of a vote is known before anything is asked."""

from __future__ import annotations

import pytest

from lift.answering.strategies import AnsweringAdapters, Strategies
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.inference.sampling import SampledToken
from lift.inference.scheduler import SequenceState, StepOutput
from lift.models.base_model import BaseModel
from lift.packing.prompts import TEXT_TELLS_NOTHING, answer_ids
from lift.serving.conversation import Conversation
from lift.serving.request import Message, Request, Sampling
from lift.serving.request_handle import RequestHandle
from lift.serving.running_request import RunningRequest

TEXT = "The tower burned in 1907. It owns 42 lenses. It was built anew in 1911."
EACH = -0.25  # log-probability of every token that is said


@pytest.fixture
def running(tiny_model: BaseModel, request: pytest.FixtureRequest) -> RunningRequest:
    """A question by "auto", that has been read and recalled next; `request.param` changes its sampling."""
    sampling = Sampling(max_tokens=8, **getattr(request, "param", {}))
    asked = Request("tower", (Message("user", "When did the tower with the lenses burn?"),), sampling=sampling)
    routes = Strategies(
        tiny_model,
        Document("Tower", TEXT, "test"),
        split_sentences(TEXT),
        AnsweringAdapters("memory", "reader", cites=True),
    )
    conversation = Conversation(asked, routes, [], None)
    return RunningRequest(
        RequestHandle(asked), conversation, tiny_model.tokenizer, shares=True, device=tiny_model.device
    )


def say(running: RunningRequest, row: SequenceState, base: BaseModel, text: str, *, ends: bool = True) -> None:
    """Let the row say the text token by token, and its end where it comes to it before its bound."""
    *tokens, end = answer_ids(base.tokenizer, text)
    for token in tokens[:-1] if not ends else tokens:
        running.take(StepOutput(row, SampledToken(token, EACH)))
    last = (
        StepOutput(row, end="stop", ending=SampledToken(end, EACH))
        if ends
        else StepOutput(row, SampledToken(tokens[-1], EACH), "length")
    )
    running.take(last)


def answer_of(base: BaseModel, row: SequenceState) -> str:
    text: str = base.tokenizer.decode(row.answer[:-1])
    return text


def test_what_was_said_is_not_judged_again(tiny_model: BaseModel, running: RunningRequest) -> None:
    read, recalled = running.rows
    say(running, read, tiny_model, "1907")
    say(running, recalled, tiny_model, "1911")
    running.advance()
    judged = [(row.adapter, answer_of(tiny_model, row)) for row in running.rows]
    refusal = ("reader", TEXT_TELLS_NOTHING)
    assert judged == [("reader", "1911"), refusal, ("memory", "1907"), ("reader", "1907"), ("reader", "1911")]
    for row in running.rows:
        running.take(StepOutput(row, end="stop", logprob=-9.0))
    assert running.ended
    running.advance()
    answer = running.conversation.answer
    # what each of them said is as likely to itself as its tokens were, so the reader's own counts in full
    assert answer is not None
    assert answer.text == "1907"


def test_an_answer_that_was_cut_off_is_judged(tiny_model: BaseModel, running: RunningRequest) -> None:
    read, recalled = running.rows
    say(running, read, tiny_model, "1907", ends=False)
    say(running, recalled, tiny_model, "1911")
    running.advance()
    judged = [(row.adapter, answer_of(tiny_model, row)) for row in running.rows]
    assert judged.count(("reader", "1907")) == 2


@pytest.mark.parametrize("running", [{}, {"logprobs": 0}], indirect=True)
def test_log_probabilities_are_told_only_who_asked(tiny_model: BaseModel, running: RunningRequest) -> None:
    for row in running.rows:
        say(running, row, tiny_model, "1907")
    running.advance()
    answer = running.conversation.answer
    assert answer is not None
    running.finish(answer)
    told = [token.logprob for delta in running.handle.deltas() for token in delta.tokens]
    asked = running.handle.request.sampling.logprobs is not None
    assert told == ([EACH] * len(answer_ids(tiny_model.tokenizer, "1907")[:-1]) if asked else [])


def test_what_a_later_step_reads_goes_on_where_the_first_ended(tiny_model: BaseModel, running: RunningRequest) -> None:
    read, recalled = running.rows
    assert read.known is not None
    assert recalled.known is not None
    say(running, read, tiny_model, "1907")
    say(running, recalled, tiny_model, "1911")
    running.advance()
    known = {row.adapter: row.known for row in running.rows}
    assert known == {"reader": read.known, "memory": recalled.known}, "expected what one adapter read to stay its own"
