"""A running request: its sequences in the scheduler, their texts as they grow, and its completion in the end."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lift.answering.answer import Answer
from lift.answering.steps import ModelRequest, ScoreRequest
from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.sampling import SampledToken, SamplingParams, row_generator
from lift.inference.scheduler import SequenceState, StepOutput
from lift.memories.memory import StoredMemory
from lift.packing.prompts import answer_ids
from lift.serving.conversation import Conversation
from lift.serving.detokenizer import IncrementalDetokenizer
from lift.serving.request import Completion, FinishReason, TextDelta, TokenInfo
from lift.serving.request_handle import RequestHandle


class QueuedRequest:
    """A question that waits: its handle, its memory as it was opened, and what its preparation has come to.

    That is its conversation, or the error that it cannot be asked for; neither as long as it is not prepared.
    """

    def __init__(self, handle: RequestHandle, memory: StoredMemory | None) -> None:
        self.handle, self.memory = handle, memory
        self.conversation: Conversation | None = None
        self.error: Exception | None = None

    @property
    def is_prepared(self) -> bool:
        """Whether the engine may take it."""
        return self.conversation is not None or self.error is not None

    def given_up(self, reason: FinishReason) -> Completion:
        """The completion of a request that was never begun."""
        seconds = time.monotonic() - self.handle.submitted
        return Completion("", reason, 0, 0, "none", (), None, False, 0, seconds, seconds)


@dataclass(eq=False)
class _Text:
    """One text of a question: its row in the batch, what it has said, and how it ended.

    `tokens`, the end token among them, are as likely as `logprob`, None where that is not told.
    """

    row: SequenceState
    stream: IncrementalDetokenizer
    end: FinishReason | None = None
    tokens: list[int] = field(default_factory=list)
    logprob: float | None = 0.0

    def add(self, sampled: SampledToken) -> None:
        """Another token, or the end token."""
        if sampled.token is not None:
            self.tokens.append(sampled.token)
        self.logprob = None if self.logprob is None or sampled.logprob is None else self.logprob + sampled.logprob

    @property
    def rows(self) -> list[SequenceState]:
        return [self.row]

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def result(self) -> str:
        return self.stream.text


@dataclass(eq=False)
class _Scores:
    """The scores of one request: a row of the batch for each of the answers, but those whose likelihood is known."""

    given: list[SequenceState]
    found: dict[SequenceState, float]

    @property
    def rows(self) -> list[SequenceState]:
        return [row for row in self.given if row not in self.found]

    @property
    def ended(self) -> bool:
        return not self.rows

    @property
    def result(self) -> list[float]:
        return [self.found[row] for row in self.given]


class RunningRequest:
    """One question in the batch, step by step. A single text is shown as it grows, one of several when it is chosen.

    `waits`: the rows of the step at hand are not in the batch yet. `shares`: what a prompt begins with need not be read
    again for another one; see can_share. `device`: where the model's logits are.
    """

    def __init__(
        self, handle: RequestHandle, conversation: Conversation, tokenizer: Any, *, shares: bool, device: torch.device
    ) -> None:
        self.handle = handle
        self.conversation = conversation
        self._tokenizer = tokenizer
        self._device = device
        self._begun = time.monotonic()
        self._step: list[_Text | _Scores] = []
        self._texts: list[_Text] = []  # of all steps
        self._shares = shares
        self._read = PrefixCache(worth_tokens=1)  # what later steps begin with
        self._known: dict[Hashable, Prefixes] = {}
        self._begin_step()

    @property
    def rows(self) -> list[SequenceState]:
        """Those of the step at hand."""
        return [row for part in self._step for row in part.rows]

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that its rows use, and that score their answers."""
        return {name for name, _ in self.conversation.loads}

    @property
    def ended(self) -> bool:
        """Whether all rows of the step at hand have said what they say."""
        return all(part.ended for part in self._step)

    def take(self, output: StepOutput) -> bool:
        """A row's next token, or its end; whether the row is to be taken out, since a stop text came."""
        part = next(part for part in self._step if output.row in part.rows)
        if isinstance(part, _Text):
            return self._take_text(part, output)
        if output.logprob is not None:
            part.found[output.row] = output.logprob
        return False

    def _take_text(self, text: _Text, output: StepOutput) -> bool:
        stream = text.stream
        deltas = []
        for sampled in (output.sampled, output.ending):
            if sampled is not None:
                text.add(sampled)
        if output.sampled is not None and output.sampled.token is not None:
            deltas.append(stream.append(output.sampled.token, self._info(output.sampled)))
        text.end = "stop" if stream.stopped else output.end
        if output.end and not stream.stopped:
            deltas.append(stream.close())
        if self.conversation.in_one_step:
            for delta in deltas:
                self._show(delta)
        return stream.stopped and output.end is None

    def advance(self) -> None:
        """Go on with the results of the step at hand, to the next one or the answer."""
        self.conversation.advance([part.result for part in self._step])
        self._begin_step()

    def finish(self, answer: Answer) -> None:
        """Give the answer that the route has come to: a text that was said, or what the route has in its place."""
        output = next((text for text in self._texts if text.stream.text == answer.text), None)
        if output is None:
            self._show(TextDelta(answer.text))
            self.handle.finish(self._completion(answer, self._texts[-1] if self._texts else None, "stop"))
            return
        if not self.conversation.in_one_step:
            self._show(output.stream.whole())
        self.handle.finish(self._completion(answer, output, output.end or "stop"))

    def give_up(self, reason: FinishReason) -> None:
        """Give what there is by now: the first text, which is what was read where the context is "auto"."""
        first = self._texts[0]
        rest = first.stream.close()
        self._show(rest if self.conversation.in_one_step else first.stream.whole())
        self.handle.finish(self._completion(self.conversation.partial_answer(first.stream.text), first, reason))

    def _begin_step(self) -> None:
        self._step = [self._part(model_request) for model_request in self.conversation.requests]
        self._texts += [part for part in self._step if isinstance(part, _Text)]
        self.waits = bool(self._step)

    def _part(self, model_request: ModelRequest) -> _Text | _Scores:
        alike = model_request.adapter if self._shares else (model_request.adapter, model_request.prompt_ids)
        known = self._known.setdefault(alike, Prefixes(self._read, alike))
        if isinstance(model_request, ScoreRequest):
            given = [answer_ids(self._tokenizer, answer) for answer in model_request.answers]
            rows = [
                SequenceState(model_request.prompt_ids, model_request.adapter, answer=ids, known=known) for ids in given
            ]
            found = {row: logprob for row in rows if (logprob := self._generated_logprob(row)) is not None}
            return _Scores(rows, found)
        sampling, request = self.handle.request.sampling, self.handle.request
        # a text that is continued may go on with white space, an answer does not begin with it
        strip = request.messages is not None
        row = SequenceState(
            model_request.prompt_ids,
            model_request.adapter,
            replace(_sampling_params(self.handle, self._device), excluded=model_request.excluded),
            model_request.max_new_tokens,
        )
        if not self.conversation.in_one_step:  # else nothing comes behind it
            row.known = known
            row.sampling = replace(row.sampling, top_logprobs=row.sampling.top_logprobs or 0)
        return _Text(
            row, IncrementalDetokenizer(self._tokenizer, sampling.stop, strip=strip, quotes=self.conversation.quotes)
        )

    def _generated_logprob(self, scored: SequenceState) -> float | None:
        """How likely a given answer is, where it was said behind the same prompt with the same adapter; else None."""
        wanted = [*scored.answer], scored.adapter, scored.prompt
        output = [text for text in self._texts if (text.tokens, text.row.adapter, text.row.prompt) == wanted]
        return output[0].logprob if output else None

    def _show(self, delta: TextDelta | None) -> None:
        if delta is not None:
            self.handle.put(delta)

    def _completion(self, answer: Answer, text: _Text | None, reason: FinishReason) -> Completion:
        return Completion(
            text=answer.text,
            finish_reason=reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=text.stream.tokens if text else 0,
            context=answer.context,
            evidence=answer.evidence,
            supported=None if self.conversation.memory is None else answer.supported,
            truncated=answer.truncated,
            dropped_turns=self.conversation.dropped_turns,
            seconds_waiting=self._begun - self.handle.submitted,
            seconds=time.monotonic() - self.handle.submitted,
            asked_as=self._asked_as(),
        )

    def _asked_as(self) -> str | None:
        posed = self.conversation.posed
        return posed.question if posed and posed.question != self.handle.request.question else None

    def _info(self, sampled: SampledToken) -> TokenInfo | None:
        if self.handle.request.sampling.logprobs is None or sampled.token is None or sampled.logprob is None:
            return None
        top = tuple((self._decode(token), logprob) for token, logprob in sampled.top_logprobs)
        return TokenInfo(self._decode(sampled.token), sampled.logprob, top)

    def _decode(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


def _sampling_params(handle: RequestHandle, device: torch.device) -> SamplingParams:
    sampling = handle.request.sampling
    generator = row_generator(sampling.seed, device) if sampling.temperature > 0 else None
    return SamplingParams(sampling.temperature, sampling.top_p, generator, sampling.logprobs)
