"""Follow-up questions: a question that leans on earlier turns of its dialogue -> one that can be searched for.

"Who built the mill?" "Anders Holm." "And when?" is asked as "When was the mill built?". Rules do this without a model,
for English, and only where the earlier question has one place that the new one can mean. Every other question that
leans on what came before (one without words of its own, a pronoun without antecedent, a fragment) is left as it is,
behind the earlier turn, and the document is searched for the words of both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lift.documents.retrieval import search_words

_REMEMBERED_EXCHANGES = 8
_ANSWER_WORDS = 6  # a longer answer is no name, number or thing that a question could be completed with
_SEARCHED_ANSWER_WORDS = 30
_FRAGMENT_WORDS = 6
_MOST_CHARS = 300  # what is longer says itself what it means

_WORD = re.compile(r"[\w'’-]+")
_AUXILIARY = "is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must"
_PREPOSITION = (
    "about|after|aboard|against|at|before|behind|between|by|during|for|from|in|inside|into|near|of|on|over|per|since|"
    "through|to|under|until|with|within|without"
)
_PLACE_OR_TIME = ("aboard", "at", "during", "in", "inside", "near", "on")
_DETERMINER = "the|a|an|this|that|these|those|its|his|her|their|our|your|my"
_INTERROGATIVE = (
    r"(?:(?:since|until|from|by|for|to|with|at|in|on|of) )?"
    r"(?:how (?:much|many|long|often|old|far|big|high|tall|large|deep|wide|heavy|fast)|when|where|why|how|whom|who|"
    r"(?:what|which) (?:year|day|month|time|date|hour|place|price|name|colou?r|size)|what|which)"
)
_TIME = re.compile(
    r"\b(?:\d{4}|winter|spring|summer|autumn|fall|morning|afternoon|evening|night|noon|week(?:day|end)?s?|year|month|"
    r"season|(?:mon|tues|wednes|thurs|fri|satur|sun)days?|january|february|march|april|may|june|july|august|"
    r"september|october|november|december)\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:and|but|so|then|or|also|ok|okay|well|und|aber|et|mais|pero|maar|och)\b[ ,]*", re.IGNORECASE
)  # in some other languages too: their fragments are told from that
_OTHERS = re.compile(r"\b(?:else|the (?:others?|same))\b", re.IGNORECASE)
_ABOUT = re.compile(r"(?:what|how) about (.+)", re.IGNORECASE)
_BARE = re.compile(rf"({_INTERROGATIVE})(?: exactly| precisely)?", re.IGNORECASE)
_FRAGMENT = re.compile(rf"(?:{_INTERROGATIVE} )?((?:{_PREPOSITION})) (.+)", re.IGNORECASE)
_INVERTED = re.compile(
    rf"((?:(?:{_PREPOSITION}) )?(?:wh\w+|how)\b(?: [\w'’-]+){{0,3}}?) ({_AUXILIARY}) (.+)", re.IGNORECASE
)
_SUBJECT_BEHIND = re.compile(rf"(?:.+? )??({_AUXILIARY}) (.+)", re.IGNORECASE)
_PREPOSITIONS = re.compile(rf"\b(?:{_PREPOSITION})\b", re.IGNORECASE)
_SUBJECT_ASKED = re.compile(rf"(who|what|which [\w'’-]+) (?!(?:{_AUXILIARY})\b)([a-z]+) (.+)", re.IGNORECASE)
_QUESTION_START = re.compile(
    rf"(?:(?:{_PREPOSITION}) )?(?:wh(?:o|om|ose|at|ich|en|ere|y)|how|{_AUXILIARY})\b", re.IGNORECASE
)
_FINITE = re.compile(rf"\b(?:{_AUXILIARY})\b", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(he|him|his|she|her|hers|it|its|they|them|their|theirs|this|that|these|those|there)\b", re.I)
_EMPTY_IT = re.compile(
    r"\bit\b(?= (?:is |was |be )?(?:allowed|permitted|forbidden|possible|necessary|true|legal|safe|important|likely|"
    r"cost|costs|take|takes|rain|rains|snow|snows)\b)",
    re.IGNORECASE,
)
_OWN_ANTECEDENT = re.compile(rf"\b(?:{_DETERMINER}) [a-z]|(?<=\s)[A-Z][a-z]", re.UNICODE)
_THING = re.compile(
    rf"\b(?:the|a|an)(?: (?!(?:the|a|an)\b)[\w'’-]+){{1,3}}?(?= (?:{_PREPOSITION}|{_AUXILIARY})\b|$)", re.IGNORECASE
)
_ARTICLE = re.compile(rf"(?:{_DETERMINER}) ", re.IGNORECASE)
_NAME = re.compile(r"[A-Z][\w.'’-]*(?: (?:of|the|von|van|de|da)? ?[A-Z][\w.'’-]*){0,3}")
_PERSONS = ("he", "him", "his", "she", "her", "hers")
# Participles of verbs whose past tense is another form.
_IRREGULAR = (
    "began/begun bought/bought broke/broken brought/brought built/built came/come cast/cast caught/caught chose/chosen "
    "cut/cut drew/drawn drove/driven dug/dug fed/fed felt/felt fought/fought found/found gave/given grew/grown "
    "held/held hid/hidden hit/hit kept/kept laid/laid led/led left/left lent/lent lit/lit lost/lost made/made "
    "met/met paid/paid put/put ran/run read/read rode/ridden said/said sang/sung saw/seen sent/sent set/set "
    "shot/shot showed/shown shut/shut sold/sold spent/spent split/split stole/stolen struck/struck sunk/sunk "
    "sank/sunk taught/taught told/told took/taken thought/thought threw/thrown understood/understood won/won "
    "wore/worn wove/woven wrote/written"
)
_PARTICIPLES = dict(pair.split("/") for pair in _IRREGULAR.split())


@dataclass(frozen=True)
class PosedQuestion:
    """A question of a dialogue as it is to be answered.

    `question` is what a model is asked; where `is_complete`, without the turns before, which it does not need.
    `searched` is what the document is searched for, the same where it is complete. `earlier`: the turn that a question
    leans on which is not.
    """

    question: str
    searched: str
    is_complete: bool = True
    earlier: str = ""

    @property
    def alone(self) -> str:
        """The question for a model that is shown no other turn."""
        return f"{self.earlier}\n{self.question}" if self.earlier else self.question


@dataclass(frozen=True)
class _Before:
    """The turn before: its question as it was posed, and the answer to it."""

    posed: PosedQuestion
    answer: str


def pose_question(exchanges: Sequence[tuple[str, str]], question: str) -> PosedQuestion:
    """`question` behind the `exchanges` of its dialogue, each a question and its answer, the oldest first."""
    before: _Before | None = None
    for asked, answer in exchanges[-_REMEMBERED_EXCHANGES:]:
        before = _Before(_posed(asked, before), _bare(answer))
    return _posed(question, before)


def _posed(question: str, before: _Before | None) -> PosedQuestion:
    if before is None or len(question) > _MOST_CHARS or not _bare(before.posed.question):
        return PosedQuestion(question, question)
    asked = _bare(question)
    lead = _LEAD.match(asked)
    rest = asked[lead.end() :] if lead else asked
    if not _leans(rest, is_continued=lead is not None):
        stands = f"{_capital(rest)}?" if lead and _starts_question(rest) else question
        return PosedQuestion(stands, stands)
    earlier = _bare(before.posed.question)
    is_plain = before.posed.is_complete and len(earlier) <= _MOST_CHARS
    completed = _completed(rest, earlier, before.answer) if is_plain else None
    if completed is not None:
        completed = f"{_capital(completed)}?"
        return PosedQuestion(completed, completed)
    told = " ".join(before.answer.split()[:_SEARCHED_ANSWER_WORDS])
    spoken = before.posed.question[:_MOST_CHARS] + (f" {told}." if told else "")
    searched = f"{question} {before.posed.searched[:_MOST_CHARS]} {told}".strip()
    return PosedQuestion(question, searched, is_complete=False, earlier=spoken)


def _leans(asked: str, *, is_continued: bool) -> bool:
    """Whether the question cannot be understood without what was said before."""
    if _ABOUT.fullmatch(asked) or _BARE.fullmatch(asked) or not search_words(asked):
        return True
    words = len(_WORD.findall(asked))
    is_fragment = not _FINITE.search(asked) and not _SUBJECT_ASKED.fullmatch(asked) and words <= _FRAGMENT_WORDS
    if is_fragment and (is_continued or _FRAGMENT.fullmatch(asked) or _OTHERS.search(asked)):
        return True
    return (is_continued and _PRONOUN.search(asked) is not None) or _open_pronoun(asked) is not None


def _completed(asked: str, earlier: str, answer: str) -> str | None:
    """The question in full, None where the rules cannot tell what it means."""
    if about := _ABOUT.fullmatch(asked):
        if fragment := _FRAGMENT.fullmatch(about[1]):
            return _with_phrase(earlier, fragment[1].lower(), fragment[2])
        return _with_thing(earlier, about[1])
    if bare := _BARE.fullmatch(asked):
        return _asked_otherwise(bare[1], earlier, answer)
    fragment = _FRAGMENT.fullmatch(asked)
    if fragment and not _FINITE.search(asked) and _same_interrogative(asked, earlier):
        return _with_phrase(earlier, fragment[1].lower(), fragment[2])
    if _starts_question(asked):
        return _with_antecedent(asked, earlier, answer)
    return None


def _asked_otherwise(interrogative: str, earlier: str, answer: str) -> str | None:
    """The earlier question with another interrogative: "Who built the mill" and "when" -> "When was the mill built"."""
    kind = interrogative.lower()
    if inverted := _INVERTED.fullmatch(earlier):
        asked, auxiliary, rest = inverted[1].lower(), inverted[2].lower(), inverted[3]
        if asked == kind:
            return None
        if kind in ("who", "by whom"):
            passive = auxiliary in ("is", "are", "was", "were") and _is_participle(rest.split()[-1])
            return f"by whom {auxiliary} {rest}" if passive and asked.split()[0] in ("when", "where", "why") else None
        if kind in ("what", "which", "how much", "how many", "whom"):
            return None
        if asked.split()[-1] in ("when", "where", "why", "how", "long", "often", "year", "day", "month", "time"):
            return f"{kind} {auxiliary} {rest}"
        told = _short(answer)
        if told is None or _preposition_in(rest.replace(" of ", " ")):
            return None
        if auxiliary in ("do", "does", "did") or _ARTICLE.match(rest) or rest[:1].isupper():
            return f"{kind} {auxiliary} {rest} {told}"
        return f"{kind} {auxiliary} {told} {rest}"
    subject = _SUBJECT_ASKED.fullmatch(earlier)
    if subject is None or kind.split()[0] in ("who", "whom", "what", "which", "by"):
        return None
    verb, thing = subject[2].lower(), subject[3]
    if not (_ARTICLE.match(thing) or thing[:1].isupper()):
        return None
    if _is_past(verb):
        be = "were" if re.search(r"[^s]s$", thing.split()[-1]) and not _NAME.fullmatch(thing) else "was"
        return f"{kind} {be} {thing} {_participle(verb) or verb}"
    told = _short(answer)
    return f"{kind} does {told} {_base(verb)} {thing}" if told and re.search(r"[^s]s$", verb) else None


def _with_phrase(earlier: str, preposition: str, thing: str) -> str | None:
    """The earlier question with another phrase of a preposition in place of its last one of that kind, or behind it."""
    found = list(re.finditer(rf" ({_PREPOSITION}) ([^?]+?)(?= (?:{_PREPOSITION}) |$)", earlier, re.IGNORECASE))
    last = found[-1] if found else None
    if last is not None and last.end() == len(earlier):
        before = last[1].lower()
        alike = before == preposition or {before, preposition} <= {*_PLACE_OR_TIME}
        if alike and bool(_TIME.search(last[2])) == bool(_TIME.search(thing)):
            return f"{earlier[: last.start()]} {preposition} {thing}"
    return f"{earlier} {preposition} {thing}"


def _with_thing(earlier: str, thing: str) -> str | None:
    """The earlier question about another thing, where there is one place alone for a thing of that shape."""
    if _ARTICLE.match(thing):
        places = [each.span() for each in _things(earlier)]
    elif _NAME.fullmatch(thing):
        places = [each.span() for each in _NAME.finditer(earlier, 1)]
    else:
        bare = r"(?<= for )[a-z]+s\b|(?<= of )[a-z]+s\b|(?<=^are )[a-z]+s\b|(?<=^do )[a-z]+s\b|(?<=^may )[a-z]+s\b"
        places = [each.span() for each in re.finditer(bare, earlier, re.IGNORECASE)]
    if len(places) != 1:
        return None
    ((start, end),) = places
    return f"{earlier[:start]}{_small(thing)}{earlier[end:]}"


def _things(earlier: str) -> list[re.Match[str]]:
    """The noun phrases with an article whose ends are plain: a verb may stand behind the subject of a question."""
    behind = None if _SUBJECT_ASKED.fullmatch(earlier) else _SUBJECT_BEHIND.fullmatch(earlier)
    if behind is None:
        return list(_THING.finditer(earlier))
    start = behind.start(2)
    preposition = _PREPOSITIONS.search(earlier, start)
    phrases_from = preposition.start() if preposition else len(earlier)
    subject = earlier[start:phrases_from].rstrip()
    words = subject.split()
    if behind[1].lower() in ("do", "does", "did") or (words and _is_participle(words[-1].lower())):
        subject = " ".join(words[:-1])
    elif len(words) > 2:  # "the inn open", or "the room rate"
        subject = ""
    found = list(_THING.finditer(earlier, start, start + len(subject)))
    return [*found, *_THING.finditer(earlier, phrases_from)]


def _with_antecedent(asked: str, earlier: str, answer: str) -> str | None:
    """The question with what its pronouns stand for, None where that is not plain."""
    words = {each.lower() for each in _PRONOUN.findall(asked)}
    meant = {word: _antecedent(word, earlier, answer) for word in words}
    if not meant or None in meant.values():
        return None

    def name(pronoun: re.Match[str]) -> str:
        word = pronoun[1].lower()
        owns = word in ("his", "its") or (word == "her" and re.match(r" [a-z]", asked[pronoun.end() :]) is not None)
        return f"{meant[word]}'s" if owns else f"{meant[word]}"

    return _PRONOUN.sub(name, asked)


def _antecedent(word: str, earlier: str, answer: str) -> str | None:
    """The one person or thing of the earlier turn that a pronoun can stand for."""
    told = _short(answer)
    if word in _PERSONS:
        found = [each[0] for each in _NAME.finditer(earlier, 1)]
        if re.match(r"(?:\w+ )?who", earlier, re.IGNORECASE) and told and _NAME.fullmatch(told):
            found = [told]
    elif word in ("it", "its"):
        found = [re.sub(r"^an? ", "the ", each[0]) for each in _things(earlier)]
        if re.match(r"(?:\w+ )?(?:what|which)\b", earlier, re.IGNORECASE) and told and _ARTICLE.match(told):
            found = [told]
    else:
        found = []
    return found[0] if len(set(found)) == 1 else None


def _open_pronoun(asked: str) -> re.Match[str] | None:
    """The first pronoun that nothing in its own question can be the antecedent of."""
    for pronoun in _PRONOUN.finditer(asked):
        word, behind = pronoun[1].lower(), asked[pronoun.end() :]
        if word == "it" and _EMPTY_IT.match(asked, pronoun.start()):
            continue
        if word in ("this", "that", "these", "those") and re.match(r" [\w'’-]+", behind):
            continue  # "that year" is not one, and "that the mill burned" neither
        if word == "there" and re.search(rf"\b(?:{_AUXILIARY}) $", asked[: pronoun.start()], re.IGNORECASE):
            continue
        if not _OWN_ANTECEDENT.search(asked[: pronoun.start()]):
            return pronoun
    return None


def _starts_question(asked: str) -> bool:
    return _QUESTION_START.match(asked) is not None


def _same_interrogative(asked: str, earlier: str) -> bool:
    """Whether a fragment begins with no interrogative, or with that of the earlier question."""
    found = re.match(rf"{_INTERROGATIVE}(?= (?:{_PREPOSITION}) )", asked, re.IGNORECASE)
    return found is None or earlier.lower().startswith(found[0].lower())


def _preposition_in(text: str) -> bool:
    return _PREPOSITIONS.search(text) is not None


def _participle(verb: str) -> str | None:
    """The participle of an irregular verb in the past tense, with a prefix or without: "rebuilt", "built"."""
    prefix, stem = re.fullmatch(r"((?:re|over|under|out)?)(.+)", verb).groups()  # type: ignore[union-attr]
    if verb in _PARTICIPLES:
        return _PARTICIPLES[verb]
    return f"{prefix}{_PARTICIPLES[stem]}" if stem in _PARTICIPLES else None


def _is_past(verb: str) -> bool:
    return _participle(verb) is not None or (verb.endswith("ed") and len(verb) > 3)


def _is_participle(word: str) -> bool:
    stem = re.sub(r"^(?:re|over|under|out)", "", word)
    return word in _PARTICIPLES.values() or stem in _PARTICIPLES.values() or (word.endswith("ed") and len(word) > 3)


def _base(verb: str) -> str:
    """The base form of a verb in the third person: "carries" -> "carry"."""
    if verb in ("has", "does", "goes"):
        return {"has": "have", "does": "do", "goes": "go"}[verb]
    if verb.endswith("ies"):
        return f"{verb[:-3]}y"
    return verb[:-2] if re.search(r"(?:ss|sh|ch|x|zz)es$", verb) else verb[:-1]


def _short(answer: str) -> str | None:
    """An answer that a question can be completed with."""
    words = answer.split()
    if not words or len(words) > _ANSWER_WORDS or re.search(r"[.!?;:]\s", answer):
        return None
    return _small(answer)


def _small(thing: str) -> str:
    """Without the capital letter that an article has at the beginning of an answer."""
    first, space, rest = thing.partition(" ")
    return f"{first.lower()}{space}{rest}" if re.fullmatch(_DETERMINER, first.lower()) else thing


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip(" ?.!")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
