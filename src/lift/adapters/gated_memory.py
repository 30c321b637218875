"""Gated Memory (LIFT, arXiv 2502.14644, section 3.4): a document as a function of the query, mixed into attention.

Attention over a document's keys o and the window's keys i falls apart exactly, per query q and head:

    attention(q; o and i) = g m(q) + (1 - g) a,    g = Z_o / (Z_o + Z_i) = sigmoid(log Z_o(q) - log Z_i)

with m(q) and a the attentions over each alone, Z the sums of exp over their logits. The document is fixed, so m and
log Z_o depend on q only: small networks learn them. They read the query before rotary positions, since the distance
to the document has no meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import silu

_GATE_AT_START = -3.0  # sigmoid(-3) = 0.047


def attention_gate(log_sum_outside: torch.Tensor, log_sum_inside: torch.Tensor) -> torch.Tensor:
    """g = sigmoid(log Z_o - log Z_i): the share of attention that the document gets. Any shape."""
    return torch.sigmoid(log_sum_outside - log_sum_inside)


def merge_attention(
    outputs: Sequence[torch.Tensor], log_sums: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over several sets of keys from the attention over each: their mean, weighted by Z, and log of all Z.

    `outputs`: [..., d] each; `log_sums`: [...] each; a set of which nothing was attended to has log-sum -inf (or the
    lowest number). Returns [..., d] and [...]. Raises ValueError where there is no set.
    """
    if not outputs or len(outputs) != len(log_sums):
        raise ValueError(f"expected as many outputs as log-sums and at least one, got {len(outputs)}, {len(log_sums)}")
    stacked = torch.stack(list(log_sums), dim=-1)  # [..., sets]
    log_sum = torch.logsumexp(stacked, dim=-1)  # [...]
    shares = torch.softmax(stacked, dim=-1)  # [..., sets]
    return torch.einsum("...s,...sd->...d", shares, torch.stack(list(outputs), dim=-2)), log_sum


def mix(
    attended: torch.Tensor, recalled: torch.Tensor, gate: torch.Tensor, displacement: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """(1 - kappa g) a + g m; kappa = 1 is the exact decomposition, kappa = 0 leaves a in place.

    `attended`, `recalled`: [..., H, d]; `gate`: [..., H]; `displacement`, kappa: [H] or a number.
    """
    return (1 - displacement * gate)[..., None] * attended + gate[..., None] * recalled


def two_layers(query: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SiLU(q first) second, for each head its own: [..., H, d], [H, d, w], [H, w, e] -> [..., H, e]."""
    hidden = silu(torch.einsum("...hd,hdw->...hw", query, first))  # [..., H, w]
    return torch.einsum("...hw,hwe->...he", hidden, second)


class GatedMemory(torch.nn.Module):
    """The memory and gate of one layer, separate for each of its H query heads of size d.

    m(q) = W2 SiLU(W1 q) with `width` d hidden units, no biases. gate "query": g = sigmoid(3 (u . SiLU(G q) - 1)), G
    to floor(sqrt d), no biases, as published. gate "exact": g = sigmoid(f(q) - log Z_i), f(q) = u . SiLU(G q) + b
    learning log Z_o. Output (1 - kappa g) a + g m.

    start "identity": kappa is trained and starts at 0, and so do W2 and u, W1 and G at their intended spread, so that
    the new memory changes nothing and yet gradients reach it. start "published": kappa is 1 and no parameter, and
    every matrix starts within 1 / sqrt(in out), which makes g 0.047 and m almost 0.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        width: float,
        gate: Literal["query", "exact"],
        start: Literal["identity", "published"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        hidden, gate_hidden = max(1, round(width * head_dim)), math.isqrt(head_dim)
        identity = start == "identity"

        def initial(rows: int, columns: int, zero: bool = False) -> torch.nn.Parameter:
            # Kaiming-uniform with a = sqrt 5 is uniform within 1 / sqrt(fan in); the published code has it of a
            # tensor of three dimensions, whose fan in comes out as rows x columns
            bound = 0.0 if zero else (rows if identity else rows * columns) ** -0.5
            values = torch.empty(heads, rows, columns).uniform_(-bound, bound, generator=generator)
            return torch.nn.Parameter(values)

        self.read_in = initial(head_dim, hidden)  # W1 [H, d, w]
        self.read_out = initial(hidden, head_dim, zero=identity)  # W2 [H, w, d]
        self.gate_in = initial(head_dim, gate_hidden)  # G [H, d, s]
        self.gate_out = initial(gate_hidden, 1, zero=identity)  # u [H, s, 1]
        self.gate_bias = torch.nn.Parameter(torch.zeros(heads)) if gate == "exact" else None  # b [H]
        self.displacement = torch.nn.Parameter(torch.zeros(heads)) if identity else None  # kappa [H]

    @torch.no_grad()
    def expect_log_sum(self, log_sum: torch.Tensor) -> None:
        """Set the bias of the exact gate so that it starts near 0.047 where log Z_i is `log_sum`. [H]"""
        if self.gate_bias is not None:
            self.gate_bias.copy_(log_sum + _GATE_AT_START)

    def recall(self, query: torch.Tensor) -> torch.Tensor:
        """m(q): what attention to the document would give. [..., H, d] -> [..., H, d]"""
        return two_layers(query, self.read_in, self.read_out)

    def log_sum_outside(self, query: torch.Tensor) -> torch.Tensor:
        """f(q), the exact gate's estimate of log Z_o. [..., H, d] -> [..., H]"""
        logit = two_layers(query, self.gate_in, self.gate_out)[..., 0]  # [..., H]
        return logit if self.gate_bias is None else logit + self.gate_bias

    def gate(self, query: torch.Tensor, log_sum_inside: torch.Tensor | None = None) -> torch.Tensor:
        """g; `log_sum_inside`, log Z_i [..., H], is for the exact gate alone. [..., H, d] -> [..., H]"""
        if log_sum_inside is None:
            return torch.sigmoid(3 * (self.log_sum_outside(query) - 1))
        return attention_gate(self.log_sum_outside(query), log_sum_inside)

    def forward(
        self, query: torch.Tensor, attended: torch.Tensor, log_sum_inside: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mixed heads and the gate, in float32: [..., H, d], [..., H, d], [..., H] -> [..., H, d], [..., H]."""
        query, attended = query.to(self.read_in.dtype), attended.to(self.read_in.dtype)
        gate = self.gate(query, log_sum_inside)  # [..., H]
        displacement = 1.0 if self.displacement is None else self.displacement
        return mix(attended, self.recall(query), gate, displacement), gate
