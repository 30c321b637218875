"""`make demo`: an article is absorbed, and six real questions are asked in four ways, side by side.

Nothing is downloaded. The memory stays in the library, so the questions may go on afterwards.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probing, Trained
from lift.answering.answer import Answer
from lift.answering.answerer import Answerer, open_memory
from lift.answering.scoring import contained, f1
from lift.cli.output import format_recall, format_seconds, remark
from lift.cli.progress import describe_planned, describe_prepared, open_display
from lift.documents.document import Document
from lift.documents.read import read_document
from lift.documents.sentences import split_sentences
from lift.errors import LiftError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.recipes.recipe import load_recipe

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ARTICLE = EXAMPLES / "university-of-chicago.txt"
QUESTIONS = EXAMPLES / "questions.jsonl"
BUDGET_S = 300.0


def main() -> int:
    """Run the demo; returns the exit status."""
    started = time.monotonic()
    records = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    questions = [record["question"] for record in records]
    golds = [record["answers"] for record in records]
    try:
        document = read_document(ARTICLE, title="University of Chicago")
        base = load_model(on_progress=remark)
        remark("asking the base model, without the article and with all of it in the prompt")
        reader = Answerer.of(base, None, document, split_sentences(document.text))
        columns = {
            "base, no text": [reader.ask(question, "none") for question in questions],
            "base, whole text": [reader.ask(question, "full") for question in questions],
        }
        memory = absorb_article(document, base)
        remark("asking the memory, with no text at all and as `lift ask` does")
        answerer = open_memory(memory, base)
        columns["memory, no text"] = [answerer.ask(question, "none") for question in questions]
        columns["memory, auto"] = [answerer.ask(question, "auto") for question in questions]
    except LiftError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_status
    print_comparison(questions, golds, columns)
    recall = memory.manifest.recall
    print(f"\nRecalled closed book: {format_recall(recall.recalled, recall.probed)}.")
    print(f"The demo took {format_seconds(time.monotonic() - started)}. Go on with:")
    print(f'  .venv/bin/lift ask {memory.name} "Who founded the Oracle Corporation?"')
    print("  .venv/bin/lift absorb YOUR-FILE.pdf --budget 10m")
    return 0


def absorb_article(document: Document, base: BaseModel) -> StoredMemory:
    """Absorb the article within the budget, or find the memory of an earlier run."""
    display = open_display(as_json=False)
    try:
        for event in absorb_events(document, base, load_recipe(), MemoryLibrary(), budget_s=BUDGET_S):
            match event:
                case Prepared():
                    lines = describe_prepared(event)
                case Planned():
                    lines = describe_planned(event)
                case Probing():
                    lines = ["asking the questions that were held out"]
                case Trained():
                    lines = []
                    display.step(event)
                case Finished():
                    lines = ["absorbed in an earlier run"] if event.reused else []
                    memory = event.memory
            for line in lines:
                display.say(line)
    finally:
        display.close()
    return memory


def print_comparison(
    questions: Sequence[str], golds: Sequence[Sequence[str]], columns: dict[str, list[Answer]]
) -> None:
    """One row a question, with each answer and its seconds, and what all of them come to."""
    table = Table("question", "expected", *columns, title="The same questions, asked in four ways", show_lines=True)
    for row, (question, gold) in enumerate(zip(questions, golds, strict=True)):
        answers = [column[row] for column in columns.values()]
        table.add_row(Text(question), Text(gold[0]), *(_cell(answer, gold) for answer in answers))
    table.add_section()
    table.add_row(Text("all", style="bold"), "", *(_totals(column, golds) for column in columns.values()))
    Console(highlight=False).print(table)
    print("Green: the expected answer is in it. F1 is the overlap of words, so it also counts what is too much.")


def _cell(answer: Answer, gold: Sequence[str]) -> Text:
    text = Text(answer.text or "(nothing)", style="green" if contained(answer.text, gold) else "")
    return text.append(f"\n{answer.seconds:.2f} s", style="dim")


def _totals(answers: Sequence[Answer], golds: Sequence[Sequence[str]]) -> Text:
    right = sum(bool(contained(answer.text, gold)) for answer, gold in zip(answers, golds, strict=True))
    overlap = sum(f1(answer.text, gold) for answer, gold in zip(answers, golds, strict=True)) / len(answers)
    seconds = sum(answer.seconds for answer in answers)
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    return Text(
        f"{right} of {len(answers)} right\nF1 {100 * overlap:.0f} %\n{seconds:.1f} s\n{prompt_tokens:,} prompt tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
