"""Speculative decoding: a draft model, a Llama's own weights in 4 bits, proposes tokens, and the model verifies them.

On a CPU a step of one token takes as long as reading all weights from memory, and checking sixteen tokens takes little
longer than making one. Tokens are so proposed with weights of a seventh of the size, a token at a time, and checked in
one pass (arXiv 2211.17192, in the greedy case): what is said stays what the model says. A proposal needs to be quick,
not right: products run in bfloat16, and the word is chosen among the few that 4 bits hold most likely.

Each 32 neighbours of a row are laid between their least and greatest value in 15 equal steps. Weights that come from a
4-bit GGUF file lie on such steps already, so little is lost. A LoRA adapter is added as it is.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from lift.adapters.low_rank import LowRank, applied_to_all
from lift.inference.prefix_cache import Layers

_GROUP = 32  # neighbours in a row that share their steps
_CHOSEN_AMONG = 32  # words whose logits are computed in full
_LEAST, _MOST = 4, 32  # proposals at a time
_LEAST_ROUNDS = 4  # before it is known whether proposing pays: a round costs what two or three tokens cost without it
_TOKENS_TO_PACK = 16  # what takes as long as packing; measured: 14 to 24 with SmolLM2-135M on one core
_multiply = torch.ops.aten._weight_int4pack_mm_for_cpu.default
_PACKED_FROM = {torch.float32, torch.bfloat16, torch.float16}
_QUICK_PRODUCTS = {"AVX2", "AVX512"}  # processors for which torch has more than a loop over single weights


@dataclass(frozen=True)
class Packed:
    """A matrix [N, K] in 4 bits, in torch's layout for this processor, and its steps and centres [K / 32, N, 2]."""

    nibbles: torch.Tensor
    steps: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> Packed:
        """The nearest to `weight`, float32 [N, K] with N and K divisible by 32."""
        rows, columns = weight.shape
        groups = weight.view(rows, columns // _GROUP, _GROUP)
        least = groups.amin(-1, keepdim=True)  # [N, K / 32, 1]
        step = ((groups.amax(-1, keepdim=True) - least) / 15).clamp(min=torch.finfo(torch.float32).tiny)
        nibbles = ((groups - least) / step).round_().to(torch.int32).view(rows, columns)
        # torch reads a nibble as its distance from 8
        steps = torch.cat([step, least + 8 * step], dim=-1).transpose(0, 1)  # [K / 32, N, 2]
        return cls(
            torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles, 1), steps.to(torch.bfloat16).contiguous()
        )

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """The matrix times `vector` [K]; float32 [N], exact to the three digits of bfloat16."""
        row = vector.view(1, -1).to(torch.bfloat16)
        out: torch.Tensor = _multiply(row, self.nibbles, _GROUP, self.steps)  # [1, N]
        return out.view(-1).float()


@dataclass(frozen=True)
class _Layer:
    """A layer's matrices; those that read the same vector are one."""

    queries_keys_values: Packed
    mixed: Packed
    gate_up: Packed
    down: Packed
    norms: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Update:
    """A LoRA adapter's part in one matrix, whose output begins at `start` of the joined matrix."""

    start: int
    update: LowRank

    def add(self, out: torch.Tensor, vector: torch.Tensor) -> None:
        down, up = self.update.down, self.update.up  # [r, K], [N, r]
        out[self.start : self.start + len(up)].addmv_(up, torch.mv(down, vector), alpha=self.update.scaling)


class _Weights:
    """All of a model's matrices in 4 bits; `source` tells which weights they were made of."""

    def __init__(self, model: Any) -> None:
        self.source = _source(model)
        self.layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self.layers.append(
                _Layer(
                    _joined(attention.q_proj, attention.k_proj, attention.v_proj),
                    _joined(attention.o_proj),
                    _joined(mlp.gate_proj, mlp.up_proj),
                    _joined(mlp.down_proj),
                    (layer.input_layernorm.weight.float(), layer.post_attention_layernorm.weight.float()),
                )
            )
        self.words = Packed.of(model.lm_head.weight.float())
        self.norm = model.model.norm.weight.float()


class _Part:
    """A layer at work: `keys` [K, d, seen] and `values` [K, seen, d] of what was read, and `own` of the proposals."""

    def __init__(
        self,
        layer: _Layer,
        updates: tuple[list[_Update], ...],
        keys: torch.Tensor,
        values: torch.Tensor,
        count: int,
    ) -> None:
        self.layer, self.updates, self.keys, self.values = layer, updates, keys, values
        self.own = values.new_empty(2 * len(values), count, values.shape[-1])  # keys, then values: [2 K, count, d]


_packed: WeakKeyDictionary[torch.nn.Module, _Weights] = WeakKeyDictionary()
_said: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()  # tokens of single rows that were not proposed


class DraftModel:
    """Proposes the greedy continuation of one row, with the adapter that the model applies to all rows now."""

    def __init__(self, model: Any) -> None:
        weights = _packed.get(model)
        if weights is None or weights.source != _source(model):
            _packed[model] = weights = _Weights(model)
        self._weights = weights
        applied = applied_to_all(model)
        self._updates = [_updates_of(layer, applied) for layer in model.model.layers]
        self._model = model
        self._eps: float = model.config.rms_norm_eps
        self._heads: int = model.config.num_attention_heads
        self._cached_heads: int = model.config.num_key_value_heads
        self._size: int = model.model.layers[0].self_attn.head_dim

    def propose(self, cached: Layers, token: int, count: int, stop: Container[int]) -> list[int]:
        """Up to `count` tokens behind `token`, which comes behind those that are `cached`; none after one of `stop`."""
        seen = cached[0][0].shape[2]
        cosines, sines = self._turns(torch.arange(seen, seen + count))
        parts = [
            _Part(layer, updates, keys[0].transpose(1, 2).float(), values[0].float(), count)
            for layer, updates, (keys, values) in zip(self._weights.layers, self._updates, cached, strict=True)
        ]
        proposals: list[int] = []
        for index in range(count):
            hidden = self._model.model.embed_tokens.weight[token].float()  # [D]
            for part in parts:
                hidden = self._step(hidden, part, index, cosines[index], sines[index])
            token = self._choose(self._normed(hidden, self._weights.norm))
            proposals.append(token)
            if token in stop:
                break
        return proposals

    def _step(
        self, hidden: torch.Tensor, part: _Part, index: int, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        """The output of one layer for the proposal number `index`: [D] -> [D]; keys and values are kept in `part`."""
        layer, updates = part.layer, part.updates
        heads = _product(layer.queries_keys_values, updates[0], self._normed(hidden, layer.norms[0]))
        heads = heads.view(-1, self._size)  # [H + 2 K, d]
        heads = torch.addcmul(heads * cosines, heads.roll(self._size // 2, -1), sines)
        part.own.select(1, index).copy_(heads[self._heads :])
        queries = heads[: self._heads].view(self._cached_heads, -1, self._size)  # [K, H / K, d]
        own = part.own.narrow(1, 0, index + 1)  # [2 K, index + 1, d]
        seen = part.values.shape[1]
        before, now = torch.bmm(queries, part.keys), torch.bmm(queries, own[: self._cached_heads].transpose(1, 2))
        shares = torch.cat([before, now], dim=-1).softmax(-1)  # [K, H / K, seen + index + 1]
        mixed = torch.bmm(shares[..., :seen], part.values)  # [K, H / K, d]
        mixed.baddbmm_(shares[..., seen:], own[self._cached_heads :])
        hidden = hidden + _product(layer.mixed, updates[1], mixed.view(-1))
        gate_up = _product(layer.gate_up, updates[2], self._normed(hidden, layer.norms[1]))  # [2 I]
        gate, up = gate_up.chunk(2)
        return hidden + _product(layer.down, updates[3], F.silu(gate).mul_(up))

    def _turns(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotation of queries and keys to these positions, and leaves values: cosines and sines [T, H + 2 K, d].

        A head is turned by itself times the cosines and itself rolled by half times the sines. Queries also get the
        scale of attention.
        """
        cosines, sines = self._model.model.rotary_emb(self._weights.norm, positions[None])  # [1, T, d]
        half = self._size // 2
        sines = torch.cat([-sines[..., :half], sines[..., half:]], dim=-1)
        scales = torch.ones(self._heads + 2 * self._cached_heads, 1)
        scales[: self._heads] = self._size**-0.5
        cosines, sines = cosines[0, :, None] * scales, sines[0, :, None] * scales  # [T, H + 2 K, d]
        cosines[:, -self._cached_heads :], sines[:, -self._cached_heads :] = 1, 0
        return cosines, sines

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        # a tenth of the time of torch's own for so short a vector
        return (hidden * weight) * (1 / math.sqrt(float(hidden.dot(hidden)) / len(hidden) + self._eps))

    def _choose(self, hidden: torch.Tensor) -> int:
        likely = self._weights.words.product(hidden).topk(_CHOSEN_AMONG).indices
        return int(likely[torch.mv(self._model.lm_head.weight[likely].float(), hidden).argmax()])


class SpeculativeDecoder:
    """Proposes tokens of an answer: twice as many at a time as were accepted last, none where few are.

    Weights are packed once a model, as soon as it has said so many tokens that packing takes no longer than that did.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._draft: DraftModel | None = None
        self._count = _MOST
        self._rounds = self._accepted = 0

    def propose(self, cached: Layers, token: int, at_most: int, stop: Container[int]) -> list[int]:
        """Propose tokens for what comes behind `token`, which comes behind those that are `cached`; maybe none."""
        if self._rounds >= _LEAST_ROUNDS and self._accepted < 2 * self._rounds:
            return []
        count = min(self._count, at_most)
        if self._draft is None:
            _said[self._model] = said = _said.get(self._model, 0) + 1
            if said < _TOKENS_TO_PACK or count < 1:
                return []
            self._draft = DraftModel(self._model)
        return self._draft.propose(cached, token, count, stop) if count > 0 else []

    def record_accepted(self, accepted: int) -> None:
        """Of the tokens proposed last the first ones, so many, were `accepted`."""
        self._rounds, self._accepted = self._rounds + 1, self._accepted + accepted
        self._count = min(max(2 * accepted, _LEAST), _MOST)


def can_speculate(model: Any) -> bool:
    """Whether there is a draft of the model as it is now, and its proposals are made quicker than its own steps.

    It must be a Llama on a CPU that torch has quick products in 4 bits for, without biases, and with no adapter but
    low-rank updates of all rows (low_rank.py).
    """
    if type(model) is not LlamaForCausalLM or model.device.type != "cpu":
        return False
    if torch.backends.cpu.get_cpu_capability() not in _QUICK_PRODUCTS or model.config.hidden_act != "silu":
        return False
    # adapters of other kinds hook onto modules
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    matrices = [matrix for layer in model.model.layers for matrix in _matrices_of(layer)]
    return all(map(_is_plain, matrices)) and _can_pack(model.lm_head)


def _source(model: Any) -> tuple[int, ...]:
    matrices = (_base(matrix) for layer in model.model.layers for matrix in _matrices_of(layer))
    return tuple(matrix.weight.data_ptr() for matrix in [*matrices, model.lm_head])


def _matrices_of(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _base(matrix: Any) -> Any:
    return getattr(matrix, "base_layer", matrix)


def _is_plain(matrix: Any) -> bool:
    """Whether the matrix can be packed, and PEFT, whose layer may stand around it, adds nothing to it."""
    base = _base(matrix)
    added = matrix is not base and any(name in matrix.lora_A for name in matrix.active_adapters)
    return not added and _can_pack(base)


def _can_pack(matrix: Any) -> bool:
    weight, bias = matrix.weight, matrix.bias
    alike = type(matrix) is torch.nn.Linear and bias is None and weight.dtype in _PACKED_FROM
    return alike and all(size % _GROUP == 0 for size in weight.shape)


def _joined(*matrices: Any) -> Packed:
    return Packed.of(torch.cat([_base(matrix).weight for matrix in matrices]).float())


def _product(packed: Packed, updates: list[_Update], vector: torch.Tensor) -> torch.Tensor:
    out = packed.product(vector)
    for update in updates:
        update.add(out, vector)
    return out


def _updates_of(layer: Any, applied: Mapping[Any, Sequence[LowRank]]) -> tuple[list[_Update], ...]:
    """The updates added to a layer's four joined matrices."""
    attention, mlp = layer.self_attn, layer.mlp
    joined = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    found = []
    for matrices in joined:
        updates, start = list[_Update](), 0
        for matrix in map(_base, matrices):
            updates.extend(_Update(start, update) for update in applied.get(matrix, ()))
            start += matrix.out_features
        found.append(updates)
    return tuple(found)
