"""The task generator `rules`: sentences -> tasks, deterministic and right by construction.

The answer of every question is a verbatim span of its evidence sentence (white space normalised); the question is the
rest of the clause with a wh-phrase in its place (cloze translation), pronouns replaced by what they stand for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from lift.sentences import Sentence
from lift.tasks.rules.coreference import Resolver, plain_title, title_gender, title_kind
from lift.tasks.rules.parse import parse_sentences
from lift.tasks.rules.questions import Candidate, question_candidates
from lift.tasks.rules.recitation import blank_tasks, continuation_tasks, recitation_tasks
from lift.tasks.selection import diverse, hold_back, normalised, without_ambiguous
from lift.tasks.task import Task


def generate_tasks(
    title: str,
    sentences: Sequence[Sentence],
    *,
    per_sentence: int = 20,
    held_back_per_sentence: int = 1,
    seed: int = 0,
    language: str = "en",
) -> list[Task]:
    """Tasks about each of the `sentences`, in document order, the same for the same `seed`.

    At most `per_sentence` tasks of a sentence are to be trained on; up to `held_back_per_sentence` more probe facts
    that those teach. Every sentence has at least one task, if only a recitation, but for one without a letter or digit,
    and one that repeats an earlier one word by word. Languages other than English get recitations and sentences with
    blanks, without a parser.
    """
    generator = random.Random(seed)
    candidates = _candidates(title, sentences) if language == "en" else _blanks(sentences, per_sentence, generator)
    by_sentence: dict[int, list[Task]] = {}
    for task in without_ambiguous(candidates):
        by_sentence.setdefault(task.evidence[0], []).append(task)
    tasks: list[Task] = []
    asked: set[str] = set()
    for position, sentence in enumerate(sentences):
        if not any(map(str.isalnum, sentence.text)):
            continue
        recited = [*recitation_tasks(title, sentences, position), *continuation_tasks(title, sentence)]
        recited = [task for task in recited if normalised(task.question) not in asked][:2]
        room = max(per_sentence - min(len(recited), 1 if per_sentence < 6 else 2), 0)
        questions = diverse(by_sentence.get(sentence.index, []), room + held_back_per_sentence, generator)
        questions = hold_back(questions, held_back_per_sentence)
        trained = [task for task in questions if not task.held_back][:room]
        chosen = [*trained, *recited[: per_sentence - len(trained)], *(task for task in questions if task.held_back)]
        asked.update(normalised(task.question) for task in chosen)
        tasks.extend(chosen)
    return tasks


def _candidates(title: str, sentences: Sequence[Sentence]) -> list[Task]:
    parsed = list(parse_sentences([sentence.text for sentence in sentences]))
    resolver = Resolver(plain_title(title), title_kind(title, parsed), title_gender(parsed))
    tasks: list[Task] = []
    for sentence, parse in zip(sentences, parsed, strict=True):
        names = resolver.names(parse, sentence.paragraph)
        tasks.extend(
            Task(found.question, found.answer, (sentence.index,), f"rules:{found.rule}", found.weight)
            for found in question_candidates(parse, names)
        )
    return tasks


def _blanks(sentences: Sequence[Sentence], limit: int, generator: random.Random) -> list[Task]:
    return [task for sentence in sentences for task in blank_tasks(sentence, limit, generator)]


def answer_candidates(sentence_text: str) -> list[str]:
    """Short answer spans of one English sentence, the best first, each once."""
    found: list[Candidate] = []
    for parse in parse_sentences([sentence_text]):
        found.extend(question_candidates(parse, {}))
    found.sort(key=lambda candidate: (-candidate.weight, candidate.answer_span))
    return list(dict.fromkeys(candidate.answer for candidate in found))
