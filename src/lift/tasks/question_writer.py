"""The task generator `writer`: beside the rules' tasks, questions as people put them, written by the warm start.

The warm start has learned both ways: which question an answer belongs to, and which answer a question has. Answers are
those that the rules found. A question that it writes for one of them is kept only where the same adapter, given the
sentence alone, returns the answer (round-trip consistency: Alberti et al. 2019, arXiv 1906.05416), and where the words
of the question find the sentence in the document, so that it means something to who does not see the passage.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from lift.adapters.attach import restore_adapter
from lift.adapters.row_assignment import using
from lift.adapters.warm_start import WarmStart
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, joined
from lift.errors import cleaning_up
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.models.control_tokens import decode_content
from lift.packing.prompts import MAX_ANSWER_TOKENS, end_of_answer_id, prompt_ids, writing_question
from lift.tasks.generation import Generated, GenerationCounts, TaskGenerator
from lift.tasks.selection import normalised
from lift.tasks.task import Task

# questions, each with a text to stand behind -> their answers
Reads = Callable[[Sequence[tuple[str, str]]], list[str]]
ORIGIN = "writer"
ANSWERS_PER_SENTENCE = 3
_NAME = "question writer"
_BATCH_QUESTIONS = 64
_BATCH_ROWS = 16
_LONGEST_ANSWER_WORDS = 10
_FEWEST_QUESTION_WORDS = 4
_PASSAGE_SENTENCES = 6
_FOUND_AMONG = 3  # sentences, as a reader is shown
# Of a line that is no sentence, or that is learned by heart, no question is written.
_NOT_ASKED = frozenset({"rules:recite", "rules:next", "rules:continue", "rules:blank", "rules:row"})


@dataclass(frozen=True)
class _Candidate:
    """A task of the rules whose answer is to be asked for in other words, and the passage that shows it."""

    task: Task
    passage: str

    @property
    def sentence(self) -> int:
        return self.task.evidence[0]


class QuestionWriter:
    """The TaskGenerator over another one and a warm start: first all tasks of `rules`, then the questions written.

    What is written comes in an order that is spread over the document, so that it may be ended at any time.
    """

    cached_requests = 0

    def __init__(
        self,
        rules: TaskGenerator,
        sentences: Sequence[Sentence],
        reader: Callable[[], AbstractContextManager[Reads]],
        seed: int = 0,
    ) -> None:
        self._rules, self._sentences, self._reader, self._seed = rules, sentences, reader, seed
        self.counts = GenerationCounts()

    def stream(self) -> Generator[Generated]:
        """See TaskGenerator. Every request is a question to be written."""
        counts = self.counts = GenerationCounts()
        by_answer: defaultdict[int, dict[str, Task]] = defaultdict(dict)
        asked: set[str] = set()
        last = 0
        for piece in self._rules.stream():
            counts.kept += len(piece.tasks)
            last = piece.position
            for task in piece.tasks:
                asked.add(normalised(task.question))
                if _can_be_asked(task):
                    known = by_answer[task.evidence[0]].setdefault(normalised(task.answer), task)
                    if task.weight > known.weight:
                        by_answer[task.evidence[0]][normalised(task.answer)] = task
            yield piece
        candidates = self._candidates(by_answer)
        counts.requests = len(candidates)
        index = SentenceIndex(self._sentences)
        with self._reader() as read:
            for first in range(0, len(candidates), _BATCH_QUESTIONS):
                batch = candidates[first : first + _BATCH_QUESTIONS]
                yield Generated(last, tuple(self._written(batch, index, asked, read)))

    def _candidates(self, by_answer: dict[int, dict[str, Task]]) -> list[_Candidate]:
        place_of = {sentence.index: place for place, sentence in enumerate(self._sentences)}
        found: list[list[_Candidate]] = []
        for number, tasks in by_answer.items():
            passage = self._passage(place_of[number])
            best = sorted(tasks.values(), key=lambda task: -task.weight)[:ANSWERS_PER_SENTENCE]
            found.append([_Candidate(task, passage) for task in best])
        random.Random(self._seed).shuffle(found)
        # the best answer of every sentence, then the second of each that has two
        return [each[rank] for rank in range(ANSWERS_PER_SENTENCE) for each in found if rank < len(each)]

    def _passage(self, place: int) -> str:
        """The sentences about the one at `place`, of its paragraph: the same for several of them, so read once."""
        own = self._sentences[place]
        first = last = place
        while first and self._sentences[first - 1].paragraph == own.paragraph:
            first -= 1
        while last + 1 < len(self._sentences) and self._sentences[last + 1].paragraph == own.paragraph:
            last += 1
        begin = first + (place - first) // _PASSAGE_SENTENCES * _PASSAGE_SENTENCES
        return joined(self._sentences[begin : min(begin + _PASSAGE_SENTENCES, last + 1)])

    def _written(
        self, candidates: Sequence[_Candidate], index: SentenceIndex, asked: set[str], read: Reads
    ) -> list[Task]:
        """The tasks of those questions that pass every check."""
        counts = self.counts
        texts = {sentence.index: sentence.text for sentence in self._sentences}
        written = read([(writing_question(each.task.answer), each.passage) for each in candidates])
        passing: list[tuple[_Candidate, str]] = []
        for candidate, question in zip(candidates, written, strict=True):
            counts.answered += 1
            key = normalised(question)
            reason = _fault(question, candidate.task.answer) or ("asked before" if key in asked else None)
            if reason is None and candidate.sentence not in {
                sentence.index for sentence in index.search(question, _FOUND_AMONG)
            }:
                reason = "asks about no certain sentence"
            if reason is not None:
                counts.rejected[reason] += 1
                continue
            asked.add(key)
            passing.append((candidate, question))
        answers = read([(question, texts[each.sentence]) for each, question in passing])
        kept = []
        for (candidate, question), answer in zip(passing, answers, strict=True):
            task = candidate.task
            if not _same(answer, task.answer):
                counts.rejected["the sentence answers it otherwise"] += 1
                continue
            kept.append(Task(question, task.answer, task.evidence, ORIGIN, task.weight))
        counts.kept += len(kept)
        return kept


@contextmanager
def reading_with(base: BaseModel, start: WarmStart) -> Iterator[Reads]:
    """The base with the warm start attached: it says what it answers to each question behind its text, greedily."""

    def read(asked: Sequence[tuple[str, str]]) -> list[str]:
        with using(base.model, _NAME):
            said = generate(
                base.model,
                [prompt_ids(base.tokenizer, question, text) for question, text in asked],
                max_new_tokens=MAX_ANSWER_TOKENS,
                end_ids={end_of_answer_id(base.tokenizer), *base.end_token_ids},
                batch_size=_BATCH_ROWS,
            )
        return [decode_content(base.tokenizer, tokens).strip() for tokens in said]

    adapter = restore_adapter(base.model, start.config, start.state, _NAME)
    with cleaning_up(adapter.detach):
        yield read


def _can_be_asked(task: Task) -> bool:
    return (
        task.origin not in _NOT_ASKED
        and not task.held_out
        and len(task.answer.split()) <= _LONGEST_ANSWER_WORDS
        and any(map(str.isalnum, task.answer))
    )


def _fault(question: str, answer: str) -> str | None:
    """The first reason to reject a question as it stands, or None."""
    if not question.endswith("?") or "\n" in question or len(question.split()) < _FEWEST_QUESTION_WORDS:
        return "no question"
    if f" {normalised(answer)} " in f" {normalised(question)} ":
        return "holds its answer"
    return None


def _same(said: str, answer: str) -> bool:
    """Whether two answers are the same but for words at their ends: one holds the other, and is not twice as long."""
    one, other = sorted((normalised(said).split(), normalised(answer).split()), key=len)
    if not one or len(other) > 2 * len(one):
        return False
    return f" {' '.join(one)} " in f" {' '.join(other)} "
