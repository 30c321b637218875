"""A statement taken apart: its words of content with their concepts, what a negation turns round, and its quantities.

Negation is found by scope, not by parsing: "not" behind an auxiliary, "no" and "never" turn the whole clause round,
"not" behind a comma or "and" what follows it, "without" and "except" what follows them. Clauses end at semicolons,
colons, "but", "while", and at "and" before an auxiliary.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import Stemmer

from lift.answering.attribution.comparison_lexicon import (
    AUXILIARIES,
    BASE_FORMS,
    COMPLEMENTS,
    CONTRARIES,
    EQUIVALENTS,
    EXCEPTIONS,
    FUNCTION_WORDS,
    INFLECTED_COMPLEMENTS,
    NEGATORS,
)
from lift.answering.attribution.quantities import MONTHS, Quantity, read_quantities
from lift.tasks.rules.lexicon import words

MOST_CHARS = 2_000
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*|[^\w\s]")
_NEGATED = re.compile(r"(?:n['’]t)$", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['’]s?$")
_CLAUSE_MARKS = frozenset(";:!?|—–")
_CLAUSE_WORDS = words("but while whereas although though if unless because when")
SUBORDINATORS = words("if unless because when although though after before until once")
_SEGMENT_MARKS = frozenset(",;:|—–()")
_SEGMENT_WORDS = words("and but or while whereas")
# behind these a negator says how much, not that something is not so: "no more than", "not only", "no later than"
_COMPARATIVE = re.compile(r"(?:more|less|fewer|later|longer|larger|older|earlier|smaller|higher|lower|[a-z]+er)$")
_TURNING = NEGATORS | {each[0] for each in EXCEPTIONS}
_BOUND = re.compile(
    r"^(?:more|longer|larger|later|warmer|older|wider|higher|greater|bigger|heavier|stronger|less|fewer|earlier)$"
)
_NEGATIVE_PREFIX = re.compile(r"(?:un|non)(?=(?:.{3,}(?:ed|able|ible|ary|al|ful)|paid|known|lawful|safe|sold|built)$)")
_NOT_NEGATIVE = words("under united unified universal nonetheless")


@dataclass(frozen=True)
class Word:
    """A word of content: `stem` and `concept`; `sign` is -1 where the word itself is the negative one (forbid, closed).

    `polarity` is -1 where a negation has it in its scope. `name`: written with a capital within a sentence, or with a
    digit. `clause` and `segment` count from 0.
    """

    text: str
    stem: str
    concept: str
    sign: int
    polarity: int
    name: bool
    start: int
    clause: int
    segment: int


@dataclass(frozen=True)
class Statement:
    """A sentence, question or answer as read. `marks`: its words of grammar, in lower case."""

    text: str
    words: tuple[Word, ...]
    quantities: tuple[Quantity, ...]
    tokens: tuple[str, ...]
    quantity_polarities: tuple[int, ...]
    clause_starts: tuple[int, ...]
    clause_polarities: tuple[int, ...]
    segment_starts: tuple[int, ...]

    @property
    def concepts(self) -> frozenset[str]:
        """Those of its words."""
        return frozenset(word.concept for word in self.words)

    def polarity_of(self, quantity: Quantity) -> int:
        """-1 where a negation has one of its own quantities in its scope."""
        return self.quantity_polarities[self.quantities.index(quantity)]

    def clause_at(self, offset: int) -> int:
        """The number of the clause that holds the character at `offset`."""
        return _last_before(self.clause_starts, offset)

    def segment_at(self, offset: int) -> int:
        """The number of the segment that holds the character at `offset`."""
        return _last_before(self.segment_starts, offset)

    def clause_text(self, clause: int) -> str:
        """The clause as written."""
        ends = [*self.clause_starts[1:], len(self.text)]
        return self.text[self.clause_starts[clause] : ends[clause]]

    def contraries_of(self, concept: str) -> bool:
        """Whether a word says the contrary of `concept`, as "end" does of "begin"."""
        return not CONTRARIES.get(concept, frozenset()).isdisjoint(self.concepts)


def _last_before(starts: Sequence[int], offset: int) -> int:
    return max((number for number, start in enumerate(starts) if start <= offset), default=0)


class _ThreadStemmer(threading.local):
    """A stemmer of each thread's own: one must not be used by two at once."""

    def __init__(self) -> None:
        self.stem = Stemmer.Stemmer("english").stemWord


_stemmer = _ThreadStemmer()


def _stem(word: str) -> str:
    stem: str = _stemmer.stem(word)
    return stem


@lru_cache(maxsize=5_000)
def concept_of(word: str) -> tuple[str, int]:
    """The concept of a word in lower case, and the sign of the word: "forbidden" is "allow" with sign -1."""
    base = BASE_FORMS.get(word, word)
    for form in (word, base):
        if form in COMPLEMENTS:
            return COMPLEMENTS[form]
    if _stem(base) in _complements_by_stem():
        return _complements_by_stem()[_stem(base)]
    sign = 1
    if word not in _NOT_NEGATIVE and (negative := _NEGATIVE_PREFIX.match(word)):
        word, sign = word[negative.end() :], -1
        concept, own = concept_of(word)
        return concept, sign * own
    if word in EQUIVALENTS:
        return EQUIVALENTS[word], sign
    if base in EQUIVALENTS:
        return EQUIVALENTS[base], sign
    stem = _stem(base)
    return _by_stem().get(stem, stem), sign


@lru_cache(maxsize=1)
def _complements_by_stem() -> dict[str, tuple[str, int]]:
    return {_stem(word): found for word, found in COMPLEMENTS.items() if found[0] in INFLECTED_COMPLEMENTS}


@lru_cache(maxsize=1)
def _by_stem() -> dict[str, str]:
    """Concepts of equivalents by their stems: "prices" is of "price", and contraries stand under their own stems."""
    stems = {_stem(word): concept for word, concept in EQUIVALENTS.items() if len(word) > 3}
    return stems | {_stem(word): word for word in CONTRARIES if word not in EQUIVALENTS}


@lru_cache(maxsize=512)
def read_statement(text: str) -> Statement:
    """Take a sentence apart, as far as its first MOST_CHARS characters."""
    text = text[:MOST_CHARS]
    matches = [match for match in _TOKEN.finditer(text)]
    tokens = [match.group() for match in matches]
    lower = [token.lower().replace("’", "'") for token in tokens]
    quantities = read_quantities(text)
    for place, match in enumerate(matches):  # the colon of 10:30 ends no clause
        if not lower[place][:1].isalnum() and any(each.start < match.start() < each.end for each in quantities):
            lower[place] = ""
    clauses, segments = _boundaries(lower)
    polarities, whole = _polarities(lower, clauses)
    words: list[Word] = []
    for number, (match, token) in enumerate(zip(matches, lower, strict=True)):
        at = match.start()
        bare = _POSSESSIVE.sub("", token)
        if not bare[:1].isalnum() or bare in FUNCTION_WORDS or bare in NEGATORS or bare in AUXILIARIES or "n't" in bare:
            continue
        quantity = next((each for each in quantities if each.start <= at < each.end), None)
        if quantity is not None and (
            bare[0].isdigit() or not quantity.dimension or quantity.dimension in ("clock", "date")
        ):
            continue
        concept, sign = concept_of(bare)
        capital = tokens[number][0].isupper() and bare not in MONTHS
        begins = number == 0 or tokens[number - 1] in '.!?:|“"' or at == 0
        followed = number + 1 < len(tokens) and tokens[number + 1][0].isupper()
        name = (capital and (not begins or followed)) or any(character.isdigit() for character in bare)
        words.append(
            Word(
                tokens[number],
                _stem(BASE_FORMS.get(bare, bare)),
                concept,
                sign,
                polarities[number],
                name,
                at,
                clauses[number],
                segments[number],
            )
        )
    return Statement(
        text,
        tuple(words),
        tuple(quantities),
        tuple(lower),
        tuple(
            next((polarities[place] for place, match in enumerate(matches) if match.end() > each.start), 1)
            for each in quantities
        ),
        _starts(matches, clauses),
        whole,
        _starts(matches, segments),
    )


def _starts(matches: Sequence[re.Match[str]], numbers: Sequence[int]) -> tuple[int, ...]:
    starts: list[int] = []
    for match, number in zip(matches, numbers, strict=True):
        if number >= len(starts):
            starts.append(match.start() if starts else 0)
    return tuple(starts) or (0,)


def _boundaries(lower: Sequence[str]) -> tuple[list[int], list[int]]:
    """The clause and the segment of each token."""
    clause = segment = 0
    clauses, segments = list[int](), list[int]()
    finite = False  # whether the clause has an auxiliary by now
    for number, token in enumerate(lower):
        following = lower[number + 1] if number + 1 < len(lower) else ""
        enough = number > 0 and number + 1 < len(lower)
        if (
            enough
            and (
                token in _CLAUSE_MARKS
                or token in _CLAUSE_WORDS
                or (token == "and" and number and lower[number - 1] == ",")
                or (token == "and" and (_is_auxiliary(following) or lower[number + 2 : number + 3] == ["no"]))
            )
        ) or (
            enough
            and token == ","
            and (
                (finite and _goes_on_as_clause(lower, number + 1))
                or _begins_with(lower, clauses, clause, SUBORDINATORS)
            )
        ):
            clause, segment, finite = clause + 1, segment + 1, False
        elif enough and (token in _SEGMENT_MARKS or token in _SEGMENT_WORDS):
            segment += 1
        finite = finite or token in AUXILIARIES or bool(_NEGATED.search(token))
        clauses.append(clause)
        segments.append(segment)
    return _dense(clauses), _dense(segments)


def _is_auxiliary(token: str) -> bool:
    return token in AUXILIARIES or token in NEGATORS or bool(_NEGATED.search(token))


def _begins_with(lower: Sequence[str], clauses: Sequence[int], clause: int, openings: frozenset[str]) -> bool:
    return lower[clauses.index(clause)] in openings if clause in clauses else False


def _goes_on_as_clause(lower: Sequence[str], number: int) -> bool:
    """Whether an auxiliary stands between the comma and the next mark, behind a subject."""
    for place in range(number, len(lower)):
        if lower[place] in _SEGMENT_MARKS or lower[place] in _CLAUSE_MARKS:
            return False
        if lower[place] in AUXILIARIES or _NEGATED.search(lower[place]) or lower[place] == "cannot":
            return place > number
    return False


def _dense(numbers: list[int]) -> list[int]:
    order = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
    return [order[number] for number in numbers]


def _polarities(lower: Sequence[str], clauses: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """The polarity of each token, and of each clause as a whole."""
    polarities = [1] * len(lower)
    whole = [1] * ((clauses[-1] if clauses else 0) + 1)
    for number in range(len(lower)):
        scope = _scope(lower, clauses, number)
        if scope is None:
            continue
        first, last = scope
        if first <= number:
            whole[clauses[number]] *= -1
        for place in range(first, last):
            polarities[place] *= -1
    return polarities, tuple(whole)


def _scope(lower: Sequence[str], clauses: Sequence[int], number: int) -> tuple[int, int] | None:
    """The tokens that the token turns round, None where it is no negator."""
    token = lower[number]
    if token not in _TURNING and not token.endswith("t"):
        return None
    begin, end = bisect_left(clauses, clauses[number]), bisect_right(clauses, clauses[number])
    before = lower[number - 1] if number else ""
    following = lower[number + 1] if number + 1 < len(lower) else ""
    exception = next((each for each in EXCEPTIONS if tuple(lower[number : number + len(each)]) == each), None)
    if exception:
        first = number + len(exception)
        return first, _phrase_end(lower, first, end)
    negated = bool(_NEGATED.search(token)) or token == "cannot"
    if not negated and token not in NEGATORS:
        return None
    if token != "without" and _bounds(lower[number + 1 : end]):
        return None
    if negated:
        return begin, end
    if token == "without":
        return number + 1, _phrase_end(lower, number + 1, end)
    if token in ("no", "not", "never") and (
        following in ("only", "just", "until", "before", "unless", "later", "matter", "doubt", ",")
        or (_COMPARATIVE.match(following) and "than" in lower[number : number + 5])
    ):
        return None
    apart = before in (",", "and", "or", "") or before in _CLAUSE_WORDS
    if token == "not" and apart and following not in AUXILIARIES:
        return number + 1, _phrase_end(lower, number + 1, end)
    if token == "no" and following == "longer":
        return (number + 1, _phrase_end(lower, number + 1, end)) if apart and number > begin else (begin, end)
    if token == "none" and before in ("but", ","):
        return number, end
    if token == "nor":
        return number + 1, end
    if token == "no" and number > begin:
        first = max((place for place in range(begin, number) if lower[place] in (",", "and")), default=begin)
        return first, _phrase_end(lower, number + 1, end)
    return begin, end


def _bounds(following: Sequence[str]) -> bool:
    """Whether "more than" a number comes: "nobody may hold more than one" says how many, not that nobody may."""
    return any(
        _BOUND.match(token) and following[place + 1 : place + 2] == ["than"] for place, token in enumerate(following)
    )


def _phrase_end(lower: Sequence[str], number: int, end: int) -> int:
    """Where a phrase ends: at a comma or bracket, or before an auxiliary."""
    for place in range(number, end):
        if lower[place] in (",", ")", "(") or (lower[place] in AUXILIARIES and place > number):
            return place
    return end
