"""The backend of the engine: computes sequences, whose tokens come step by step, and holds the adapters they name.

The base model in this process is one (LocalBackend), a server of another program is another (lift.engines). Strategies,
the fair queue, deltas and completions are the same behind all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import torch

from lift.adapters.adapter import attached
from lift.adapters.batched_lora import keeping_room, parking
from lift.adapters.resident import Load, hold_stored
from lift.adapters.row_assignment import RowAssignment
from lift.adapters.row_assignment import rows as row_adapters
from lift.errors import UsageError
from lift.inference.kv_cache import can_share, keeps_tokens
from lift.inference.prefix_cache import PrefixCache, Prefixes
from lift.inference.scheduler import Scheduler, SequenceState, StepOutput
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.packing.prompts import end_of_answer_id

KV_TOKEN_BUDGET = 32768  # tokens of keys and values, padding included: 1.5 GB with SmolLM2-135M in float32


class Backend(Protocol):
    """Computes up to a number of sequences at a time; all but `check_memory` is called by one thread, when `opened`.

    `device`: where the generators are that sequences sample from. `shares`: what a prompt begins with need not be read
    again for another one.
    """

    device: torch.device
    shares: bool

    @property
    def resident(self) -> int:
        """Adapters that are loaded now."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Of what is kept of prompts, where that is known."""
        ...

    @property
    def is_wanted(self) -> bool:
        """Whether somebody else waits for the model."""
        ...

    def check_memory(self, memory: StoredMemory) -> None:
        """Raise a LiftError where this memory can never answer here; from any thread."""
        ...

    def check_reachable(self, timeout_s: float) -> None:
        """Raise EngineError where what computes does not say within so many seconds that it can; from any thread."""
        ...

    def opened(self) -> AbstractContextManager[object]:
        """As long as the block lasts, the model is this backend's."""
        ...

    def released(self) -> AbstractContextManager[object]:
        """Inside the block nothing runs, and the model is anybody's."""
        ...

    def joining(self, adapters: Iterable[str]) -> AbstractContextManager[object]:
        """Inside the block adapters may come and go, these among them (hold)."""
        ...

    def hold(self, loads: Mapping[str, Load], at_most: int) -> None:
        """Have the adapters of these keys ready, and no more than `at_most`; see hold_stored for what is raised."""
        ...

    def has_room(self, rows: Sequence[SequenceState], joining: Sequence[SequenceState] = ()) -> bool:
        """Whether these sequences may be added now, beside those that are `joining`."""
        ...

    def add(self, rows: Sequence[SequenceState]) -> None:
        """Begin with sequences."""
        ...

    def abort(self, rows: Iterable[SequenceState]) -> None:
        """No output of these comes any more."""
        ...

    def step(self) -> list[StepOutput]:
        """The outputs that are there after a step; those of one sequence in their order."""
        ...

    @property
    def rows(self) -> list[SequenceState]:
        """All sequences that have not ended."""
        ...


class LocalBackend:
    """As Backend, on the resident base model; at most `rows` sequences decode at a time.

    Raises UsageError for a model whose sequences cannot come and go.
    """

    def __init__(self, base: BaseModel, rows: int) -> None:
        if not keeps_tokens(base.model):
            raise UsageError(
                f"expected a model that keeps keys and values by token, got {base.id}; "
                "ask its memories one by one, with `lift ask`"
            )
        self.device = base.device
        self.shares = can_share(base.model)
        self._base = base
        self._rows = rows
        # adapters go by the hash of their file: what was read with one stays true when it is detached
        self._kept = PrefixCache() if self.shares else None
        self._turn = turn_of(base.model)

    @property
    def resident(self) -> int:
        """See Backend."""
        return len(attached(self._base.model))

    @property
    def kept_bytes(self) -> int:
        """See Backend."""
        return self._kept.bytes if self._kept else 0

    @property
    def is_wanted(self) -> bool:
        """See Backend."""
        return self._turn.is_wanted

    def check_memory(self, memory: StoredMemory) -> None:
        """Every memory of the base model answers."""

    def check_reachable(self, timeout_s: float) -> None:
        """The model is in this process."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """See Backend."""
        model = self._base.model
        with self._turn, keeping_room(model), parking(model), row_adapters(model, []) as assignment:
            self._begin(assignment)
            yield

    def _begin(self, assignment: RowAssignment) -> None:
        self._assignment = assignment
        self._scheduler = Scheduler(
            self._base.model,
            assignment,
            end_ids={end_of_answer_id(self._base.tokenizer), *self._base.end_token_ids},
            rows=self._rows,
            token_budget=KV_TOKEN_BUDGET,
            prefixes=self._prefixes,
        )

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """See Backend."""
        with self._assignment.aside(), self._turn.released():
            yield

    @contextlib.contextmanager
    def joining(self, adapters: Iterable[str]) -> Iterator[None]:
        """See Backend; what runs is put aside where one of these is to be loaded."""
        present = attached(self._base.model)
        with ExitStack() as stack:
            if any(name not in present for name in adapters):
                stack.enter_context(self._assignment.aside())
            yield

    def hold(self, loads: Mapping[str, Load], at_most: int) -> None:
        """See Backend."""
        hold_stored(self._base.model, loads, at_most)

    @property
    def rows(self) -> list[SequenceState]:
        """See Backend."""
        return self._scheduler.rows

    def has_room(self, rows: Sequence[SequenceState], joining: Sequence[SequenceState] = ()) -> bool:
        """See Backend."""
        return self._scheduler.has_room(rows, joining)

    def add(self, rows: Sequence[SequenceState]) -> None:
        """See Backend."""
        self._scheduler.add(rows)

    def abort(self, rows: Iterable[SequenceState]) -> None:
        """See Backend."""
        self._scheduler.abort(rows)

    def step(self) -> list[StepOutput]:
        """See Backend."""
        return self._scheduler.step()

    def _prefixes(self, adapter: str | None) -> Prefixes | None:
        if not self._kept:
            return None
        invocation = attached(self._base.model)[adapter].invocation if adapter else ()
        # what stands in front of an invocation is the base's
        return Prefixes(self._kept, "" if invocation else adapter or "", invocation)
