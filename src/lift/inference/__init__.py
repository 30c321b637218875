"""Tokens in, tokens out: scheduler, KV cache, prefill, prefix cache, sampling, speculative decoding."""
