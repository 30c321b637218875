"""Activation store: paths of tokens -> hidden states, exact, in a temporary file of bounded size.

A path is a node of a trie over all batches so far: its last token behind the row of the path before it. The trie is an
open-addressing hash table of small integers, 20 bytes a node where a dictionary would take 200. The file is read and
written explicitly: mapped pages would count as memory of this process. It has no name, so nothing is left of it
however the process ends.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import torch

from lift.errors import LiftError
from lift.models.fingerprint import cache_directory
from lift.packing.trie import Batch

UNKNOWN = -1


class ActivationStore:
    """At most `bound_bytes` of states [d] of type `dtype`, d being `width`; closed at the end of its `with` block."""

    def __init__(self, width: int, dtype: torch.dtype, bound_bytes: int) -> None:
        self._width = width
        self._dtype = dtype
        self._row_bytes = width * dtype.itemsize
        self._most_rows = bound_bytes // self._row_bytes
        self._index = _Trie()
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        """States that are stored."""
        return len(self._index)

    @property
    def most_rows(self) -> int:
        """States that the bound allows."""
        return self._most_rows

    def rows(self, batch: Batch) -> list[int]:
        """The row of each of the T nodes, UNKNOWN where it is not stored."""
        rows: list[int] = []
        for token, parent in zip(batch.ids.tolist(), batch.parents, strict=True):
            before = rows[parent] if parent >= 0 else _ROOT
            rows.append(UNKNOWN if before == UNKNOWN else self._index.find(before, token))
        return rows

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """States of N stored rows, on the CPU. [N, d]"""
        states = torch.empty(len(rows), self._width, dtype=self._dtype)  # [N, d]
        flat: Any = states.view(torch.uint8).reshape(-1).numpy()
        view = memoryview(flat)
        for start, end in _runs(rows):
            part = view[start * self._row_bytes : end * self._row_bytes]
            self._file.seek(rows[start] * self._row_bytes)
            if (count := self._file.readinto(part)) != len(part):
                raise LiftError(
                    f"expected {len(part)} bytes of the temporary file of hidden states in {cache_directory()}, got "
                    f"{count}; check that disk"
                )
        return states

    def add(self, batch: Batch, rows: Sequence[int], wanted: Sequence[bool], states: torch.Tensor) -> None:
        """Store the states [T, d] of the nodes that are `wanted` and of UNKNOWN row, parents first, up to the bound.

        `rows` are those of this batch. A node is stored with its whole path or not at all. A full disk is a bound
        reached: nothing is stored from then on.
        """
        nodes: list[int] = []
        places = dict[int, int]()
        for node, (row, parent) in enumerate(zip(rows, batch.parents, strict=True)):
            known = parent < 0 or rows[parent] != UNKNOWN or parent in places
            if row == UNKNOWN and wanted[node] and known and len(self) + len(nodes) < self._most_rows:
                places[node] = len(self) + len(nodes)
                nodes.append(node)
        if not nodes:
            return
        content = states[nodes].cpu().contiguous().view(torch.uint8).numpy().tobytes()  # [N, d] in bytes
        try:
            self._file.seek(len(self) * self._row_bytes)
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._most_rows = len(self)
            return
        for node in nodes:
            parent = batch.parents[node]
            before = _ROOT if parent < 0 else places.get(parent, rows[parent])
            self._index.add(before, int(batch.ids[node]))


_ROOT = -2  # the row in front of every path


class _Trie:
    """(row of the path before, token) -> row; rows are counted in the order in which they are added."""

    def __init__(self) -> None:
        self._before = array("i")
        self._tokens = array("i")
        self._slots = array("i", [UNKNOWN]) * 1024

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, before: int, token: int) -> int:
        """The row, or UNKNOWN."""
        return self._slots[self._slot(before, token)]

    def add(self, before: int, token: int) -> None:
        """Give a pair that is not there the next row."""
        self._before.append(before)
        self._tokens.append(token)
        if 2 * len(self) > len(self._slots):
            self._slots = array("i", [UNKNOWN]) * (2 * len(self._slots))
            for row, pair in enumerate(zip(self._before, self._tokens, strict=True)):
                self._slots[self._slot(*pair)] = row
        else:
            self._slots[self._slot(before, token)] = len(self) - 1

    def _slot(self, before: int, token: int) -> int:
        """The slot of the pair, or the free one where it belongs."""
        mask = len(self._slots) - 1
        slot = hash((before, token)) & mask
        while (row := self._slots[slot]) != UNKNOWN and (self._before[row] != before or self._tokens[row] != token):
            slot = (slot + 1) & mask
        return slot


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of `rows` that lies in one piece in the file."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield start, end
            start = end
