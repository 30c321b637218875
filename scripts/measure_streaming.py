"""Family B with and without its pipeline: training while the tasks are being written, or after all of them are.

    python scripts/measure_streaming.py --data articles.jsonl --line 3 --answer-s 4 --concurrency 2 --out results.jsonl

A local OpenAI-compatible server answers every request after --answer-s seconds with tasks that the rules write about
the sentence asked about, so the tasks are the same in both ways and no model is needed behind the server. Both ways
run one after the other, --repeats times, each with an endpoint of its own, so that no reply comes from a cache.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Trained
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import load_recipe
from lift.tasks.rules.rule_generator import generate_tasks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from scripted_endpoint import ScriptedEndpoint

SETTINGS = ["tasks.per_sentence=10", "adapter.rank=16", "adapter.alpha=32", "training.batch_tokens=256"]


def main() -> None:
    """Run both ways in turn and print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--line", type=int, default=3, help="counted from 1")
    parser.add_argument("--answer-s", type=float, default=4.0)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    record = json.loads(arguments.data.read_text("utf-8").splitlines()[arguments.line - 1])
    document = Document(record["title"], record["context"], "measure")
    base = load_model()
    replies = written_replies(document)
    ratios = []
    with arguments.out.open("a", encoding="utf-8") as out:
        for repeat in range(arguments.repeats):
            runs = {stream: run(document, base, replies, arguments, stream) for stream in (False, True)}
            ratios.append(runs[False]["seconds"] / runs[True]["seconds"])
            if runs[False].pop("tasks_written") != runs[True].pop("tasks_written"):
                raise SystemExit("the two ways did not learn the same tasks")
            for stream, found in runs.items():
                line = {"repeat": repeat, "stream": stream, **found}
                print(json.dumps(line), flush=True)
                out.write(json.dumps(line) + "\n")
            print(f"generating first / streaming: {ratios[-1]:.2f}", flush=True)
    print(f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def written_replies(document: Document) -> dict[str, str]:
    """What the server answers about each sentence."""
    sentences = split_sentences(document.text)
    replies: dict[str, list[dict[str, str]]] = {sentence.text: [] for sentence in sentences}
    for task in generate_tasks(document.title, sentences, per_sentence=10, held_out_per_sentence=0):
        replies[sentences[task.evidence[0]].text].append({"question": task.question, "answer": task.answer})
    return {text: json.dumps({"tasks": tasks}) for text, tasks in replies.items()}


def run(
    document: Document, base: BaseModel, replies: dict[str, str], arguments: argparse.Namespace, stream: bool
) -> dict[str, Any]:
    """Absorb once; seconds to the first step, to the trained memory, and how much was computed."""

    def reply(request: dict[str, Any]) -> str:
        shown = re.search(r"Last part: (.*?)\n\nWrite at most", request["messages"][-1]["content"], re.DOTALL)
        return replies[shown[1]] if shown else "[]"

    with ScriptedEndpoint(reply, answer_s=arguments.answer_s) as endpoint, tempfile.TemporaryDirectory() as home:
        overrides = ["generator.model=scripted", f"generator.base_url={endpoint.base_url}", *SETTINGS]
        overrides += [f"generator.concurrency={arguments.concurrency}", f"generator.stream={str(stream).lower()}"]
        recipe = load_recipe("lift-v5-fast", overrides)
        begun, first_step_s, steps = time.monotonic(), 0.0, []
        for event in absorb_events(document, base, recipe, MemoryLibrary(Path(home))):
            if isinstance(event, Trained):
                first_step_s = first_step_s or time.monotonic() - begun
                steps.append(event.step)
            if isinstance(event, Finished):
                seconds = time.monotonic() - begun
                tasks = [[task.question, task.answer] for task in event.memory.tasks]
        return {
            "seconds": seconds,
            "first_step_s": first_step_s,
            "requests": len(endpoint.requests),
            "tasks": len(tasks),
            "steps": len(steps),
            "tokens": sum(step.tokens for step in steps),
            "tasks_written": tasks,
        }


if __name__ == "__main__":
    main()
