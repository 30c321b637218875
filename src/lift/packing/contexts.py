"""The part of the document that a contextualised sample shows (method 1.3, LIFT section 3.3). Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lift.packing.segments import Segment


def draw_ends(total_tokens: int, context_tokens: int, generator: random.Random) -> tuple[Segment, Segment]:
    """c_k: a random piece of the document's head and one of its tail, `context_tokens` tokens in all.

    With C tokens of context, a is drawn from 0..C-1 and b = C - a; the head piece is a contiguous run of a tokens
    within the first C, the tail piece one of b tokens within the last C. A document shorter than C has C = its length,
    so any length works and neither piece ever leaves the document. Raises ValueError for an empty document or context.
    """
    if total_tokens < 1 or context_tokens < 1:
        raise ValueError(f"expected tokens to draw from, got {context_tokens} of {total_tokens}")
    size = min(context_tokens, total_tokens)
    head_tokens = generator.randrange(size)
    tail_tokens = size - head_tokens
    head = generator.randint(0, size - head_tokens)
    tail = total_tokens - generator.randint(0, size - tail_tokens) - tail_tokens
    return Segment(head, head + head_tokens), Segment(tail, tail + tail_tokens)


def deal_sentences(sentences: int, size: int, generator: random.Random) -> list[list[int]]:
    """A random partition of the sentences 0..n-1 into contexts of `size`, each in the order of the document."""
    order = list(range(sentences))
    generator.shuffle(order)
    return [sorted(order[first : first + size]) for first in range(0, sentences, size)]


def room_for_context(window_tokens: int, used_tokens: int, wanted_tokens: int) -> int:
    """C, the published context scaled to what the window leaves: min(wanted, M - l - |p|), at least 0 (method 8)."""
    return max(0, min(wanted_tokens, window_tokens - used_tokens))


def evidence_text(texts: Sequence[str], evidence: Sequence[int]) -> str:
    """The evidence sentences in the order of the document, as the prompt of a reader shows them."""
    return " ".join(texts[index] for index in sorted(set(evidence)))
