"""A question that is being answered: its rows in the batch, their texts as they grow, and what is given in the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.answers import Answer
from lift.asking import Judge, Say
from lift.memories.memory import Memory
from lift.models.running_batch import Row, Said
from lift.models.sampling import Drawing, Drawn
from lift.serving.conversation import Conversation
from lift.serving.request import Completion, FinishReason, Piece, TokenInfo
from lift.serving.text_stream import TextStream
from lift.serving.ticket import Ticket


class Asked:
    """A question that waits: its ticket, its memory as it was opened, and its conversation once it is begun."""

    def __init__(self, ticket: Ticket, memory: Memory | None) -> None:
        self.ticket, self.memory = ticket, memory
        self.conversation: Conversation | None = None

    def given_up(self, reason: FinishReason) -> Completion:
        """What comes back of a question that was never begun."""
        seconds = time.monotonic() - self.ticket.submitted
        return Completion("", reason, 0, 0, "none", (), None, False, 0, seconds, seconds)


@dataclass(eq=False)
class _Text:
    """One text of a question: its row in the batch, what it has said, and how it ended."""

    row: Row
    stream: TextStream
    end: FinishReason | None = None


class Running:
    """One question in the batch, step by step. A single text is shown as it grows, one of several when it is chosen.

    `waits`: the rows of the step at hand are not in the batch yet.
    """

    def __init__(self, ticket: Ticket, conversation: Conversation, tokenizer: Any) -> None:
        self.ticket = ticket
        self.conversation = conversation
        self._tokenizer = tokenizer
        self._begun = time.monotonic()
        self._step: list[_Text] = []
        self._texts: list[_Text] = []  # of all steps
        self._begin_step()

    @property
    def rows(self) -> list[Row]:
        """Those of the step at hand."""
        return [text.row for text in self._step]

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that its rows use, and that judge their answers."""
        return {name for name, _ in self.conversation.loads}

    @property
    def ended(self) -> bool:
        """Whether all rows of the step at hand have said what they say."""
        return all(text.end for text in self._step)

    @property
    def judges(self) -> list[Judge]:
        """What is to be judged at the step at hand."""
        return [want for want in self.conversation.wants if isinstance(want, Judge)]

    def hear(self, said: Said) -> bool:
        """A row's next token, or its end; whether the row is to be taken out, since a stop text came."""
        text = self._step[self.rows.index(said.row)]
        stream = text.stream
        pieces = []
        if said.drawn is not None and said.drawn.token is not None:
            pieces.append(stream.hear(said.drawn.token, self._info(said.drawn)))
        text.end = "stop" if stream.stopped else said.end
        if said.end and not stream.stopped:
            pieces.append(stream.close())
        if self.conversation.in_one_step:
            for piece in pieces:
                self._show(piece)
        return stream.stopped and said.end is None

    def go_on(self, judgements: Sequence[list[float]]) -> None:
        """Go on with the texts of the step at hand and what its `judges` have found, to the next one or the answer."""
        texts, found = iter([text.stream.text for text in self._step]), iter(judgements)
        brought = [next(texts) if isinstance(want, Say) else next(found) for want in self.conversation.wants]
        self.conversation.go_on(brought)
        self._begin_step()

    def finish(self, answer: Answer) -> None:
        """Give the answer that the route has come to."""
        chosen = self._texts[[text.stream.text for text in self._texts].index(answer.text)]
        if not self.conversation.in_one_step:
            self._show(chosen.stream.whole())
        self.ticket.finish(self._completion(answer, chosen, chosen.end or "stop"))

    def give_up(self, reason: FinishReason) -> None:
        """Give what there is by now: the first text, which is what was read where the context is "auto"."""
        first = self._texts[0]
        rest = first.stream.close()
        self._show(rest if self.conversation.in_one_step else first.stream.whole())
        self.ticket.finish(self._completion(self.conversation.so_far(first.stream.text), first, reason))

    def _begin_step(self) -> None:
        sampling, request = self.ticket.request.sampling, self.ticket.request
        # a text that is continued may go on with white space, an answer does not begin with it
        strip = request.messages is not None
        self._step = [
            _Text(
                Row(want.prompt_ids, want.adapter, _drawing(self.ticket), want.max_new_tokens),
                TextStream(self._tokenizer, sampling.stop, strip=strip),
            )
            for want in self.conversation.wants
            if isinstance(want, Say)
        ]
        self._texts += self._step
        self.waits = bool(self._step)

    def _show(self, piece: Piece | None) -> None:
        if piece is not None:
            self.ticket.put(piece)

    def _completion(self, answer: Answer, text: _Text, reason: FinishReason) -> Completion:
        return Completion(
            text=answer.text,
            finish_reason=reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=text.stream.tokens,
            context=answer.context,
            evidence=answer.evidence,
            supported=None if self.conversation.memory is None else answer.supported,
            truncated=answer.truncated,
            dropped_turns=self.conversation.dropped_turns,
            seconds_waiting=self._begun - self.ticket.submitted,
            seconds=time.monotonic() - self.ticket.submitted,
        )

    def _info(self, drawn: Drawn) -> TokenInfo | None:
        if drawn.token is None or drawn.logprob is None:
            return None
        top = tuple((self._decode(token), logprob) for token, logprob in drawn.likeliest)
        return TokenInfo(self._decode(drawn.token), drawn.logprob, top)

    def _decode(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


def _drawing(ticket: Ticket) -> Drawing:
    sampling = ticket.request.sampling
    generator = None
    if sampling.temperature > 0:
        generator = torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
    return Drawing(sampling.temperature, sampling.top_p, generator, sampling.logprobs)
