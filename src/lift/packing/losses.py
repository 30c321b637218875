"""Losses, as pure functions of logits."""

from __future__ import annotations

from typing import Any

import torch

_ROWS = 32  # of logits that are float32 at once


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits_m)[targets_m], in float32 (method 1.1, 1.2).

    logits: [M, vocabulary], only at labelled positions; targets: [M]. [M]. Beside the logits and their gradient, no
    more than a few rows of that width are held at once, in either direction.
    """
    losses: torch.Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """logsumexp(l) - l_target; its gradient, softmax(l) less one at the target, is computed anew from the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        normalisers = torch.cat([rows.float().logsumexp(-1) for rows in torch.split(logits, _ROWS)])  # [M]
        ctx.save_for_backward(logits, targets, normalisers)
        return normalisers - logits.gather(1, targets[:, None])[:, 0].float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        of_logits = torch.empty_like(logits)  # [M, vocabulary]
        columns = gradient[:, None], normalisers[:, None], targets[:, None]  # [M, 1] each
        parts = (torch.split(each, _ROWS) for each in (of_logits, logits, *columns))
        for to, rows, scale, normaliser, target in zip(*parts, strict=True):
            probabilities = rows.float().sub_(normaliser).exp_()
            probabilities.scatter_add_(1, target, probabilities.new_full(target.shape, -1.0))
            to.copy_(probabilities.mul_(scale))
        return of_logits, None


def top_k_log_probabilities(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's side of bucket_divergence: (log-probabilities [M, K], token ids [M, K]) of its K likeliest tokens.

    logits: [M, vocabulary].
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)  # [M, vocabulary]
    top = log_probabilities.topk(min(top_k, logits.shape[-1]), dim=-1)
    return top.values, top.indices


def bucket_divergence(
    logits: torch.Tensor, teacher_log_probabilities: torch.Tensor, teacher_ids: torch.Tensor
) -> torch.Tensor:
    """KL(teacher || student) over the teacher's K likeliest tokens and one bucket for all others. [M], at least 0.

        KL = sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest),  p_rest = 1 - sum_k p_k

    A lower bound of the divergence over the whole vocabulary, equal to it where K covers the vocabulary (knowledge
    distillation, Hinton et al. 2015; context distillation, 2209.15189). logits: [M, vocabulary] of the student;
    teacher_log_probabilities, teacher_ids: [M, K].
    """
    student = torch.log_softmax(logits.float(), dim=-1).gather(-1, teacher_ids)  # [M, K]
    divergence = (teacher_log_probabilities.exp() * (teacher_log_probabilities - student)).sum(-1)  # [M]
    rest = _log_rest(teacher_log_probabilities)  # [M]
    divergence = divergence + rest.exp() * (rest - _log_rest(student))
    return divergence.clamp(min=0)


def _log_rest(log_probabilities: torch.Tensor) -> torch.Tensor:
    """log(1 - sum exp), kept away from log 0. [M, K] -> [M]."""
    total = log_probabilities.logsumexp(-1).clamp(max=-1e-6)
    return torch.log(-torch.expm1(total))
