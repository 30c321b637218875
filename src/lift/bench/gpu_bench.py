"""Training and answering of a large model on this machine's GPU, measured beside what limits_bench reckons.

The model has a stated shape and random weights in bfloat16, which takes the time and the memory that trained ones take.
Training is the loop that `lift absorb` runs, with a LoRA on every matrix of every layer, on examples of 64 tokens one
fifth of which carry loss. Answers are generated closed book, with the adapter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from lift.adapters.attach import create_adapter
from lift.bench.limits_bench import DEVICES, GB, SHAPES, Setting, limit_of, shape_of
from lift.errors import UsageError
from lift.inference.generate import generate
from lift.packing.prompts import IGNORED, Example
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.training_loop import train

_WARM_STEPS, _COUNTED_STEPS = 2, 6
_ANSWER_TOKENS = 32
_PROMPT_TOKENS = 32
_DOCUMENT_TOKENS = 8192


class _RandomBatches:
    """A batch sampler of random tokens: examples of `setting.example_tokens` each that share no beginning."""

    epochs = 1

    def __init__(self, vocabulary: int, setting: Setting) -> None:
        self.leitner = LeitnerSampler(max_skip_epochs=1)
        self._shape = setting.batch_tokens // setting.example_tokens, setting.example_tokens
        self._labelled = round(setting.labelled * setting.example_tokens)
        self._vocabulary = vocabulary

    def optimizer_steps(self, _epoch: int) -> Iterator[OptimizerStep]:
        """Warm-up steps and counted ones."""
        generator = torch.Generator().manual_seed(0)
        steps = _WARM_STEPS + _COUNTED_STEPS
        for step in range(steps):
            rows = torch.randint(self._vocabulary, self._shape, generator=generator).tolist()
            cut = len(rows[0]) - self._labelled
            examples = [Example(tuple(row), (*[IGNORED] * cut, *row[cut:])) for row in rows]
            yield OptimizerStep((examples,), step / steps)

    def record(self, epoch: int, examples: Sequence[Example], right: Sequence[bool]) -> None:
        """No task is skipped."""


def find_gpu() -> str:
    """The device of the first GPU; raises UsageError where torch sees none."""
    if not torch.cuda.is_available():
        raise UsageError(
            "expected a CUDA device, got none; run this on a machine with a GPU, or reckon with `lift bench limits`"
        )
    return "cuda"


def bench_gpu(
    shape_name: str, batch_tokens: Sequence[int], rows: int, device: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """A row of training for each size of a batch, and one of answers for one question alone and for `rows` at once.

    Raises UsageError for a shape that is not known, and for a batch that is smaller than an example.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = shape_of(shape_name)
    if min(batch_tokens) < Setting.example_tokens:
        raise UsageError(f"expected --batch-tokens from {Setting.example_tokens}, got {min(batch_tokens)}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(LlamaConfig(**SHAPES[shape_name]))
    finally:
        torch.set_default_dtype(before)
    model.eval()
    adapter = create_adapter(model, AdapterSettings(rank=Setting.rank, alpha=2.0 * Setting.rank), seed=0)
    objective = Objective(model, adapter, ObjectiveSettings(mean_over="tokens"))
    on_cuda = model.device.type == "cuda"
    training = []
    for size in batch_tokens:
        say(f"training with batches of {size:,} tokens")
        setting = Setting(batch_tokens=size, utilisation=1.0)
        reckoned = limit_of(shape, DEVICES[0], _DOCUMENT_TOKENS, setting)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        steps = list(train(adapter, objective, _RandomBatches(shape.vocabulary, setting), TrainingSettings()))
        counted = steps[_WARM_STEPS:]
        tokens_per_s = sum(step.tokens for step in counted) / sum(step.seconds for step in counted)
        training.append(
            {
                "batch_tokens": size,
                "train_tokens_per_s": tokens_per_s,
                f"utilisation_of_{DEVICES[0].name}": tokens_per_s * reckoned.flops_per_token / DEVICES[0].flops_per_s,
                "peak_gb": torch.cuda.max_memory_allocated() / GB if on_cuda else None,
                "reckoned_gb": reckoned.train_bytes / GB,
                "loss_is_finite": all(math.isfinite(step.loss) for step in steps),
            }
        )
    say("answering")
    prompts = torch.randint(shape.vocabulary, (rows, _PROMPT_TOKENS)).tolist()
    answering = []
    for asked in (prompts[:1], prompts):
        generate(model, asked, max_new_tokens=2, end_ids=[])
        begun = time.monotonic()
        answers = generate(model, asked, max_new_tokens=_ANSWER_TOKENS, end_ids=[])
        tokens = sum(map(len, answers))
        answering.append({"rows": len(asked), "answer_tokens_per_s": tokens / (time.monotonic() - begun)})
    name = torch.cuda.get_device_name() if on_cuda else model.device.type
    return {"shape": shape.name, "device": name, "training": training, "answering": answering}


def as_markdown(result: dict[str, Any]) -> str:
    """Both kinds of rows as tables of Markdown."""
    share = f"utilisation_of_{DEVICES[0].name}"
    lines = [
        f"{result['shape']} on {result['device']}",
        "",
        f"| batch, tokens | trained tokens/s | share of a {DEVICES[0].name}'s peak | peak memory | by arithmetic |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["training"]:
        peak = f"{row['peak_gb']:.1f} GB" if row["peak_gb"] is not None else "-"
        lines.append(
            f"| {row['batch_tokens']:,} | {row['train_tokens_per_s']:,.0f} | {row[share]:.2f} | {peak} | "
            f"{row['reckoned_gb']:.1f} GB |"
        )
    lines += ["", "| questions at once | answer tokens/s |", "| ---: | ---: |"]
    lines += [f"| {row['rows']} | {row['answer_tokens_per_s']:,.1f} |" for row in result["answering"]]
    return "\n".join(lines) + "\n"
