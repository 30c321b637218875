"""Whether an answer is of the kind that its question asks for: a person, a time, a number, ..."""

from __future__ import annotations

from collections.abc import Sequence

from lift.answering.attribution.question_form import QuestionForm
from lift.answering.attribution.reading import Statement, Word
from lift.tasks.rules.lexicon import PERSON_NOUNS, WEEKDAYS, words

_TIME_WORDS = words(
    """before after during until since daily weekly monthly yearly annually immediately once morning evening afternoon
    night noon summer winter spring autumn today always never weekdays weekday weekend weekends every each day week
    month year"""
)
_AGENT_ENDINGS = ("er", "or", "ist", "ian", "ee", "ant")


def is_right_kind(form: QuestionForm, said: Statement, new: Sequence[Word]) -> bool:
    """Whether `said` can answer a question of that form; `new`: its words that the question does not have."""
    families = {each.family for each in said.quantities}
    tokens = set(said.tokens)
    if form.wants == "person":
        persons = any(word.name or word.text[:1].isupper() for word in new)
        nouns = any(_is_person(word.text.lower()) for word in new)
        return persons or nouns
    if form.wants == "time":
        bare = any(each.may_be_year or each.dimension == "ordinal" for each in said.quantities)
        weekday = bool(tokens & _TIME_WORDS) or any(token.rstrip("s") in WEEKDAYS for token in tokens)
        if form.unit == "year":
            return bare or any(each.date[0] for each in said.quantities)
        if form.unit == "month":
            return any(each.date[1] for each in said.quantities)
        return bare or weekday or "time" in families or len(new) > 1
    if form.wants in ("number", "money", "amount", "measure", "duration"):
        if form.wants == "money":
            return bool(said.quantities) or bool(tokens & {"free", "nothing", "half", "included"})
        if form.unit in ("length", "mass", "temperature", "sound"):
            return bool(families & {form.unit, "number"})
        if form.unit == "duration-or-length":
            return bool(families & {"time", "length", "number"}) or bool(tokens & {"until", "forever"})
        if form.wants == "duration":
            return bool(families & {"time", "number"}) and not all(each.may_be_year for each in said.quantities)
        return bool(said.quantities) or bool(tokens & {"half", "all", "free", "many", "several"})
    if form.wants == "frequency":
        return "time" in families or bool(tokens & _TIME_WORDS) or bool(said.quantities)
    if form.wants in ("place", "reason", "manner"):
        return bool(new)
    return True


def _is_person(word: str) -> bool:
    single = word[:-1] if word.endswith("s") else word
    return word in PERSON_NOUNS or single in PERSON_NOUNS or single.endswith(_AGENT_ENDINGS)
