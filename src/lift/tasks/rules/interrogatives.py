"""Which question word asks for a phrase: who, what year, which city, how many lenses, what kind of museum...

Every choice pairs a wh-phrase with the tokens that it replaces and the tokens that answer it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lift.tasks.rules.lexicon import (
    COUNTRIES,
    DURATION_UNITS,
    DURATIVE_WORDS,
    MONTHS,
    PERSON_NOUNS,
    US_STATES,
    WEEKDAYS,
    words,
)
from lift.tasks.rules.phrases import contiguous, tight_name

if TYPE_CHECKING:
    from spacy.tokens import Token

_YEAR = re.compile(r"^(?:1[0-9]{3}|20[0-9]{2})$")
_DECADE = re.compile(r"^(?:1[0-9]|20)[0-9]0s$")
_HONORIFICS = words(
    """
    mr mrs miss ms dr prof sir lady lord saint king queen captain general professor
    """
)
# "the potter Junzo Akiyama": trades that no list of words knows, and things that are called alike
_ROLE = re.compile(r"(?:er|or|ist|ian|man|woman|smith|eer)$")
_EXPERT = re.compile(r"[a-z]{3}(?:[aeiou][a-z])?[^aeiouls]ist$|woman$")
_THINGS = words(
    """
    steamer river tower container computer printer number paper cylinder theater center motor tractor harbor
    corridor sector boiler freezer chapter order letter newspaper cruiser destroyer trawler freighter schooner meter
    liner tanker clipper
    """
)
NO_KIND = words(
    """
    first second third other own several many few same such last next new more most main major only certain
    various different some numerous little much former latter total whole entire subsequent previous following
    additional further least best better largest possible early late able own particular early later recent
    """
)


@dataclass(frozen=True)
class Interrogative:
    """`text` stands for the tokens `first`..`last` (indices); `answer` holds its first and last token.

    `besides` are the other members of the list that the answer stands in.
    """

    text: str
    first: int
    last: int
    answer: tuple[Token, Token]
    kind: str
    weight: float
    besides: tuple[tuple[Token, ...], ...] = ()


def is_person(head: Token) -> bool:
    """Whether a noun phrase with this head is asked for with "who"."""
    if any(
        child.lower_.rstrip(".") in _HONORIFICS
        or child.lemma_.lower() in PERSON_NOUNS
        or (child.tag_ == "JJ" and child.text.endswith("ist"))
        or (child.pos_ == "NOUN" and _ROLE.search(child.lower_) and child.lower_ not in _THINGS)
        for child in head.lefts
        if head.pos_ == "PROPN" and child.dep_ in {"compound", "amod", "nmod"}
    ):
        return True
    if head.pos_ == "PROPN" and head.lower_ in PERSON_NOUNS and any(child.dep_ == "det" for child in head.lefts):
        # "the Contractor": contracts write their parties with a capital
        return True
    if head.ent_type_ == "PERSON":
        # The recogniser takes many a ship, band or law for a person; people have no article and no common noun in them.
        words = [head, *head.lefts, *head.rights]
        return not any(
            word.dep_ in {"det", "poss"} or word.text == "&" or (word.ent_type_ and word.lower_ in CATEGORY_NOUNS)
            for word in words
        ) and not (head.tag_ in {"NNS", "NN"} and head.lower_ not in PERSON_NOUNS)
    if head.pos_ == "PROPN" and head.ent_type_ == "NORP":
        return head.tag_ == "NNPS"
    if head.lemma_.lower() in {"reader", "printer"} and any(child.dep_ == "compound" for child in head.lefts):
        return False
    if head.lemma_.lower() == "head" and not any(child.lower_ == "of" for child in head.rights):
        return False
    if head.pos_ == "NOUN" and _EXPERT.search(head.lemma_.lower()):
        return True
    return head.pos_ == "NOUN" and head.lemma_.lower() in PERSON_NOUNS


def is_year(tokens: Sequence[Token]) -> bool:
    """Whether the phrase is just a year."""
    return len(tokens) == 1 and bool(_YEAR.match(tokens[0].text))


def entity_category(head: Token, tokens: Sequence[Token]) -> str | None:
    """A common noun for what a name names ("museum" for "Lighthouse Museum"), or None."""
    text = " ".join(token.text for token in tokens)
    bare = re.sub(r"^the ", "", text, flags=re.IGNORECASE)
    if head.ent_type_ == "GPE":
        if text in COUNTRIES or bare in COUNTRIES or f"the {bare}" in COUNTRIES:
            return "country"
        return "state" if bare in US_STATES else None
    if head.ent_type_ == "LANGUAGE":
        return "language"
    if any(
        child.i > head.i and child.pos_ in {"NUM", "PROPN"} and child.dep_ in {"nummod", "appos"}
        for child in head.children
    ):
        return None
    if (
        head.pos_ == "PROPN"
        and head.lower_ in CATEGORY_NOUNS
        and any(token.pos_ == "PROPN" and token.i != head.i for token in tokens)
    ):
        return head.lower_
    return None


CATEGORY_NOUNS = words(
    """
    academy act agency agreement airport alliance army association award bank basin battle bay beach board
    bridge bureau cabinet canal castle cathedral center centre championship channel charter church city claims
    club coast college commission committee company conference congress constitution convention corporation
    council county court cup department desert directive district dynasty edict empire exhibition expedition
    family federation festival film force foundation fund gallery garden government group harbor harbour hall
    highway hill hospital hotel house industry institute institution island journal kingdom laboratory lake law
    league library line market medal memorial metro mine ministry mission model monastery mountain movement
    museum newspaper ocean office opera orchestra organization organisation palace park parliament party
    peninsula plan plant port prison prize program programme project province province publisher railway range
    region regulation republic revolution river road route school sea series service society square stadium
    state station store street studio summit system team temple territory theater theatre theory tower town
    trail treaty tribe trophy union university valley village war zone
    """
)


def _date_words(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """(wh text without preposition, kind) for a date or time phrase."""
    words = [token.lower_ for token in tokens]
    lemmas = {token.lemma_.lower() for token in tokens}
    if is_year(tokens):
        return [("when", "when"), ("what year", "year"), ("which year", "year")]
    if any(_DECADE.match(word) for word in words):
        return [("when", "when"), ("what decade", "decade")]
    if "century" in lemmas:
        return [("when", "when"), ("what century", "century")]
    if any(word in WEEKDAYS for word in words):
        return [("when", "when"), ("what day", "day")]
    if any(_YEAR.match(word) for word in words) or any(word in MONTHS for word in words):
        if any(word in MONTHS for word in words) and any(word.isdigit() and len(word) < 3 for word in words):
            return [("when", "when"), ("what date", "date")]
        if words[0] in MONTHS and len(words) <= 2:
            return [("when", "when"), ("what month", "date")]
        return [("when", "when")]
    if lemmas & {"daily", "weekly", "monthly", "annually", "yearly"} or words[0] in {"every", "each", "once", "twice"}:
        return [("how often", "frequency")]
    if "old" in words or "aged" in words:
        return [("how old", "age")]
    if lemmas & DURATION_UNITS:
        if words[-1] in {"ago", "later", "earlier", "before", "after"}:
            return [("when", "when")]
        if tokens[0].ent_type_ == "ORDINAL" or any(token.tag_ == "JJ" and token.like_num for token in tokens):
            return [("when", "when")]
        if any(token.like_num or token.tag_ == "CD" or token.lower_ in {"several", "few", "many"} for token in tokens):
            unit = tokens[-1]
            extra = (
                [(f"how many {unit.lower_}", "duration")]
                if unit.tag_ == "NNS" and tokens[-1].lemma_.lower() in DURATION_UNITS
                else []
            )
            return [("how long", "duration"), *extra]
    return [("when", "when")]


def date_interrogatives(tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """Question words for a date, a time or a duration."""
    body = _without_article(tokens)
    for rank, (text, kind) in enumerate(_date_words(tokens)):
        yield Interrogative(text, tokens[0].i, tokens[-1].i, (body[0], body[-1]), kind, 1.0 - 0.05 * rank)


def year_interrogatives(tokens: Sequence[Token], first: int, last: int) -> Iterator[Interrogative]:
    """The year alone of a date that says more, in place of the phrase `first`..`last` with its preposition."""
    years = [token for token in tokens if _YEAR.match(token.text)]
    if len(years) == 1 and len(tokens) > 1:
        for text, weight in (("what year", 0.85), ("in what year", 0.8)):
            yield Interrogative(text, first, last, (years[0], years[0]), "year_of", weight)


def _without_article(tokens: Sequence[Token]) -> Sequence[Token]:
    return (
        tokens[1:] if len(tokens) > 1 and tokens[0].dep_ == "det" and tokens[0].lower_ in {"the", "a", "an"} else tokens
    )


def answer_tokens(head: Token, tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens of a noun phrase as an answer: names lose their article and title, other nouns keep the article."""
    titles = [token.i for token in tokens if token.i < head.i and token.pos_ == "NOUN" and token.lemma_ in PERSON_NOUNS]
    if head.pos_ == "PROPN" and titles:
        return [token for token in tokens if token.i > titles[-1]]
    return _without_article(tokens) if head.pos_ == "PROPN" or head.ent_type_ else tokens


def noun_interrogatives(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """Question words for a noun phrase given as one run of tokens, the most natural first."""
    first, last = tokens[0].i, tokens[-1].i
    body = answer_tokens(head, tokens)
    whole = (body[0], body[-1])
    entity = bool(head.ent_type_) or head.pos_ == "PROPN"
    label = head.ent_type_
    if (label in {"DATE", "TIME"} and head.pos_ != "PROPN") or is_year(tokens):
        kinds = _date_words(tokens)
        for text, kind in kinds:
            if kind != "when" and (text != "how long" or head.head.lemma_.lower() in DURATIVE_WORDS):
                yield Interrogative(text, first, last, whole, kind, 0.9)
        if (label == "DATE" and not is_year(tokens)) or any(kind == "duration" for _, kind in kinds):
            return
        yield Interrogative("what year" if is_year(tokens) else "what time", first, last, whole, "date", 0.8)
        return
    if (label == "PERCENT" and any(token.like_num for token in tokens)) or (
        any(token.text == "%" for token in tokens) and head.lower_ in {"%", "percent"}
    ):
        yield from _amount(head, tokens, "what percentage")
        return
    if label == "MONEY":
        yield Interrogative("how much money", first, last, whole, "money", 1.0)
        yield Interrogative("how much", first, last, whole, "money", 0.95)
        return
    if is_person(head):
        yield Interrogative("who", first, last, whole, "who", 1.0 if entity else 0.75)
    else:
        yield Interrogative("what", first, last, whole, "what", 0.9 if entity else 0.8)
        if label in {"ORG", "GPE"} and head.lower_ not in CATEGORY_NOUNS:
            yield Interrogative("who", first, last, whole, "body", 0.7)
    category = entity_category(head, tokens) if last == head.i or head.ent_type_ == "GPE" else None
    if category is not None:
        yield Interrogative(f"which {category}", first, last, whole, "which", 1.0)
        yield Interrogative(f"what {category}", first, last, whole, "which", 0.9)
    yield from _modifier_questions(head, tokens)


def _amount(head: Token, tokens: Sequence[Token], text: str) -> Iterator[Interrogative]:
    number = [token for token in tokens if token.i <= head.i]
    while len(number) > 1 and number[0].lower_ in {"about", "around", "approximately", "roughly", "some", "the"}:
        number = number[1:]
    if number:
        yield Interrogative(text, tokens[0].i, number[-1].i, (number[0], number[-1]), "percentage", 1.0)
        yield Interrogative("how much", tokens[0].i, number[-1].i, (number[0], number[-1]), "percentage", 0.8)


def _modifier_questions(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """ "24 lenses" -> how many lenses; "Polish engineers" -> what kind of engineers, which engineers."""
    left = [token for token in tokens if token.i < head.i]
    if any(child.dep_ == "conj" for child in head.children) or tight_name(head) is not None:
        return
    numbers = [token for token in left if token.dep_ == "nummod" and token.head == head]
    if numbers and head.pos_ in {"NOUN", "PROPN"} and not is_year([numbers[0]]):
        number = sorted(token for token in numbers[0].subtree if token.i <= numbers[0].i)
        start, end = number[0], numbers[0]
        if head.tag_ in {"NNS", "NNPS"}:
            told = number[1:] if start.lower_ in {"only", "just", "possibly"} else number
            yield Interrogative("how many", start.i, end.i, (told[0], end), "number", 1.0)
            before = [token for token in left if token.i < start.i]
            if before and before[0].dep_ == "det" and before[0].i == start.i - 1:
                yield Interrogative("how many", before[0].i, end.i, (start, end), "number", 1.0)
        return
    for token in left:
        if token.tag_ == "CD" and token.dep_ == "nummod":
            return
    modifiers = [token for token in left if token.dep_ in {"amod", "compound", "nmod"} and token.head == head]
    if head.pos_ == "NOUN" and modifiers:
        run = _modifier_run(head, modifiers)
        if run and not (run[0].i > tokens[0].i and tokens[0].dep_ not in {"det"}) and run[0].i - tokens[0].i < 2:
            begin = tokens[0].i if tokens[0].dep_ in {"det"} and tokens[0].i == run[0].i - 1 else run[0].i
            noun = head.lower_
            telling = [token for token in run if token.pos_ in {"NOUN", "PROPN"} or token.ent_type_ in {"NORP", "GPE"}]
            weight = 0.75 if telling else 0.5
            if telling or not all(
                token.lower_ in NO_KIND or token.tag_ in {"JJR", "JJS"} or token.is_punct for token in run
            ):
                yield Interrogative(f"which {noun}", begin, head.i, (run[0], head), "which", weight)
                yield Interrogative(f"what {noun}", begin, head.i, (run[0], head), "which", weight)
            if run[-1].ent_type_ == "NORP" and len(run) == 1 and head.tag_ == "NNS":
                yield Interrogative(f"{noun} of which nationality", begin, head.i, (run[0], run[0]), "kind", 0.6)
            elif not any(
                token.lower_ in NO_KIND or token.tag_ in {"JJR", "JJS"} or token.pos_ == "PROPN" for token in run
            ):
                if head.tag_ == "NNS":
                    yield Interrogative(f"what kind of {noun}", begin, head.i, (run[0], run[-1]), "kind", 0.65)
                    yield Interrogative(f"what type of {noun}", begin, head.i, (run[0], run[-1]), "kind", 0.6)
                else:
                    yield Interrogative(f"what kind of {noun}", begin, head.i, (run[0], run[-1]), "kind", 0.6)
    elif head.pos_ == "PROPN" and modifiers and modifiers[0].pos_ == "NOUN" and tokens[-1].i == head.i:
        titles = [token for token in left if token.pos_ in {"NOUN", "ADJ"}]
        names = [token for token in (*left, head) if token.i > titles[-1].i]
        if names and all(token.pos_ == "PROPN" for token in names) and contiguous([*titles, *names]):
            noun = " ".join(token.text for token in titles)
            yield Interrogative(f"which {noun}", tokens[0].i, head.i, (names[0], head), "which", 0.9)


def _modifier_run(head: Token, modifiers: list[Token]) -> list[Token]:
    """The modifiers directly before the head, as one run."""
    run: list[Token] = []
    index = head.i - 1
    members = {token.i for modifier in modifiers for token in modifier.subtree}
    while index in members:
        run.insert(0, head.doc[index])
        index -= 1
    while run and (run[0].is_punct or run[0].dep_ in {"cc", "punct"}):
        run.pop(0)
    return run
