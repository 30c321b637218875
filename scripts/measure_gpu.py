"""What one large GPU does beside what arithmetic allows it (`lift bench limits`): training and answering, measured.

    python scripts/measure_gpu.py --batch-tokens 2048 --batch-tokens 8192

The model has the stated shape and random weights in bfloat16, which takes the time and the memory that trained ones
take. Training is the loop that `lift absorb` runs, with a LoRA on every matrix of every layer, on examples of 64 tokens
one fifth of which carry loss; the first steps are not counted. Answers are generated closed book, with the adapter.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lift.adapters.attach import create_adapter
from lift.bench.limits_bench import DEVICES, GB, SHAPES, Setting, limit_of, shape_of
from lift.inference.generate import generate
from lift.packing.prompts import IGNORED, Example
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.training_loop import train

WARM_STEPS, STEPS = 2, 6
ANSWER_TOKENS = 32
PROMPT_TOKENS = 32


class Course:
    """Batches of random tokens: examples of `example_tokens` each that share no beginning."""

    epochs = 1

    def __init__(self, vocabulary: int, setting: Setting, batch_tokens: int) -> None:
        self.leitner = LeitnerSampler(max_skip_epochs=1)
        self._shape = batch_tokens // setting.example_tokens, setting.example_tokens
        self._labelled = round(setting.labelled * setting.example_tokens)
        self._vocabulary = vocabulary

    def optimizer_steps(self, _epoch: int) -> Iterator[OptimizerStep]:
        """Warm-up steps and counted ones."""
        generator = torch.Generator().manual_seed(0)
        for step in range(WARM_STEPS + STEPS):
            rows = torch.randint(self._vocabulary, self._shape, generator=generator).tolist()
            cut = len(rows[0]) - self._labelled
            examples = [Example(tuple(row), (*[IGNORED] * cut, *row[cut:])) for row in rows]
            yield OptimizerStep((examples,), step / (WARM_STEPS + STEPS))

    def record(self, epoch: int, examples: Sequence[Example], right: Sequence[bool]) -> None:
        """Nothing pauses."""


def main() -> None:
    """Print a JSON line for each batch size, and one for answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-8b")
    parser.add_argument("--batch-tokens", type=int, action="append", help="tokens of a batch; may be repeated")
    parser.add_argument("--rows", type=int, default=32, help="questions answered at once, beside one alone")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("expected a CUDA device, got none; run this on a machine with a GPU")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[arguments.shape])).eval()
    torch.set_default_dtype(torch.float32)
    shape, device = shape_of(arguments.shape), torch.cuda.get_device_name()
    adapter = create_adapter(model, AdapterSettings(rank=Setting.rank, alpha=2.0 * Setting.rank), seed=0)
    objective = Objective(model, adapter, ObjectiveSettings(mean_over="tokens"))
    for batch_tokens in arguments.batch_tokens or [2048, 8192]:
        setting = Setting(batch_tokens=batch_tokens, utilisation=1.0)
        peak = limit_of(shape, DEVICES[0], 8192, setting)
        torch.cuda.reset_peak_memory_stats()
        steps = list(train(adapter, objective, Course(shape.vocabulary, setting, batch_tokens), TrainingSettings()))
        counted = steps[WARM_STEPS:]
        speed = sum(step.tokens for step in counted) / sum(step.seconds for step in counted)
        row = {
            "device": device,
            "batch_tokens": batch_tokens,
            "train_tokens_per_s": speed,
            f"utilisation_of_{DEVICES[0].name}": speed * peak.flops_per_token / DEVICES[0].flops_per_s,
            "peak_gb": torch.cuda.max_memory_allocated() / GB,
            "predicted_gb": peak.train_bytes / GB,
            "loss_finite": all(math.isfinite(step.loss) for step in steps),
        }
        print(json.dumps(row), flush=True)
    prompts = torch.randint(shape.vocabulary, (arguments.rows, PROMPT_TOKENS)).tolist()
    for rows in (prompts[:1], prompts):
        generate(model, rows, max_new_tokens=2, end_ids=[])
        begun = time.monotonic()
        answers = generate(model, rows, max_new_tokens=ANSWER_TOKENS, end_ids=[])
        seconds = time.monotonic() - begun
        print(json.dumps({"rows": len(rows), "answer_tokens_per_s": sum(map(len, answers)) / seconds}), flush=True)


if __name__ == "__main__":
    main()
