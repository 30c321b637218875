"""Block-sparse attention of a packed batch: groups of blocks of its trie, so that no masked score is computed.

A node of the trie (trie.py) attends to its ancestors, some tens of the batch's hundreds of nodes. The trie falls
apart into **blocks**: runs of nodes of which each is the child of the one before. The queries of a block share one
path of keys, the ancestors of its first node and then the block itself, along which they attend causally. Blocks of
like size are padded to one shape and make a **group**, which is one batched product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

_LONGEST_BLOCK = 96  # a longer one computes more scores above its diagonal than its keys are worth gathering for
# Measured on a CPU, forward and backward, in scores (one query by one key): what a group costs beside its scores, and
# what a score of a group costs, its keys gathered, beside one of a single product over the whole batch.
_GROUP_COST = 1000
_SCORE_COST = 1.4


@dataclass(frozen=True)
class BlockGroup:
    """S blocks of at most Lq queries and Lk keys.

    `queries`: [S, Lq], nodes, of which the first `counts`: [S] are the block's and the rest repeat its last. `keys`:
    [S, Lk], nodes: the path from the root to the block's last node, and then node 0. `before`: [S], how many keys come
    before the first query: query i attends to keys 0 to before + i.
    """

    queries: torch.Tensor
    counts: torch.Tensor
    keys: torch.Tensor
    before: torch.Tensor

    @property
    def scores(self) -> int:
        """Scores a head computes, padding included."""
        return self.queries.numel() * self.keys.shape[1]

    def attended(self) -> torch.Tensor:
        """Which keys a query attends to, [S, Lq, Lk], boolean; at least one in every row, padding included."""
        last = self.before[:, None] + torch.arange(self.queries.shape[1])  # [S, Lq]
        return torch.arange(self.keys.shape[1]) <= last[..., None]


@dataclass(frozen=True)
class _Block:
    """Nodes [first, first + count); the first has `before` ancestors."""

    first: int
    count: int
    before: int

    @property
    def keys(self) -> int:
        return self.before + self.count


def attention_groups(parents: Sequence[int]) -> list[BlockGroup]:
    """Groups of the trie in which every node is a query once. `parents`: T, each before its children; a root's is -1.

    The grouping is the cheapest of those that keep blocks in the order of their keys.
    """
    blocks = sorted(_blocks(parents), key=lambda block: block.keys)
    return [_group(blocks[start:end], parents) for start, end in pairwise(_boundaries(blocks))]


def cheaper_than_one_product(groups: Sequence[BlockGroup], tokens: int) -> bool:
    """Whether attention by groups costs less than one product of all `tokens` queries by all keys."""
    return _SCORE_COST * sum(group.scores + _GROUP_COST for group in groups) < tokens**2


def _blocks(parents: Sequence[int]) -> list[_Block]:
    starts = [node for node, parent in enumerate(parents) if node == 0 or parent != node - 1]
    depths: list[int] = []  # ancestors of each node
    for parent in parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    blocks = []
    for start, end in pairwise([*starts, len(parents)]):
        pieces = -(-(end - start) // _LONGEST_BLOCK)
        cuts = [start + (end - start) * piece // pieces for piece in range(pieces + 1)]
        blocks += [_Block(first, stop - first, depths[first]) for first, stop in pairwise(cuts)]
    return blocks


def _boundaries(blocks: Sequence[_Block]) -> list[int]:
    """Where the cheapest division of the ordered blocks into groups begins and ends each of them."""
    costs, starts = [0], [0]  # of the first n blocks: the least cost, and where its last group begins
    for end in range(1, len(blocks) + 1):
        most_queries, best, best_start = 0, None, 0
        for start in range(end - 1, -1, -1):
            most_queries = max(most_queries, blocks[start].count)
            cost = costs[start] + (end - start) * most_queries * blocks[end - 1].keys + _GROUP_COST
            if best is None or cost < best:
                best, best_start = cost, start
        costs.append(best or 0)
        starts.append(best_start)
    boundaries = [len(blocks)]
    while boundaries[-1]:
        boundaries.append(starts[boundaries[-1]])
    return boundaries[::-1]


def _group(blocks: Sequence[_Block], parents: Sequence[int]) -> BlockGroup:
    most_queries = max(block.count for block in blocks)
    most_keys = max(block.keys for block in blocks)
    queries, keys = [], []
    for block in blocks:
        path, node = [0] * (most_keys - block.keys), block.first + block.count - 1
        last = node
        while node >= 0:
            path.append(node)
            node = parents[node]
        keys.append(path[::-1])
        queries.append([min(block.first + index, last) for index in range(most_queries)])
    return BlockGroup(
        queries=torch.tensor(queries),
        counts=torch.tensor([block.count for block in blocks]),
        keys=torch.tensor(keys),
        before=torch.tensor([block.before for block in blocks]),
    )
