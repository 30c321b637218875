"""The ablations of LIFT on a small scale: every row under one budget of tokens and with the same size of updates.

    python scripts/measure_ablation.py --data articles.jsonl --lines 1,3,6 --seeds 0-2 --out results/

Each line of the file is {"title", "context", "questions": [{"id", "question", "answers", "evidence"}]}. An excerpt is
the leading paragraphs of an article up to --words words, and the questions whose evidence lies within it. The published
sizes (segments of 2,048 tokens every 768, contexts of 4,096, a window of 7,800) are divided by 32, so that the text is
longer than the window here as well. Tasks are written by the rules in every row. Every answer is kept in
OUT/answers.jsonl; what is there already is not done again. The table is printed, and written to OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lift.absorbing.absorption_events import Trained
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.session import Session
from lift.absorbing.task_writing import TaskWriter, write_tasks
from lift.adapters.attach import create_adapter
from lift.answering.answerer import Answerer
from lift.answering.scoring import contained, f1
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import Recipe, load_recipe
from lift.training.attention_distillation import distill_attention
from lift.training.budget import Budget

SCALED = [
    "generator.kind=rules",
    "segments.length_tokens=64",
    "segments.step_tokens=24",
    "context.segment_tokens=128",
    "context.window_tokens=240",
    "training.full_batch=false",
    "training.batch_tokens=320",
    "training.segment_epochs=1",
    "training.epochs=200",
    "training.schedule=cosine",
    "training.warmup_share=0.05",
    "training.learning_rate=4e-3",
    "adapter.start=identity",
    "adapter.rank=16",
    "adapter.alpha=32",
]
LOW_RANK = "training.learning_rate=2e-3"
FAMILY_B = ["segments.weight=0", "tasks.per_document=0", "tasks.per_sentence=10", "context.tasks=none"]
FAMILY_B += ["training.segment_epochs=0", "adapter.kind=lora", LOW_RANK]
ROWS: dict[str, list[str]] = {
    "A: contextualised, 10 tasks, Gated Memory": [],
    "A without contextualised training": ["context.segment_tokens=0"],
    "A, 0 tasks": ["tasks.weight=0"],
    "A, 30 tasks": ["tasks.per_document=30"],
    "A with LoRA": ["adapter.kind=lora", LOW_RANK],
    "A with PiSSA": ["adapter.kind=pissa", "training.learning_rate=2e-4"],
    "A with DoRA": ["adapter.kind=dora", LOW_RANK],
    "B: 10 tasks a sentence, LoRA, hard labels": FAMILY_B,
    "B, context distillation": [*FAMILY_B, "objective.cross_entropy=0", "objective.distillation=1"],
    "A with Gated Memory, exact gate": ["adapter.gate=exact"],
    "A with Gated Memory, published start": ["adapter.start=published"],
    "A after attention distillation": ["attention.epochs=100"],
    "B with Gated Memory": [*FAMILY_B, "adapter.kind=gated-memory", "training.learning_rate=4e-3"],
}
BASE = "base model, untrained"
CONTEXTS = ("none", "truncated")
ANSWER_TOKENS = 20


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lines", default="1,3,6", help="counted from 1")
    parser.add_argument("--words", type=int, default=240)
    parser.add_argument("--tokens", type=int, default=6000, help="tokens computed in each training")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--rows", default="", help="only rows that contain this text")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every row")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "answers.jsonl"
    kept = [json.loads(line) for line in store.read_text("utf-8").splitlines()] if store.exists() else []
    done = {(row["row"], row["article"], row["seed"]) for row in kept}
    first, _, last = arguments.seeds.partition("-")
    records = read_excerpts(arguments.data, [int(line) for line in arguments.lines.split(",")], arguments.words)
    base = load_model()
    with store.open("a", encoding="utf-8") as stream:
        for seed in range(int(first), int(last or first) + 1):
            for row in [BASE, *ROWS]:
                for record in records:
                    key = (row, record["title"], 0 if row == BASE else seed)
                    if key in done or arguments.rows not in row:
                        continue
                    begun = time.monotonic()
                    overrides = [*SCALED, *ROWS.get(row, []), f"training.max_tokens={arguments.tokens}"]
                    recipe = load_recipe("lift-v3", [*overrides, *arguments.set, f"training.seed={seed}"])
                    found = {
                        "row": row,
                        "article": record["title"],
                        "seed": key[2],
                        **measure(record, row, base, recipe),
                    }
                    done.add(key)
                    kept.append(found)
                    stream.write(json.dumps(found, ensure_ascii=False) + "\n")
                    stream.flush()
                    print(f"{row}, {record['title']}, seed {seed}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    table = make_table(kept)
    (arguments.out / "table.md").write_text(table, "utf-8")
    print(table)


def read_excerpts(path: Path, lines: Sequence[int], words: int) -> list[dict[str, Any]]:
    """The leading paragraphs of each article up to `words` words, with the questions that they answer."""
    every = path.read_text("utf-8").splitlines()
    records = []
    for line in lines:
        record = json.loads(every[line - 1])
        paragraphs: list[str] = []
        for paragraph in record["context"].split("\n\n"):
            if paragraphs and sum(len(each.split()) for each in [*paragraphs, paragraph]) > words:
                break
            paragraphs.append(paragraph)
        questions = [each for each in record["questions"] if each["evidence"][0] in paragraphs]
        records.append({**record, "context": "\n\n".join(paragraphs), "questions": questions})
    return records


def measure(record: dict[str, Any], row: str, base: BaseModel, recipe: Recipe) -> dict[str, Any]:
    """Train one row on one excerpt, and ask its questions closed book and behind the truncated text."""
    document = Document(record["title"], record["context"], "measure")
    made = prepare_document(document, base, recipe)
    begun = time.monotonic()
    budget, resolved = Budget(None, begun), resolve(recipe, base)
    writing = write_tasks(made, TaskWriter(made, base, recipe), budget)
    adapter = None if row == BASE else create_adapter(base.model, recipe.adapter, recipe.training.seed)
    steps = []
    try:
        if adapter is not None:
            preparation = prepare(made, _returned(writing), base, resolved)
            if recipe.attention.epochs:
                list(distill_attention(base, adapter, document.text, recipe.attention))
            session = Session(base, adapter, resolved, budget)
            training = session.train(preparation.sampler, resolved.recipe.training)
            steps = [each.step for each in training if isinstance(each, Trained)]
        seconds = time.monotonic() - begun
        answerer = Answerer.of(base, adapter, document, made.sentences, truncated_tokens=recipe.context.window_tokens)
        answers = {}
        for context in CONTEXTS:
            questions = [each["question"] for each in record["questions"]]
            asked = answerer.ask_many(questions, context, max_new_tokens=ANSWER_TOKENS)
            answers[context] = [
                {"id": each["id"], "gold": each["answers"], "answer": answer.text, "truncated": answer.truncated}
                for each, answer in zip(record["questions"], asked, strict=True)
            ]
    finally:
        if adapter is not None:
            adapter.detach()
    return {
        "tokens": sum(step.tokens for step in steps),
        "updates": len(steps),
        "epochs": steps[-1].epoch + 1 if steps else 0,
        "loss": statistics.fmean(step.loss for step in steps[-5:]) if steps else None,
        "train_s": seconds,
        "document_tokens": made.tokens,
        "answers": answers,
    }


def _returned(generator: Any) -> Any:
    """What a generator returns, its events left aside."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def make_table(kept: list[dict[str, Any]]) -> str:
    """Contained / F1 in percent over all questions, mean and spread (standard deviation) over the seeds."""
    columns = ["row", "seeds", "updates", "tokens"]
    columns += [f"{context} {metric}" for context in CONTEXTS for metric in ("contained", "F1")]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in [BASE, *ROWS]:
        by_seed: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for each in kept:
            if each["row"] == name:
                by_seed[each["seed"]].append(each)
        if not by_seed:
            continue
        runs = [each for group in by_seed.values() for each in group]
        cells = [name, str(len(by_seed))]
        cells += [f"{statistics.fmean(each[key] for each in runs):.0f}" for key in ("updates", "tokens")]
        for context in CONTEXTS:
            for score in (contained, f1):
                means = [
                    100
                    * statistics.fmean(
                        score(a["answer"], a["gold"]) for each in group for a in each["answers"][context]
                    )
                    for group in by_seed.values()
                ]
                spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
                cells.append(f"{statistics.fmean(means):.1f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _answers(runs: list[dict[str, Any]], context: str) -> list[dict[str, Any]]:
    return [answer for run in runs for answer in run["answers"][context]]


if __name__ == "__main__":
    main()
