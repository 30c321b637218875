"""Continuous batching: rows join a running batch when their prompts are read, and leave it when their answers end.

Every row has an adapter, a way of drawing and an end of its own. A row's answer is the one that it would have alone
(generate.py). Between two tokens of the rows that run, only so many tokens of newcomers are read, so that nobody stands
still for a long prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch

from lift.errors import ModelError
from lift.models.prefill import Prefill, forward, group_alike
from lift.models.prefix_cache import Prefixes
from lift.models.running_cache import RunningCache
from lift.models.sampling import Drawing, Drawn, draw

_T = TypeVar("_T")
READ_TOKENS = 128  # of newcomers, between two tokens of those that run
_READ_ALONE_TOKENS = 1024  # where nobody waits for a token
_GROUP_TOKENS = 512  # that are read in common at most


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
    """A prompt whose answer is wanted: tokens, the name of the adapter (None: the base), how it is drawn, its bound."""

    prompt: Sequence[int]
    adapter: str | None = None
    drawing: Drawing = field(default_factory=Drawing)
    max_tokens: int = 1

    @property
    def span(self) -> int:
        """Columns that it takes at most."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Said:
    """What became of a row in a step: a token, `end`, or both, or the error that ended it.

    An end token is no part of the answer: then there is an end without a token.
    """

    row: Row
    drawn: Drawn | None = None
    end: Literal["stop", "length"] | None = None
    error: Exception | None = None


class RunningBatch:
    """Up to `rows` rows at a time, of at most `cells` columns in all: the longest row counts for each.

    `open_rows` opens a batch of newcomers with their adapters, beside the running one, whose adapters `assignment`
    holds. `prefixes(adapter)` is what is kept of prompts that were read with it.
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

    @property
    def rows(self) -> list[Row]:
        """All rows, those that are still being read too."""
        reading = [] if self._reading is None else self._reading[0]
        return [*self._rows, *reading, *(row for group in self._newcomers for row in group)]

    def has_room(self, rows: Sequence[Row], joining: Sequence[Row] = ()) -> bool:
        """Whether these rows may join now, beside those that are `joining`; in an empty batch they always may."""
        present = [*self.rows, *joining]
        together = [*present, *rows]
        cells = len(together) * max((row.span for row in together), default=0)
        return len(together) <= self.places and (cells <= self.cells or not present)

    def join(self, rows: Sequence[Row]) -> None:
        """Let rows take part from the next step on; ValueError where a prompt is empty."""
        if any(not row.prompt for row in rows):
            raise ValueError("expected prompts of at least one token")
        known = [kept.known_tokens(row.prompt[:-1]) if (kept := self._prefixes(row.adapter)) else 0 for row in rows]
        left = [len(row.prompt) - tokens for row, tokens in zip(rows, known, strict=True)]
        for group in group_alike(left):
            fits = max(1, _GROUP_TOKENS // max(left[index] for index in group))
            for first in range(0, len(group), fits):
                self._newcomers.append([rows[index] for index in group[first : first + fits]])

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
        budget = READ_TOKENS if self._rows else _READ_ALONE_TOKENS
        said: list[Said] = []
        while budget > 0 and (self._reading or self._newcomers):
            group = self._newcomers.popleft() if self._reading is None else self._reading[0]
            with self._assignment.aside():
                try:
                    done, drawn = self._read(group, budget)
                except Exception as error:
                    self._reading = None
                    if len(group) == 1:
                        said.append(Said(group[0], error=error))
                    else:  # whoever is to blame fails alone
                        self._newcomers.extendleft([row] for row in reversed(group))
                    continue
                budget -= done
                if drawn is not None:
                    said += self._hear(group, drawn)
                    self._assign()
        return said

    def _read(self, group: list[Row], budget: int) -> tuple[int, list[Drawn] | None]:
        """Read on; how many tokens, and the first token of each row's answer where all are read."""
        if self._reading is None:
            kept = [self._prefixes(row.adapter) for row in group]
            self._reading = group, Prefill(self._model, [row.prompt for row in group], kept)
        prefill = self._reading[1]
        before = prefill.tokens
        with self._open_rows([row.adapter for row in group]):
            logits = prefill.read(budget)
        if logits is None:
            return before - prefill.tokens, None
        drawn = draw(logits, [row.drawing for row in group])
        for index in range(len(group)):
            states = prefill.cache.row(index)
            self._cache.begin(states, len(group[index].prompt))
        self._reading = None
        return before, drawn

    def _decode(self) -> list[Said]:
        ids = torch.tensor(self._tokens)[:, None]  # [B, 1]
        lengths = [length + 1 for length in self._cache.lengths]
        logits = forward(self._model, self._cache, ids, lengths)
        drawn = draw(logits, [row.drawing for row in self._rows])
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

    def _hear(self, group: Sequence[Row], drawn: Sequence[Drawn]) -> list[Said]:
        """Newcomers, whose states are in the cache, with the first token of each; those that end at once leave."""
        said = [self._said(row, each, 0) for row, each in zip(group, drawn, strict=True)]
        first = len(self._rows)
        self._rows += group
        self._tokens += [each.token or 0 for each in drawn]
        self._given += [1] * len(group)
        for index in reversed(range(len(group))):
            if said[index].end or said[index].error:
                self._drop(first + index)
        return said

    def _said(self, row: Row, drawn: Drawn, given: int) -> Said:
        if drawn.token is None:
            error = ModelError(
                f"expected finite numbers from the model, got others with {row.adapter or 'no adapter'}; "
                "verify the memory's files, or absorb its text again with a lower learning rate"
            )
            return Said(row, error=error)
        if drawn.token in self._end_ids:
            return Said(row, end="stop")
        return Said(row, drawn, "length" if given + 1 >= row.max_tokens else None)

    def _drop(self, index: int) -> None:
        """Take a running row out; the last one takes its place, as in the cache."""
        self._cache.leave(index)
        _replace_by_last(self._rows, index)
        _replace_by_last(self._tokens, index)
        _replace_by_last(self._given, index)

    def _assign(self) -> None:
        self._assignment.assign([row.adapter for row in self._rows])


def _replace_by_last(values: list[_T], index: int) -> None:
    last = values.pop()
    if index < len(values):
        values[index] = last
