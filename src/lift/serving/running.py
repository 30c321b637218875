"""A question that is being answered: its rows in the batch, their texts as they grow, and what is given in the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lift.answering import Answer
from lift.memories.memory import Memory
from lift.models.running_batch import Row, Said
from lift.models.sampling import Drawing, Drawn
from lift.serving.conversation import Conversation
from lift.serving.request import Completion, FinishReason, TokenInfo
from lift.serving.text_stream import TextStream
from lift.serving.ticket import Ticket


class Asked:
    """A question that waits: its ticket, its memory as it was opened, and its prompts once they are made."""

    def __init__(self, ticket: Ticket, memory: Memory | None) -> None:
        self.ticket, self.memory = ticket, memory
        self.conversation: Conversation | None = None

    def given_up(self, reason: FinishReason) -> Completion:
        """What comes back of a question that was never begun."""
        seconds = time.monotonic() - self.ticket.submitted
        return Completion("", reason, 0, 0, "none", (), None, False, 0, seconds, seconds)


class Running:
    """One question in the batch. A single answer is shown as it grows, those of "auto" when one of them is chosen."""

    def __init__(self, ticket: Ticket, conversation: Conversation, tokenizer: Any) -> None:
        self.ticket = ticket
        self.conversation = conversation
        self._tokenizer = tokenizer
        self._begun = time.monotonic()
        sampling, request = ticket.request.sampling, ticket.request
        self.rows = [
            Row(part.prompt.ids, part.adapter, _drawing(ticket), sampling.max_tokens) for part in conversation.parts
        ]
        # a text that is continued may go on with white space, an answer does not begin with it
        strip = request.messages is not None
        self._streams = [TextStream(tokenizer, sampling.stop, strip=strip) for _ in self.rows]
        self._ends: list[FinishReason | None] = [None] * len(self.rows)

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that its rows use, and that judge their answers."""
        return {name for name, _ in self.conversation.loads}

    @property
    def ended(self) -> bool:
        """Whether all of its rows have said what they say."""
        return all(self._ends)

    @property
    def is_vote(self) -> bool:
        """Whether one of several answers is to be chosen."""
        return len(self.rows) > 1

    @property
    def tokens(self) -> int:
        """Tokens that its rows have got."""
        return sum(stream.tokens for stream in self._streams)

    def hear(self, said: Said) -> bool:
        """A row's next token, or its end; whether the row is to be taken out, since a stop text came."""
        index = self.rows.index(said.row)
        stream = self._streams[index]
        pieces = []
        if said.drawn is not None and said.drawn.token is not None:
            pieces.append(stream.hear(said.drawn.token, self._info(said.drawn)))
        self._ends[index] = "stop" if stream.stopped else said.end
        if said.end and not stream.stopped:
            pieces.append(stream.close())
        if not self.is_vote:
            for piece in pieces:
                if piece is not None:
                    self.ticket.put(piece)
        return stream.stopped and said.end is None

    def answers(self) -> list[Answer]:
        """What its rows have said."""
        return self.conversation.answers([stream.text for stream in self._streams], time.monotonic() - self._begun)

    def finish(self, answers: Sequence[Answer], chosen: int) -> None:
        """Give one of the answers."""
        answer = self.conversation.settled(answers, chosen)
        if self.is_vote:
            piece = self._streams[chosen].whole()
            if piece is not None:
                self.ticket.put(piece)
        self.ticket.finish(self._completion(answer, chosen, self._ends[chosen] or "stop"))

    def give_up(self, reason: FinishReason) -> None:
        """Give what there is by now: of several answers what was read."""
        for stream in self._streams:
            piece = stream.close()
            if piece is not None and not self.is_vote:
                self.ticket.put(piece)
        if self.is_vote and (piece := self._streams[0].whole()) is not None:
            self.ticket.put(piece)
        self.ticket.finish(self._completion(self.answers()[0], 0, reason))

    def _completion(self, answer: Answer, chosen: int, reason: FinishReason) -> Completion:
        return Completion(
            text=answer.text,
            finish_reason=reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=self._streams[chosen].tokens,
            context=answer.context,
            evidence=answer.evidence,
            supported=None if self.conversation.answerer is None else answer.supported,
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
