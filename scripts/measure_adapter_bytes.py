"""What a memory still knows when its adapter is stored in fewer bytes: fewer bits a number, or a smaller rank.

    python scripts/measure_adapter_bytes.py MEMORY QUESTIONS.jsonl --out recall-bytes.svg

MEMORY is the directory of an absorbed document, QUESTIONS.jsonl holds its questions in its first line
(docs/evaluation.md). They are asked closed book; each answer is said directly, without the vote. Needs matplotlib for
the plot.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional

from lift.adapters.adapter import attached
from lift.adapters.attach import restore_adapter
from lift.adapters.low_rank import nearest_product
from lift.adapters.row_assignment import using
from lift.answering.scoring import contained, f1
from lift.evaluation.harms import perplexity, unrelated_text
from lift.inference.generate import generate
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.packing.prompts import prompt_ids

BITS = (8, 4, 3)
RANKS = (12, 8, 4)
NEW_TOKENS = 24
BATCH_ROWS = 32
State = dict[str, torch.Tensor]


def main() -> None:
    """Ask the memory in each form, print a line for each, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memory", type=Path, metavar="MEMORY")
    parser.add_argument("questions", type=Path, metavar="QUESTIONS.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the SVG or PNG")
    arguments = parser.parse_args()
    memory, base = StoredMemory.open(arguments.memory), load_model()
    memory.check_base(base.id, base.fingerprint)
    record = json.loads(arguments.questions.read_text("utf-8").splitlines()[0])
    asked = [each["question"] for each in record["questions"]]
    gold = [each["answers"] for each in record["questions"]]
    found = []
    for name, state, size_bytes in forms(memory.load_adapter_state()):
        restore_adapter(base.model, memory.adapter_config, state, name)
        with using(base.model, name):
            said = _answers(base, asked)
            row = {
                "stored": name,
                "bytes": size_bytes,
                "contained": 100 * fmean(map(contained, said, gold)),
                "f1": 100 * fmean(map(f1, said, gold)),
                "perplexity": perplexity(base, unrelated_text()),
            }
        attached(base.model)[name].detach()
        print(json.dumps(row), flush=True)
        found.append((name, size_bytes, row["f1"]))
    _plot(found, arguments.out)


def forms(state: State) -> list[tuple[str, State, int]]:
    """(name, factors as they are read again, bytes) for each way of storing the factors of a LoRA."""
    numbers = sum(factor.numel() for factor in state.values())
    scales_bytes = 2 * sum(factor.shape[0] for factor in state.values())
    rank = min(min(factor.shape) for factor in state.values())
    made = [("bfloat16", {key: factor.bfloat16().float() for key, factor in state.items()}, 2 * numbers)]
    for bits in BITS:
        rounded_state = {key: rounded(factor.float(), bits) for key, factor in state.items()}
        made.append((f"int{bits}", rounded_state, numbers * bits // 8 + scales_bytes))
    for smaller in RANKS:
        if smaller < rank:
            made.append((f"rank {smaller}, bfloat16", _of_rank(state, smaller), 2 * numbers * smaller // rank))
    return made


def rounded(factor: torch.Tensor, bits: int) -> torch.Tensor:
    """`factor` [rows, columns] as integers of so many bits and one scale a row (symmetric, to the nearest)."""
    most = 2 ** (bits - 1) - 1
    scale = factor.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most  # [rows, 1]
    return (factor / scale).round().clamp(-most, most) * scale


def _of_rank(state: State, rank: int) -> State:
    """The nearest product B A of that rank for every matrix (truncated singular value decomposition), zeros beside."""
    nearest = {}
    for key in (key for key in state if ".lora_A." in key):
        other = key.replace(".lora_A.", ".lora_B.")
        down, up = nearest_product(state[key].float(), state[other].float(), rank)  # [rank, in], [out, rank]
        missing = state[key].shape[0] - rank
        nearest[key] = functional.pad(down, (0, 0, 0, missing))  # [r, in]
        nearest[other] = functional.pad(up, (0, missing))  # [out, r]
    return nearest


def _answers(base: BaseModel, questions: list[str]) -> list[str]:
    prompts = [prompt_ids(base.tokenizer, question) for question in questions]
    said = generate(base.model, prompts, max_new_tokens=NEW_TOKENS, end_ids=base.end_token_ids, batch_size=BATCH_ROWS)
    return [base.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in said]


def _plot(found: list[tuple[str, int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, size_bytes, score in found:
        axes.scatter(size_bytes / 1e6, score, color="tab:orange" if name.startswith("rank") else "tab:blue")
        axes.annotate(name, (size_bytes / 1e6, score), xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="adapter, MB", ylabel="closed book, F1, %", ylim=(0, 100), xlim=(0, None))
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
