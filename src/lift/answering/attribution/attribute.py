"""Question, answer and document -> the sentence that bears the answer out, or in which its words merely stand.

Attribution in the sense of Rashkin et al. (2021, arXiv 2112.12870): "according to the source, the answer to the
question is ..." must hold. A sentence supports an answer where the answer's names, numbers with their units and words
stand in it, where both say yes or both say no, where it speaks of what is asked, and where the answer is of the kind
that is asked for. Found by rules, in a few milliseconds; what they cannot see is not supported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lift.answering.attribution.asked_numbers import bears_out, is_rather_another
from lift.answering.attribution.comparison_lexicon import AUXILIARIES, CONDITIONS, NEGATORS, PERMISSION_MODALS, PRONOUNS
from lift.answering.attribution.kinds import is_right_kind
from lift.answering.attribution.matching import SIGNED, Coverage, cover, polarity, statement_sign, wanted_words
from lift.answering.attribution.polar import PolarVerdict, judge, yes_or_no
from lift.answering.attribution.quantities import Quantity, agree
from lift.answering.attribution.question_form import QuestionForm, question_form
from lift.answering.attribution.reading import SUBORDINATORS, Statement, Word, read_statement
from lift.answering.attribution.source import Cell, SourceSentence
from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, split_sentences
from lift.tasks.rules.lexicon import words

FOUND_COVERAGE = 0.6
SUPPORTED_SHARE = 0.6
_CANDIDATES = 12
_FEW_WORDS = 3
_MOST_WORDS_SHARE = 0.8
_BETTER_SHARE = 0.25
_NOBODY = words("none nobody nothing never nowhere zero")
_COUNTED = words("person number amount thing")
_ANAPHORA = words("it they he she who which")


@dataclass(frozen=True)
class Attribution:
    """`supports`: the sentence answers this question with this answer; else it only has most of the answer's words."""

    sentence: Sentence
    supports: bool


def attribute(index: SentenceIndex, document: Document, question: str, answer: str) -> Attribution | None:
    """The sentence of the document that answers `question` with `answer`; where none does, one that has its words.

    None where no sentence has most of them, or where the answer is of words of grammar alone. An answer of several
    sentences is supported where each of them is; the first is named.
    """
    if not index.sentences or not answer.strip():
        return None
    sources = _Sources(index, document)
    form = question_form(question)
    pieces = [piece.text for piece in split_sentences(answer)] or [answer]
    if form.wants == "polar" and len(pieces) > 1 and yes_or_no(pieces[0]) and len(pieces[0]) < 5:
        pieces = [f"{pieces[0].rstrip('.!')}, {pieces[1]}", *pieces[2:]]
    found = [_supporting(sources, form, question, piece) for piece in pieces]
    if all(each is not None for each in found) and found[0] is not None:
        return Attribution(found[0].sentence, supports=True)
    return _words_stand(index, question, answer)


def verdict(index: SentenceIndex, document: Document, question: str) -> PolarVerdict | None:
    """The verdict of the document on a polar question; None for another question, or where no sentence speaks of it."""
    form = question_form(question)
    if form.wants != "polar":
        return None
    sources = _Sources(index, document)
    return judge(form, sources.near(form.proposition, ""), index.rarity)


def says_nothing(answer: str) -> bool:
    """Whether an answer is of words of grammar alone ("not", "it is the"), and no yes or no either."""
    said = read_statement(answer)
    return not said.words and not said.quantities and not yes_or_no(answer) and not _bare_claim(said)


class _Sources:
    """The sentences of a document in their surroundings."""

    def __init__(self, index: SentenceIndex, document: Document) -> None:
        self.index = index
        self._document = document

    def near(self, question: str, answer: str) -> list[SourceSentence]:
        """Those that a question and its answer may rest on."""
        index = self.index
        chosen = [sentence.index for sentence in index.search(f"{question} {answer}", _CANDIDATES)]
        chosen += [sentence.index for sentence in index.search(question, _CANDIDATES)]
        chosen += index.holding(answer)[:_CANDIDATES]
        following = [number + 1 for number in chosen[:_CANDIDATES] if number + 1 < len(index.sentences)]
        # a fact is often told behind the sentence that has its subject
        return [
            SourceSentence(self._document, index.sentences, number) for number in dict.fromkeys([*chosen, *following])
        ]


def _words_stand(index: SentenceIndex, question: str, answer: str) -> Attribution | None:
    if not read_statement(answer).words and not read_statement(answer).quantities:
        return None
    support = index.support(question, answer)
    if support is None or support.coverage < FOUND_COVERAGE:
        return None
    return Attribution(support.sentence, supports=False)


def _supporting(sources: _Sources, form: QuestionForm, question: str, answer: str) -> SourceSentence | None:
    asked, said = read_statement(question), read_statement(answer)
    near = sources.near(question, answer)
    if form.wants == "polar":
        return _polar_support(sources, form, near, asked, said)
    if set(said.tokens) & _NOBODY and not said.words and not said.quantities:
        if form.wants not in _COUNTED:
            return None
        return _nobody(sources, form, near, asked)
    return _best(sources, form, near, asked, said)


def _polar_support(
    sources: _Sources, form: QuestionForm, near: Sequence[SourceSentence], asked: Statement, said: Statement
) -> SourceSentence | None:
    """The sentence that says yes or no as the answer does."""
    claimed, told = yes_or_no(said.text) or _bare_claim(said), None
    rest = said.text if not _bare_claim(said) else "yes"
    if claimed:
        rest = rest.strip().partition(" ")[2].strip(" ,.:;–—-")
        told = judge(form, sources.near(form.proposition, rest), sources.index.rarity)
        if told is not None and told.sign == -claimed:
            return None
        if told is not None and told.sign == claimed and rest in ("", told.source.sentence.text.rstrip(" .")):
            return told.source
        if not rest:
            return None
        said = read_statement(rest)
    sentence_like = bool(set(said.tokens) & (AUXILIARIES | NEGATORS | CONDITIONS)) or len(said.words) > _FEW_WORDS
    sentence_like = sentence_like or bool(said.concepts & asked.concepts & SIGNED)
    # "She turned it into a museum" is a statement, too: it has most of what was asked
    wanted = {word.concept for word in wanted_words(asked, form)}
    sentence_like = sentence_like or len(wanted & said.concepts) > len(wanted) / 2
    if said.tokens and said.tokens[0] in AUXILIARIES and len(said.words) > 1 and not set(said.tokens) & NEGATORS:
        return None  # the question over again
    if not sentence_like and not (said.concepts & asked.concepts and claimed):
        return None
    found = _best(sources, form, near, asked, said)
    if found is None or not claimed or (told is not None and told.sign == claimed):
        return found
    signed = asked.concepts & said.concepts
    # a yes with a sentence that denies what was asked is no answer
    agrees = statement_sign(asked, signed) * statement_sign(said, signed) == claimed
    return found if agrees or form.negated else None


def _bare_claim(said: Statement) -> int:
    """1 for "it does", -1 for "they may not" or "does not", where there is nothing else; 0 for any other answer."""
    tokens = [token for token in said.tokens if token.isalpha() or "'" in token]
    if len(tokens) == 2 and tokens[0] in AUXILIARIES and tokens[1] == "not":
        return -1
    if not 2 <= len(tokens) <= 3 or tokens[0] not in PRONOUNS | {"you", "i"}:
        return 0
    denied = tokens[-1] == "not" or tokens[1].endswith("n't")
    bare = tokens[1] in AUXILIARIES or tokens[1].endswith("n't")
    return (-1 if denied else 1) if bare and (len(tokens) == 2 or tokens[2] == "not") else 0


def _nobody(
    sources: _Sources, form: QuestionForm, near: Sequence[SourceSentence], asked: Statement
) -> SourceSentence | None:
    """The sentence that denies of anything what is asked."""
    wanted = wanted_words(asked, form)
    for source in near:
        coverage = cover(wanted, asked.quantities, source, sources.index.rarity)
        if not coverage.missing and coverage.own and min(source.statement.clause_polarities) < 0:
            return source
    return None


def _best(
    sources: _Sources, form: QuestionForm, near: Sequence[SourceSentence], asked: Statement, said: Statement
) -> SourceSentence | None:
    wanted = wanted_words(asked, form)
    new = [word for word in said.words if word.concept not in asked.concepts]
    numbers = [each for each in said.quantities if not any(agree(each, known) for known in asked.quantities)]
    if not new and not numbers and form.wants not in ("polar", "choice", "request", ""):
        return None
    if not said.words and not said.quantities:
        return None
    if not is_right_kind(form, said, new):
        return None
    supporting: list[tuple[float, SourceSentence]] = []
    rivals: list[float] = []
    for source in near:
        places = _places(source, said, new, numbers, asked, form)
        if not places and _rivals(source, numbers):
            rivals.append(cover(wanted, asked.quantities, source, sources.index.rarity).share)
        for placed in places:
            cell = source.cell_at(placed) if source.cells else None
            coverage = cover(wanted, asked.quantities, source, sources.index.rarity, cell)
            if (
                _speaks_of(source, coverage, asked, form, cell)
                and _agree_on_polarity(source.statement, asked, said, new, placed, form)
                and not (not source.cells and _in_another_clause(source.statement, wanted, placed))
                and not (numbers and len(new) < _FEW_WORDS - 1 and is_rather_another(source, wanted, placed, asked))
            ):
                supporting.append((coverage.share + 0.1 * coverage.own, source))
                break
    if not supporting:
        return None
    share, best = max(supporting, key=lambda each: each[0])
    return None if any(rival > share + _BETTER_SHARE for rival in rivals) else best


def _places(
    source: SourceSentence,
    said: Statement,
    new: Sequence[Word],
    numbers: Sequence[Quantity],
    asked: Statement,
    form: QuestionForm,
) -> list[int]:
    """Where in the sentence the answer may stand (characters); nothing where the sentence does not hold it."""
    statement = source.statement
    known = {_told_as(word): word.start for word in reversed(statement.words)}
    places: list[int] = []
    for number in said.quantities:
        told = [each for each in statement.quantities if bears_out(source, said, number, each, asked, form)]
        if told and number in numbers and not places:
            places = [each.start for each in told]
        elif not told and number in numbers:
            return []
    missing = [word for word in new if _told_as(word) not in known]
    if any(word.name and word.concept not in source.title.concepts for word in missing):
        return []
    if any(statement.contraries_of(word.concept) for word in missing):
        return []
    permission = set(statement.tokens) & PERMISSION_MODALS
    if any(word.concept in SIGNED - ({"allow"} if permission else set()) - statement.concepts for word in said.words):
        return []
    lacking = [word for word in missing if not any(each.start <= word.start < each.end for each in said.quantities)]
    if len(new) <= _FEW_WORDS and lacking:
        return []
    if new and 1 - len(lacking) / len(new) < _MOST_WORDS_SHARE:
        return []
    if not places:
        words = [word for word in new if _told_as(word) in known] or list(said.words)
        places = [known[_told_as(word)] for word in words if _told_as(word) in known][:1]
    return places


def _told_as(word: Word) -> str:
    """The form by which an answer's word is found: its stem, or its concept where that has two signs (forbidden)."""
    return word.concept if word.concept in SIGNED else word.stem


def _speaks_of(
    source: SourceSentence, coverage: Coverage, asked: Statement, form: QuestionForm, cell: Cell | None
) -> bool:
    if form.wants == "request":
        return True
    if coverage.share < SUPPORTED_SHARE or (coverage.own <= 0 and asked.words):
        return False
    if any(word.text.lower() == form.verb for word in coverage.missing):
        return False
    if coverage.lacks_number or any(word.name for word in coverage.missing):
        return False
    if any(source.statement.contraries_of(word.concept) for word in coverage.missing):
        return False
    if cell is not None and cell.heading:
        others = [each for each in source.cells if each is not cell]
        mine = read_statement(cell.heading).concepts
        theirs = frozenset[str]().union(*(read_statement(each.heading).concepts for each in others if each.start))
        kinds = read_statement(source.cells[0].heading).concepts
        if asked.concepts & (theirs - mine - kinds) and not asked.concepts & mine:
            return False
    return True


def _agree_on_polarity(
    statement: Statement, asked: Statement, said: Statement, new: Sequence[Word], placed: int, form: QuestionForm
) -> bool:
    """Whether the sentence says of the answer what the question, or the answer's own sentence, says of it."""
    whole = bool(set(said.tokens) & (AUXILIARIES | NEGATORS)) and len(said.words) > 1
    if whole or form.wants == "polar":
        return all(_clauses_agree(statement, said, clause) for clause in range(len(said.clause_polarities)))
    clause = statement.clause_at(placed)
    concepts = {word.concept for word in (new or said.words)}
    held = [word for word in statement.words if word.clause == clause and word.concept in concepts]
    numbers = [each for each in statement.quantities if each.start == placed]
    signed = asked.concepts & frozenset(word.concept for word in statement.words if word.clause == clause)
    # "Present: Ada Finch": what is said in front of a colon holds behind it
    carried = {
        word.concept: word.sign
        for word in statement.words
        if word.clause < clause and word.concept in asked.concepts & SIGNED - signed
    }
    told = polarity(statement, held, clause, signed, numbers) * prod(carried.values())
    claimed = statement_sign(asked, signed | frozenset(carried)) * min((word.polarity for word in new), default=1)
    return told == claimed


def _clauses_agree(statement: Statement, said: Statement, clause: int) -> bool:
    """Whether the clause of the sentence that has most words of this clause of the answer says yes or no as it does."""
    own = [word for word in said.words if word.clause == clause]
    numbers = [each for each in said.quantities if said.clause_at(each.start) == clause]
    concepts = {word.concept for word in own}
    if not concepts & statement.concepts:
        return True

    def shared(beside: int) -> tuple[int, int]:
        """The words that the clause has of the answer, those before it that it goes on from among them."""
        here = {word.concept for word in statement.words if word.clause == beside} & concepts
        carried = {word.concept for word in statement.words if word.clause < beside} & concepts
        told = [each for each in statement.quantities if statement.clause_at(each.start) == beside]
        agreeing = sum(any(agree(number, each) for each in told) for number in numbers)
        return (len(here | carried) + agreeing if here else 0), len(here)

    beside = max(range(len(statement.clause_polarities)), key=shared)
    held = [word for word in statement.words if word.clause == beside and word.concept in concepts]
    told = [each for each in statement.quantities if any(agree(number, each) for number in numbers)]
    signed = frozenset(concepts & {word.concept for word in statement.words if word.clause == beside})
    return polarity(statement, held, beside, signed, told) == polarity(said, own, clause, signed, numbers)


def _in_another_clause(statement: Statement, wanted: Sequence[Word], placed: int) -> bool:
    """Whether all that is asked stands in another clause than the answer, and that is no condition of it."""
    mine = statement.clause_at(placed)
    conditional = bool(statement.tokens) and statement.tokens[0] in SUBORDINATORS
    tokens = set(read_statement(statement.clause_text(mine)).tokens)
    elliptical = not tokens & (AUXILIARIES | {";"})
    if conditional or elliptical or tokens & _ANAPHORA:
        return False
    concepts = {word.concept for word in wanted}
    counts = Counter(word.clause for word in statement.words if word.concept in concepts)
    return bool(counts) and not counts[mine]


def _rivals(source: SourceSentence, numbers: Sequence[Quantity]) -> bool:
    """Whether the sentence has another number of the kind that was said."""
    return any(
        told.family == number.family and told.dimension == number.dimension
        for told in source.statement.quantities
        for number in numbers
        if number.dimension
    )
