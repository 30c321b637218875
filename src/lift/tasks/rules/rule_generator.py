"""The task generator `rules`: sentences -> tasks, deterministic and right by construction.

The answer of every question is a verbatim span of its evidence sentence (white space normalised); the question is the
rest of the clause with a wh-phrase in its place (cloze translation), pronouns replaced by what they stand for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from lift.documents.sentences import Sentence
from lift.tasks.candidate_file import CandidateFile, text_key
from lift.tasks.rules.coreference import Resolver, TitleReference, plain_title
from lift.tasks.rules.dependency_parse import ParseFile, parse_sentences
from lift.tasks.rules.lines import entry_tasks, row_tasks, rows_left_out
from lift.tasks.rules.questions import Candidate, question_candidates
from lift.tasks.rules.recitation import blank_tasks, continuation_tasks, recitation_tasks
from lift.tasks.selection import diverse, hold_out
from lift.tasks.task import Task

# To be raised where the same text gives other tasks than before: memories made by earlier rules are then made anew.
RULES_VERSION = 3


def generate_tasks(
    title: str,
    sentences: Sequence[Sentence],
    *,
    per_sentence: int = 20,
    held_out_per_sentence: int = 1,
    seed: int = 0,
    language: str = "en",
) -> list[Task]:
    """Tasks about each of the `sentences`, in document order, the same for the same `seed`; see tasks_by_sentence."""
    groups = tasks_by_sentence(
        title,
        sentences,
        per_sentence=per_sentence,
        held_out_per_sentence=held_out_per_sentence,
        seed=seed,
        language=language,
    )
    return [task for group in groups for task in group]


def tasks_by_sentence(
    title: str,
    sentences: Sequence[Sentence],
    *,
    per_sentence: int,
    held_out_per_sentence: int,
    seed: int,
    language: str,
) -> Iterator[list[Task]]:
    """The tasks of each of the `sentences` in turn; parses and candidates of all are on disk meanwhile.

    At most `per_sentence` tasks of a sentence are to be trained on; up to `held_out_per_sentence` more probe facts
    that those teach. Every sentence has at least one task, if only a recitation, but for one without a letter or digit,
    one that repeats an earlier one word by word, and the rows that lines.rows_left_out names. Languages other than
    English get recitations and sentences with blanks, without a parser.
    """
    generator = random.Random(seed)
    found = _questions(title, sentences) if language == "en" else _blanks(sentences, per_sentence, generator)
    candidates = CandidateFile(found)
    left_out = rows_left_out(sentences)
    asked: set[int] = set()
    for position, (sentence, possible) in enumerate(zip(sentences, candidates.worth_keeping(), strict=True)):
        if sentence.index in left_out or not any(map(str.isalnum, sentence.text)):
            yield []
            continue
        recited = [*recitation_tasks(title, sentences, position), *continuation_tasks(title, sentence)]
        recited = [task for task in recited if text_key(task.question) not in asked][:2]
        room = max(per_sentence - min(len(recited), 1 if per_sentence < 6 else 2), 0)
        questions = diverse(possible, room + held_out_per_sentence, generator)
        questions = hold_out(questions, held_out_per_sentence)
        trained = [task for task in questions if not task.held_out][:room]
        chosen = [*trained, *recited[: per_sentence - len(trained)], *(task for task in questions if task.held_out)]
        asked.update(text_key(task.question) for task in chosen)
        yield chosen


def _questions(title: str, sentences: Sequence[Sentence]) -> Iterator[list[Task]]:
    """All questions that can be asked about each sentence; what its pronouns stand for depends on all sentences."""
    parses, reference = ParseFile(), TitleReference(title)
    rows = row_tasks(sentences)
    texts = ["" if sentence.index in rows else sentence.text for sentence in sentences]
    for parse in parse_sentences(texts):
        reference.see(parse)
        parses.append(parse)
    resolver = Resolver(plain_title(title), reference.kind, reference.gender)
    for sentence, parse in zip(sentences, parses, strict=True):
        names = resolver.names(parse, sentence.paragraph)
        if sentence.index in rows:
            yield rows[sentence.index]
        else:
            entries = [] if parse.is_statement else entry_tasks(title, sentence)
            yield entries or [
                Task(found.question, found.answer, (sentence.index,), f"rules:{found.rule}", found.weight)
                for found in question_candidates(parse, names)
            ]


def _blanks(sentences: Sequence[Sentence], limit: int, generator: random.Random) -> Iterator[list[Task]]:
    return (blank_tasks(sentence, limit, generator) for sentence in sentences)


def answer_candidates(sentence_text: str) -> list[str]:
    """Short answer spans of one English sentence, the best first, each once."""
    found: list[Candidate] = []
    for parse in parse_sentences([sentence_text]):
        found.extend(question_candidates(parse, {}))
    found.sort(key=lambda candidate: (-candidate.weight, candidate.answer_span))
    return list(dict.fromkeys(candidate.answer for candidate in found))
