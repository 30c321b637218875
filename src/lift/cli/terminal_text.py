"""Text for a terminal: nothing that a document, a name, a title or an error holds can steer it, or feign other text.

Everything that the command line writes goes through printable_text (output.py), since a text may come from anywhere:
escape sequences move the cursor, set the window's title, or type for the user; marks of direction show letters in
another order than they have; halves of surrogate pairs, which file names may hold, cannot be written at all.
"""

from __future__ import annotations

_KEPT = "\n\t"
# "Trojan Source": what is shown is not what is there
_DIRECTION_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_STEERING = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT}
_STEERING |= {ord(mark): "" for mark in _DIRECTION_MARKS}
_STEERING |= {code: "\ufffd" for code in range(0xD800, 0xE000)}
_ESCAPED = {
    code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *map(ord, _DIRECTION_MARKS), *range(0xD800, 0xE000))
}


def printable_text(text: str) -> str:
    """The text without control characters but line feeds and tabs, without marks of direction and half characters."""
    return text if text.isascii() and text.isprintable() else text.translate(_STEERING)


def printable_line(text: str) -> str:
    """As printable_text, and one line."""
    return " ".join(printable_text(text).split("\n"))


def printable_json(json_text: str) -> str:
    """JSON that means the same, with an escape in place of each of these characters."""
    return json_text if json_text.isascii() and "\x7f" not in json_text else json_text.translate(_ESCAPED)
