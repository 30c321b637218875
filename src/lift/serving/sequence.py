"""A question that is being answered: its rows in the batch, their texts as they grow, and what is given in the end."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lift.answering.answer import Answer
from lift.answering.steps import Judge, Want
from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.sampling import Drawing, Drawn, row_generator
from lift.inference.scheduler import Row, Said
from lift.memories.memory import Memory
from lift.packing.prompts import answer_ids
from lift.serving.conversation import Conversation
from lift.serving.detokenizer import TextStream
from lift.serving.request import Completion, FinishReason, Piece, TokenInfo
from lift.serving.request_handle import Ticket


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
    """One text of a question: its row in the batch, what it has said, and how it ended.

    `tokens`, the end token among them, are as likely as `logprob`, None where that is not told.
    """

    row: Row
    stream: TextStream
    end: FinishReason | None = None
    tokens: list[int] = field(default_factory=list)
    logprob: float | None = 0.0

    def add(self, drawn: Drawn) -> None:
        """Another token, or the end token."""
        if drawn.token is not None:
            self.tokens.append(drawn.token)
        self.logprob = None if self.logprob is None or drawn.logprob is None else self.logprob + drawn.logprob

    @property
    def rows(self) -> list[Row]:
        return [self.row]

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def brought(self) -> str:
        return self.stream.text


@dataclass(eq=False)
class _Judgement:
    """What one judge finds: a row of the batch for each of the answers, but those whose likelihood is known."""

    given: list[Row]
    found: dict[Row, float]

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.given if row not in self.found]

    @property
    def ended(self) -> bool:
        return not self.rows

    @property
    def brought(self) -> list[float]:
        return [self.found[row] for row in self.given]


class Running:
    """One question in the batch, step by step. A single text is shown as it grows, one of several when it is chosen.

    `waits`: the rows of the step at hand are not in the batch yet. `shares`: what a prompt begins with need not be read
    again for another one; see can_share. `device`: where the model's logits are.
    """

    def __init__(
        self, ticket: Ticket, conversation: Conversation, tokenizer: Any, *, shares: bool, device: torch.device
    ) -> None:
        self.ticket = ticket
        self.conversation = conversation
        self._tokenizer = tokenizer
        self._device = device
        self._begun = time.monotonic()
        self._step: list[_Text | _Judgement] = []
        self._texts: list[_Text] = []  # of all steps
        self._shares = shares
        self._read = PrefixCache(worth_tokens=1)  # what later steps begin with
        self._known: dict[Hashable, Prefixes] = {}
        self._begin_step()

    @property
    def rows(self) -> list[Row]:
        """Those of the step at hand."""
        return [row for part in self._step for row in part.rows]

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that its rows use, and that judge their answers."""
        return {name for name, _ in self.conversation.loads}

    @property
    def ended(self) -> bool:
        """Whether all rows of the step at hand have said what they say."""
        return all(part.ended for part in self._step)

    def hear(self, said: Said) -> bool:
        """A row's next token, or its end; whether the row is to be taken out, since a stop text came."""
        part = next(part for part in self._step if said.row in part.rows)
        if isinstance(part, _Text):
            return self._hear_text(part, said)
        if said.logprob is not None:
            part.found[said.row] = said.logprob
        return False

    def _hear_text(self, text: _Text, said: Said) -> bool:
        stream = text.stream
        pieces = []
        for drawn in (said.drawn, said.ending):
            if drawn is not None:
                text.add(drawn)
        if said.drawn is not None and said.drawn.token is not None:
            pieces.append(stream.hear(said.drawn.token, self._info(said.drawn)))
        text.end = "stop" if stream.stopped else said.end
        if said.end and not stream.stopped:
            pieces.append(stream.close())
        if self.conversation.in_one_step:
            for piece in pieces:
                self._show(piece)
        return stream.stopped and said.end is None

    def go_on(self) -> None:
        """Go on with what the step at hand has brought, to the next one or the answer."""
        self.conversation.go_on([part.brought for part in self._step])
        self._begin_step()

    def finish(self, answer: Answer) -> None:
        """Give the answer that the route has come to: a text that was said, or what the route has in its place."""
        said = next((text for text in self._texts if text.stream.text == answer.text), None)
        if said is None:
            self._show(Piece(answer.text))
            self.ticket.finish(self._completion(answer, self._texts[-1] if self._texts else None, "stop"))
            return
        if not self.conversation.in_one_step:
            self._show(said.stream.whole())
        self.ticket.finish(self._completion(answer, said, said.end or "stop"))

    def give_up(self, reason: FinishReason) -> None:
        """Give what there is by now: the first text, which is what was read where the context is "auto"."""
        first = self._texts[0]
        rest = first.stream.close()
        self._show(rest if self.conversation.in_one_step else first.stream.whole())
        self.ticket.finish(self._completion(self.conversation.so_far(first.stream.text), first, reason))

    def _begin_step(self) -> None:
        self._step = [self._part(want) for want in self.conversation.wants]
        self._texts += [part for part in self._step if isinstance(part, _Text)]
        self.waits = bool(self._step)

    def _part(self, want: Want) -> _Text | _Judgement:
        alike = want.adapter if self._shares else (want.adapter, want.prompt_ids)
        known = self._known.setdefault(alike, Prefixes(self._read, alike))
        if isinstance(want, Judge):
            given = [answer_ids(self._tokenizer, answer) for answer in want.answers]
            rows = [Row(want.prompt_ids, want.adapter, answer=ids, known=known) for ids in given]
            found = {row: logprob for row in rows if (logprob := self._logprob_said(row)) is not None}
            return _Judgement(rows, found)
        sampling, request = self.ticket.request.sampling, self.ticket.request
        # a text that is continued may go on with white space, an answer does not begin with it
        strip = request.messages is not None
        row = Row(want.prompt_ids, want.adapter, _drawing(self.ticket, self._device), want.max_new_tokens)
        if not self.conversation.in_one_step:  # else nothing comes behind it
            row.known = known
            row.drawing = replace(row.drawing, told=row.drawing.told or 0)
        return _Text(row, TextStream(self._tokenizer, sampling.stop, strip=strip, quotes=self.conversation.quotes))

    def _logprob_said(self, judged: Row) -> float | None:
        """How likely a given answer is, where it was said behind the same prompt with the same adapter; else None."""
        wanted = [*judged.answer], judged.adapter, judged.prompt
        said = [text for text in self._texts if (text.tokens, text.row.adapter, text.row.prompt) == wanted]
        return said[0].logprob if said else None

    def _show(self, piece: Piece | None) -> None:
        if piece is not None:
            self.ticket.put(piece)

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
            seconds_waiting=self._begun - self.ticket.submitted,
            seconds=time.monotonic() - self.ticket.submitted,
            asked_as=self._asked_as(),
        )

    def _asked_as(self) -> str | None:
        posed = self.conversation.posed
        return posed.question if posed and posed.question != self.ticket.request.question else None

    def _info(self, drawn: Drawn) -> TokenInfo | None:
        if self.ticket.request.sampling.logprobs is None or drawn.token is None or drawn.logprob is None:
            return None
        top = tuple((self._decode(token), logprob) for token, logprob in drawn.likeliest)
        return TokenInfo(self._decode(drawn.token), drawn.logprob, top)

    def _decode(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


def _drawing(ticket: Ticket, device: torch.device) -> Drawing:
    sampling = ticket.request.sampling
    generator = row_generator(sampling.seed, device) if sampling.temperature > 0 else None
    return Drawing(sampling.temperature, sampling.top_p, generator, sampling.logprobs)
