"""Shared prefixes: the beginnings that prompts have in common, and the passes in which each of them is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from lift.inference.prefix_cache import common_tokens

PASS_TOKENS = 32  # what a pass costs beside its tokens; measured: 27 with SmolLM2-135M on one core


@dataclass(frozen=True)
class SharedPrefix:
    """The first `tokens` tokens of the prompts `rows`; the first `begun` are known, or of a prefix `depth` - 1 deep."""

    rows: tuple[int, ...]
    begun: int
    tokens: int
    depth: int


def plan_shared_prefixes(prompts: Sequence[Sequence[int]], known: Sequence[int]) -> list[SharedPrefix]:
    """The beginnings that are worth a pass of their own, those of a beginning behind it; `known`: tokens of each row.

    Prompts with one instruction, and some of them one document behind it, share both.
    """
    order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    return list(_branches(prompts, known, order, 0, 0))


def _branches(
    prompts: Sequence[Sequence[int]], known: Sequence[int], rows: Sequence[int], begun: int, depth: int
) -> Iterator[SharedPrefix]:
    """`rows`, in the order of their tokens, have `begun` tokens in common that are read before."""
    if len(rows) < 2:
        return
    common = _common_tokens(prompts, rows)
    begun = max(begun, min(common, *(known[row] for row in rows)))
    if (len(rows) - 1) * (common - begun) >= PASS_TOKENS:
        yield SharedPrefix(tuple(rows), begun, common, depth)
        begun, depth = common, depth + 1
    for following, branch in groupby(rows, key=lambda row: tuple(prompts[row][common : common + 1])):
        if following:
            yield from _branches(prompts, known, list(branch), begun, depth)


def order_alike(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Rows in an order whose batches have much in common: prompts that begin alike together, the others by length."""
    groups = [sorted(group, key=lambda row: (len(prompts[row]), row)) for group in _begin_alike(prompts)]
    together = sorted((group for group in groups if len(group) > 1), key=lambda group: (len(prompts[group[-1]]), group))
    alone = sorted((group for group in groups if len(group) == 1), key=lambda group: (len(prompts[group[0]]), group))
    return [row for group in together + alone for row in group]


def _begin_alike(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in the order of their tokens, cut where less than half of the longer of two neighbours is common."""
    groups: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: tuple(prompts[row])):
        if groups:
            before = groups[-1][-1]
            longer = max(len(prompts[row]), len(prompts[before]))
            if _common_tokens(prompts, (before, row)) >= max(PASS_TOKENS, longer / 2):
                groups[-1].append(row)
                continue
        groups.append([row])
    return groups


def _common_tokens(prompts: Sequence[Sequence[int]], ordered: Sequence[int]) -> int:
    """Tokens that rows in the order of their tokens begin with in common: those of the first and the last."""
    return common_tokens(prompts[ordered[0]], prompts[ordered[-1]])
