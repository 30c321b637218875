"""Tiny random models of the architectures that Lift is tested on: 2 layers, and sliding windows of 4 tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 61
WINDOW = 4

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED_LAYERS = ["sliding_attention", "full_attention"]
_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    # a Llama with the ratios of SmolLM2-135M: three query heads a key head, head size a ninth of the width
    "smollm2": (
        LlamaConfig,
        {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    ),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _MIXED_LAYERS}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma2": (
        Gemma2Config,
        {"head_dim": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        Gemma3TextConfig,
        {"head_dim": 8, "sliding_window": WINDOW, "layer_types": _MIXED_LAYERS, "query_pre_attn_scalar": 8},
    ),
    "phi3": (Phi3Config, {"sliding_window": WINDOW}),
}
ARCHITECTURES = list(_CONFIGS)


def tiny(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of that architecture, the same weights for the same seed, in evaluation mode."""
    kind, settings = _CONFIGS[architecture]
    config = kind(**{**_SHARED, **settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():  # norms and biases too, or a norm that is left out would go unnoticed
            if weight.ndim == 1:
                weight.data.add_(0.3 * torch.randn(weight.shape))
        return model.eval()


def deep(architecture: str, **changes: Any) -> Any:
    """A tiny model of four layers."""
    layered: dict[str, Any] = {"layer_types": _MIXED_LAYERS * 2} if architecture in ("qwen2", "gemma3") else {}
    return tiny(architecture, num_hidden_layers=4, **layered, **changes)
