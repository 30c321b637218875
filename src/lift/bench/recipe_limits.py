"""A recipe on one large GPU, by arithmetic: gigabytes that its training holds, hours of a document and its questions.

A forecast and no measurement, as limits_bench.py, which it goes on from: examples are counted as the batch sampler
makes them, with what they share computed once. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lift.bench.limits_bench import DEVICES, GB, SHAPES, UTILISATION, Device
from lift.errors import UsageError
from lift.models.decoder_arithmetic import (
    MASTER_BYTES,
    Shape,
    activation_bytes,
    forward_flops,
    lora_parameters,
    training_flops_per_token,
)
from lift.recipes.recipe import AdapterSettings, Recipe, load_recipe, recipe_names

Quantization = Literal["none", "nf4", "int8"]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
READ_UTILISATION = 0.7
OWN_RECIPES = ("default", "fast", "portable")
_NUMBER_BYTES = 2  # bfloat16
# Bytes of a weight of the body. nf4: half a byte, and an 8-bit scale of 64 weights, whose own scale is of 256 scales;
# int8: a byte, and a float32 scale a row, which is next to nothing. Embeddings, norms and the head stay in bfloat16.
_BODY_BYTES = {"none": 2.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# Of English: tokens of a sentence, of a question with its answer in the chat template, and of a written task.
_SENTENCE_TOKENS, _TASK_TOKENS, _WRITTEN_TOKENS = 25, 64, 120
_RECITE_TOKENS = 16
_WRITING_ROWS = 16  # requests that the base model answers at once
_GATE_NUMBERS = 6  # hidden numbers a token and layer that Gated Memory keeps, in float32, with m of width 2


@dataclass(frozen=True)
class Workload:
    """A document of so many tokens, and the questions about it, each behind `prompt_tokens` with such an answer."""

    document_tokens: int
    questions: int = 0
    prompt_tokens: int = 7800
    answer_tokens: int = 200


@dataclass(frozen=True)
class RecipeLimit:
    """One recipe on one device. Bytes as in limits_bench.Limit.

    `trained_tokens`: of all epochs. `write_s`: the base model writes the tasks (0 where others do), `train_s`: the
    training, `ask_s`: all questions, read and answered one by one.
    """

    recipe: str
    adapter: str
    quantization: str
    device: str
    document_tokens: int
    adapter_parameters: int
    weights_bytes: float
    adapter_bytes: float
    activation_bytes: float
    train_bytes: float
    fits: bool
    trained_tokens: int
    write_s: float
    train_s: float
    ask_s: float

    @property
    def total_s(self) -> float:
        """Seconds of the document and its questions."""
        return self.write_s + self.train_s + self.ask_s


def check_quantization(name: str) -> None:
    """Raise UsageError for a quantization that is not reckoned with."""
    if name not in QUANTIZATIONS:
        raise UsageError(f"expected --quantization {', '.join(QUANTIZATIONS)}, got {name!r}; choose one of these")


def adapter_parameters(shape: Shape, adapter: AdapterSettings) -> int:
    """Parameters that are trained. Raises UsageError where the heads of the shape are not known (Gated Memory)."""
    layers = len(adapter.layers_of(shape.layers)) or shape.layers
    if adapter.kind == "gated-memory":
        if shape.name not in SHAPES:
            raise UsageError(f"expected a shape of {', '.join(SHAPES)} for Gated Memory, got {shape.name}")
        heads: int = SHAPES[shape.name]["num_attention_heads"]
        size = shape.hidden // heads
        gate = math.isqrt(size)
        return layers * heads * (2 * round(adapter.width * size) * size + size * gate + gate)
    whole = lora_parameters(shape, adapter.rank)
    # q, k, v and o: from the hidden width, o back to it; queries are as wide as that
    attention = adapter.rank * shape.layers * (4 * shape.hidden + 2 * shape.hidden + shape.key_value)
    parts = {"all-linear": whole, "attention": attention, "mlp": whole - attention}
    dora = shape.outputs if adapter.kind == "dora" else 0  # a magnitude for each output
    return (parts[adapter.targets] + dora) * layers // shape.layers


def weights_bytes(shape: Shape, quantization: str) -> float:
    """Bytes of the base's weights."""
    return shape.body * _BODY_BYTES[quantization] + (shape.head + shape.other) * _NUMBER_BYTES


@dataclass(frozen=True)
class _Stage:
    """Examples of one epoch: tokens that are computed, the longest example, and how many tokens carry loss."""

    tokens: int
    longest: int
    labelled: int


def _segments(recipe: Recipe, document_tokens: int) -> _Stage:
    settings, context = recipe.segments, recipe.context
    if not settings.weight:
        return _Stage(0, 0, 0)
    if settings.unit != "window":
        alone = _SENTENCE_TOKENS if settings.unit == "sentence" else min(settings.length_tokens, document_tokens)
        return _Stage(document_tokens, min(alone, document_tokens), document_tokens)
    length = min(settings.length_tokens, document_tokens)
    count = 1 + max(0, -(-(document_tokens - length) // settings.step_tokens))
    window = context.window_tokens or document_tokens
    room = min(context.segment_tokens, document_tokens, max(0, window - length - _RECITE_TOKENS))
    each = length + (room + _RECITE_TOKENS if room else 0)
    return _Stage(count * each, each, count * length)


def _tasks(recipe: Recipe, document_tokens: int) -> _Stage:
    if not recipe.tasks.weight:
        return _Stage(0, 0, 0)
    count = recipe.tasks.per_document or recipe.tasks.per_sentence * max(1, document_tokens // _SENTENCE_TOKENS)
    own = 160 if recipe.generator.form == "paragraph" else _TASK_TOKENS
    shared = 0
    if recipe.context.tasks == "truncated":  # which all tasks share
        shared = min(document_tokens, max(0, (recipe.context.window_tokens or document_tokens) - own))
    return _Stage(shared + count * own, shared + own, count * own // 3)


def limit_of_recipe(
    shape: Shape,
    device: Device,
    recipe: Recipe,
    work: Workload,
    quantization: str = "none",
    *,
    checkpointing: bool = False,
    utilisation: float = UTILISATION,
) -> RecipeLimit:
    """By arithmetic alone. `checkpointing`: only the inputs of the layers are kept, and one layer's numbers at a time.

    Raises UsageError for a quantization that is not reckoned with, ValueError for a utilisation outside 0..1 or a
    document without tokens.
    """
    check_quantization(quantization)
    if not 0 < utilisation <= 1 or work.document_tokens < 1:
        raise ValueError(f"expected a utilisation above 0 and up to 1 and a document, got {utilisation}, {work}")
    adapter = adapter_parameters(shape, recipe.adapter)
    segments, tasks = _segments(recipe, work.document_tokens), _tasks(recipe, work.document_tokens)
    training = recipe.training
    trained = training.segment_epochs * segments.tokens + training.epochs * (segments.tokens + tasks.tokens)
    longest = max(segments.longest, tasks.longest)
    batch_tokens = max(training.batch_tokens, longest)
    if training.batch_examples:
        batch_tokens = min(batch_tokens, training.batch_examples * longest)
    computed = segments.tokens + tasks.tokens
    labelled = (segments.labelled + tasks.labelled) / computed if computed else 0.0
    activations = _activation_bytes(shape, recipe.adapter.kind, batch_tokens, labelled, checkpointing)
    base = weights_bytes(shape, quantization)
    held = base + 4 * MASTER_BYTES * adapter + activations
    flops = training_flops_per_token(shape, adapter, longest / 2, labelled)
    if checkpointing:  # the forward pass is done twice
        flops += forward_flops(shape, longest / 2, 0.0)
    peak, bandwidth = utilisation * device.flops_per_s, READ_UTILISATION * device.bytes_per_s
    read_once_s = (base + _NUMBER_BYTES * adapter) / bandwidth
    requests = recipe.tasks.per_document if recipe.tasks.weight and recipe.generator.kind == "self" else 0
    shown = recipe.generator.window_sentences * _SENTENCE_TOKENS + 200
    writing_s = requests * shown * forward_flops(shape, shown / 2, 0.0) / peak
    writing_s += math.ceil(requests / _WRITING_ROWS) * _WRITTEN_TOKENS * read_once_s
    prefill_s = work.prompt_tokens * forward_flops(shape, work.prompt_tokens / 2, 0.0) / peak
    kept_s = work.prompt_tokens * shape.layers * shape.key_value * _NUMBER_BYTES / bandwidth
    ask_s = work.questions * (prefill_s + work.answer_tokens * (read_once_s + kept_s))
    return RecipeLimit(
        recipe=recipe.name,
        adapter=recipe.adapter.kind,
        quantization=quantization,
        device=device.name,
        document_tokens=work.document_tokens,
        adapter_parameters=adapter,
        weights_bytes=base,
        adapter_bytes=4 * MASTER_BYTES * adapter,
        activation_bytes=activations,
        train_bytes=held,
        fits=held <= device.memory_bytes,
        trained_tokens=trained,
        write_s=writing_s,
        train_s=trained * flops / peak,
        ask_s=ask_s,
    )


def load_recipes(names: str, overrides: Sequence[str] = ()) -> list[Recipe]:
    """The recipes of these names, separated by commas; "all" is every published one that trains here."""
    wanted = recipe_names() if names == "all" else [name.strip() for name in names.split(",")]
    loaded = [load_recipe(name, overrides) for name in wanted if name not in OWN_RECIPES or names != "all"]
    return [recipe for recipe in loaded if not recipe.remote.only]


def limits_of_recipes(
    shape: Shape,
    recipes: Sequence[Recipe],
    works: Sequence[Workload],
    quantization: str = "none",
    *,
    checkpointing: bool = False,
    utilisation: float = UTILISATION,
) -> list[RecipeLimit]:
    """A row for each recipe, device and document; raises as limit_of_recipe."""
    return [
        limit_of_recipe(shape, device, recipe, work, quantization, checkpointing=checkpointing, utilisation=utilisation)
        for recipe in recipes
        for device in DEVICES
        for work in works
    ]


def _activation_bytes(shape: Shape, kind: str, tokens: int, labelled: float, checkpointing: bool) -> float:
    of_gate = _GATE_NUMBERS * shape.hidden * MASTER_BYTES if kind == "gated-memory" else 0.0
    if not checkpointing:
        return activation_bytes(shape, tokens, labelled) + tokens * shape.layers * of_gate
    logits = activation_bytes(shape, tokens, labelled) - activation_bytes(shape, tokens, 0.0)
    one_layer = shape.layer_numbers * _NUMBER_BYTES + of_gate
    return logits + tokens * (shape.layers * shape.hidden * _NUMBER_BYTES + one_layer)


def as_markdown(rows: Sequence[RecipeLimit]) -> str:
    """The rows as a table of Markdown."""
    columns = (
        "recipe | adapter | base | GPU | document | weights | adapter and optimiser | activations | training | "
        "trained tokens | writing tasks | training, hours | asking, hours"
    )
    lines = [f"| {columns} |", "|" + " ---: |" * len(columns.split("|"))]
    for row in rows:
        cells = (
            row.recipe,
            f"{row.adapter}, {row.adapter_parameters / 1e6:.1f} M",
            "bfloat16" if row.quantization == "none" else row.quantization,
            row.device,
            f"{row.document_tokens:,}",
            f"{row.weights_bytes / GB:.1f} GB",
            f"{row.adapter_bytes / GB:.2f} GB",
            f"{row.activation_bytes / GB:.1f} GB",
            f"{row.train_bytes / GB:.1f} GB{'' if row.fits else ', does not fit'}",
            f"{row.trained_tokens:,}",
            f"{row.write_s:.0f} s",
            f"{row.train_s / 3600:.3f}",
            f"{row.ask_s / 3600:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_dict(rows: Sequence[RecipeLimit]) -> dict[str, Any]:
    """For JSON."""
    return {"rows": [asdict(row) for row in rows]}
