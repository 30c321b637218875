"""Prefix cache: keys and values of prompts that were read before; a prompt that begins alike is read from there on.

Questions about one text share nearly the whole prompt, since the text stands before the question. A prompt's keys and
values are kept for every layer and token, windowed layers included, so that they can be cut to whatever a later prompt
has in common with it. They are found by the token ids and by the state that the model was in when it read them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.packing.alora import Invocation, invocation_offset

LIMIT_BYTES = 512 * 2**20
_WORTH_TOKENS = 128  # a short question, or the sentences behind a known template, come again too seldom to be kept

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer, [1, K, T, d]


@dataclass(frozen=True, eq=False)
class _Entry:
    state: Hashable
    tokens: tuple[int, ...]
    layers: Layers

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


class PrefixCache:
    """Prompts that one model has read, at most `limit_bytes` of keys and values; the longest unused make room.

    Those that begin like one that is kept are kept too where `worth_tokens` of them are new. `state(model)` is what
    beside the tokens determines them: equal only while the model makes the same of the same tokens. While it is None,
    or where there is no such function, `open` finds nothing, and states are told to Prefixes by who knows them.
    `invocation(model)` is where the model begins to read otherwise than its state says.
    """

    def __init__(
        self,
        state: Callable[[Any], Hashable | None] = lambda _model: None,
        limit_bytes: int = LIMIT_BYTES,
        *,
        worth_tokens: int = _WORTH_TOKENS,
        invocation: Callable[[Any], Invocation] = lambda _model: (),
    ) -> None:
        self.limit_bytes = limit_bytes
        self.worth_tokens = worth_tokens
        self._state = state
        self._invocation = invocation
        self._entries: list[_Entry] = []  # the longest unused first

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return sum(entry.bytes for entry in self._entries)

    def open(self, model: Any) -> Prefixes | None:
        """The prefixes kept for `model` as it is now, good until it changes; None while nothing can be."""
        state = self._state(model)
        if state is None:
            return None
        return Prefixes(self, (state, model.device, model.dtype), self._invocation(model))

    def clear(self) -> None:
        """Let go of all of it."""
        self._entries.clear()

    def _longest(self, state: Hashable, tokens: Sequence[int]) -> tuple[int, _Entry | None]:
        """The entry that has the most in common with what `tokens` begin with, the last used of several; how much."""
        best, count = None, 0
        for entry in reversed(self._entries):
            if entry.state == state and (common := common_tokens(entry.tokens, tokens)) > count:
                best, count = entry, common
        return count, best

    def _use(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)

    def _add(self, added: _Entry) -> None:
        if added.bytes > self.limit_bytes:
            return
        # what the new one begins with is found in it from now on
        others = [
            entry
            for entry in self._entries
            if entry.state != added.state or added.tokens[: len(entry.tokens)] != entry.tokens
        ]
        while sum(entry.bytes for entry in others) + added.bytes > self.limit_bytes:
            others.pop(0)
        self._entries = [*others, added]


class Prefixes:
    """The prompts that are kept of a model in one state, up to the `invocation` of an adapter that acts from there."""

    def __init__(self, cache: PrefixCache, state: Hashable, invocation: Invocation = ()) -> None:
        self._cache = cache
        self._state = state
        self._invocation = invocation

    def lasting_tokens(self, prompt: Sequence[int]) -> int:
        """How many tokens `prompt` begins with that are read alike in every prompt that begins with them."""
        return invocation_offset(prompt, self._invocation) if self._invocation else len(prompt)

    def known_tokens(self, tokens: Sequence[int]) -> int:
        """How many tokens `tokens` begin with need not be read again."""
        return self._cache._longest(self._state, tokens)[0]

    def find(self, tokens: Sequence[int]) -> Layers:
        """Keys and values of the first known_tokens(tokens), views that must not be written to; empty for none."""
        count, entry = self._cache._longest(self._state, tokens)
        if entry is None:
            return ()
        self._cache._use(entry)
        return [(keys[:, :, :count], values[:, :, :count]) for keys, values in entry.layers]  # [1, K, count, d]

    def wants(self, tokens: int, known: int) -> bool:
        """Whether a prompt of so many tokens, of which so many were known, is worth its room."""
        return tokens - known >= self._cache.worth_tokens or known == 0

    def keep(self, tokens: Sequence[int], layers: Layers) -> None:
        """Keep what was read of `tokens`, and maybe of more; nothing may write to the tensors afterwards."""
        count = len(tokens)
        if not count:
            return
        own = [
            (_without_surplus(keys[:, :, :count]), _without_surplus(values[:, :, :count])) for keys, values in layers
        ]
        self._cache._add(_Entry(self._state, tuple(tokens), own))


def common_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(first), len(second)))


def _without_surplus(states: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy where it is a part of a larger one, which would stay in memory with it."""
    return states if states.untyped_storage().nbytes() == states.nbytes else states.clone()
