"""Activated LoRA: the mask of the positions on which an adapter acts, from its invocation on.

Activated LoRA (arXiv 2504.12397, section 3): what stands in front of the invocation is read as the base reads it. Its
keys and values are the base's, serve every adapter, and need not be computed again while one is trained; and what a
memory has learned does not touch how a text is read. The caller of a model sets a ForwardContext (`forward_context`),
which gives the `alora_mask` of that forward pass. Without one, as for the next token of an answer, the adapter acts on
all positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol

import torch

Invocation = tuple[int, ...]  # () is that of an adapter that acts everywhere


class ForwardContext(Protocol):
    """The tokens of one forward pass, as far as an adapter asks: the mask of those that it acts on."""

    def alora_mask(self, invocation: Invocation) -> torch.Tensor:
        """Which of its B rows and T columns an adapter with that invocation acts on. [B, T], bool"""
        ...


class PromptForward:
    """The last `columns` columns of rows, padded on the left, of `prompts` and more, `lengths` tokens in all."""

    def __init__(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], columns: int) -> None:
        self._prompts, self._lengths, self._columns = prompts, lengths, columns

    def alora_mask(self, invocation: Invocation) -> torch.Tensor:
        """See ForwardContext."""
        begins = torch.tensor([invocation_offset(prompt, invocation) for prompt in self._prompts])  # [B]
        first = torch.tensor(self._lengths) - self._columns  # [B], of the tokens of a row in the first column
        return torch.arange(self._columns) + first[:, None] >= begins[:, None]


class PlainTextForward:
    """A text that is no prompt, in one row: no adapter with an invocation acts on it."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def alora_mask(self, _invocation: Invocation) -> torch.Tensor:
        """See ForwardContext."""
        return torch.zeros(1, self._tokens, dtype=torch.bool)


class _CurrentForward:
    """The forward pass under way, and the masks computed for it."""

    def __init__(self, current: ForwardContext) -> None:
        self._pass = current
        self._known: dict[tuple[Invocation | None, ...], torch.Tensor] = {}

    def of_rows(
        self, invocations: Sequence[Invocation | None], shape: torch.Size, device: torch.device
    ) -> torch.Tensor:
        key = tuple(invocations)
        if key not in self._known:
            masks = {each: self._pass.alora_mask(each).to(device) for each in set(key) if each}
            acted = torch.zeros(shape, dtype=torch.bool, device=device)  # [B, T]
            for row, invocation in enumerate(invocations):
                if invocation is not None:
                    acted[row] = masks[invocation][row] if invocation else True
            self._known[key] = acted
        return self._known[key]


_current: ContextVar[_CurrentForward | None] = ContextVar("lift_pass", default=None)


@contextlib.contextmanager
def forward_context(current: ForwardContext | None) -> Iterator[None]:
    """Set the context of the forward passes inside the block; None: adapters act on all positions."""
    token = _current.set(None if current is None else _CurrentForward(current))
    try:
        yield
    finally:
        _current.reset(token)


def invocation_offset(prompt: Sequence[int], invocation: Invocation) -> int:
    """Tokens of `prompt` in front of its last invocation (PEFT: alora_offsets); all but the last where it has none."""
    length = len(invocation)
    for start in range(len(prompt) - length, -1, -1):
        if prompt[start] == invocation[0] and tuple(prompt[start : start + length]) == invocation:
            return start
    return len(prompt) - 1


def invocations_by_row(invocations: Mapping[int, Invocation]) -> tuple[Invocation | None, ...]:
    """The invocations of the rows of a batch in order, up to the last row that has one; None where a row has none."""
    return tuple(invocations.get(row) for row in range(max(invocations, default=-1) + 1))


def is_masked(invocation: Invocation) -> bool:
    """Whether the forward pass under way has a mask for an adapter with that invocation."""
    return bool(invocation) and _current.get() is not None


Add = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def add_where_active(
    output: torch.Tensor, inputs: torch.Tensor, invocations: Sequence[Invocation | None], add: Add
) -> torch.Tensor:
    """`add(output, inputs)`, linear in `inputs`, on what is acted on in the pass under way.

    `output`: [B, T, out]; `inputs`: [B, T, in]. Each row has an adapter with an invocation of its own, or None, as
    those behind the last invocation. What is not acted on keeps its output, bit for bit.
    """
    current = _current.get()
    if current is None or not any(invocations):
        return add(output, inputs)
    acted = current.of_rows(invocations, output.shape[:2], output.device)  # [B, T]
    columns = acted.any(0).nonzero()
    if not len(columns):
        return output
    first = int(columns[0])
    own = inputs[:, first:] * acted[:, first:, None]  # [B, T - first, in]
    changed = add(output[:, first:], own)
    return changed if first == 0 else torch.cat([output[:, :first], changed], dim=1)
