"""Whether a number of a sentence is the one that a question asks for: its unit, what it counts, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from lift.answering.attribution.quantities import Quantity, agree
from lift.answering.attribution.question_form import QuestionForm
from lift.answering.attribution.reading import Statement, Word, concept_of, read_statement
from lift.answering.attribution.source import SourceSentence
from lift.tasks.rules.lexicon import words

_RANGE_WORDS = frozenset(("to", "until", "till", "-", "–", "—"))
_CHANGES = words("rise fall increas decreas grow drop rais reduc cut")
_FORMERLY = words("before previous former earlier was last rise fall increas decreas")
_BEGINNINGS = words("open begin start")
_ENDINGS = words("close end stop")
_UNTIL = words("until till")
# how far behind a number the thing may begin that it counts
_COUNTED_CHARS = 20


def bears_out(
    source: SourceSentence, said: Statement, number: Quantity, told: Quantity, asked: Statement, form: QuestionForm
) -> bool:
    """Whether the number of the sentence is that of the answer, in the unit that is asked for."""
    wanted = form.unit if form.unit in ("length", "mass", "temperature", "sound") else ""
    if wanted and told.family not in (wanted, "number"):
        return False
    if form.wants == "money" and told.family != "money" and not source.cells:
        return False
    if form.wants == "duration" and told.family != "time" and not _speaks_of_age(source, told):
        return False
    if form.wants == "number" and not _counts(source.statement, told, form.unit):
        return False
    if form.wants == "number" and "_" in form.unit and told.dimension not in (form.unit, ""):
        return False
    if agree(number, told):
        return True
    cell = source.cell_at(told.start)
    if cell is not None and not told.dimension and number.dimension and told.written == number.written:
        # the unit stands in the head of the column, or in the question
        unit = read_statement(said.text[number.start : number.end]).concepts
        return bool(unit & (read_statement(cell.heading).concepts | asked.concepts))
    return False


def _speaks_of_age(source: SourceSentence, told: Quantity) -> bool:
    """Whether a bare number is said to be an age: "aged 40", or in a column of years."""
    cell = source.cell_at(told.start)
    near = read_statement(cell.heading).concepts if cell else source.statement.concepts
    return bool(near & {"old", "year"})


def _counts(statement: Statement, told: Quantity, noun: str) -> bool:
    """Whether the number counts what is asked for: of "14 rooms with 52 beds" only the second counts beds."""
    wanted = concept_of(noun)[0] if noun and "_" not in noun else ""
    ends = [each.start for each in statement.quantities[1:]] + [len(statement.text)]
    counting = [
        each
        for each, end in zip(statement.quantities, ends, strict=True)
        if any(
            word.concept == wanted and each.start <= word.start < min(end, each.end + _COUNTED_CHARS)
            for word in statement.words
        )
    ]
    return not counting or told in counting


def is_rather_another(source: SourceSentence, wanted: Sequence[Word], placed: int, asked: Statement) -> bool:
    """Whether the sentence has another number of the same kind that answers the question rather.

    Of "from eight to four" the first is when something opens, the second when it closes, and where a thing rises or
    falls so, what it is now.
    """
    statement = source.statement
    told = next((each for each in statement.quantities if each.start <= placed < each.end), None)
    if source.cells or told is None:
        return False
    if _wrong_end(statement, told, asked):
        return True
    return beside_a_better(statement, wanted, told)


def _wrong_end(statement: Statement, told: Quantity, asked: Statement) -> bool:
    """Whether the number is the other end of a range, or of a change, than the one that is asked for."""
    for first, second in pairwise(statement.quantities):
        between = statement.text[first.end : second.start].strip(" ,").lower()
        before = statement.text[max(0, first.start - 8) : first.start].lower()
        if told not in (first, second) or between not in _RANGE_WORDS or first.family != second.family:
            continue
        if between == "to" and "from" in before and statement.concepts & _CHANGES and not asked.concepts & _FORMERLY:
            return told is first
        if asked.concepts & _BEGINNINGS and not _UNTIL & set(asked.tokens):
            return told is second
        if asked.concepts & _ENDINGS or _UNTIL & set(asked.tokens):
            return told is first
    return False


def beside_a_better(statement: Statement, wanted: Iterable[Word], told: Quantity) -> bool:
    """Whether another number of the same kind stands nearer to the words of the question than `told` does.

    A segment goes on from those before it: "performances end at ten and rehearsals at nine".
    """
    mine = statement.segment_at(told.start)
    concepts = {word.concept for word in wanted}

    def share(segment: int) -> tuple[int, int]:
        own = {word.concept for word in statement.words if word.segment == segment} & concepts
        carried = {word.concept for word in statement.words if word.segment <= segment} & concepts
        return len(carried), len(own)

    segments = {
        statement.segment_at(each.start)
        for each in statement.quantities
        if each is not told and each.family == told.family and statement.segment_at(each.start) != mine
    }
    return any(share(segment) > share(mine) for segment in segments)
