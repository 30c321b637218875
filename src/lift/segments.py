"""Token windows that overlap, so that the order of a long text can be learnt (method 1.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Tokens [start, end) of the document."""

    start: int
    end: int

    @property
    def length_tokens(self) -> int:
        return self.end - self.start


def split_segments(total_tokens: int, length_tokens: int, step_tokens: int) -> list[Segment]:
    """Cover [0, total_tokens) by windows of `length_tokens`, each starting `step_tokens` after the one before.

    The formal definition (LIFT, section 3.1): l_1 = 1, r_K = L, l_{i+1} = l_i + s. The last segment ends at the last
    token, so it alone may be shorter, and none lies within another. A text shorter than one window is one segment.
    Raises ValueError where length or step are not positive, or the step is longer than the window (a gap).
    """
    if length_tokens < 1 or not 1 <= step_tokens <= length_tokens:
        raise ValueError(f"expected 1 <= step <= length, got step {step_tokens} and length {length_tokens} tokens")
    if total_tokens < 1:
        return []
    count = 1 + max(0, -(-(total_tokens - length_tokens) // step_tokens))
    return [
        Segment(index * step_tokens, min(index * step_tokens + length_tokens, total_tokens)) for index in range(count)
    ]
