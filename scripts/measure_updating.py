"""Later work on a memory: recall before and after a text is added to it, and recall over the time of a rehearsal.

    python scripts/measure_updating.py --data articles.jsonl --lines 7,8 --budget 3m --until-budget 8m --out results/

The first article is absorbed and the second added to the memory; recall of the first is asked with the same held-out
questions before and after, and its real questions are asked closed book before and after too. Then the first article
is absorbed anew with --until 95%. Everything goes through the command line, as a user does it; OUT/results.json has
all numbers, and OUT/rehearsal.png (with matplotlib) the recall over time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lift.answering.scoring import contained, f1


def main() -> None:
    """Run what is missing, then print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lines", default="7,8", help="two lines, counted from 1")
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--until-budget", default="8m")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = arguments.data.read_text("utf-8").splitlines()
    records = [json.loads(lines[int(line) - 1]) for line in arguments.lines.split(",")]
    files = []
    for number, record in enumerate(records):
        files.append(arguments.out / f"article-{number}.txt")
        files[-1].write_text(record["context"], "utf-8")
    home = ["--library", str(arguments.out / "library"), "--json"]
    results: dict[str, Any] = {}
    lift("absorb", files[0], "--name", "grown", "--title", records[0]["title"], "--budget", arguments.budget, *home)
    results["real questions, before"] = ask("grown", records[0], arguments.out, home)
    budget = ["--budget", arguments.budget]
    added = lift("absorb", files[1], "--into", "grown", "--title", records[1]["title"], *budget, *home)
    results["real questions on the old text, after"] = ask("grown", records[0], arguments.out, home)
    results["real questions on the new text, after"] = ask("grown", records[1], arguments.out, home)
    results["history of the grown memory"] = added["recall_history"]
    named = ["--name", "rehearsed", "--title", records[0]["title"]]
    until = ["--until", "95%", "--budget", arguments.until_budget]
    results["history of the rehearsal"] = lift("absorb", files[0], *named, *until, *home)["recall_history"]
    results["real questions, rehearsed"] = ask("rehearsed", records[0], arguments.out, home)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2), "utf-8")
    print(json.dumps(results, indent=2))
    plot(results["history of the rehearsal"], arguments.out / "rehearsal.png")


def lift(*words: object) -> Any:
    """Run a command and read its JSON."""
    command = [str(Path(sys.executable).with_name("lift")), *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def ask(name: str, record: dict[str, Any], out: Path, home: list[str]) -> dict[str, float]:
    """Contained and F1 in percent over the article's real questions, closed book."""
    questions = out / "questions.jsonl"
    rows = [{"id": each["id"], "question": each["question"]} for each in record["questions"]]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [str(Path(sys.executable).with_name("lift")), "ask", name, "--questions", str(questions)]
    asked = subprocess.run([*command, "--context", "none", *home], check=True, stdout=subprocess.PIPE, text=True)
    answers = {line["id"]: line["answer"] for line in map(json.loads, asked.stdout.splitlines())}
    pairs = [(answers[each["id"]], each["answers"]) for each in record["questions"]]
    return {
        "questions": len(pairs),
        "contained": 100 * sum(contained(*pair) for pair in pairs) / len(pairs),
        "f1": 100 * sum(f1(*pair) for pair in pairs) / len(pairs),
    }


def plot(history: list[dict[str, Any]], path: Path) -> None:
    """Share of the probed sentences that were recalled, over the seconds of work on the memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    seconds = [point["seconds"] for point in history]
    axes.plot(seconds, [100 * point["recalled"] / max(point["probed"], 1) for point in history], marker="o")
    axes.axhline(95, linestyle="--", linewidth=1)
    axes.set(xlabel="seconds of work on the memory", ylabel="probed sentences recalled, %", ylim=(0, 100))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
