"""What a test sets in one of Lift's own recipes, which learn no segments, so that it learns some."""

from __future__ import annotations


def with_segments(length_tokens: int, step_tokens: int) -> list[str]:
    """Segments of that length, so far apart; an adapter that acts on answers alone cannot learn them."""
    return [
        "adapter.activated=false",
        "segments.weight=1",
        f"segments.length_tokens={length_tokens}",
        f"segments.step_tokens={step_tokens}",
    ]
