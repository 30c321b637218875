"""Statements -> yes/no questions: subject and verb invert, and a fact may be exchanged for another of its kind.

"Smoking is not allowed in the annex."  ->  "Is smoking allowed in the annex?"  no
"The museum was founded in 1911."       ->  "Was the museum founded in 1911?"   yes
                                            "Was the museum founded in 1874?"   no
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lift.documents.sentences import Sentence
from lift.tasks.rules.clauses import clauses_of
from lift.tasks.rules.coreference import Resolver, TitleReference, plain_title
from lift.tasks.rules.dependency_parse import ParsedSentence, parse_sentences
from lift.tasks.rules.phrases import Names
from lift.tasks.rules.questions import ClauseAsker
from lift.tasks.rules.wellformed import polished

_LONGEST_WORDS = 24
_FEWEST_WORDS = 4
_NO = re.compile(r"\b(no|nobody|none|nothing|neither|never|without|hardly|rarely|seldom|only|unless|except)\b", re.I)
_NO_SUBJECT = re.compile(r"^(is|are|was|were|does|do|did|can|may|must|will|has|have|had) no (?=\w)", re.I)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class PolarQuestion:
    """A yes/no question about one sentence, by its number, and whether the sentence says yes."""

    question: str
    yes: bool
    sentence: int


@dataclass(frozen=True)
class _Fact:
    """A name or a number in a sentence, and its kind: facts of one kind can stand for each other."""

    text: str
    kind: str


def polar_questions(title: str, sentences: Sequence[Sentence], *, seed: int = 0) -> list[PolarQuestion]:
    """Yes/no questions about English sentences, in their order, the same for the same `seed`.

    A sentence that denies something gives one question, whose answer is no. Every other gives one whose answer is yes,
    and one with a name or number of another sentence in the place of its own, whose answer is no.
    """
    parses = list(parse_sentences([sentence.text for sentence in sentences]))
    reference = TitleReference(title)
    for parse in parses:
        reference.see(parse)
    resolver = Resolver(plain_title(title), reference.kind, reference.gender)
    known: defaultdict[str, list[str]] = defaultdict(list)
    for parse in parses:
        for fact in _facts(parse):
            if fact.text not in known[fact.kind]:
                known[fact.kind].append(fact.text)
    generator = random.Random(seed)
    found: list[PolarQuestion] = []
    for sentence, parse in zip(sentences, parses, strict=True):
        names = resolver.names(parse, sentence.paragraph)
        for question, yes in _asked(parse, names):
            found.append(PolarQuestion(question, yes, sentence.index))
            other = _exchanged(question, parse, known, generator) if yes else None
            if other is not None:
                found.append(PolarQuestion(other, False, sentence.index))
    return found


def _asked(parsed: ParsedSentence, names: Names) -> Iterator[tuple[str, bool]]:
    """The question of the main clause, if it can be asked whole, and its answer."""
    if not parsed.is_statement:
        return
    for clause in clauses_of(list(parsed.doc)):
        if clause.origin != "clause" or not clause.main or clause.existential:
            continue
        text = ClauseAsker(parsed, names, replace(clause, negated=False)).polar_text()
        if text is None:
            continue
        denied = clause.negated
        if not denied and _NO_SUBJECT.match(text):
            text, denied = _NO_SUBJECT.sub(r"\1 any ", text), True
        question = polished(text)
        if question is None or _NO.search(question):
            continue
        if _FEWEST_WORDS <= len(question.split()) <= _LONGEST_WORDS:
            yield question, not denied
            return


def _facts(parsed: ParsedSentence) -> Iterator[_Fact]:
    for entity in parsed.doc.ents:
        number = _NUMBER.fullmatch(entity.text)
        if entity.label_ in {"PERSON", "ORG", "GPE", "NORP", "LOC", "FAC"} and entity.text[:1].isupper():
            yield _Fact(entity.text, entity.label_)
        elif number:
            yield _Fact(entity.text, f"number of {len(entity.text)}")


def _exchanged(
    question: str, parsed: ParsedSentence, known: dict[str, list[str]], generator: random.Random
) -> str | None:
    """The question with one of its facts exchanged; None where it has none, or the document no other of the kind."""
    own = [fact for fact in _facts(parsed) if question.count(fact.text) == 1]
    generator.shuffle(own)
    for fact in own:
        others = [text for text in known[fact.kind] if text not in parsed.text and fact.text not in text]
        if others:
            return question.replace(fact.text, generator.choice(others))
        if fact.kind.startswith("number") and fact.text.isdigit():
            return question.replace(fact.text, str(int(fact.text) + generator.choice((2, 3, 5, 7))))
    return None
