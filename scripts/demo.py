"""`make demo`: an article is absorbed, and six real questions are asked in four ways.

Nothing is downloaded. It ends within DEMO_S, beside other work too: the base model's answers are short, each part has
its own time, and what there is no time for is left out and said. Interrupted, the same command goes on. The memory
stays in the library, so the questions may go on afterwards.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo_answers import (
    CACHE_DIRECTORY,
    Column,
    KeptReplies,
    Reply,
    Request,
    ask_all,
    asker_of,
    note_of,
    reply_key,
    sum_up,
)
from rich.table import Table
from rich.text import Text

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Planned, Prepared, Probing, Trained
from lift.absorbing.run_options import AbsorptionOptions
from lift.answering.answerer import Answerer, open_memory
from lift.answering.scoring import contained
from lift.cli.output import format_recall, format_seconds, stdout
from lift.cli.progress import Display, describe_planned, describe_prepared, opened_display, show_probing
from lift.cli.stopping import stopped_by_signals
from lift.documents.document import Document
from lift.documents.read import read_document
from lift.documents.sentences import split_sentences
from lift.errors import InterruptedAbsorption, LiftError
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.fingerprint import cache_directory
from lift.models.load import load_model
from lift.recipes.recipe import load_recipe
from lift.training.budget import Budget, process_started

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ARTICLE = EXAMPLES / "university-of-chicago.txt"
QUESTIONS = EXAMPLES / "questions.jsonl"
# The stated time of all of it, the most that base model and absorption may take, and the least that is left for the
# memory's answers. The rest is for the conversion of the model.
DEMO_S = 540.0
BASE_S = 120.0
ABSORBING_S = 300.0
MEMORY_S = 60.0
# Short answers are asked for; a base model that goes on talking is not waited for.
BASE_TOKENS = 32
BASE_WAYS = {"base, no text": "none", "base, whole text": "full"}
MEMORY_WAYS = {"memory, no text": "none", "memory, auto": "auto"}

Replies = dict[str, list[Reply | None]]
"""By the way of asking: the reply to each question, None where there was no time."""


def main() -> int:
    """Run the demo; returns the exit status."""
    budget = Budget(DEMO_S, process_started())
    records = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    questions = [record["question"] for record in records]
    golds = [record["answers"] for record in records]
    replies: Replies = {}
    try:
        with opened_display(as_json=False) as display:
            document = read_document(ARTICLE, title="University of Chicago")
            display.wait("loading the model")
            base = load_model(on_progress=display.say)
            replies |= ask_base(questions, document, base, budget, display)
            memory = absorb_article(document, base, display)
            replies |= ask_memory(questions, memory, base, budget, display)
    except InterruptedAbsorption:
        print("demo: stopped, and what was done is kept; the same command goes on from there", file=sys.stderr)
        return InterruptedAbsorption.exit_status
    except KeyboardInterrupt:
        print("demo: interrupted; the same command goes on from what was saved", file=sys.stderr)
        return 1
    except LiftError as error:
        if replies:
            print_comparison(questions, golds, replies)
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_status
    print_comparison(questions, golds, replies)
    recall = memory.manifest.recall
    print(f"\nRecalled closed book: {format_recall(recall.recalled, recall.probed)}.")
    print(f"The demo took {format_seconds(time.monotonic() - budget.started)}. Go on with:")
    print(f'  .venv/bin/lift ask {memory.name} "Who founded the Oracle Corporation?"')
    print("  .venv/bin/lift absorb YOUR-FILE.pdf --budget 10m")
    return 0


def ask_base(
    questions: Sequence[str], document: Document, base: BaseModel, budget: Budget, display: Display
) -> Replies:
    """The base model without the article, and with all of it in the prompt; what is kept is not asked again."""
    answerer = Answerer.of(base, None, document, split_sentences(document.text), keeps_text=True)
    requests = [Request(question, context) for context in BASE_WAYS.values() for question in questions]
    found = ask_all(
        requests,
        asker_of(answerer, BASE_TOKENS),
        clock=budget.clock,
        ends_at=budget.clock() + min(BASE_S, budget.left_s(ABSORBING_S + MEMORY_S)),
        on_progress=lambda *progress: display.count("asking the base model", *progress),
        kept=KeptReplies(cache_directory() / CACHE_DIRECTORY),
        key_of=lambda request: reply_key(base, document, request, BASE_TOKENS),
    )
    return _by_way(BASE_WAYS, questions, found)


def ask_memory(
    questions: Sequence[str], memory: StoredMemory, base: BaseModel, budget: Budget, display: Display
) -> Replies:
    """The memory with no text at all, and as `lift ask` does."""
    requests = [Request(question, context) for context in MEMORY_WAYS.values() for question in questions]
    found = ask_all(
        requests,
        asker_of(open_memory(memory, base)),
        clock=budget.clock,
        ends_at=max(budget.clock() + MEMORY_S, budget.ends_at),
        on_progress=lambda *progress: display.count("asking the memory", *progress),
    )
    return _by_way(MEMORY_WAYS, questions, found)


def _by_way(ways: Mapping[str, str], questions: Sequence[str], found: Mapping[Request, Reply]) -> Replies:
    return {way: [found.get(Request(question, context)) for question in questions] for way, context in ways.items()}


def absorb_article(document: Document, base: BaseModel, display: Display) -> StoredMemory:
    """Absorb the article within its time, go on with an interrupted run, or find the memory of an earlier one.

    Raises InterruptedAbsorption after Ctrl-C, when the state is saved.
    """
    display.say(f"absorbing “{document.title}” for {format_seconds(ABSORBING_S)}")
    display.wait("preparing the article")
    stop = threading.Event()
    options = AbsorptionOptions(budget_s=ABSORBING_S, resume=True, stop=stop)
    events = absorb_events(document, base, load_recipe(), MemoryLibrary(), options)
    with stopped_by_signals(stop, display.say) as training:
        for event in events:
            lines: list[str] = []
            match event:
                case Prepared():
                    lines = describe_prepared(event)
                    display.wait("measuring the speed of this machine")
                case Planned():
                    lines = describe_planned(event)
                case Probing():
                    training.clear()
                    show_probing(display, event)
                case Trained():
                    training.set()
                    display.step(event)
                case Finished():
                    lines = ["absorbed in an earlier run"] if event.reused else []
                    memory = event.memory
            for line in lines:
                display.say(line)
    return memory


def print_comparison(questions: Sequence[str], golds: Sequence[Sequence[str]], replies: Replies) -> None:
    """Each question with its answers and their seconds, what all of them come to, and what has to be known of it."""
    columns = {way: sum_up(each, golds) for way, each in replies.items()}
    console = stdout()
    console.print()
    for number, (question, gold) in enumerate(zip(questions, golds, strict=True)):
        console.print(Text.assemble((question, "bold"), f"  (expected: {gold[0]})"))
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold", ratio=1)
        table.add_column(justify="right", no_wrap=True)
        for way, each in replies.items():
            table.add_row(f"  {way}", *_cells(each[number], gold))
        console.print(table)
    console.print(_totals(columns, len(questions)))
    console.print(
        "Green: the expected answer is in it. F1 is the overlap of words, so it also counts what is too much."
    )
    for note in note_of(columns, len(questions)):
        console.print(note, markup=False)


def _cells(reply: Reply | None, gold: Sequence[str]) -> tuple[Text, Text]:
    if reply is None:
        return Text("(no time to ask)", style="dim"), Text()
    right = contained(reply.text, gold)
    text = Text(reply.text or "(nothing)", style="green" if right else "")
    return text, Text(f"{reply.seconds:.2f} s", style="dim")


def _totals(columns: Mapping[str, Column], questions: int) -> Table:
    table = Table("", "right", "F1", "seconds", "prompt tokens", title="The same questions, asked in four ways")
    for way, column in columns.items():
        table.add_row(
            way,
            f"{column.right} of {questions}",
            f"{100 * column.overlap:.0f} %",
            f"{column.seconds:.1f}",
            f"{column.prompt_tokens:,}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
