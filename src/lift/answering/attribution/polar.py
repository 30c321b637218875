"""Yes or no: does a sentence of the document say that a proposition is true, or that it is false?

Said only where the rules are sure: a clause speaks of all that is asked, unconditionally, of the same extent and force.
That dogs may not enter the inn does not say that dogs are not allowed; that a thing need not be done does not say that
it may not. Where the clause only speaks of what is asked, it can be quoted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lift.answering.attribution.asked_numbers import beside_a_better
from lift.answering.attribution.comparison_lexicon import (
    AUXILIARIES,
    CONDITIONS,
    HEDGES,
    LIGHT_VERBS,
    OBLIGATION_MODALS,
    PERMISSION_MODALS,
    QUANTIFIERS,
)
from lift.answering.attribution.matching import SIGNED, Rarity, cover, polarity, statement_sign, wanted_words
from lift.answering.attribution.quantities import Quantity, agree
from lift.answering.attribution.question_form import QuestionForm
from lift.answering.attribution.reading import Statement, Word, read_statement
from lift.answering.attribution.source import SourceSentence
from lift.tasks.rules.lexicon import words

QUOTABLE_SHARE = 0.8
_DEFINITE = words("the its his her their this it they he she")
_EXISTENCE = words("has have had there contains includes offers with no")
_PREPOSITIONS = words("in on at to into inside outside within from for with by during under over near of")
# the words behind which the first member of a list begins
_OPENING = re.compile(
    r"\b(?:{})\b".format("|".join(sorted({*AUXILIARIES, *_PREPOSITIONS, "not", "the", "a", "an"}))), re.IGNORECASE
)
# a question whose subject is a pronoun asks about something that was said before
_POINTING = words("it they he she this that these those")


@dataclass(frozen=True)
class PolarVerdict:
    """The answer of a sentence to a polar question: `sign` 1 yes, -1 no, 0 where rules are not sure of it.

    `share`: of the question's weight that the sentence speaks of.
    """

    source: SourceSentence
    sign: int
    share: float


def judge(form: QuestionForm, sources: Sequence[SourceSentence], rarity: Rarity) -> PolarVerdict | None:
    """The verdict of the sentence that speaks most of what is asked; None where none speaks of enough of it.

    Where sentences that speak of it alike disagree, the sign is 0.
    """
    asked = read_statement(form.proposition)
    wanted = wanted_words(asked, form)
    if not wanted or (set(asked.tokens[:2]) & _POINTING and "to" not in asked.tokens):
        return None
    found: list[PolarVerdict] = []
    for source in sources:
        # of a row, the column is looked for that is asked about
        cells = source.cells[1:] or (None,)
        coverages = [cover(wanted, asked.quantities, source, rarity, cell) for cell in cells]
        coverage = max(coverages, key=lambda each: each.share)
        if coverage.own <= 0.3 or coverage.share < QUOTABLE_SHARE or any(word.name for word in coverage.missing):
            near = _other_number(asked, wanted, source, rarity)
            if near:
                found.append(PolarVerdict(source, 0, near))
            continue
        if _asks_itself(source.statement) or not _is_told_here(wanted, source):
            continue
        sign = 0
        if not coverage.missing and not form.negated:
            sign = _row_sign(asked, wanted, source) if source.cells else _sign(asked, wanted, source)
        if source.cells and not sign and not asked.concepts & source.statement.concepts & SIGNED:
            continue
        found.append(PolarVerdict(source, sign, coverage.share + 0.1 * coverage.own))
    if not found:
        return None
    best = max(found, key=lambda each: (each.share, abs(each.sign)))
    rivals = [each for each in found if each.share >= best.share - 0.05 and each.sign]
    signs = {each.sign for each in rivals}
    if len(signs) > 1:
        return PolarVerdict(best.source, 0, best.share)
    return next((each for each in rivals if each.share == best.share), best)


def _is_told_here(wanted: Sequence[Word], source: SourceSentence) -> bool:
    """Whether the sentence itself has what is asked of the subject, which alone its surroundings may name.

    The place that is asked about last may stand in the heading, too.
    """
    statement = source.statement
    permission = bool(set(statement.tokens) & PERMISSION_MODALS)
    told = statement.concepts.union(*(read_statement(cell.heading).concepts for cell in source.cells))
    held = [word for word in wanted if word.concept in told or (permission and word.concept == "allow")]
    things = [word for word in wanted if not word.name]
    near = source.before.concepts if source.before else frozenset[str]()
    between = [word for word in wanted[1:-1] if word not in held and word.concept not in near]
    return not between and len([word for word in things if word in held]) >= len(things) / 2


def _asks_itself(statement: Statement) -> bool:
    """Whether the sentence is a question, or tells of one."""
    return "whether" in statement.tokens or statement.tokens[-1:] == ("?",)


def _other_number(asked: Statement, wanted: Sequence[Word], source: SourceSentence, rarity: Rarity) -> float:
    """The share where all but the number that is asked for is spoken of, else 0."""
    if not asked.quantities:
        return 0.0
    coverage = cover(wanted, (), source, rarity)
    fits = any(
        own.family == each.family or (own.may_be_year and each.may_be_year)
        for own in source.statement.quantities
        for each in asked.quantities
    )
    return QUOTABLE_SHARE if fits and not coverage.missing and coverage.own > 0.5 else 0.0


def _sign(asked: Statement, wanted: Sequence[Word], source: SourceSentence) -> int:
    """1 or -1 where the sentence says or denies all that is asked, 0 where that is not sure."""
    statement = source.statement
    signed = asked.concepts & statement.concepts
    by_clause = [
        sign
        for clause in range(len(statement.clause_polarities))
        if (sign := _clause_sign(asked, wanted, source, clause, signed)) is not None
    ]
    return by_clause[0] if len(set(by_clause)) == 1 else 0


def _row_sign(asked: Statement, wanted: Sequence[Word], source: SourceSentence) -> int:
    """The yes or no in the cell of a table under the heading that is asked about, where it holds nothing else."""
    if not source.cells:
        return 0
    labels = read_statement(source.sentence.text[: source.cells[0].end]).concepts
    for cell in source.cells[1:]:
        said = yes_or_no(source.sentence.text[cell.start : cell.end])
        headed = labels | read_statement(cell.heading).concepts
        if (
            said
            and len(source.sentence.text[cell.start : cell.end]) <= 3
            and all(word.concept in headed for word in wanted)
        ):
            return said * statement_sign(asked, frozenset())
    return 0


def _clause_sign(
    asked: Statement, wanted: Sequence[Word], source: SourceSentence, clause: int, signed: frozenset[str]
) -> int | None:
    """The sign of one clause, 0 where it is not sure, None where the clause does not speak of what is asked."""
    statement = source.statement
    own = [word for word in statement.words if word.clause == clause]
    concepts = {word.concept for word in own}
    tokens = _clause_tokens(statement, clause)
    concepts_wanted = {word.concept for word in wanted}
    carried = {word.concept for word in statement.words if word.clause < clause}
    if clause and _lacks_predicate(tokens):
        own += [replace(word, clause=clause) for word in statement.words if word.clause == clause - 1][1:]
        concepts = {word.concept for word in own}
    around = set(source.heading.concepts | source.title.concepts)
    around |= source.before.concepts if source.before else set()
    if clause and own and own[0].concept not in concepts_wanted:
        carried, around = set(), set()  # a clause that begins with a word of its own has a subject of its own
    permission = bool(set(tokens) & PERMISSION_MODALS) or "allow" in concepts
    wanted_here = [word for word in wanted if word.concept != "allow" or not permission]
    missing = [word for word in wanted_here if word.concept not in concepts]
    matched = _nearest([word for word in own if word.concept in concepts_wanted], wanted)
    if not matched and not (permission and any(word.concept == "allow" for word in wanted)):
        return None
    if not all(word.concept in carried or word.concept in around for word in missing):
        return None
    # what is carried over from before must be the subject; the word that says what is asked stands here
    if wanted_here and wanted_here[-1].concept not in concepts and len(wanted_here) > 1 and clause:
        return None
    told = _clause_quantities(statement, clause)
    agreeing = [next((other for other in told if agree(each, other)), None) for each in asked.quantities]
    numbers = [each for each in agreeing if each is not None]
    if len(numbers) < len(agreeing) or any(beside_a_better(statement, wanted, each) for each in numbers):
        return 0
    if "there" in asked.tokens and not set(tokens) & _EXISTENCE:
        return 0
    if not _same_force(asked, tokens, permission):
        return 0
    if (set(tokens) | _restrictions(statement, clause)) & (HEDGES | CONDITIONS) - set(asked.tokens):
        return 0
    if set(tokens) & QUANTIFIERS != set(asked.tokens) & QUANTIFIERS:
        return 0
    if _swapped(wanted, matched):
        return 0
    sign = polarity(statement, matched, clause, signed, numbers) * statement_sign(asked, signed)
    if sign < 0 and any(not each.dimension and not each.may_be_year for each in numbers):
        return 0  # that three have not does not say that three have
    unmatched = [word for word in own if not any(word.concept == each.concept for each in [*wanted, *asked.words])]
    if not _same_extent(statement, clause, unmatched, matched, denied=sign < 0, permission=permission):
        return 0
    return sign


def _nearest(matched: Sequence[Word], wanted: Sequence[Word]) -> list[Word]:
    """The matched words, of one that stands twice the place nearest to the last that stands once."""
    order = [word.concept for word in wanted]
    counts = Counter(word.concept for word in matched)
    once = [word for word in matched if counts[word.concept] == 1]
    last = max(once, key=lambda word: order.index(word.concept), default=None)
    nearest: dict[str, Word] = {}
    for word in matched:
        known = nearest.get(word.concept)
        if last is None or known is None or abs(word.start - last.start) < abs(known.start - last.start):
            nearest[word.concept] = word
    return sorted(nearest.values(), key=lambda word: word.start)


def _lacks_predicate(tokens: Sequence[str]) -> bool:
    """Whether a clause ends with its auxiliary: "hens are allowed, cockerels are not"."""
    bare = [token for token in tokens if token[:1].isalnum()]
    if bare[-1:] == ["not"]:
        bare.pop()
    return bool(bare) and bare[-1] in AUXILIARIES


def _restrictions(statement: Statement, clause: int) -> set[str]:
    """The word that opens the clause before or behind, where that restricts this one: "if ...", "unless ..."."""
    found: set[str] = set()
    for beside in (clause - 1, clause + 1):
        if 0 <= beside < len(statement.clause_polarities):
            tokens = _clause_tokens(statement, beside)
            found |= set(tokens[:1]) & CONDITIONS
            if tokens[:2] == ("but", "not") and beside > clause:
                found.add("except")
    return found


def _clause_tokens(statement: Statement, clause: int) -> tuple[str, ...]:
    return read_statement(statement.clause_text(clause)).tokens


def _clause_quantities(statement: Statement, clause: int) -> list[Quantity]:
    return [each for each in statement.quantities if statement.clause_at(each.start) == clause]


def _same_force(asked: Statement, tokens: Sequence[str], permission: bool) -> bool:
    """Whether both are of what may be, of what must be, or of what is."""
    # the polar question's own auxiliary says of what force it is
    asks_permission = bool(set(asked.tokens) & PERMISSION_MODALS) or "allow" in asked.concepts
    asks_duty = bool(set(asked.tokens) & OBLIGATION_MODALS) or {"have", "to"} <= set(asked.tokens)
    duty = bool(set(tokens) & OBLIGATION_MODALS)
    forbids = "must" in tokens and bool({"not", "never"} & set(tokens))
    if asks_permission:
        return permission or forbids or (duty and "need" not in tokens)
    if asks_duty:
        return duty
    return not duty and (not permission or "allow" in asked.concepts)


def _swapped(wanted: Sequence[Word], own: Sequence[Word]) -> bool:
    """Whether the clause has the words of the question in another order: who does what to whom is not compared.

    "Does the inn allow dogs?" is asked of "dogs are not allowed in the inn", where nothing can be mistaken.
    """
    if any(word.concept == "allow" for word in wanted):
        return False
    order = [word.concept for word in own]
    places = [order.index(word.concept) for word in wanted if word.concept in order]
    return places != sorted(places)


def _same_extent(
    statement: Statement,
    clause: int,
    unmatched: Sequence[Word],
    matched: Sequence[Word],
    *,
    denied: bool,
    permission: bool,
) -> bool:
    """Whether what the clause says beyond what is asked leaves its yes or no as it is.

    A plain fact stays true with less said of it, unless what is left out narrows its subject. A denial, a permission
    or a ban may hold for that alone which was left out.
    """
    if not matched:
        return not unmatched
    narrowing = [word for word in unmatched if word.text.lower() not in LIGHT_VERBS]
    siblings = _siblings(statement, clause, matched)
    narrowing = [word for word in narrowing if word not in siblings]
    if denied and statement.clause_polarities[clause] > 0:
        # "lent by the harbour master, not by the cabin": what is said in contrast narrows nothing
        narrowing = [word for word in narrowing if word.polarity < 0]
    last = max(word.start for word in matched)
    before = [word for word in narrowing if word.start < last]
    if denied or permission:
        return not narrowing
    tokens = statement.tokens
    definite = bool(tokens) and (tokens[0] in _DEFINITE or (statement.words[:1] and statement.words[0].name))
    return definite or not before


def _siblings(statement: Statement, clause: int, matched: Sequence[Word]) -> list[Word]:
    """The other members of a list of which one is asked about: "for drinking water, salt water or fuel"."""
    own = [word for word in statement.words if word.clause == clause]
    segments = sorted({word.segment for word in own})
    members: dict[int, list[Word]] = {}
    for segment in segments[1:]:
        start = statement.segment_starts[segment]
        end = [*statement.segment_starts[segment + 1 :], len(statement.text)][0]
        tokens = read_statement(statement.text[start:end]).tokens
        if set(tokens) & (AUXILIARIES | _PREPOSITIONS):
            break
        members[segment] = [word for word in own if word.segment == segment]
    if not members:
        return []
    head = [word for word in own if word.segment == segments[0]]
    before = statement.text[: statement.segment_starts[segments[1]]]
    opened = max((found.end() for found in _OPENING.finditer(before)), default=0)
    members[segments[0]] = [word for word in head if word.start >= opened]
    if any(words and all(word in matched for word in words) for words in members.values()):
        return [word for words in members.values() for word in words]
    return []


def yes_or_no(text: str) -> int:
    """1 for an answer that begins with yes, -1 with no, 0 for another."""
    bare = text.strip().lower().rstrip(".!")
    if bare in ("never", "not at all", "none", "certainly not"):
        return -1
    first = text.strip().lower().replace(",", " ").replace(".", " ").replace(":", " ").replace("!", " ").split(" ")[0]
    return 1 if first in ("yes", "yeah", "yep") else -1 if first in ("no", "nope") else 0
