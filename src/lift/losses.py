"""Losses, as pure functions of logits."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def weighted_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_m weights_m * -log softmax(logits_m)[targets_m], in float32 (method 1.1, 1.2).

    logits: [M, vocabulary], only at labelled positions; targets, weights: [M]. Scalar.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")  # [M]
    return (losses * weights).sum()
