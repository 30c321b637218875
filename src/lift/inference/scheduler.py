"""Continuous batching: rows join a running batch when their prompts are read, and leave it when their answers end.

Every row has an adapter, a way of drawing and an end of its own. A row's answer is the one that it would have alone
(generate.py). A row whose answer is given is read, and is told how likely it is, without ever running. Between two
tokens of the rows that run, only so many tokens of newcomers are read, so that nobody stands still for a long prompt.
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
from lift.inference.kv_cache import RunningCache
from lift.inference.prefill import Behind, Prefill, forward, group_alike
from lift.inference.prefix_cache import Prefixes
from lift.inference.sampling import Drawing, Drawn, draw

_T = TypeVar("_T")
READ_TOKENS = 128  # of newcomers, between two tokens of those that run; small passes cost twice as much a token
READ_TOKENS_A_ROW = 8  # where many are there: most of them wait to be read
_READ_ALONE_TOKENS = 1024  # where nobody waits for a token
_GROUP_TOKENS = 512  # that are read in common at most
_GROUP_CELLS = 4096  # tokens, padding included, that rows with a given answer have in common at most


class Assignment(Protocol):
    """Which adapter each row of the batch uses."""

    def assign(self, names: Sequence[str | None]) -> None:
        """The batch has these rows from now on, or from the end of `aside` on."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Inside, the model is free for another batch."""
        ...


@dataclass(eq=False)
class Row:
    """A prompt whose answer is wanted: tokens, the name of the adapter (None: the base), how it is drawn, its bound.

    With an `answer`, its end among its tokens, it is wanted how likely that is. `known`: prompts that were read for the
    same question with the same adapter; rows that have it in common leave there what they read, and one reads for all
    that have an answer behind the same prompt. With `max_tokens` 0 it is read, and nothing is said.
    """

    prompt: Sequence[int]
    adapter: str | None = None
    drawing: Drawing = field(default_factory=Drawing)
    max_tokens: int = 1
    answer: Sequence[int] = ()
    known: Prefixes | None = None

    @property
    def span(self) -> int:
        """Columns that it takes at most."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Said:
    """What became of a row in a step: a token, `end`, or both, or the error that ended it.

    An end token is no part of the answer: then there is an end without a token, and `ending` is the end token.
    `logprob`: of a given answer.
    """

    row: Row
    drawn: Drawn | None = None
    end: Literal["stop", "length"] | None = None
    error: Exception | None = None
    logprob: float | None = None
    ending: Drawn | None = None


class RunningBatch:
    """Up to `rows` rows at a time, of at most `cells` columns in all: the longest row counts for each.

    Rows with a given answer need no place. `open_rows` opens a batch of newcomers with their adapters, beside the
    running one, whose adapters `assignment` holds. `prefixes(adapter)` is what is kept of prompts that were read with
    it.
    """

    def __init__(
        self,
        model: Any,
        assignment: Assignment,
        open_rows: Callable[[Sequence[str | None]], AbstractContextManager[Any]],
        *,
        end_ids: Iterable[int],
        rows: int = 32,
        cells: int = 32768,
        prefixes: Callable[[str | None], Prefixes | None] = lambda _adapter: None,
    ) -> None:
        self._model = model
        self._assignment = assignment
        self._open_rows = open_rows
        self._end_ids = frozenset(end_ids)
        self._prefixes = prefixes
        self.places, self.cells = rows, cells
        self._cache = RunningCache(model, rows, cells)
        self._rows: list[Row] = []
        self._tokens: list[int] = []  # the last of each row, not read yet
        self._given: list[int] = []  # tokens that each row has got
        self._newcomers: deque[list[Row]] = deque()
        self._reading: tuple[list[Row], Prefill] | None = None
        self._reading_cache = RunningCache(model, rows, cells)

    @property
    def rows(self) -> list[Row]:
        """All rows, those that are still being read too."""
        reading = [] if self._reading is None else self._reading[0]
        return [*self._rows, *reading, *(row for group in self._newcomers for row in group)]

    def has_room(self, rows: Sequence[Row], joining: Sequence[Row] = ()) -> bool:
        """Whether these rows may join now, beside those that are `joining`; in an empty batch they always may."""
        present = _that_run([*self.rows, *joining])
        together = [*present, *_that_run(rows)]
        cells = len(together) * max((row.span for row in together), default=0)
        return len(together) <= self.places and (cells <= self.cells or not present)

    def join(self, rows: Sequence[Row]) -> None:
        """Let rows take part from the next step on; ValueError where a prompt is empty."""
        if any(not row.prompt for row in rows):
            raise ValueError("expected prompts of at least one token")
        judged = [row for row in rows if row.answer]
        for alike in (_that_run(rows), _prompts_in_common(judged), judged):
            reads = [self._behind(row) for row in alike]
            lengths = [len(each.inputs) for each in reads]
            left = [
                len(row.answer) if row.answer and row.known else length - each.known_tokens
                for row, each, length in zip(alike, reads, lengths, strict=True)
            ]
            for group in group_alike(left):
                fits = _GROUP_TOKENS // max(left[index] for index in group)
                if alike is judged:
                    fits = min(fits, _GROUP_CELLS // max(lengths[index] for index in group))
                for first in range(0, len(group), max(fits, 1)):
                    self._newcomers.append([alike[index] for index in group[first : first + max(fits, 1)]])

    @torch.inference_mode()
    def leave(self, rows: Iterable[Row]) -> None:
        """Take rows out, wherever they are; they are heard of no more."""
        gone = set(rows)
        self._newcomers = deque(
            kept for group in self._newcomers if (kept := [row for row in group if row not in gone])
        )
        if self._reading is not None and gone.issuperset(self._reading[0]):
            self._reading = None
        elif self._reading is not None and gone.intersection(self._reading[0]):
            # what the others have read is lost, and they are soon where they were
            self._newcomers.appendleft([row for row in self._reading[0] if row not in gone])
            self._reading = None
        running = [index for index, row in enumerate(self._rows) if row in gone]
        if running:
            for index in reversed(running):
                self._drop(index)
            self._assign()

    @torch.inference_mode()
    def step(self) -> list[Said]:
        """Read some of the newcomers, and give every row that runs its next token; what became of each row."""
        said = self._read_newcomers()
        if self._rows:
            said += self._decode()
        return said

    def _read_newcomers(self) -> list[Said]:
        most = max(READ_TOKENS, READ_TOKENS_A_ROW * len(self.rows)) if self._rows else _READ_ALONE_TOKENS
        budget = most
        said: list[Said] = []
        while (self._reading or self._newcomers) and (budget == most or budget >= READ_TOKENS):
            group = self._newcomers.popleft() if self._reading is None else self._reading[0]
            with self._assignment.aside():
                try:
                    done, told = self._read(group, budget)
                except Exception as error:
                    self._reading = None
                    if len(group) == 1:
                        said.append(Said(group[0], error=error))
                    else:  # whoever is to blame fails alone
                        self._newcomers.extendleft([row] for row in reversed(group))
                    continue
                budget -= done
                if told:
                    said += self._hear(group, told)
        return said

    def _read(self, group: list[Row], budget: int) -> tuple[int, list[Drawn | float]]:
        """Read on; how many tokens, and where all are read, what is first of each row's answer, or how likely it is."""
        if self._reading is None:
            self._reading = group, Prefill(self._model, [self._behind(row) for row in group], self._reading_cache)
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
        drawn = draw(logits[:, -1], [row.drawing for row in group])
        for index, row in enumerate(group):
            self._cache.begin(prefill.cache.row(index), len(row.prompt))
        return before, [*drawn]

    def _behind(self, row: Row) -> Behind:
        known = (row.known, self._prefixes(row.adapter))
        return Behind(row.prompt, row.answer, [each for each in known if each is not None])

    def _decode(self) -> list[Said]:
        ids = torch.tensor(self._tokens)[:, None]  # [B, 1]
        lengths = [length + 1 for length in self._cache.lengths]
        logits = forward(self._model, self._cache, ids, lengths)
        drawn = draw(logits[:, -1], [row.drawing for row in self._rows])
        said, ended = [], []
        for index, each in enumerate(drawn):
            said.append(self._said(self._rows[index], each, self._given[index]))
            self._given[index] += 1
            self._tokens[index] = each.token or 0
            if said[-1].end or said[-1].error:
                ended.append(index)
        for index in reversed(ended):
            self._drop(index)
        if ended:
            self._assign()
        return said

    def _hear(self, group: Sequence[Row], told: Sequence[Drawn | float]) -> list[Said]:
        """What newcomers say: those that are to run are in the cache, and leave it again where they end at once."""
        said: list[Said] = []
        first = len(self._rows)
        for row, each in zip(group, told, strict=True):
            if isinstance(each, float):
                said.append(_judged(row, each))
                continue
            said.append(self._said(row, each, 0))
            self._rows.append(row)
            self._tokens.append(each.token or 0)
            self._given.append(1)
        for index in reversed(range(len(self._rows) - first)):
            if said[index].end or said[index].error:
                self._drop(first + index)
        self._assign()
        return said

    def _said(self, row: Row, drawn: Drawn, given: int) -> Said:
        if drawn.token is None:
            return Said(row, error=_not_finite(row))
        if drawn.token in self._end_ids:
            return Said(row, end="stop", ending=drawn)
        return Said(row, drawn, "length" if given + 1 >= row.max_tokens else None)

    def _drop(self, index: int) -> None:
        """Take a running row out; the last one takes its place, as in the cache."""
        self._cache.leave(index)
        _replace_by_last(self._rows, index)
        _replace_by_last(self._tokens, index)
        _replace_by_last(self._given, index)

    def _assign(self) -> None:
        self._assignment.assign([row.adapter for row in self._rows])


def _that_run(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.answer and row.max_tokens]


def _prompts_in_common(judged: Sequence[Row]) -> list[Row]:
    """Rows that only read: the prompts that several rows have in common and nobody has read. They are heard of never.

    Where one fails, each of the others reads for itself.
    """
    unread: dict[tuple[Prefixes, tuple[int, ...]], Row] = {}
    for row in judged:
        if row.known is not None and row.known.known_tokens(row.prompt) < len(row.prompt):
            reads = Row(row.prompt, row.adapter, max_tokens=0, known=row.known)
            unread.setdefault((row.known, tuple(row.prompt)), reads)
    return list(unread.values())


def _judged(row: Row, logprob: float) -> Said:
    if not math.isfinite(logprob):
        return Said(row, error=_not_finite(row))
    return Said(row, end="stop", logprob=logprob)


def _not_finite(row: Row) -> ModelError:
    return ModelError(
        f"expected finite numbers from the model, got others with {row.adapter or 'no adapter'}; "
        "verify the memory's files, or absorb its text again with a lower learning rate"
    )


def _replace_by_last(values: list[_T], index: int) -> None:
    last = values.pop()
    if index < len(values):
        values[index] = last
