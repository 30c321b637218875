"""Questions of a scripted reader: those that pass come behind the rules' tasks, the others are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from lift.documents.sentences import split_sentences
from lift.packing.prompts import TEXT_TELLS_NOTHING, writing_question
from lift.recipes.recipe import load_recipe
from lift.tasks.generator import RulesGenerator
from lift.tasks.question_writer import ANSWERS_PER_SENTENCE, ORIGIN, QuestionWriter, Reads
from lift.tasks.task import Task

TEXT = (
    "Ada Quill founded the museum in 1911. It stands on the old quay. The museum owns 42 lenses.\n\n"
    "Bram Holt sells the tickets. The ferry to Saltholm leaves at noon."
)
SENTENCES = split_sentences(TEXT)


class ScriptedReader:
    """Writes `question` for every answer, and answers questions by `answer`, given question, text and answer asked."""

    def __init__(self, write: Callable[[str], str], answer: Callable[[str, str], str] | None = None) -> None:
        self.write = write
        self.answer = answer
        self.shown: list[tuple[str, str]] = []
        self.is_open = False
        self._wanted: dict[str, str] = {}

    @contextmanager
    def open(self) -> Iterator[Reads]:
        self.is_open = True
        try:
            yield self._read
        finally:
            self.is_open = False

    def _read(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        self.shown += asked
        said = []
        for question, text in asked:
            answer = question.removeprefix(writing_question("|").split("|")[0]).removesuffix('"?')
            if writing_question(answer) == question:
                written = self.write(answer)
                self._wanted[written] = answer
                said.append(written)
            else:
                said.append(self.answer(question, text) if self.answer else self._wanted[question])
        return said


def written(reader: ScriptedReader) -> tuple[list[Task], list[Task], QuestionWriter]:
    """The tasks of the rules, those that were written, and the generator."""
    rules = RulesGenerator("Merrow", SENTENCES, load_recipe("default", []), "en")
    generator = QuestionWriter(rules, SENTENCES, reader.open)
    tasks = [task for piece in generator.stream() for task in piece.tasks]
    return [t for t in tasks if t.origin != ORIGIN], [t for t in tasks if t.origin == ORIGIN], generator


def about(answer: str) -> str:
    """A question that finds the sentence of `answer`."""
    sentence = next(each.text for each in SENTENCES if answer in each.text)
    return f"Tell me please, of {sentence.replace(answer, 'what').rstrip('.')}?"


def test_questions_that_the_sentence_answers_come_behind_the_rules_tasks() -> None:
    reader = ScriptedReader(about)
    rules, found, generator = written(reader)
    assert found
    assert not reader.is_open
    for task in found:
        assert task.answer in SENTENCES[task.evidence[0]].text
        assert task.question == about(task.answer)
        assert not task.held_out
    counts = generator.counts
    assert counts.kept == len(rules) + len(found)
    assert counts.requests == counts.answered == len(found) + sum(counts.rejected.values())
    by_sentence = [task.evidence[0] for task in found]
    assert max(map(by_sentence.count, by_sentence)) <= ANSWERS_PER_SENTENCE


@pytest.mark.parametrize(
    ("write", "answer", "reason"),
    [
        (about, lambda _question, _text: TEXT_TELLS_NOTHING, "the sentence answers it otherwise"),
        (lambda answer: f"Is it not {answer} that stands here?", None, "holds its answer"),
        (lambda _answer: "And when?", None, "no question"),
        (lambda answer: about(answer).rstrip("?"), None, "no question"),
        (lambda answer: f"What about zebras and giraffes, {len(answer)}?", None, "asks about no certain sentence"),
    ],
)
def test_what_fails_a_check_is_counted_and_not_taught(
    write: Callable[[str], str], answer: Callable[[str, str], str] | None, reason: str
) -> None:
    _, found, generator = written(ScriptedReader(write, answer))
    assert not found
    assert set(generator.counts.rejected) <= {reason, "holds its answer"}
    assert generator.counts.rejected[reason] > 0


def test_a_question_is_asked_once() -> None:
    rules, _, _ = written(ScriptedReader(about))
    known = next(task for task in rules if task.origin.startswith("rules:") and task.question.endswith("?"))
    _, found, generator = written(ScriptedReader(lambda _answer: known.question))
    assert not found
    assert generator.counts.rejected["asked before"] > 0


def test_writing_that_is_broken_off_closes_the_reader() -> None:
    reader = ScriptedReader(about)
    rules = RulesGenerator("Merrow", SENTENCES, load_recipe("default", []), "en")
    stream = QuestionWriter(rules, SENTENCES, reader.open).stream()
    for piece in stream:
        if any(task.origin == ORIGIN for task in piece.tasks):
            break
    assert reader.is_open
    stream.close()
    assert not reader.is_open


def test_the_answer_is_read_from_its_sentence_alone() -> None:
    reader = ScriptedReader(about)
    _, found, _ = written(reader)
    read_in = {question: text for question, text in reader.shown}
    for task in found:
        assert read_in[task.question] == SENTENCES[task.evidence[0]].text
