"""Text of strangers in pages of Markdown, and in commands that somebody copies from them."""

from __future__ import annotations

import shlex

_MARKUP = "\\`*_[]<>|#"


def plain_markdown(text: str) -> str:
    """`text` in one line without markup: no link, no cell, no heading of its own."""
    return "".join(f"\\{char}" if char in _MARKUP else char for char in " ".join(text.split()))


def code_block(text: str, language: str = "sh") -> str:
    """`text` as a block of code that nothing in it can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def quoted(text: object) -> str:
    """One word of a shell's command line."""
    return shlex.quote(str(text))
