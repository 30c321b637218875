"""Batched LoRA (BGMV / SGMV): plain LoRA of many memories in one batch, with two products a matrix for all of them.

Row i of a batch uses memory m(i). With the factors A_m [r, in] and B_m [out, r] and the scaling s_m of each memory,

    y_i = W x_i + s_m(i) B_m(i) A_m(i) x_i

The factors of the K memories of a batch lie stacked, A [K, r, in] and s B [K, out, r], lower ranks filled up with
zeros, and two batched products give the updates of all rows. It is the idea of Punica (arXiv 2310.18547, whose kernels
are called SGMV and BGMV) and S-LoRA (2311.03285). With one token a row the time is that of reading A and B, so the
rows of one memory are laid side by side: its factors are read once, and never gathered by row. Where that would need
much padding, each memory has two products of its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.adapters.low_rank import LowRank
from lift.errors import cleaning_up
from lift.packing.alora import Invocation, add_where_active, invocations_by_row

_IN_USE = "lift_lora_rows"  # kept on the model itself, as what is attached is
# padding tokens that cost as much as two products of a memory's own; measured: 4 to 9 with SmolLM2's matrices on one
# core, at rank 16
_PRODUCT_TOKENS = 6


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Where N rows of a batch go that use K memories, at most C rows one memory.

    `counts`: rows of each memory. `rows`: [N] rows of the batch, memory by memory. `laid`: [K C] rows of the batch,
    those of a memory side by side and filled up to C with a row that is computed in vain. `real`: [N] which of [K C]
    are not. `in_order`: the rows are the first N of the batch, they lie as they are laid, and nothing is filled up.
    `sparse`: most of the memories have no row, so that nothing is laid, and each of the others has its own products.
    `invocations`: those of the rows of the batch, up to the last row that uses a memory.
    """

    counts: tuple[int, ...]
    rows: torch.Tensor
    laid: torch.Tensor
    real: torch.Tensor
    in_order: bool
    sparse: bool
    invocations: tuple[Invocation | None, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], device: torch.device, invocations: Sequence[Invocation] = ()
    ) -> GroupedRows:
        """The places of each memory's rows, and with `invocations` from where on it acts there.

        Some memory has at least one row, and no row has two memories.
        """
        used = {row: invocation for each, invocation in zip(rows, invocations, strict=False) for row in each}
        most, idle = max(map(len, rows)), sum(not each for each in rows)
        sparse = 2 * idle > len(rows)
        some = next(each[0] for each in rows if each)
        laid = [] if sparse else [row for each in rows for row in (*each, *[some] * (most - len(each)))]
        real = [most * slot + place for slot, each in enumerate(rows) for place in range(len(each))]
        return cls(
            counts=tuple(map(len, rows)),
            rows=torch.tensor([row for each in rows for row in each], device=device),
            laid=torch.tensor(laid, device=device),
            real=torch.tensor(real, device=device),
            in_order=not idle and laid == list(range(sum(map(len, rows)))),
            sparse=sparse,
            invocations=invocations_by_row(used),
        )


def low_rank_products(inputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """(B_k A_k) x for each memory k and each of its inputs: [K, M, in], [K, r, in], [K, out, r] -> [K, M, out].

    The order and the layout of the factors are those that are quickest for M = 1 on a CPU.
    """
    hidden = torch.bmm(down, inputs.transpose(1, 2))  # [K, r, M]
    return torch.bmm(hidden.transpose(1, 2), up.transpose(1, 2))  # [K, M, out]


def add_updates(
    output: torch.Tensor, inputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor, places: GroupedRows
) -> torch.Tensor:
    """y_i of every row: `output`, W x [B, ..., out]; `inputs`, x [B, ..., in]; `down`, A; `up`, s B. [B, ..., out]

    Rows that use no memory keep their output, bit for bit. `output` itself is not changed.
    """
    inputs = inputs.to(down.dtype)
    each = inputs.shape[1:-1]  # the dimensions of one row's tokens
    slots, rows = len(places.counts), len(places.rows)
    if places.in_order and rows == len(output) and output.dtype == down.dtype:
        hidden = torch.bmm(down, inputs.reshape(slots, -1, inputs.shape[-1]).transpose(1, 2))  # [K, r, C ...]
        base = output.reshape(slots, -1, output.shape[-1])  # [K, C ..., out]
        return torch.baddbmm(base, hidden.transpose(1, 2), up.transpose(1, 2)).view(output.shape)
    if not places.sparse and (len(places.laid) - rows) * math.prod(each) <= _PRODUCT_TOKENS * slots:
        laid = inputs.index_select(0, places.laid)  # [K C, ..., in]
        updates = low_rank_products(laid.reshape(slots, -1, inputs.shape[-1]), down, up)  # [K, C ..., out]
        updates = updates.reshape(len(places.laid), *each, -1)
        if rows < len(places.laid):
            updates = updates.index_select(0, places.real)  # [N, ..., out]
    else:
        own = inputs.index_select(0, places.rows).split_with_sizes(places.counts)  # K of [rows of one, ..., in]
        parts = [
            low_rank_products(part.reshape(1, -1, part.shape[-1]), down[slot : slot + 1], up[slot : slot + 1])
            for slot, part in enumerate(own)
            if len(part)
        ]
        updates = torch.cat(parts, dim=1).reshape(rows, *each, -1)  # [N, ..., out]
    updated = (output.index_select(0, places.rows) + updates).to(output.dtype)  # [N, ..., out]
    return output.index_copy(0, places.rows, updated)


def apply_to_rows(model: Any, name: str, rows: Sequence[int], updates: Mapping[Any, LowRank]) -> None:
    """Apply the updates, by the module of `model` whose output each of them is added to, to these rows from now on.

    `name` tells who asks; () ends it. The tensors are read when they are first used, and not again before that ends;
    gradients do not reach them. When nobody has rows any more, nothing is left on the model.
    """
    group = _group(model)
    group.assign(name, tuple(rows), updates)
    _leave_if_idle(model, group)


@contextlib.contextmanager
def keeping_room(model: Any) -> Iterator[None]:
    """Inside the block the room of stacks that are not used any more is kept for the next ones.

    For many batches, each with memories of its own: fresh room of 600 megabytes costs the time of one or two steps.
    """
    group = _group(model)
    group.keepers += 1

    def let_go() -> None:
        group.keepers -= 1
        _leave_if_idle(model, group)

    with cleaning_up(let_go):
        yield


@contextlib.contextmanager
def parking(model: Any) -> Iterator[None]:
    """Inside the block a memory that loses its rows keeps its place in the stacks, until it is forgotten.

    For batches that come and go while the memories stay: what has no row costs the reading of its factors at most.
    """
    group = _group(model)
    group.parkers += 1

    def let_go() -> None:
        group.parkers -= 1
        if not group.parkers:
            group.drop_parked()
        _leave_if_idle(model, group)

    with cleaning_up(let_go):
        yield


def forget_rows(model: Any, name: str) -> None:
    """Forget the tensors that `name` has in the stacks: its tensors change, or it is detached. It has no rows."""
    group = vars(model).get(_IN_USE)
    if group is not None:
        group.members.pop(name, None)
        group.changed()


def _group(model: Any) -> _Group:
    group: _Group = vars(model).setdefault(_IN_USE, _Group())
    return group


def _leave_if_idle(model: Any, group: _Group) -> None:
    if not group.members and not group.keepers and not group.parkers:
        group.close()
        del vars(model)[_IN_USE]


@dataclass(eq=False)
class _Member:
    """One memory that has rows; a new one each time that it gets some after it had none. Without rows it is parked."""

    rows: tuple[int, ...]
    updates: Mapping[Any, LowRank]


class _Group:
    """The memories that have rows, and the hooks that add their updates.

    Its tensors are made out of inference mode: those may be used, and changed, in it and out of it.
    """

    def __init__(self) -> None:
        self.members: dict[str, _Member] = {}
        self.keepers = self.parkers = 0
        self._stacks: dict[Any, _Stack] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._places: dict[tuple[Any, ...], GroupedRows] = {}
        self._by_rows: list[_Member] | None = None  # all of them, in the order of their rows
        self._version = 0

    def assign(self, name: str, rows: tuple[int, ...], updates: Mapping[Any, LowRank]) -> None:
        if not rows and not self.parkers:
            self.members.pop(name, None)
        elif name in self.members:
            self.members[name].rows = rows
        elif rows:
            self.members[name] = _Member(rows, updates)
            for module in updates:
                if module not in self._stacks:
                    self._stacks[module] = _Stack()
                    self._hooks.append(module.register_forward_hook(self._add))
        self.changed()

    def changed(self) -> None:
        """Memories or their rows are not what they were."""
        self._places.clear()
        self._by_rows = None
        self._version += 1

    def drop_parked(self) -> None:
        """Those that have no rows lose their place."""
        self.members = {name: member for name, member in self.members.items() if member.rows}
        self.changed()

    def close(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._stacks.clear()

    def _add(self, module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        stack = self._stacks[module]
        if stack.version != self._version:
            if self._by_rows is None:
                self._by_rows = sorted(self.members.values(), key=lambda member: member.rows)
            stack.hold(module, [member for member in self._by_rows if module in member.updates])
            stack.places = self._places_of(stack.members, output.device)
            stack.version = self._version
        places = stack.places
        if places is None:
            return output

        def add(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            return add_updates(output, inputs, stack.down, stack.up, places)

        return add_where_active(output, args[0], places.invocations, add)

    @torch.inference_mode(False)
    def _places_of(self, members: Sequence[_Member], device: torch.device) -> GroupedRows | None:
        """The same for all matrices that the same memories update."""
        key = (device, *members)
        if any(member.rows for member in members) and key not in self._places:
            invocations = [next(iter(member.updates.values())).invocation for member in members]
            self._places[key] = GroupedRows.of([member.rows for member in members], device, invocations)
        return self._places.get(key)


class _Stack:
    """The factors of one matrix, `down`, A [K, r, in], and `up`, s B [K, out, r], in the order of `members`.

    They are parts of a room that may have been made for more memories, or a higher rank.
    """

    def __init__(self) -> None:
        self.version = 0
        self.members: list[_Member] = []
        self.places: GroupedRows | None = None
        self.down = self.up = self._down = self._up = torch.empty(0, 0, 0)

    @torch.inference_mode(False)
    @torch.no_grad()
    def hold(self, module: Any, wanted: Sequence[_Member]) -> None:
        """Hold the factors of these memories: copies those that are new, and keeps the others where they are.

        Where a memory is not wanted any more, a new one or the last one is laid over it.
        """
        staying = set(wanted).intersection(self.members)
        if len(staying) == len(wanted) == len(self.members):
            return
        new = [member for member in wanted if member not in staying]
        rank = max((len(member.updates[module].down) for member in wanted), default=0)
        if new and (len(wanted) > len(self._down) or rank > self._down.shape[1]):
            update, self.members, new = wanted[0].updates[module], [], list(wanted)
            # where memories come one by one, not each of them has all others laid anew
            places = max(len(wanted), 5 * len(self._down) // 4)
            self._down = update.down.new_empty(places, rank, update.down.shape[1])
            self._up = update.up.new_empty(places, len(update.up), rank)
        unused = [slot for slot, member in enumerate(self.members) if member not in staying]
        for slot in reversed(unused):
            if new:
                self._lay(slot, new.pop(), module)
                continue
            last = len(self.members) - 1
            if slot < last:
                self._down[slot], self._up[slot] = self._down[last], self._up[last]
                self.members[slot] = self.members[last]
            self.members.pop()
        for member in new:
            self._lay(len(self.members), member, module)
        self.down, self.up = self._down[: len(wanted), :rank], self._up[: len(wanted), :, :rank]

    def _lay(self, slot: int, member: _Member, module: Any) -> None:
        update = member.updates[module]
        rank = len(update.down)
        self._down[slot, :rank] = update.down
        self._down[slot, rank:] = 0
        torch.mul(update.up, update.scaling, out=self._up[slot, :, :rank])
        self._up[slot, :, rank:] = 0
        self.members[slot : slot + 1] = [member]
