"""How many tokens a text has for a model whose tokenizer is not at hand: a rule, without network. Pure.

An estimated token is a run of up to four ASCII characters, or one character of any other kind. OpenAI's own rule of
thumb is four characters a token in English; other scripts take between half a token and one and a half a character,
so one each is on the careful side for most of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"[\x00-\x7f]{1,4}|[^\x00-\x7f]")
# What the chat format adds: three tokens around each message, three before the reply.
_MESSAGE_TOKENS = 3
_REPLY_TOKENS = 3


def token_offsets(text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of each estimated token of `text`, without a gap."""
    return [match.span() for match in _TOKEN.finditer(text)]


def estimate_tokens(text: str) -> int:
    """How many tokens `text` has, by the rule of this module."""
    return sum(1 for _ in _TOKEN.finditer(text))


def estimate_chat_tokens(contents: Sequence[str]) -> int:
    """How many tokens a conversation of messages with these contents has, its format included."""
    return _REPLY_TOKENS + sum(_MESSAGE_TOKENS + estimate_tokens(content) for content in contents)
