"""Costs of methods, and after how many questions, or tokens of answers, a memory has paid. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from lift.evaluation.reader import Reply

_BF16_BYTES = 2


def kv_cache_bytes(config: Any, tokens: int) -> int:
    """Bytes of the keys and values of `tokens` tokens in bf16: 2 · layers · key-value heads · head size · tokens · 2.

    `config` is a transformers text configuration. Sliding windows are not taken off: it is what full attention keeps.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * tokens * _BF16_BYTES)


def break_even_questions(absorb_s: float, other_ask_s: float, memory_ask_s: float) -> int | None:
    """The least n with absorb_s + n · memory_ask_s <= n · other_ask_s; None where a question saves nothing."""
    saved_s = other_ask_s - memory_ask_s
    return math.ceil(absorb_s / saved_s) if saved_s > 0 else None


def answering_costs(replies: Sequence[Reply]) -> dict[str, Any]:
    """Median seconds of a question asked alone and of each of its further tokens, mean tokens of prompt and answer.

    None where nothing was asked alone.
    """
    alone = [reply for reply in replies if reply.alone and reply.error is None]
    answered = [reply for reply in replies if reply.error is None]
    per_token = [reply.seconds_per_token for reply in alone if reply.seconds_per_token is not None]
    return {
        "ask_s": median(reply.seconds for reply in alone) if alone else None,
        "ask_prompt_tokens": median(reply.prompt_tokens for reply in alone) if alone else None,
        "seconds_per_token": median(per_token) if per_token else None,
        "prompt_tokens": sum(reply.prompt_tokens for reply in answered) / max(len(answered), 1),
        "answer_tokens": sum(reply.answer_tokens for reply in answered) / max(len(answered), 1),
    }
