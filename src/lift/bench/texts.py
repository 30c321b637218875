"""A text of a stated length, from whatever text there is."""

from __future__ import annotations

from typing import Any

from lift.errors import UsageError

RULE = "a longer text is cut after its first N tokens, a shorter one is repeated, a blank line between, and then cut"
_BREAK = "\n\n"


def text_of_length(tokenizer: Any, text: str, tokens: int) -> str:
    """`text` cut or repeated to `tokens` tokens as RULE says.

    Raises UsageError for a text without tokens.
    """
    offsets = _offsets(tokenizer, text)
    if not offsets:
        raise UsageError("expected a text with words in it, got an empty one; give another file")
    if len(offsets) < tokens:
        text = _BREAK.join([text] * (tokens // len(offsets) + 1))
        offsets = _offsets(tokenizer, text)
    return text[: offsets[tokens - 1][1]]


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of each token."""
    found: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return found
