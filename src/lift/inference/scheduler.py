"""Continuous batching: the scheduler adds waiting sequences to the batch, decodes them, and takes out ended ones.

Every sequence has an adapter, sampling parameters and an end of its own. Its answer is the one that it would have alone
(generate.py). A sequence whose answer is given is scored: it is prefilled, and its log-probability is returned, without
decoding. Prefill is chunked (PREFILL_CHUNK_TOKENS between two tokens of those that decode), so decoding never stalls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch

from lift.errors import ModelError
from lift.inference.kv_cache import SlotKVCache
from lift.inference.prefill import Prefill, PrefillRequest, forward, group_alike
from lift.inference.prefix_cache import Prefixes
from lift.inference.sampling import SampledToken, SamplingParams, sample

_T = TypeVar("_T")
PREFILL_CHUNK_TOKENS = (
    128  # of waiting sequences, between two tokens of those that decode; small passes cost twice as much a token
)
PREFILL_TOKENS_PER_SEQUENCE = 8  # where many are there: most of them wait for their prefill
_PREFILL_ALONE_TOKENS = 1024  # where nobody waits for a token
_GROUP_TOKENS = 512  # that are read in common at most
_GROUP_BUDGET_TOKENS = 4096  # tokens, padding included, that rows with a given answer have in common at most


class AdapterAssignment(Protocol):
    """The adapter of each row of the batch."""

    def assign(self, names: Sequence[str | None]) -> None:
        """The batch has these rows from now on, or from the end of `aside` on."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Inside, the model is free for another batch."""
        ...


@dataclass(eq=False)
class SequenceState:
    """A sequence: the tokens of its prompt, the name of its adapter (None: the base), its sampling and its bound.

    With an `answer`, its end among its tokens, it is wanted how likely that is. `known`: prompts that were read for the
    same question with the same adapter; rows that have it in common leave there what they read, and one reads for all
    that have an answer behind the same prompt. With `max_tokens` 0 it is read, and nothing is said.
    """

    prompt: Sequence[int]
    adapter: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 1
    answer: Sequence[int] = ()
    known: Prefixes | None = None

    @property
    def span(self) -> int:
        """Columns that it takes at most."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class StepOutput:
    """The output of a step for one sequence: a token, `end`, or both, or the error that ended it.

    An end token is no part of the answer: then there is an end without a token, and `ending` is the end token.
    `logprob`: of a given answer.
    """

    row: SequenceState
    sampled: SampledToken | None = None
    end: Literal["stop", "length"] | None = None
    error: Exception | None = None
    logprob: float | None = None
    ending: SampledToken | None = None


class Scheduler:
    """Schedules up to `rows` sequences at a time within `token_budget` slots in all: the longest counts for each.

    Sequences with a given answer need no slot. `open_rows` opens a batch of waiting sequences with their adapters,
    beside the running one, whose adapters `assignment` holds. `prefixes(adapter)` is what is kept of prompts that were
    read with it.
    """

    def __init__(
        self,
        model: Any,
        assignment: AdapterAssignment,
        open_rows: Callable[[Sequence[str | None]], AbstractContextManager[Any]],
        *,
        end_ids: Iterable[int],
        rows: int = 32,
        token_budget: int = 32768,
        prefixes: Callable[[str | None], Prefixes | None] = lambda _adapter: None,
    ) -> None:
        self._model = model
        self._assignment = assignment
        self._open_rows = open_rows
        self._end_ids = frozenset(end_ids)
        self._prefixes = prefixes
        self.slots, self.token_budget = rows, token_budget
        self._cache = SlotKVCache(model, rows, token_budget)
        self._rows: list[SequenceState] = []
        self._tokens: list[int] = []  # the last of each row, not read yet
        self._given: list[int] = []  # tokens that each row has got
        self._waiting: deque[list[SequenceState]] = deque()
        self._reading: tuple[list[SequenceState], Prefill] | None = None
        self._reading_cache = SlotKVCache(model, rows, token_budget)

    @property
    def rows(self) -> list[SequenceState]:
        """All sequences, those that wait for their prefill too."""
        reading = [] if self._reading is None else self._reading[0]
        return [*self._rows, *reading, *(row for group in self._waiting for row in group)]

    def has_room(self, rows: Sequence[SequenceState], joining: Sequence[SequenceState] = ()) -> bool:
        """Whether these rows may join now, beside those that are `joining`; in an empty batch they always may."""
        present = _decoding([*self.rows, *joining])
        together = [*present, *_decoding(rows)]
        token_budget = len(together) * max((row.span for row in together), default=0)
        return len(together) <= self.slots and (token_budget <= self.token_budget or not present)

    def add(self, rows: Sequence[SequenceState]) -> None:
        """Add sequences, from the next step on; ValueError where a prompt is empty."""
        if any(not row.prompt for row in rows):
            raise ValueError("expected prompts of at least one token")
        scored = [row for row in rows if row.answer]
        for alike in (_decoding(rows), _shared_prompts(scored), scored):
            reads = [self._prefill_request(row) for row in alike]
            lengths = [len(each.inputs) for each in reads]
            left = [
                len(row.answer) if row.answer and row.known else length - each.known_tokens
                for row, each, length in zip(alike, reads, lengths, strict=True)
            ]
            for group in group_alike(left):
                fits = _GROUP_TOKENS // max(left[index] for index in group)
                if alike is scored:
                    fits = min(fits, _GROUP_BUDGET_TOKENS // max(lengths[index] for index in group))
                for first in range(0, len(group), max(fits, 1)):
                    self._waiting.append([alike[index] for index in group[first : first + max(fits, 1)]])

    @torch.inference_mode()
    def abort(self, rows: Iterable[SequenceState]) -> None:
        """Abort sequences, wherever they are; no output of theirs comes any more."""
        gone = set(rows)
        self._waiting = deque(kept for group in self._waiting if (kept := [row for row in group if row not in gone]))
        if self._reading is not None and gone.issuperset(self._reading[0]):
            self._reading = None
        elif self._reading is not None and gone.intersection(self._reading[0]):
            # what the others have read is lost, and they are soon where they were
            self._waiting.appendleft([row for row in self._reading[0] if row not in gone])
            self._reading = None
        running = [index for index, row in enumerate(self._rows) if row in gone]
        if running:
            for index in reversed(running):
                self._drop(index)
            self._assign()

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Prefill a chunk of the waiting sequences, and decode the next token of the others; an output for each."""
        outputs = self._prefill()
        if self._rows:
            outputs += self._decode()
        return outputs

    def _prefill(self) -> list[StepOutput]:
        most = (
            max(PREFILL_CHUNK_TOKENS, PREFILL_TOKENS_PER_SEQUENCE * len(self.rows))
            if self._rows
            else _PREFILL_ALONE_TOKENS
        )
        budget = most
        outputs: list[StepOutput] = []
        while (self._reading or self._waiting) and (budget == most or budget >= PREFILL_CHUNK_TOKENS):
            group = self._waiting.popleft() if self._reading is None else self._reading[0]
            with self._assignment.aside():
                try:
                    done, first_tokens = self._prefill_chunk(group, budget)
                except Exception as error:
                    self._reading = None
                    if len(group) == 1:
                        outputs.append(StepOutput(group[0], error=error))
                    else:  # whoever is to blame fails alone
                        self._waiting.extendleft([row] for row in reversed(group))
                    continue
                budget -= done
                if first_tokens:
                    outputs += self._begin_decoding(group, first_tokens)
        return outputs

    def _prefill_chunk(self, group: list[SequenceState], budget: int) -> tuple[int, list[SampledToken | float]]:
        """Prefill up to `budget` tokens; how many, and at the end each row's first token, or its answer's log P."""
        if self._reading is None:
            self._reading = (
                group,
                Prefill(self._model, [self._prefill_request(row) for row in group], self._reading_cache),
            )
        prefill = self._reading[1]
        before = prefill.tokens
        with self._open_rows([row.adapter for row in group]):
            logits = prefill.read(budget)
        if logits is None:
            return before - prefill.tokens, []
        self._reading = None
        if group[0].answer:
            return before, [*prefill.log_probabilities(logits)]
        if not group[0].max_tokens:
            return before, []
        sampled = sample(logits[:, -1], [row.sampling for row in group])
        for index, row in enumerate(group):
            self._cache.begin(prefill.cache.row(index), len(row.prompt))
        return before, [*sampled]

    def _prefill_request(self, row: SequenceState) -> PrefillRequest:
        known = (row.known, self._prefixes(row.adapter))
        return PrefillRequest(row.prompt, row.answer, [each for each in known if each is not None])

    def _decode(self) -> list[StepOutput]:
        ids = torch.tensor(self._tokens)[:, None]  # [B, 1]
        lengths = [length + 1 for length in self._cache.lengths]
        logits = forward(self._model, self._cache, ids, lengths)
        sampled = sample(logits[:, -1], [row.sampling for row in self._rows])
        outputs, ended = [], []
        for index, each in enumerate(sampled):
            outputs.append(self._output(self._rows[index], each, self._given[index]))
            self._given[index] += 1
            self._tokens[index] = each.token or 0
            if outputs[-1].end or outputs[-1].error:
                ended.append(index)
        for index in reversed(ended):
            self._drop(index)
        if ended:
            self._assign()
        return outputs

    def _begin_decoding(
        self, group: Sequence[SequenceState], first_tokens: Sequence[SampledToken | float]
    ) -> list[StepOutput]:
        """The first outputs of prefilled sequences: they decode from now on, but for those that end at once."""
        outputs: list[StepOutput] = []
        first = len(self._rows)
        for row, each in zip(group, first_tokens, strict=True):
            if isinstance(each, float):
                outputs.append(_scored(row, each))
                continue
            outputs.append(self._output(row, each, 0))
            self._rows.append(row)
            self._tokens.append(each.token or 0)
            self._given.append(1)
        for index in reversed(range(len(self._rows) - first)):
            if outputs[index].end or outputs[index].error:
                self._drop(first + index)
        self._assign()
        return outputs

    def _output(self, row: SequenceState, sampled: SampledToken, given: int) -> StepOutput:
        if sampled.token is None:
            return StepOutput(row, error=_not_finite(row))
        if sampled.token in self._end_ids:
            return StepOutput(row, end="stop", ending=sampled)
        return StepOutput(row, sampled, "length" if given + 1 >= row.max_tokens else None)

    def _drop(self, index: int) -> None:
        """Take a running row out; the last one takes its place, as in the cache."""
        self._cache.remove(index)
        _replace_by_last(self._rows, index)
        _replace_by_last(self._tokens, index)
        _replace_by_last(self._given, index)

    def _assign(self) -> None:
        self._assignment.assign([row.adapter for row in self._rows])


def _decoding(rows: Sequence[SequenceState]) -> list[SequenceState]:
    return [row for row in rows if not row.answer and row.max_tokens]


def _shared_prompts(scored: Sequence[SequenceState]) -> list[SequenceState]:
    """Rows that only read: the prompts that several rows have in common and nobody has read. They are heard of never.

    Where one fails, each of the others reads for itself.
    """
    unread: dict[tuple[Prefixes, tuple[int, ...]], SequenceState] = {}
    for row in scored:
        if row.known is not None and row.known.known_tokens(row.prompt) < len(row.prompt):
            reads = SequenceState(row.prompt, row.adapter, max_tokens=0, known=row.known)
            unread.setdefault((row.known, tuple(row.prompt)), reads)
    return list(unread.values())


def _scored(row: SequenceState, logprob: float) -> StepOutput:
    if not math.isfinite(logprob):
        return StepOutput(row, error=_not_finite(row))
    return StepOutput(row, end="stop", logprob=logprob)


def _not_finite(row: SequenceState) -> ModelError:
    return ModelError(
        f"expected finite numbers from the model, got others with {row.adapter or 'no adapter'}; "
        "verify the memory's files, or absorb its text again with a lower learning rate"
    )


def _replace_by_last(values: list[_T], index: int) -> None:
    last = values.pop()
    if index < len(values):
        values[index] = last
