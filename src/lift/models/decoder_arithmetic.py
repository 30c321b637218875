"""Arithmetic of a decoder's shape: parameters, operations of a token, bytes that a training holds. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

MASTER_BYTES = 4  # float32: an adapter in training, its gradient, and each of Adam's two moments
# Kept for the backward pass, in numbers a token and layer: see activation_bytes.
_BLOCK_INPUTS = 4
_MLP_WIDTHS = 3
_ATTENTION_INPUTS = 2


@dataclass(frozen=True)
class Shape:
    """A decoder's counts: parameters of the linear layers of its body, of its output head, of its embeddings and norms.

    `inputs` and `outputs`: features in and out of the body's linear layers, summed, which is what a LoRA of rank r
    multiplies. `key_value`: numbers a token that one layer keeps for later tokens.
    """

    name: str
    body: int
    head: int
    other: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    key_value: int
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.body + self.head + self.other

    @property
    def layer_numbers(self) -> int:
        """Numbers a token that one layer writes and a backward pass reads again: see activation_bytes."""
        return (_BLOCK_INPUTS + _ATTENTION_INPUTS) * self.hidden + self.key_value + _MLP_WIDTHS * self.intermediate

    def with_layers(self, layers: int) -> Shape:
        """The same model with so many of its layers, which are alike."""
        return replace(
            self,
            layers=layers,
            body=self.body * layers // self.layers,
            inputs=self.inputs * layers // self.layers,
            outputs=self.outputs * layers // self.layers,
        )


def lora_parameters(shape: Shape, rank: int) -> int:
    """Of a LoRA on every linear layer of the body: r (in + out) each."""
    return rank * (shape.inputs + shape.outputs)


def adapter_training_bytes(adapter: int) -> int:
    """Of an adapter of so many parameters: itself, its gradient and Adam's two moments."""
    return 4 * MASTER_BYTES * adapter


def forward_flops(shape: Shape, before_tokens: float, labelled: float) -> float:
    """Operations of one token forward: 2 a parameter, 4 a hidden number, layer and token that it attends to.

    `before_tokens`: how many that is; `labelled`: the share of tokens whose logits are computed.
    """
    attention = 4 * shape.layers * shape.hidden * before_tokens
    return 2 * shape.body + 2 * shape.head * labelled + attention


def training_flops_per_token(shape: Shape, adapter: int, before_tokens: float, labelled: float) -> float:
    """Forward and backward: twice forward on what is frozen, three times on attention and on the adapter.

    A frozen matrix has no gradient of its own; the two products of attention have gradients for both of their factors.
    """
    attention = 4 * shape.layers * shape.hidden * before_tokens
    return 4 * shape.body + 4 * shape.head * labelled + 3 * attention + 6 * adapter


def activation_bytes(shape: Shape, tokens: int, labelled: float, number_bytes: int = 2) -> float:
    """Bytes that a batch of `tokens` keeps for its backward pass, without attention scores and checkpointing.

    A token and layer: the inputs of both norms and what these give (4 h), queries and attention's result (2 h), keys
    and values, and gate, up and their product (3 i), all in a type of `number_bytes` (bfloat16). Logits at labels in
    float32, with their gradient.
    """
    logits = labelled * shape.vocabulary * 2 * MASTER_BYTES
    return tokens * (shape.layers * shape.layer_numbers * number_bytes + logits)
