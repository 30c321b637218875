"""Prompts that are read together before their answers join a running batch: in passes of a bounded number of tokens.

What of a prompt was read before with the same adapter is laid into the cache and not read again (prefix_cache.py). All
rows read as many of their last columns as the one that needs most, so what stands before is known of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lift.models.prefix_cache import Prefixes
from lift.models.running_cache import RunningCache
from lift.models.shared_prefix import last_column

_PASS_TOKENS = 32  # what a pass costs beside its tokens; see shared_prefix.py


class Prefill:
    """The prompts of some rows; `prefixes`: what is kept of each row's adapter, None: nothing is to be.

    `tokens` are those that all rows together are still to read, padding included.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], prefixes: Sequence[Prefixes | None]) -> None:
        self._model = model
        self._prompts = prompts
        self._prefixes = prefixes
        self._known = [
            kept.known_tokens(prompt[:-1]) if kept else 0 for prompt, kept in zip(prompts, prefixes, strict=True)
        ]
        self._left = max(len(prompt) - known for prompt, known in zip(prompts, self._known, strict=True))
        self._width = max(map(len, prompts))
        self.cache = RunningCache(model, len(prompts), len(prompts) * self._width)
        for prompt, kept in zip(prompts, prefixes, strict=True):
            tokens = max(0, len(prompt) - self._left)
            self.cache.begin(kept.find(prompt[:-1]) if kept and tokens else (), tokens)

    @property
    def tokens(self) -> int:
        """Tokens that are still to be read, padding included."""
        return self._left * len(self._prompts)

    def read(self, tokens: int) -> torch.Tensor | None:
        """Read up to so many tokens, a column at least; the logits behind the prompts [B, vocabulary] with the last."""
        columns = min(self._left, max(1, tokens // len(self._prompts)))
        ids = torch.zeros(len(self._prompts), columns, dtype=torch.long)  # [B, columns]
        begun = self._width - self._left
        for row, prompt in enumerate(self._prompts):
            start = begun - (self._width - len(prompt))  # of the columns within the prompt
            part = prompt[max(0, start) : max(0, start + columns)]
            ids[row, columns - len(part) :] = torch.tensor(part, dtype=torch.long)
        self._left -= columns
        lengths = [max(0, len(prompt) - self._left) for prompt in self._prompts]
        logits = forward(self._model, self.cache, ids, lengths)
        if self._left:
            return None
        self._keep()
        return logits

    def _keep(self) -> None:
        for row, (prompt, known, kept) in enumerate(zip(self._prompts, self._known, self._prefixes, strict=True)):
            if kept and kept.wants(len(prompt), known):
                kept.keep(prompt, self.cache.row(row))


def forward(model: Any, cache: RunningCache, ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Read more columns `ids`, [B, T], of the rows in `cache`; the last logits, [B, vocabulary].

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
        logits_to_keep=last_column(ids),
    ).logits[:, -1]
    cache.advance(columns, lengths)
    return logits


def group_alike(lengths: Sequence[int]) -> Iterable[list[int]]:
    """Rows that are to be read in one pass: where padding costs less than a pass of their own. `lengths`: tokens."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if group and (lengths[row] - lengths[group[-1]]) * len(group) > _PASS_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
