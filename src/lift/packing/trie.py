"""Packing: examples -> batches, tries in which every shared token prefix is computed once.

Tokens that several examples have in common from their first token on (the head of the chat template, a context, the
beginning of a question) form one path of a **trie**; each token attends to its ancestors in the trie and to nothing
else, at the position of its depth. Hidden states, losses and gradients are those of the examples one by one, since
attention, the only place where tokens meet, sees for each of them exactly its own prefix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lift.packing.alora import Invocation, invocation_offset
from lift.packing.prompts import IGNORED, Example


@dataclass(frozen=True)
class Batch:
    """One packed row. T trie nodes (tokens), M labelled positions, over S examples.

    `ids`, `positions`, `parents`: [T]; a root's parent is -1. `logit_positions`: [M], the node whose hidden state
    predicts `targets`: [M]. `weights`: [M], such that sum(weights * cross entropy) is the mean over the examples, by
    weight, of each example's mean token cross entropy: short answers are not drowned by long ones. `members` are the
    examples; the labelled positions come in their order.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parents: tuple[int, ...]
    logit_positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    members: tuple[Example, ...]

    @property
    def example_tokens(self) -> int:
        """Tokens of the examples one by one, without sharing."""
        return sum(len(example.ids) for example in self.members)

    @property
    def token_mean_weights(self) -> torch.Tensor:
        """Instead of `weights`: every labelled position counts alike but for its example's weight; sums to 1. [M]"""
        weights = torch.tensor([example.weight for example in self.members for _ in range(example.labelled_tokens)])
        return weights / weights.sum()

    @property
    def tokens(self) -> int:
        """Tokens computed, after sharing."""
        return len(self.parents)

    def alora_mask(self, invocation: Invocation) -> torch.Tensor:
        """The nodes that an adapter with that invocation acts on: those of answers, and of the invocations before them.

        None of a KL anchor, which is to be as the base has it. [1, T], bool
        """
        acted = torch.zeros(1, self.tokens, dtype=torch.bool)
        end = 0
        for example in self.members:
            end += example.labelled_tokens
            if example.kl_to_base:
                continue
            # from the last label up to the invocation, the nodes of the path are those of the tokens in reverse
            node = int(self.logit_positions[end - 1])
            for _ in range(len(example.ids) - 1 - invocation_offset(example.prompt, invocation)):
                acted[0, node] = True
                node = self.parents[node]
        return acted

    def with_ancestors(self, nodes: Sequence[int]) -> list[int]:
        """These nodes and all their ancestors, ascending."""
        found: set[int] = set()
        for node in nodes:
            ancestor = node
            while ancestor >= 0 and ancestor not in found:
                found.add(ancestor)
                ancestor = self.parents[ancestor]
        return sorted(found)

    def recurring(self) -> list[bool]:
        """Which nodes belong to an example that comes again in later epochs. [T]"""
        recurring = [False] * self.tokens
        ends, end = self.logit_positions.tolist(), 0
        for example in self.members:
            end += example.labelled_tokens
            node = ends[end - 1]
            while not example.drawn_anew and node >= 0 and not recurring[node]:
                recurring[node] = True
                node = self.parents[node]
        return recurring

    def part(self, nodes: Sequence[int]) -> Batch:
        """These nodes alone, in ascending order and with all their ancestors among them; nothing is predicted there."""
        place = {node: index for index, node in enumerate(nodes)} | {-1: -1}
        chosen = torch.tensor(nodes)
        return Batch(
            ids=self.ids[chosen],
            positions=self.positions[chosen],
            parents=tuple(place[self.parents[node]] for node in nodes),
            logit_positions=self.logit_positions[:0],
            targets=self.targets[:0],
            weights=self.weights[:0],
            members=(),
        )

    def attention_mask(self, dtype: torch.dtype, window_tokens: int | None = None) -> torch.Tensor:
        """Additive mask [1, 1, T, T]: 0 where a node attends (its ancestors and itself), the dtype's minimum else.

        With `window_tokens` it attends to the last so many of those alone.
        """
        size = self.tokens
        allowed = torch.zeros(size, size, dtype=torch.bool)  # [T, T]
        # a chain at a time: nodes that follow each other share all that the first one's parent attends to
        starts = [node for node, parent in enumerate(self.parents) if node == 0 or parent != node - 1]
        for start, end in itertools.pairwise([*starts, size]):
            if self.parents[start] >= 0:
                allowed[start:end] = allowed[self.parents[start]]
            allowed[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril_()
        if window_tokens is not None:
            allowed &= self.positions[:, None] - self.positions[None] < window_tokens
        mask = torch.full((size, size), torch.finfo(dtype).min, dtype=dtype)  # [T, T]
        return mask.masked_fill_(allowed, 0.0)[None, None]


class _Trie:
    """Token prefixes of the examples added so far."""

    def __init__(self) -> None:
        self.children: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []

    def new_tokens(self, ids: Sequence[int]) -> int:
        """How many nodes adding `ids` would create."""
        node, shared = -1, 0
        for token in ids:
            child = self.children.get((node, token))
            if child is None:
                break
            node, shared = child, shared + 1
        return len(ids) - shared

    def add(self, ids: Sequence[int]) -> list[int]:
        """The nodes of `ids`, created where missing."""
        nodes, node = [], -1
        for depth, token in enumerate(ids):
            child = self.children.get((node, token))
            if child is None:
                child = len(self.ids)
                self.children[node, token] = child
                self.ids.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            nodes.append(child)
            node = child
        return nodes


def pack(examples: Sequence[Example]) -> Batch:
    """One batch of all the `examples`; raises ValueError where there is none, or one without a label."""
    trie = _Trie()
    logit_positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    total_weight = sum(example.weight for example in examples)
    if not examples or total_weight <= 0:
        raise ValueError("expected at least one example with a positive weight")
    for example in examples:
        labelled = [index for index, label in enumerate(example.labels) if label != IGNORED]
        if not labelled or labelled[0] == 0:
            raise ValueError("expected an example with a label after its first token")
        nodes = trie.add(example.ids[:-1])  # the last token is only ever a target
        for index in labelled:
            logit_positions.append(nodes[index - 1])
            targets.append(example.labels[index])
            weights.append(example.weight / total_weight / len(labelled))
    return Batch(
        ids=torch.tensor(trie.ids),
        positions=torch.tensor(trie.depths),
        parents=tuple(trie.parents),
        logit_positions=torch.tensor(logit_positions),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights, dtype=torch.float32),
        members=tuple(examples),
    )


def split_batches(
    groups: Iterable[Iterable[Example]], batch_tokens: int, batch_examples: int = 0
) -> Iterator[list[Example]]:
    """Fill batches of at most `batch_tokens` trie nodes with whole groups where they fit, in the order given.

    None has more than `batch_examples` examples, where that is above 0.

    A group is a run of examples worth keeping together since they share a long prefix (one context). A group larger
    than a batch is cut; a single example longer than a batch makes a batch of its own. Of groups and examples, no more
    are drawn than the batch at hand needs.
    """
    trie, batch = _Trie(), list[Example]()
    for group in groups:
        rest = iter(group)
        drawn, tokens = _beginning(rest, batch_tokens - len(trie.ids))
        if batch and len(drawn) > 1 and len(trie.ids) + tokens > batch_tokens:
            yield batch
            trie, batch = _Trie(), []
        for example in itertools.chain(drawn, rest):
            full = len(batch) == batch_examples or len(trie.ids) + trie.new_tokens(example.ids[:-1]) > batch_tokens
            if batch and full:
                yield batch
                trie, batch = _Trie(), []
            trie.add(example.ids[:-1])
            batch.append(example)
    if batch:
        yield batch


def _beginning(examples: Iterator[Example], room_tokens: int) -> tuple[list[Example], int]:
    """The first examples of a group, and their trie nodes: all, or two and as many as show that there is no room."""
    trie, drawn = _Trie(), list[Example]()
    for example in examples:
        trie.add(example.ids[:-1])
        drawn.append(example)
        if len(trie.ids) > room_tokens and len(drawn) > 1:
            break
    return drawn, len(trie.ids)
