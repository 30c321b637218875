"""Prefill: prompts that are read together before their sequences decode, in chunks of a bounded number of tokens.

Or given answers that are scored: log P of each of them behind its prompt. What of a prompt was read before with the
same adapter is laid into the cache and not read again. All rows read as many of their last columns as the one that
needs most, so what stands before is known of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.inference.kv_cache import BatchCache, SlotKVCache
from lift.inference.prefix_cache import Layers, Prefixes
from lift.inference.shared_prefix import PASS_TOKENS
from lift.packing.alora import PromptForward, forward_context
from lift.packing.losses import cross_entropy


@dataclass(frozen=True)
class PrefillRequest:
    """A prompt that is to be read, and behind it an answer that is given, if there is one.

    `known`: where prompts that were read with the same adapter are found; `keeping`: where this one is kept. With
    `prefix_tokens` only so many of the prompt's tokens are read.
    """

    prompt: Sequence[int]
    answer: Sequence[int] = ()
    known: Sequence[Prefixes] = ()
    keeping: Sequence[Prefixes] = ()
    prefix_tokens: int | None = None

    @property
    def inputs(self) -> list[int]:
        """The tokens that the model reads: the last one of an answer says nothing more."""
        return [*self.prompt[: self.prefix_tokens], *self.answer[:-1]]

    @property
    def known_tokens(self) -> int:
        """How many need not be read, all but the prompt's last one at most."""
        return max((each.known_tokens(self._lasting(each)) for each in self.known), default=0)

    def known_layers(self) -> Layers:
        """Keys and values of the known tokens, and maybe of more."""
        if not self.known:
            return ()
        best = max(self.known, key=lambda each: each.known_tokens(self._lasting(each)))
        return best.find(self._lasting(best))

    def keep(self, layers: Layers, known: int) -> None:
        """Keep the layers of what was read, of which `known` tokens were known before, where it is worth its room."""
        tokens = self.prompt[: self.prefix_tokens]
        found: Layers = ()
        for each in self.keeping:
            lasting = tokens[: each.lasting_tokens(self.prompt)]
            if each.wants(len(tokens), max(known, each.known_tokens(lasting))):
                found = found or [(keys.clone(), values.clone()) for keys, values in layers]
                each.keep(lasting, found)

    def _lasting(self, known: Prefixes) -> Sequence[int]:
        # the logits behind the last one are wanted
        last = len(self.prompt) if self.prefix_tokens is None else self.prefix_tokens
        return self.prompt[: min(last - 1, known.lasting_tokens(self.prompt))]


class Prefill:
    """Rows that are read together, all with an answer or all without, in `cache`, whose rows before are lost.

    `tokens` are those that all rows together are still to read, padding included.
    """

    def __init__(self, model: Any, rows: Sequence[PrefillRequest], cache: SlotKVCache | BatchCache) -> None:
        self._model = model
        self._rows = rows
        self._inputs = [row.inputs for row in rows]
        self._known = [row.known_tokens for row in rows]
        self._left = max(len(ids) - known for ids, known in zip(self._inputs, self._known, strict=True))
        self._width = max(map(len, self._inputs))
        self._last = max(1, *(len(row.answer) for row in rows))  # columns whose logits are wanted
        self.cache = cache
        cache.restart(len(rows), self._width - self._left, self._left)
        for row, ids in zip(rows, self._inputs, strict=True):
            tokens = max(0, len(ids) - self._left)
            self.cache.begin(row.known_layers() if tokens else (), tokens)

    @property
    def tokens(self) -> int:
        """Tokens that are still to be read, padding included."""
        return self._left * len(self._rows)

    def read(self, tokens: int) -> torch.Tensor | None:
        """Read up to so many tokens, a column at least; with the last of them the logits [B, last, vocabulary].

        Of rows without an answer those behind the prompts, else those of the answers' tokens, that end in the last
        column. None before.
        """
        columns = min(self._left, max(1, tokens // len(self._rows)))
        if self._left - columns < max(self._last, columns // 4):  # crumbs are not worth a pass
            columns = self._left
        ids = torch.zeros(len(self._rows), columns, dtype=torch.long)  # [B, columns]
        begun = self._width - self._left
        for row, inputs in enumerate(self._inputs):
            start = begun - (self._width - len(inputs))  # of the columns within the row
            part = inputs[max(0, start) : max(0, start + columns)]
            ids[row, columns - len(part) :] = torch.tensor(part, dtype=torch.long)
        self._left -= columns
        lengths = [max(0, len(inputs) - self._left) for inputs in self._inputs]
        with forward_context(PromptForward([row.prompt for row in self._rows], lengths, columns)):
            logits = forward(self._model, self.cache, ids, lengths, 1 if self._left else self._last)
        if self._left:
            return None
        if isinstance(self.cache, SlotKVCache):
            for index, (request, known) in enumerate(zip(self._rows, self._known, strict=True)):
                if request.keeping:
                    request.keep(self.cache.row(index), known)
        return logits

    def log_probabilities(self, logits: torch.Tensor) -> list[float]:
        """log P(answer | prompt) of each row, from what `read` has given."""
        places = [
            (index, self._last - len(row.answer) + place)
            for index, row in enumerate(self._rows)
            for place in range(len(row.answer))
        ]
        rows, columns = (torch.tensor(each, device=logits.device) for each in zip(*places, strict=True))
        targets = torch.tensor([token for row in self._rows for token in row.answer], device=logits.device)  # [M]
        losses = cross_entropy(logits[rows, columns], targets)  # [M]
        return [-float(part.sum()) for part in torch.split(losses, [len(row.answer) for row in self._rows])]


def forward(
    model: Any, cache: SlotKVCache | BatchCache, ids: torch.Tensor, lengths: Sequence[int], last: int = 1
) -> torch.Tensor:
    """Read more columns `ids`, [B, T], of the rows in `cache`; the logits of the last ones, [B, last, vocabulary].

    `lengths`: tokens of each row behind it. A row that is shorter than what is read has its padding on the left.
    """
    columns = ids.shape[1]
    cache.prepare(columns)
    width = cache.width + columns
    steps = torch.arange(width)  # [W]
    starts = width - torch.tensor(lengths)[:, None]  # [B, 1]
    mask = steps >= starts  # [B, W]
    positions = (steps[-columns:] - starts).clamp(min=0)  # [B, T]
    padded = not bool(mask.all())
    logits: torch.Tensor = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.long().to(model.device) if padded else None,
        position_ids=positions.to(model.device),
        past_key_values=cache,
        use_cache=True,
        # by their indices: a slice of the hidden states, which is not contiguous, has torch copy the matrix of the
        # words for every row; measured, 5 times the time of the whole pass for 8 rows of SmolLM2-135M in bfloat16
        logits_to_keep=torch.arange(columns - last, columns, device=model.device),
    ).logits[:, -last:]
    cache.advance(columns, lengths)
    return logits


def group_alike(lengths: Sequence[int]) -> Iterable[list[int]]:
    """Rows that are to be read in one pass: where padding costs less than a pass of their own. `lengths`: tokens."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if group and (lengths[row] - lengths[group[-1]]) * len(group) > PASS_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
