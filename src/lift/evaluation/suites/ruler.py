"""Synthetic tasks after RULER (Hsieh et al. 2024, NVIDIA/RULER): several needles in noise, and chains of variables.

Prompts, needles, counts and answer lengths are those of scripts/synthetic.yaml and scripts/data/synthetic/ there:
niah_single_1, niah_multikey_1, niah_multivalue, niah_multiquery and vt. As there, a length counts the whole prompt
without the chat template, the beginning of the answer, and the room for the answer. What differs: the haystack of all
tasks is RULER's noise, or the document given by --data (RULER has essays for the last three of niah); keys are pairs of
nouns; and vt has no solved example before the text.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from lift.documents.document import Document
from lift.errors import UsageError, nearest_hint
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.needles import WORDS, NeedleWriter, read_haystack
from lift.evaluation.suites.suite import Reading, Suite
from lift.packing.prompts import PromptForm, user_text

METRIC = "ruler_all"
NIAH_ANSWER_TOKENS = 128
VT_ANSWER_TOKENS = 30
VT_HOPS = 4
# The 40 depths of RULER, in per cent from 0 to 100, as shares.
DEPTHS = tuple(round(100 * index / 39) / 100 for index in range(40))


@dataclass(frozen=True)
class Puzzle:
    """Needles in a text, and a question about them. `planted`: the lines in their order, `proof`: those that prove."""

    planted: tuple[str, ...]
    proof: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    form: PromptForm
    answer_tokens: int


def niah(generator: random.Random, *, keys: int = 1, values: int = 1, asked: int = 1) -> Puzzle:
    """Numbers by key: `keys` keys of `values` numbers each, `asked` of them asked for; the others distract."""
    named = _distinct(lambda: "-".join(generator.sample(WORDS, 2)), keys)
    numbers = _distinct(lambda: str(generator.randint(10**6, 10**7 - 1)), keys * values)
    numbers_of = {key: numbers[index * values : (index + 1) * values] for index, key in enumerate(named)}
    lines = {
        number: f"One of the special magic numbers for {key} is: {number}."
        for key in named
        for number in numbers_of[key]
    }
    chosen = generator.sample(named, asked)
    answers = tuple(number for key in chosen for number in numbers_of[key])
    query = f"{', '.join(chosen[:-1])}, and {chosen[-1]}" if asked > 1 else chosen[0]
    if len(answers) > 1:
        intro = "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
        intro += "I will quiz you about the numbers afterwards."
        question = f"What are all the special magic numbers for {query} mentioned in the provided text?"
        prefix = f" The special magic numbers for {query} mentioned in the provided text are"
    else:
        intro = "A special magic number is hidden within the following text. Make sure to memorize it. "
        intro += "I will quiz you about the number afterwards."
        question = f"What is the special magic number for {query} mentioned in the provided text?"
        prefix = f" The special magic number for {query} mentioned in the provided text is"
    planted = tuple(generator.sample(list(lines.values()), len(lines)))
    form = PromptForm(f"{intro}\n{{context}}\n{{question}}", "{question}", answer_prefix=prefix)
    return Puzzle(planted, tuple(lines[each] for each in answers), question, answers, form, NIAH_ANSWER_TOKENS)


def variable_tracking(generator: random.Random) -> Puzzle:
    """A chain of assignments, one number handed on from name to name; all the names are asked for."""
    names = _distinct(lambda: "".join(generator.choices(string.ascii_uppercase, k=5)), VT_HOPS + 1)
    value = str(generator.randrange(10_000, 99_999))
    planted = [f"VAR {names[0]} = {value}"]
    planted += [f"VAR {name} = VAR {previous}" for previous, name in pairwise(names)]
    question = f"Find all variables that are assigned the value {value} in the text above."
    intro = "Memorize and track the chain(s) of variable assignment hidden in the following text."
    prefix = (
        f" Answer: According to the chain(s) of variable assignment in the text above, {len(names)} variables are "
        f"assigned the value {value}, they are: "
    )
    form = PromptForm(f"{intro}\n\n{{context}}\nQuestion: {{question}}", "Question: {question}", answer_prefix=prefix)
    return Puzzle(tuple(planted), tuple(planted), question, tuple(names), form, VT_ANSWER_TOKENS)


TASKS: dict[str, Callable[[random.Random], Puzzle]] = {
    "niah_single": niah,
    "niah_multikey": lambda generator: niah(generator, keys=4),
    "niah_multivalue": lambda generator: niah(generator, values=4),
    "niah_multiquery": lambda generator: niah(generator, keys=4, asked=4),
    "vt": variable_tracking,
}


def read(reading: Reading) -> Iterator[Record]:
    """One record for each text: for every task, length and sample, with one question.

    Raises UsageError for an unknown task, for no lengths, and for lengths that the prompt and the answer fill;
    DocumentError where the haystack cannot be read.
    """
    settings = reading.settings
    for task in settings.tasks:
        if task not in TASKS:
            raise UsageError(f"expected tasks of ruler ({', '.join(TASKS)}), got {task!r}{nearest_hint(task, TASKS)}")
    lengths = list(dict.fromkeys(settings.lengths))
    if not lengths:
        raise UsageError("expected lengths, got none; give at least one")
    writer = NeedleWriter(read_haystack(settings.data, max(lengths), whole_lines=True), reading.offsets)
    stop = "" if settings.data is None else "."  # an assignment ends with its line in noise, with a stop in prose
    for task in dict.fromkeys(settings.tasks or TASKS):
        for length in lengths:
            for sample in range(settings.samples):
                name = f"ruler-{task}-{length}-{sample}"
                yield _record(writer, stop, name, task, length, settings.seed)


def _record(writer: NeedleWriter, stop: str, name: str, task: str, length: int, seed: int) -> Record:
    generator = random.Random(f"{seed} {name}")
    puzzle = TASKS[task](generator)
    depths = sorted(generator.sample(DEPTHS, len(puzzle.planted)))
    written = writer.write(
        [line if line.endswith(".") else line + stop for line in puzzle.planted],
        depths,
        length,
        lambda text: user_text(puzzle.question, text, puzzle.form) + puzzle.form.answer_prefix,
        puzzle.answer_tokens,
    )
    question = Question(name, puzzle.question, puzzle.answers, puzzle.proof, task)
    document = Document(f"{writer.haystack.name}, {name}", written.text, writer.haystack.source)
    asking = Asking(puzzle.form, puzzle.answer_tokens, (METRIC,), judged=False)
    return Record(name, document, (question,), asking, {name: {"length": float(length)}})


def _distinct(draw: Callable[[], str], count: int) -> list[str]:
    """`count` different draws, in the order drawn."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw()] = None
    return list(drawn)


SUITE = Suite(
    name="ruler",
    summary="synthetic tasks after RULER: needles among needles, several values, variable tracking, by length",
    data="",
    takes=frozenset({"data", "tasks", "lengths", "samples", "seed"}),
    read=read,
)
