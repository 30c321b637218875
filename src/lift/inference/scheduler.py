"""Continuous batching: the scheduler adds waiting sequences to the batch, decodes them, and takes out ended ones.

Every sequence has an adapter, sampling parameters and an end of its own. Its answer is the one that it would have
alone. A sequence whose answer is given is scored: it is prefilled, and its log-probability is returned, without
decoding. What waiting sequences with one adapter begin with in common is read once (shared_prefix.py). Prefill is
chunked (PREFILL_CHUNK_TOKENS between two tokens of those that decode), so decoding never stalls. A greedy sequence that
is alone may get several tokens a step: speculative decoding (speculative.py).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeVar

import torch

from lift.adapters.adapter import applied_invocation, attached
from lift.adapters.row_assignment import RowAssignment
from lift.adapters.row_assignment import rows as row_adapters
from lift.errors import ModelError
from lift.inference.kv_cache import BatchCache, SlotKVCache, can_share, keeps_tokens
from lift.inference.prefill import Prefill, PrefillRequest, forward, group_alike
from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.sampling import SampledToken, SamplingParams, sample
from lift.inference.shared_prefix import plan_shared_prefixes
from lift.inference.speculative import SpeculativeDecoder, can_speculate

_T = TypeVar("_T")
PREFILL_CHUNK_TOKENS = (
    128  # of waiting sequences, between two tokens of those that decode; small passes cost twice as much a token
)
PREFILL_TOKENS_PER_SEQUENCE = 8  # where many are there: most of them wait for their prefill
_PREFILL_ALONE_TOKENS = 1024  # where nobody waits for a token
_GROUP_TOKENS = 512  # that are read in common at most
_GROUP_BUDGET_TOKENS = 4096  # tokens, padding included, that rows with a given answer have in common at most


@dataclass(eq=False)
class SequenceState:
    """A sequence: the tokens of its prompt, the name of its adapter (None: the base), its sampling and its bound.

    With an `answer`, its end among its tokens, it is wanted how likely that is. `known`: prompts that were read for the
    same question with the same adapter; rows that have it in common leave there what they read.
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


@dataclass(eq=False)
class _SharedPrefixState(SequenceState):
    """A row that reads `prefix_tokens` for others, whose prompts begin like its own. It is heard of never.

    Where it fails, each of the others reads for itself.
    """

    prefix_tokens: int = 0


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

    Sequences with a given answer need no slot. `assignment` holds the adapters of the running batch; without one, what
    is applied to the model now is for all sequences, whatever adapter they name. `prefixes(adapter)` is what is kept of
    prompts that were read with it. With `prefill_first` nothing decodes while a sequence waits for its prefill: for
    throughput, where nobody waits for a token.

    A model that keeps other things than keys and values by token (keeps_tokens) reads and decodes together those
    sequences that were added at once, and gets others when it is empty.
    """

    def __init__(
        self,
        model: Any,
        assignment: RowAssignment | None,
        *,
        end_ids: Iterable[int],
        rows: int = 32,
        token_budget: int = 32768,
        prefixes: Callable[[str | None], Prefixes | None] = lambda _adapter: None,
        prefill_first: bool = False,
    ) -> None:
        self._model = model
        self._assignment = assignment
        self._end_ids = frozenset(end_ids)
        self._prefixes = prefixes
        self._prefill_first = prefill_first
        self.slots, self.token_budget = rows, token_budget
        self._shares, self._by_token = can_share(model), keeps_tokens(model)
        self._shared = PrefixCache(worth_tokens=1, limit_bytes=sys.maxsize)  # for those that wait
        self._cache, self._reading_cache = self._new_cache(), self._new_cache()
        self._rows: list[SequenceState] = []
        self._tokens: list[int] = []  # the last of each row, not read yet
        self._given: list[int] = []  # tokens that each row has got
        self._waiting: deque[list[SequenceState]] = deque()
        self._reading: tuple[list[SequenceState], Prefill] | None = None
        self._speculating: tuple[SequenceState, SpeculativeDecoder | None] | None = None

    def _new_cache(self) -> SlotKVCache | BatchCache:
        return SlotKVCache(self._model, self.slots, self.token_budget) if self._by_token else BatchCache(self._model)

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
        self._enqueue(_decoding(rows), sys.maxsize)
        self._enqueue([row for row in rows if row.answer], _GROUP_BUDGET_TOKENS)

    def _enqueue(self, rows: Sequence[SequenceState], budget: int) -> None:
        """Let rows wait, and before them what they begin with in common; `budget`: tokens that are held in a pass."""
        shared_tokens = dict.fromkeys(rows, 0)
        for deep in self._shared_prefixes(rows, shared_tokens):
            reading, begun = zip(*deep, strict=True)
            self._enqueue_groups(reading, [row.prefix_tokens for row in reading], begun, budget)
        lengths = [len(self._prefill_request(row).inputs) for row in rows]
        known = [max(self._prefill_request(row).known_tokens, shared_tokens[row]) for row in rows]
        self._enqueue_groups(rows, lengths, known, budget)

    def _enqueue_groups(
        self, rows: Sequence[SequenceState], lengths: Sequence[int], known: Sequence[int], budget: int
    ) -> None:
        if not self._by_token:
            if rows:
                self._waiting.append(list(rows))
            return
        left = [length - seen for length, seen in zip(lengths, known, strict=True)]
        most = _PREFILL_ALONE_TOKENS if self._prefill_first else _GROUP_TOKENS
        groups = group_alike(left)
        if rows and self._prefill_first and self._assignment is not None:
            # the memories of a pass are laid out for it, which costs more than padding
            most, groups = budget, [sorted(range(len(rows)), key=left.__getitem__)]
        for group in groups:
            fits = max(1, min(most // max(left[index] for index in group), budget // max(lengths[i] for i in group)))
            for first in range(0, len(group), fits):
                self._waiting.append([rows[index] for index in group[first : first + fits]])

    def _shared_prefixes(
        self, rows: Sequence[SequenceState], shared_tokens: dict[SequenceState, int]
    ) -> list[list[tuple[_SharedPrefixState, int]]]:
        """Rows that read what others begin with, and how many tokens are known by then; those first that lie lowest.

        `shared_tokens` is told how much of each row they read; nothing behind an adapter's invocation.
        """
        found: list[tuple[int, _SharedPrefixState, int]] = []
        for adapter in dict.fromkeys(row.adapter for row in rows) if self._shares and len(rows) > 1 else ():
            members = [row for row in rows if row.adapter == adapter]
            lasting = self._shared_of(adapter).lasting_tokens
            prompts = [row.prompt[: lasting(row.prompt)] for row in members]
            known = [self._prefill_request(row).known_tokens for row in members]
            for each in plan_shared_prefixes(prompts, known):
                sharing = [members[index] for index in each.rows]
                store = sharing[0].known if len({id(row.known) for row in sharing}) == 1 else None
                reads = _SharedPrefixState(sharing[0].prompt, adapter, known=store, prefix_tokens=each.tokens)
                found.append((each.depth, reads, each.begun))
                for row in sharing:
                    shared_tokens[row] = max(shared_tokens[row], min(each.tokens, len(row.prompt) - 1))
        found.sort(key=lambda each: each[0])
        return [[each[1:] for each in deep] for _, deep in groupby(found, key=lambda each: each[0])]

    def run(self, rows: Sequence[SequenceState]) -> Iterator[StepOutput]:
        """Add these sequences and step until none is left; raises the error of the first one that fails."""
        self.add(rows)
        own = set(rows)
        while self.rows:
            for output in self.step():
                if output.row in own and output.error is not None:
                    raise output.error
                yield output

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
        """Prefill a chunk of the waiting sequences, and decode the next token of the others; the outputs of both.

        Where nothing decodes yet, the first tokens come without those behind them.
        """
        decoding = bool(self._rows)
        outputs = self._prefill()
        if not self._waiting and self._reading is None:
            self._shared.clear()
        if self._rows and (decoding or not outputs):
            outputs += self._decode()
        return outputs

    def _prefill(self) -> list[StepOutput]:
        most = (
            max(PREFILL_CHUNK_TOKENS, PREFILL_TOKENS_PER_SEQUENCE * len(self.rows))
            if self._rows
            else _PREFILL_ALONE_TOKENS
        )
        if self._prefill_first or not self._shares:  # what depends on the length of a pass is read in one
            most = sys.maxsize
        budget = most
        outputs: list[StepOutput] = []
        while (self._reading or self._waiting) and (budget == most or budget >= PREFILL_CHUNK_TOKENS):
            if self._rows and not self._by_token:
                break
            group = self._waiting.popleft() if self._reading is None else self._reading[0]
            with self._aside():
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

    def _aside(self) -> AbstractContextManager[None]:
        return self._assignment.aside() if self._assignment is not None else contextlib.nullcontext()

    def _prefill_chunk(self, group: list[SequenceState], budget: int) -> tuple[int, list[SampledToken | float]]:
        """Prefill up to `budget` tokens; how many, and at the end each row's first token, or its answer's log P."""
        if self._reading is None:
            self._reading = (
                group,
                Prefill(self._model, [self._prefill_request(row) for row in group], self._reading_cache),
            )
        prefill = self._reading[1]
        before = prefill.tokens
        with self._adapters_of(group):
            logits = prefill.read(budget)
        if logits is None:
            return before - prefill.tokens, []
        self._reading = None
        if group[0].answer:
            return before, [*prefill.log_probabilities(logits)]
        if isinstance(group[0], _SharedPrefixState):
            return before, []
        sampled = sample(logits[:, -1], [row.sampling for row in group])
        if not self._rows:
            self._cache, self._reading_cache = self._reading_cache, self._cache
        elif isinstance(self._cache, SlotKVCache) and isinstance(self._reading_cache, SlotKVCache):
            for index, row in enumerate(group):
                self._cache.begin(self._reading_cache.row(index), len(row.prompt))
        return before, [*sampled]

    def _adapters_of(self, group: Sequence[SequenceState]) -> AbstractContextManager[object]:
        if self._assignment is None:
            return contextlib.nullcontext()
        return row_adapters(self._model, [row.adapter for row in group])

    def _prefill_request(self, row: SequenceState) -> PrefillRequest:
        kept = [each for each in (row.known, self._prefixes(row.adapter)) if each is not None]
        shared = self._shared_of(row.adapter)
        if isinstance(row, _SharedPrefixState):
            return PrefillRequest(row.prompt, (), [*kept, shared], [*kept, shared], row.prefix_tokens)
        return PrefillRequest(row.prompt, row.answer, [*kept, shared], () if row.answer else kept)

    def _shared_of(self, adapter: str | None) -> Prefixes:
        """The prefix that was read with this adapter for several that wait."""
        if self._assignment is None:
            return Prefixes(self._shared, None, applied_invocation(self._model))
        found = attached(self._model).get(adapter) if adapter is not None else None
        return Prefixes(self._shared, adapter, found.invocation if found is not None else ())

    def _decode(self) -> list[StepOutput]:
        proposed = self._propose()
        columns = 1 + len(proposed)
        ids = torch.tensor([[token, *proposed] for token in self._tokens])  # [B, columns]; several of one row alone
        lengths = [length + columns for length in self._cache.lengths]
        logits = forward(self._model, self._cache, ids, lengths, columns)  # [B, columns, vocabulary]
        sampled = sample(logits.flatten(0, 1), [row.sampling for row in self._rows for _ in range(columns)])
        if proposed:
            sampled = self._verified(proposed, sampled)
        outputs: list[StepOutput] = []
        ended: list[int] = []
        for place, each in enumerate(sampled):
            index = 0 if proposed else place
            if index in ended:
                break
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

    def _propose(self) -> list[int]:
        """Tokens that may come next, of a greedy row that is alone, where the model can speculate; else none."""
        row = self._rows[0]
        if self._assignment is not None or len(self._rows) > 1 or not row.sampling.is_greedy:
            return []
        if not isinstance(self._cache, SlotKVCache):
            return []
        if self._speculating is None or self._speculating[0] is not row:
            self._speculating = row, SpeculativeDecoder(self._model) if can_speculate(self._model) else None
        decoder = self._speculating[1]
        if decoder is None:
            return []
        # what comes behind the last token comes free with its pass
        at_most = row.max_tokens - self._given[0] - 1
        return decoder.propose(self._cache.row(0), self._tokens[0], at_most, self._end_ids)

    def _verified(self, proposed: Sequence[int], sampled: list[SampledToken]) -> list[SampledToken]:
        """The tokens up to the first one that is not what was proposed; the cache forgets what was wrong."""
        assert self._speculating is not None and self._speculating[1] is not None
        assert isinstance(self._cache, SlotKVCache)
        wrong = (index for index, token in enumerate(proposed) if token != sampled[index].token)
        accepted = next(wrong, len(proposed))
        self._speculating[1].record_accepted(accepted)
        self._cache.retract(len(proposed) - accepted)
        return sampled[: accepted + 1]

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
        if self._assignment is not None:
            self._assignment.assign([row.adapter for row in self._rows])


def _decoding(rows: Sequence[SequenceState]) -> list[SequenceState]:
    return [row for row in rows if not row.answer and not isinstance(row, _SharedPrefixState)]


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
