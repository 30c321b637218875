"""Limits of a model of a stated shape on one large GPU, by arithmetic: operations, bytes, tokens a second. Pure.

A forecast and no measurement: it says what a device allows at a stated utilisation, not what this code reaches on it.
Parameters are counted in transformers' own module tree, built on the meta device without weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lift.errors import UsageError
from lift.models.decoder_arithmetic import (
    MASTER_BYTES,
    Shape,
    activation_bytes,
    forward_flops,
    lora_parameters,
    training_flops_per_token,
)

# Llama-3.1-8B's published configuration, config.json of meta-llama/Llama-3.1-8B.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
}
GB = 1e9
# Dense matrix products in bfloat16 by torch reach 60 to 75 % of the peak; a training loses about as much again to
# attention, norms, the optimiser and small batches: published trainings of this size report 0.35 to 0.5.
UTILISATION = 0.4
_WEIGHT_BYTES = 2  # bfloat16


@dataclass(frozen=True)
class Device:
    """Dense bfloat16 operations a second, bytes a second from its memory, and the bytes of that."""

    name: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float


# NVIDIA's data sheets, SXM modules of 80 GB, without sparsity.
DEVICES = (Device("H100", 989e12, 3.35e12, 80 * GB), Device("A100", 312e12, 2.0e12, 80 * GB))


def shape_of(name: str) -> Shape:
    """The shape of that name, counted on the meta device; raises UsageError for one that is not known."""
    if name not in SHAPES:
        raise UsageError(f"expected --shape {' or '.join(SHAPES)}, got {name!r}")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[name])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    head = model.lm_head
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    body = sum(each.weight.numel() for each in linear)
    in_head = head.weight.numel()
    head_size = SHAPES[name]["hidden_size"] // SHAPES[name]["num_attention_heads"]
    return Shape(
        name=name,
        body=body,
        head=in_head,
        other=sum(each.numel() for each in model.parameters()) - body - in_head,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        key_value=2 * SHAPES[name]["num_key_value_heads"] * head_size,
        inputs=sum(each.in_features for each in linear),
        outputs=sum(each.out_features for each in linear),
    )


@dataclass(frozen=True)
class Setting:
    """A training as a recipe describes it: the adapter's rank, tokens of a batch, of an example, the share with labels.

    `per_document_token`: tokens computed in one epoch for each token of the document, as the recipe fast computes on a
    novel. `utilisation`: see UTILISATION;
    `read_utilisation`: the share of the memory's bandwidth that generating reaches.
    """

    rank: int = 16
    batch_tokens: int = 8192
    example_tokens: int = 64
    labelled: float = 0.2
    per_document_token: float = 12.0
    epochs: int = 12
    utilisation: float = UTILISATION
    read_utilisation: float = 0.7


@dataclass(frozen=True)
class Limit:
    """The needs of one document on one device. Bytes are of weights, adapter, its gradient and Adam's moments,
    activations of one batch, and the keys and values of the document where it is read instead.

    `flops_per_token`, `train_tokens_per_s`, `absorb_s`: of training. `prefill_s`: reading the document once.
    `ask_tokens_per_s`: answer tokens a second, one question at a time, closed book and behind the read document.
    """

    device: str
    document_tokens: int
    weights_bytes: float
    adapter_bytes: float
    optimiser_bytes: float
    activation_bytes: float
    train_bytes: float
    fits: bool
    flops_per_token: float
    train_tokens_per_s: float
    absorb_s: float
    kv_bytes: float
    prefill_s: float
    ask_tokens_per_s: float
    read_tokens_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def limit_of(shape: Shape, device: Device, document_tokens: int, setting: Setting) -> Limit:
    """By arithmetic alone. Raises ValueError for a utilisation outside 0..1 or a document without tokens."""
    if not 0 < setting.utilisation <= 1 or not 0 < setting.read_utilisation <= 1 or document_tokens < 1:
        raise ValueError(f"expected utilisations above 0 and up to 1 and a document, got {setting}, {document_tokens}")
    adapter = lora_parameters(shape, setting.rank)
    weights = shape.parameters * _WEIGHT_BYTES
    optimiser = 3 * MASTER_BYTES * adapter  # gradient and two moments
    activations = activation_bytes(shape, setting.batch_tokens, setting.labelled)
    held = weights + MASTER_BYTES * adapter + optimiser + activations
    flops = training_flops_per_token(shape, adapter, setting.example_tokens / 2, setting.labelled)
    speed = setting.utilisation * device.flops_per_s / flops
    kv = document_tokens * shape.layers * shape.key_value * _WEIGHT_BYTES
    prefill = document_tokens * forward_flops(shape, document_tokens / 2, 0.0)
    bandwidth = setting.read_utilisation * device.bytes_per_s
    # one token of an answer reads every matrix once, and the keys and values of all that stands before it
    read_once = (shape.body + shape.head + adapter) * _WEIGHT_BYTES
    return Limit(
        device=device.name,
        document_tokens=document_tokens,
        weights_bytes=weights,
        adapter_bytes=MASTER_BYTES * adapter,
        optimiser_bytes=optimiser,
        activation_bytes=activations,
        train_bytes=held,
        fits=held <= device.memory_bytes,
        flops_per_token=flops,
        train_tokens_per_s=speed,
        absorb_s=document_tokens * setting.per_document_token * setting.epochs / speed,
        kv_bytes=kv,
        prefill_s=prefill / (setting.utilisation * device.flops_per_s),
        ask_tokens_per_s=bandwidth / read_once,
        read_tokens_per_s=bandwidth / (read_once - adapter * _WEIGHT_BYTES + kv),
    )


def limits(shape: Shape, lengths: Sequence[int], setting: Setting) -> dict[str, Any]:
    """A row for each device and length, with what they were computed from."""
    rows = [limit_of(shape, device, length, setting).as_dict() for device in DEVICES for length in sorted(lengths)]
    return {
        "shape": {**asdict(shape), "parameters": shape.parameters},
        "adapter_parameters": lora_parameters(shape, setting.rank),
        "setting": asdict(setting),
        "devices": [asdict(device) for device in DEVICES],
        "rows": rows,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The rows as a table of Markdown."""
    columns = (
        "GPU | document | weights | adapter and optimiser | activations | training | GFLOP/token | trained tokens/s | "
        "absorbing | KV cache | reading once | answer tokens/s closed book | answer tokens/s reading"
    )
    lines = [f"| {columns} |", "|" + " ---: |" * len(columns.split("|"))]
    for row in result["rows"]:
        cells = (
            row["device"],
            f"{row['document_tokens']:,}",
            f"{row['weights_bytes'] / GB:.1f} GB",
            f"{(row['adapter_bytes'] + row['optimiser_bytes']) / GB:.2f} GB",
            f"{row['activation_bytes'] / GB:.1f} GB",
            f"{row['train_bytes'] / GB:.1f} GB{'' if row['fits'] else ', does not fit'}",
            f"{row['flops_per_token'] / GB:.1f}",
            f"{row['train_tokens_per_s']:,.0f}",
            f"{row['absorb_s']:,.0f} s",
            f"{row['kv_bytes'] / GB:.2f} GB",
            f"{row['prefill_s']:.2f} s",
            f"{row['ask_tokens_per_s']:.0f}",
            f"{row['read_tokens_per_s']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
