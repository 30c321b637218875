"""Closed-book and open-book answers over a file of articles with questions: the base model beside its memories.

    python scripts/measure_articles.py --data articles.jsonl --lines 1-6 --budget 8m --out results/

Each line of the file is {"title", "context", "questions": [{"id", "question", "answers"}]}. Absorbing and asking go
through the command line, as a user does it. Every answer is kept in OUT/answers.jsonl; what is there already is not
done again, so the command can be stopped and repeated. The table is printed, and written to OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from lift.answering import Answerer
from lift.documents.document import Document
from lift.models.load import load_model
from lift.scoring import contained, exact_match, f1
from lift.sentences import split_sentences

BASE_ROWS = {"base, closed book": "none", "base, full text": "full", "base, BM25 evidence": "evidence"}
MEMORY_ROWS = {"memory, closed book": "none", "memory, auto": "auto", "memory, evidence": "evidence"}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lines", default="1-6", help="first-last, counted from 1")
    parser.add_argument("--budget", default="8m")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    first, _, last = arguments.lines.partition("-")
    lines = arguments.data.read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines[int(first) - 1 : int(last or first)]]
    store = arguments.out / "answers.jsonl"
    kept = [json.loads(line) for line in store.read_text("utf-8").splitlines()] if store.exists() else []
    done = {(row["article"], row["row"]) for row in kept}
    with store.open("a", encoding="utf-8") as stream:
        for record in records:
            for rows in (_memory_rows(record, arguments, done), _base_rows(record, done)):
                for row in rows:
                    kept.append(row)
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                    stream.flush()
    wanted = {record["title"] for record in records}
    table = _table([row for row in kept if row["article"] in wanted])
    (arguments.out / "table.md").write_text(table, "utf-8")
    print(table)


def _base_rows(record: dict[str, Any], done: set[tuple[str, str]]) -> list[dict[str, Any]]:
    missing = {row: context for row, context in BASE_ROWS.items() if (record["title"], row) not in done}
    if not missing:
        return []
    document = Document(record["title"], record["context"], "measure")
    answerer = Answerer(load_model(), None, document, split_sentences(document.text))
    rows = []
    for row, context in missing.items():
        started = time.monotonic()
        answers = answerer.ask_many([question["question"] for question in record["questions"]], context)
        rows.append(_row(record, row, [answer.text for answer in answers], time.monotonic() - started))
    return rows


def _memory_rows(
    record: dict[str, Any], arguments: argparse.Namespace, done: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    missing = {row: context for row, context in MEMORY_ROWS.items() if (record["title"], row) not in done}
    if not missing:
        return []
    lift = str(Path(sys.executable).with_name("lift"))
    home = ["--library", str(arguments.out / "library")]
    text = arguments.out / "article.txt"
    text.write_text(record["context"], "utf-8")
    questions = arguments.out / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"id": each["id"], "question": each["question"]}) + "\n" for each in record["questions"]),
        "utf-8",
    )
    overrides = [part for override in arguments.set for part in ("--set", override)]
    absorb = [lift, "absorb", str(text), "--name", record["id"], "--title", record["title"], "--recipe"]
    absorb += [arguments.recipe, "--budget", arguments.budget, *overrides, *home, "--json"]
    subprocess.run(absorb, check=True, stdout=subprocess.PIPE)
    manifest = arguments.out / "library" / record["id"] / "memory.json"
    absorb_s = json.loads(manifest.read_text("utf-8"))["cost"]["seconds"]
    print(f"{record['title']}: absorbed in {absorb_s:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for row, context in missing.items():
        started = time.monotonic()
        ask = [lift, "ask", record["id"], "--questions", str(questions), "--json", "--context", context, *home]
        asked = subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True)
        answers = {line["id"]: line["answer"] for line in map(json.loads, asked.stdout.splitlines())}
        texts = [answers[question["id"]] for question in record["questions"]]
        rows.append({**_row(record, row, texts, time.monotonic() - started), "absorb_s": absorb_s})
    return rows


def _row(record: dict[str, Any], row: str, texts: list[str], seconds: float) -> dict[str, Any]:
    answers = [
        {"id": question["id"], "question": question["question"], "gold": question["answers"], "answer": text}
        for question, text in zip(record["questions"], texts, strict=True)
    ]
    return {"article": record["title"], "row": row, "seconds": seconds, "answers": answers}


def _table(rows: list[dict[str, Any]]) -> str:
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_row[row["row"]].append(row)
    columns = ["row", "articles", "questions", "contained %", "F1 %", "exact %", "s a question"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in [*BASE_ROWS, *MEMORY_ROWS]:
        answers = [answer for row in by_row[name] for answer in row["answers"]]
        if not answers:
            continue
        means = [
            100 * sum(score(answer["answer"], answer["gold"]) for answer in answers) / len(answers)
            for score in (contained, f1, exact_match)
        ]
        seconds = sum(row["seconds"] for row in by_row[name]) / len(answers)
        lines.append(
            f"| {name} | {len(by_row[name])} | {len(answers)} | "
            + " | ".join(f"{mean:.1f}" for mean in means)
            + f" | {seconds:.2f} |"
        )
    absorbed = {row["article"]: row["absorb_s"] for row in rows if "absorb_s" in row}
    if absorbed:
        lines.append(f"\nAbsorbing: {', '.join(f'{title} {seconds:.0f} s' for title, seconds in absorbed.items())}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
