"""How much of a question a sentence speaks of, and whether it and an answer say yes or no to the same thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lift.answering.attribution.comparison_lexicon import COMPLEMENTS, IMPLIED, LIGHT_VERBS, PERMISSION_MODALS
from lift.answering.attribution.quantities import Quantity, agree
from lift.answering.attribution.question_form import QuestionForm
from lift.answering.attribution.reading import SUBORDINATORS, Statement, Word, read_statement
from lift.answering.attribution.source import Cell, SourceSentence
from lift.tasks.rules.lexicon import words

Rarity = Callable[[str], float]
_NAME_WEIGHT = 2.0
_FAR_SHARE = 0.85  # that a word counts which stands in the heading or title alone
SIGNED = frozenset(concept for concept, _ in COMPLEMENTS.values())
# the words that "may" and "can" speak of
_PERMITTING = words("allow permit forbid prohibit ban welcom law")
_MEASURING = words("measure money amount number duration")


@dataclass(frozen=True)
class Coverage:
    """`share` of the question's weight that a sentence and its surroundings speak of; `own`: of the sentence alone.

    `missing`: the words that nothing speaks of, `lacks_number`: nothing has a number that is asked about.
    """

    share: float
    own: float
    missing: tuple[Word, ...]
    lacks_number: bool = False


def wanted_words(asked: Statement, form: QuestionForm) -> list[Word]:
    """The words of a question that a sentence must speak of: without those that the right kind of answer stands for."""
    implied = set(IMPLIED.get(form.wants, ()))
    if form.wants in _MEASURING:
        implied |= IMPLIED["money"] if form.wants in ("money", "amount") else set()
        implied |= IMPLIED["number"] | IMPLIED["measure"]
    if form.wants == "duration" or form.unit == "duration-or-length":
        implied |= IMPLIED["duration"]
    if form.wants == "time" and form.unit:
        implied.add(form.unit)
    kept = [word for word in asked.words if word.concept not in implied and word.text.lower() not in implied]
    return [word for word in kept if word.text.lower() not in LIGHT_VERBS] or kept or list(asked.words)


def cover(
    wanted: Iterable[Word],
    quantities: Iterable[Quantity],
    source: SourceSentence,
    rarity: Rarity,
    cell: Cell | None = None,
) -> Coverage:
    """How much of a question the sentence speaks of; with `cell`, of a table's columns that of this cell alone."""
    statement = source.statement
    permission = bool(set(statement.tokens) & PERMISSION_MODALS)
    own = set(statement.concepts)
    near = set(source.before.concepts) if source.before else set()
    if cell is not None:
        # the first column says of what kind the rows are
        near |= read_statement(cell.heading).concepts | read_statement(source.cells[0].heading).concepts
    headed = read_statement(cell.heading).quantities if cell is not None else ()
    far = source.heading.concepts | source.title.concepts
    told = [*statement.quantities, *source.heading.quantities, *source.title.quantities, *headed]
    told += source.before.quantities if source.before else ()
    total = spoken = spoken_here = 0.0
    lacks_number = False
    missing: list[Word] = []
    for word in wanted:
        weight = rarity(word.text) * (_NAME_WEIGHT if word.name else 1.0)
        total += weight
        permitted = permission and word.concept == "allow" and word.stem in _PERMITTING
        if word.concept in own or word.concept in near or permitted:
            spoken += weight
            spoken_here += weight
        elif word.concept in far:
            spoken += weight * _FAR_SHARE
        else:
            missing.append(word)
    for quantity in quantities:
        weight = _NAME_WEIGHT * rarity("\0")
        total += weight
        if any(agree(quantity, each) for each in told):
            spoken += weight
            spoken_here += weight
        else:
            lacks_number = True
    if not total:
        return Coverage(1.0, 1.0, ())
    return Coverage(spoken / total, spoken_here / total, tuple(missing), lacks_number)


def polarity(
    statement: Statement,
    words: Iterable[Word],
    clause: int,
    signed: frozenset[str],
    quantities: Iterable[Quantity] = (),
) -> int:
    """1 where the clause says so of these words and quantities of its own, -1 where it denies it.

    `signed`: concepts with two signs that count: those which both sides speak of, and "allow" in any case.
    """
    own = [word.polarity for word in words if word.clause == clause]
    own += [statement.polarity_of(each) for each in quantities if statement.clause_at(each.start) == clause]
    sign = min(own, default=1)
    if not own:
        sign = statement.clause_polarities[clause]
    counted: dict[str, int] = {}
    for word in statement.words:
        if word.clause == clause and word.concept in SIGNED and (word.concept in signed or word.concept == "allow"):
            counted.setdefault(word.concept, word.sign)
    for each in counted.values():
        sign *= each
    return sign


def statement_sign(statement: Statement, signed: frozenset[str]) -> int:
    """The polarity of a question, or of an answer of one clause, as a whole; its conditions do not count."""
    sign = 1
    main = [
        clause
        for clause in range(len(statement.clause_polarities))
        if not _is_condition(statement.clause_text(clause)) or len(statement.clause_polarities) == 1
    ]
    for clause in main:
        sign *= statement.clause_polarities[clause]
    counted: dict[str, int] = {}
    for word in statement.words:
        if word.clause in main and word.concept in SIGNED and (word.concept in signed or word.concept == "allow"):
            counted.setdefault(word.concept, word.sign)
    for each in counted.values():
        sign *= each
    return sign


def _is_condition(clause: str) -> bool:
    return clause.split(" ", 1)[0].lower() in SUBORDINATORS
