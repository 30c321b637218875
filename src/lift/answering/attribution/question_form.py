"""The form of an English question: asked for a person, a time, a number ..., or for yes or no (a polar question)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from lift.answering.attribution.comparison_lexicon import AUXILIARIES
from lift.answering.attribution.quantities import MONTHS, UNITS
from lift.tasks.rules.lexicon import WEEKDAYS, words

MOST_CHARS = 2_000
_OPENING = re.compile(r"^(?:(?:and|so|but|well|then|also|ok|okay|please|sorry|hello|hi)\b[, ]*)*", re.IGNORECASE)
_TRUTH = re.compile(
    r"^(?:is it (?:true|right|correct|the case|so|a fact)|is it not true|isn['’]t it true) that\s+", re.IGNORECASE
)
_TAG = re.compile(
    r",\s*(?:(?:is|are|was|were|do|does|did|has|have|had|can|could|may|must|will|would|shall|should)(?:n['’]t| not)?"
    r"\s+(?:it|they|he|she|there|we|you|i)(?: not)?|right|correct|yes|no|true)\s*\?*\s*$",
    re.IGNORECASE,
)
_NEGATED_AUXILIARY = re.compile(
    r"^(?:is|are|was|were|do|does|did|has|have|had|ca|could|must|should|wo|would|need)n['’]t\b|^cannot\b", re.IGNORECASE
)
_REQUEST = re.compile(
    r"^(?:can|could|would|will|do|did|may|might|shall|should|is|are|have|has) "
    r"(?:you|i|we|anyone|anybody|someone|somebody|it|there)\b"
    r"(?:.*\b(?:who|whom|whose|what|which|when|where|why|how|whether)\b"
    r"| (?:please |kindly |also )?(?:tell|explain|list|name|give|describe|show|say|summari[sz]e|outline|help|find|write"
    r"|state|mind)\b)",
    re.IGNORECASE,
)
_PROSE = re.compile(r"^(?:summari[sz]e|describe|explain|discuss|outline|recap|paraphrase|sum up)\b", re.IGNORECASE)
_WH = re.compile(r"\b(who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
_MEASURES = {
    "far": "length", "tall": "length", "high": "measure", "deep": "length", "wide": "length", "broad": "length",
    "thick": "length", "heavy": "mass", "hot": "temperature", "warm": "temperature", "cold": "temperature",
    "cool": "temperature", "loud": "sound", "noisy": "sound", "fast": "measure", "large": "measure", "big": "measure",
    "small": "measure", "strong": "measure", "old": "duration", "long": "duration-or-length",
    "soon": "time", "late": "time", "early": "time", "often": "frequency", "expensive": "money",
}  # fmt: skip
_TIME_NOUNS = words("time date day year month week hour century decade weekday season moment period")
_MONEY_NOUNS = words(
    """price cost fee charge rent salary budget fine deposit fare sum amount income balance bill wage discount"""
)
_PERSON_NOUNS = words("person man woman people artist author king queen president company organisation")
_PLACE_NOUNS = words("place town city country village street building room island")
_MEASURE_NOUNS = words(
    """power flow pressure voltage temperature weight height length width depth noise speed size capacity 
    distance percentage share rate number"""
)


@dataclass(frozen=True)
class QuestionForm:
    """The form of what a question asks for.

    `wants`: "polar", "person", "time", "duration", "number", "money", "measure", "frequency", "place", "reason",
    "manner", "choice", "thing", "request", or "" where it is not known. `unit`: the dimension or the noun that the
    number is to have, "" for none. `verb`: what somebody is to have done, in lower case ("Who designed it?"), "" where
    another word follows. `proposition`: of a polar question, what is asked to be true. `negated`: the polar question
    itself is negated ("Aren't dogs allowed?"), so that a bare yes or no would be ambiguous.
    """

    wants: str
    unit: str = ""
    verb: str = ""
    proposition: str = ""
    negated: bool = False


@lru_cache(maxsize=128)
def question_form(question: str) -> QuestionForm:
    """The form of a question in English; of any other it says "" or "thing"."""
    text = _OPENING.sub("", question.strip()[:MOST_CHARS], count=1)
    if _REQUEST.match(text):
        inner = _WH.search(text)
        return question_form(text[inner.start() :]) if inner else QuestionForm("request")
    if _PROSE.match(text):
        return QuestionForm("request")
    if polar := _polar(text):
        return polar
    found = _WH.search(text)
    if not found:
        return QuestionForm("")
    word = found[1].lower()
    following = [each.lower() for each in _WORD.findall(text[found.end() :])]
    return _open_form(word, following, text)


def _polar(text: str) -> QuestionForm | None:
    """The form of a yes/no question, None where it is none."""
    if truth := _TRUTH.match(text):
        return QuestionForm("polar", proposition=text[truth.end() :].rstrip(" ?"))
    first = _WORD.match(text)
    if not first:
        return None
    opening = first.group().lower().replace("’", "'")
    if (opening in AUXILIARIES and opening not in ("be", "been", "being")) or _NEGATED_AUXILIARY.match(text):
        text = text.partition("?")[0]  # what is said behind it is not asked
        if re.search(r"\bor\b(?! not\b)", text):
            return QuestionForm("choice")
        negated = bool(_NEGATED_AUXILIARY.match(text) or re.search(r"\b(?:not|no|never)\b", text, re.IGNORECASE))
        proposition = re.sub(r"n['’]t\b", "", text, count=1) if _NEGATED_AUXILIARY.match(text) else text
        return QuestionForm("polar", proposition=proposition.rstrip(" ?"), negated=negated)
    tag = _TAG.search(text)
    if tag and text.rstrip().endswith("?") and not _WH.match(text):
        return QuestionForm("polar", proposition=text[: tag.start()])
    return None


def _open_form(word: str, following: list[str], text: str) -> QuestionForm:
    second = following[0] if following else ""
    if word in ("who", "whom", "whose"):
        return QuestionForm("person", verb="" if second in AUXILIARIES or word != "who" else second)
    if word == "when":
        return QuestionForm("time")
    if word == "where":
        return QuestionForm("place")
    if word == "why":
        return QuestionForm("reason")
    if word == "how":
        if second in ("many", "much"):
            noun = following[1] if len(following) > 1 else ""
            if second == "many":
                return QuestionForm("number", _unit(noun))
            money = noun in AUXILIARIES or noun in ("money", "rent", "interest") or noun in UNITS
            return QuestionForm("amount", _unit(noun) if noun in UNITS else "" if money else noun)
        if second in _MEASURES:
            wants = _MEASURES[second]
            if wants in ("duration", "time", "frequency", "money"):
                return QuestionForm(wants)
            return QuestionForm("measure", "" if wants == "measure" else wants)
        return QuestionForm("manner")
    if (word == "what" and following and following[-1] in ("cost", "costs", "pay")) or "cost" in following[:6]:
        return QuestionForm("money")
    nouns = [each for each in following[:4] if each not in AUXILIARIES and each not in ("the", "a", "an", "of")]
    if second in AUXILIARIES or (word == "what" and second in ("'s", "s")):
        nouns = [each for each in following[1:5] if each not in ("the", "a", "an")]
        return _noun_form(nouns[:1] if len(following) < 4 or "of" in following else nouns[:2], asked_is=True)
    return _noun_form(nouns[:2] if second not in AUXILIARIES else nouns[:1], asked_is=False)


def _noun_form(nouns: list[str], *, asked_is: bool) -> QuestionForm:
    """The form that the noun behind "what" or "which" says."""
    for noun in reversed(nouns) if asked_is else nouns:
        if noun in _TIME_NOUNS or noun in MONTHS or noun in WEEKDAYS:
            return QuestionForm("time", noun)
        if noun in _MONEY_NOUNS and asked_is:
            return QuestionForm("money")
        if noun in _MEASURE_NOUNS:
            return QuestionForm("measure")
        if noun in _PERSON_NOUNS and not asked_is:
            return QuestionForm("person")
        if noun in _PLACE_NOUNS and not asked_is:
            return QuestionForm("place")
    return QuestionForm("thing")


def _unit(noun: str) -> str:
    """The dimension of a unit, else the noun itself."""
    return UNITS[noun][0] if noun in UNITS else noun
