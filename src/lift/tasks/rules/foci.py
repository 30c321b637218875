"""The foci of a clause: every noun phrase, number, modifier, place, time, cause and action in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lift.tasks.rules.clauses import Clause, Constituent
from lift.tasks.rules.interrogatives import (
    Interrogative,
    answer_tokens,
    date_interrogatives,
    is_person,
    is_year,
    noun_interrogatives,
    year_interrogatives,
)
from lift.tasks.rules.lexicon import (
    DURATION_UNITS,
    DURATIVE_WORDS,
    FREQUENCY_ADVERBS,
    LENGTH_UNITS,
    OBJECT_CONTROL_VERBS,
    PLACE_NOUNS,
    PLACE_PREPOSITIONS,
    TIME_NOUNS,
    TIME_PREPOSITIONS,
)
from lift.tasks.rules.phrases import (
    contiguous,
    item_tokens,
    list_members,
    names_members,
    phrase_tokens,
    tight_name,
    trimmed,
)

if TYPE_CHECKING:
    from spacy.tokens import Token

MAX_ADVERBIAL_TOKENS = 14
PLACE_LABELS = frozenset({"GPE", "LOC", "FAC"})


def noun_foci(head: Token, tokens: Sequence[Token], nested: bool = True) -> Iterator[Interrogative]:
    """Question words for a noun phrase and for what it contains."""
    tokens = list(tokens)
    if head.pos_ in {"NOUN", "PROPN", "NUM", "X", "ADJ", "SYM"} and tokens:
        brief = list(trimmed(phrase_tokens(head, brief=True)))
        left = [token for token in brief if token.i <= head.i]
        use = tokens if contiguous(tokens) and len(tokens) <= 8 else brief
        if head.ent_type_ in {"DATE", "TIME"} and contiguous(tokens) and head.pos_ != "PROPN":
            yield from (
                wh
                for wh in date_interrogatives(tokens)
                if wh.kind != "when" and (wh.text != "how long" or _lasts(head))
            )
        elif contiguous(use):
            seen = set()
            for wh in noun_interrogatives(head, use):
                if (wh.text, wh.first, wh.last) in seen:
                    continue
                seen.add((wh.text, wh.first, wh.last))
                # The answer to "what" may leave out the tail of the phrase, but then the question may not keep it.
                last = tokens[-1].i if wh.last == use[-1].i and wh.kind in {"who", "what"} else wh.last
                yield Interrogative(wh.text, wh.first, last, wh.answer, wh.kind, wh.weight)
            if nested:
                yield from _listed(head, tokens)
                yield from _renamed(head, tokens)
            if use is tokens and len(left) < len(tokens) and contiguous(left):
                yield from _headed(head, left, tokens)
    if not nested:
        return
    inside = {token.i for token in tokens}
    for token in tokens:
        if token.i == head.i:
            continue
        if token.dep_ == "poss" and (token.pos_ == "PROPN" or is_person(token)):
            owner = [word for word in phrase_tokens(token) if word.i in inside]
            body = trimmed([word for word in owner if word.tag_ != "POS"])
            marks = [child for child in token.children if child.tag_ == "POS"]
            if body and marks and contiguous(body):
                answer = answer_tokens(token, body)
                yield Interrogative("whose", body[0].i, marks[0].i, (answer[0], answer[-1]), "whose", 0.8)
        elif token.dep_ in {"pobj", "dobj", "attr", "conj"} and token.pos_ in {"NOUN", "PROPN", "NUM"}:
            if token.dep_ == "conj":
                continue
            phrase = [word for word in trimmed(phrase_tokens(token)) if word.i in inside]
            if contiguous(phrase) and token in phrase:
                for wh in noun_foci(token, phrase, nested=False):
                    if wh.kind != "body":
                        yield replace(wh, weight=wh.weight * 0.85)


def _lasts(unit: Token) -> bool:
    """Whether the verb or preposition above a length of time asks "how long?"."""
    return unit.head.lemma_.lower() in DURATIVE_WORDS


def _renamed(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """An apposition names the same thing: ask for the name, or for the kind of thing that it is."""
    appositions = [child for child in head.children if child.dep_ == "appos"]
    if len(appositions) != 1 or any(
        child.dep_ in {"conj", "cc"} for child in (*head.children, *appositions[0].children)
    ):
        return
    other = appositions[0]
    brief = [token for token in trimmed(phrase_tokens(other, brief=True)) if token.i <= other.i]
    if not contiguous(brief) or len(brief) > 7:
        return
    body = answer_tokens(other, brief)
    if head.pos_ == "NOUN" and other.pos_ == "PROPN":
        if tight_name(head) is not None and tokens[-1].i > other.right_edge.i:
            return
        yield Interrogative(
            "who" if is_person(other) or is_person(head) else "what",
            tokens[0].i,
            tokens[-1].i,
            (body[0], body[-1]),
            "who",
            1.0,
        )
        named = [
            token
            for token in phrase_tokens(head, brief=True)
            if token.dep_ not in {"det", "poss", "case"} and token.tag_ not in {"POS", "PRP$"}
        ]
        if contiguous(named) and len(named) <= 4 and head.tag_ == "NN":
            noun = " ".join(token.text for token in named)
            yield Interrogative(f"which {noun}", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "name", 0.9)
    elif (
        head.pos_ == "PROPN"
        and other.pos_ == "NOUN"
        and other.tag_ == "NN"
        and brief[0].lower_ in {"a", "an", "the"}
        and len(brief) > 1
    ):
        own = answer_tokens(head, [token for token in tokens if token.i <= head.i])
        if contiguous(own):
            noun = " ".join(token.text for token in brief[1:])
            yield Interrogative(f"which {noun}", tokens[0].i, tokens[-1].i, (own[0], own[-1]), "name", 0.9)


def _listed(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """Each member of a list: "Besides mills and bridges, what did Ada build?" """
    inside = {token.i for token in tokens}
    members = list_members(head, inside)
    if names_members(members):
        return
    if not 2 <= len(members) <= 5 or any(
        member.pos_ not in {"NOUN", "PROPN"} or member.ent_type_ == "DATE" for member in members
    ):
        return
    items = [trimmed([word for word in item_tokens(member) if word.i in inside]) for member in members]
    if not all(item and contiguous(item) for item in items):
        return
    for member, item in zip(members, items, strict=True):
        body = answer_tokens(member, item)
        others = tuple(tuple(other) for other in items if other is not item)
        text = "who" if is_person(member) else "what"
        yield Interrogative(text, tokens[0].i, tokens[-1].i, (body[0], body[-1]), "besides", 0.8, others)


def _headed(head: Token, left: Sequence[Token], tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """The noun alone as the answer, the rest of the phrase kept in the question."""
    for wh in noun_interrogatives(head, left):
        if wh.kind in {"which", "kind", "number"}:
            yield Interrogative(wh.text, wh.first, wh.last, wh.answer, wh.kind, wh.weight * 0.95)


def constituent_foci(part: Constituent, clause: Clause) -> Iterator[Interrogative]:
    """Question words for one constituent."""
    head, tokens = part.head, part.tokens
    if part.role in {"object", "attribute", "dative"}:
        if (
            clause.lemma == "be"
            and part.role == "attribute"
            and clause.subject_head.ent_type_ == "PERSON"
            and contiguous(tokens)
        ):
            body = answer_tokens(head, tokens)
            yield Interrogative("who", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "who", 0.8)
        if clause.lemma == "be" and part.role == "attribute" and is_person(clause.subject_head) and head.pos_ == "NUM":
            yield Interrogative("how old", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "age", 0.9)
            return
        if clause.lemma == "become" and is_person(head):
            body = answer_tokens(head, tokens)
            if contiguous(tokens):
                yield Interrogative("what", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "what", 0.85)
            return
        measured = part.role == "object" and head.lemma_.lower() in LENGTH_UNITS
        copular = clause.lemma == "be" and part.role == "attribute"
        for wh in noun_foci(head, tokens):
            if (
                wh.kind != "body"
                and not (measured and wh.text == "what")
                and not (
                    copular
                    and (
                        (wh.text == "who" and not is_person(clause.subject_head))
                        or (wh.kind == "which" and wh.last >= head.i and not head.ent_type_)
                    )
                )
            ):
                yield wh
    elif part.role in {"preposition", "agent"}:
        yield from _preposition_foci(part)
    elif part.role == "time":
        if contiguous(tokens):
            yield from (
                Interrogative(wh.text, wh.first, wh.last, wh.answer, wh.kind, wh.weight)
                for wh in date_interrogatives(tokens)
                if head.ent_type_ in {"DATE", "TIME"} and wh.text not in {"what year", "which year"}
            )
    elif part.role == "adverb":
        if head.i and head.nbor(-1).lower_ == "at":
            # "at once"
            return
        if head.lower_ in {"once", "twice", "thrice"}:
            yield Interrogative("how many times", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "frequency", 0.9)
        elif head.lower_ in FREQUENCY_ADVERBS:
            yield Interrogative("how often", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "frequency", 0.8)
        elif head.lower_.endswith("ly") and contiguous(tokens):
            yield Interrogative("how", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "how", 0.6)
    elif part.role == "adjective":
        inner = [token for token in tokens if token.i <= head.i]
        if contiguous(inner):
            yield Interrogative("what", tokens[0].i, tokens[-1].i, (inner[0], inner[-1]), "property", 0.5)
        yield from _nested_foci(tokens)
    elif part.role == "verb_phrase":
        to = next((child for child in head.children if child.dep_ == "aux" and child.lower_ == "to"), None)
        rest = [token for token in tokens if token.i >= head.i]
        if to is not None and contiguous(rest):
            controlled = any(other.role == "object" and other.head.i < head.i for other in clause.constituents)
            if controlled and clause.lemma not in OBJECT_CONTROL_VERBS:
                yield Interrogative("why", tokens[0].i, tokens[-1].i, (to, rest[-1]), "why", 0.6)
                yield Interrogative("for what purpose", tokens[0].i, tokens[-1].i, (to, rest[-1]), "why", 0.5)
            elif not any(child.dep_ == "auxpass" for child in head.children):
                yield Interrogative("what", tokens[0].i, tokens[-1].i, (head, rest[-1]), "infinitive", 0.5)
        yield from _nested_foci(tokens)
    elif part.role == "clause":
        rest = [token for token in tokens if token.dep_ != "mark"]
        if contiguous(rest) and clause.lemma != "have":
            yield Interrogative("what", tokens[0].i, tokens[-1].i, (rest[0], rest[-1]), "what", 0.55)
    elif part.role == "adverbial":
        yield from _adverbial_foci(part)


def _nested_foci(tokens: Sequence[Token]) -> Iterator[Interrogative]:
    inside = {token.i for token in tokens}
    for token in tokens:
        if token.dep_ in {"dobj", "pobj", "attr"} and token.pos_ in {"NOUN", "PROPN", "NUM"}:
            phrase = [word for word in trimmed(phrase_tokens(token)) if word.i in inside]
            if phrase and contiguous(phrase):
                for wh in noun_foci(token, phrase, nested=False):
                    if wh.kind != "body":
                        yield replace(wh, weight=wh.weight * 0.9)


def _preposition_foci(part: Constituent) -> Iterator[Interrogative]:
    head, tokens = part.head, part.tokens
    word = head.lower_
    first, last = tokens[0].i, tokens[-1].i
    rest: Sequence[Token] = trimmed(tokens[1:])
    if not rest:
        return
    if first < head.i:
        if word in {"before", "after"} and contiguous(tokens):
            yield Interrogative("when", first, last, (tokens[0], tokens[-1]), "when", 0.9)
            if rest[-1].dep_ == "pcomp" or head.nbor(-1).lemma_.lower() in DURATION_UNITS:
                measure = [token for token in tokens if token.i < head.i]
                text = f"how many {measure[-1].text}"
                if len(measure) > 1 and measure[-1].tag_ == "NNS":
                    yield Interrogative(text, first, head.i - 1, (measure[0], measure[-1]), "duration", 0.8)
        return
    if word in {"because", "due", "owing"}:
        body = trimmed([token for token in rest if token.lower_ not in {"of", "to"} or token.i > rest[0].i])
        if body and contiguous(body):
            yield Interrogative("why", first, last, (body[0], body[-1]), "why", 0.9)
        return
    verb = next((child for child in head.children if child.dep_ == "pcomp" and child.tag_ == "VBG"), None)
    if verb is not None:
        if contiguous(rest):
            if word in {"by", "through", "via"}:
                yield Interrogative("how", first, last, (rest[0], rest[-1]), "how", 0.8)
            elif word == "for":
                yield Interrogative("why", first, last, (rest[0], rest[-1]), "why", 0.7)
        yield from _nested_foci(rest)
        return
    objects = [child for child in head.children if child.dep_ == "pobj"]
    if not objects:
        return
    noun = objects[0]
    if any(child.dep_ == "conj" and child.pos_ == "ADP" for child in head.children):
        # "in June and in September" is asked for as a whole
        if contiguous(tokens) and noun.ent_type_ in {"DATE", "TIME"}:
            yield Interrogative("when", first, last, (tokens[0], tokens[-1]), "when", 0.9)
        return
    body = tuple(answer_tokens(noun, rest))
    if not contiguous(rest):
        rest = trimmed(phrase_tokens(noun, brief=True))
        body = tuple(answer_tokens(noun, rest))
        if not contiguous(rest) or not rest:
            return
    answer = (body[0], body[-1])
    if noun.ent_type_ in {"DATE", "TIME"} or is_year(rest):
        if word in TIME_PREPOSITIONS and word not in {"of", "about"}:
            for wh in date_interrogatives(rest):
                if wh.text == "when" and word in {
                    "in",
                    "on",
                    "at",
                    "during",
                    "by",
                    "around",
                    "after",
                    "before",
                    "between",
                    "circa",
                }:
                    yield Interrogative(
                        "when",
                        first,
                        last,
                        wh.answer if word not in {"after", "before", "between"} else (tokens[0], wh.answer[1]),
                        "when",
                        1.0,
                    )
                elif wh.text == "when":
                    yield Interrogative("when", rest[0].i, rest[-1].i, wh.answer, "until", 0.9)
                elif wh.kind == "duration" and word in {"within", "in"} and wh.text == "how long":
                    yield Interrogative(f"{word} what time", first, last, wh.answer, "duration", wh.weight)
                elif wh.kind == "duration" and wh.text.startswith("how many"):
                    yield Interrogative(wh.text, rest[0].i, last, wh.answer, "measure", wh.weight)
                elif wh.kind == "duration" and word in {"for", "over", "during", "throughout"}:
                    yield Interrogative(wh.text, first, last, wh.answer, "duration", wh.weight)
                elif wh.kind != "duration":
                    yield wh
            if word in {"in", "on", "around"}:
                yield from year_interrogatives(rest, first, last)
            if word == "from" and any(
                child.lower_ in {"to", "until"} for child in head.head.children if child.dep_ == "prep"
            ):
                end = next(
                    child for child in head.head.children if child.dep_ == "prep" and child.lower_ in {"to", "until"}
                )
                span = [token for token in end.subtree]
                if span[0].i == last + 1:
                    yield Interrogative("when", first, last, (rest[0], span[-1]), "when", 0.9)
        return
    if word in {"until", "till"} and noun.lemma_.lower() not in TIME_NOUNS:
        # "until the cooling works": the parser took a clause for a thing
        return
    if noun.ent_type_ in PLACE_LABELS and word in PLACE_PREPOSITIONS:
        yield Interrogative("where", first, last, answer, "where", 1.0)
    elif noun.ent_type_ in PLACE_LABELS and word in {"from", "to", "into", "towards", "through"}:
        yield Interrogative("where", rest[0].i, rest[-1].i, answer, "place", 0.9)
        if word in {"to", "into", "towards"}:
            yield Interrogative("where", first, last, answer, "where", 0.9)
    elif (
        word in {"near", "inside", "beneath", "behind"}
        or (word in PLACE_PREPOSITIONS and noun.lemma_.lower() in PLACE_NOUNS)
    ) and noun.pos_ == "NOUN":
        yield Interrogative("where", first, last, (tokens[0], rest[-1]), "where", 0.5)
    elif word in {"after", "before", "during"} or (word in TIME_PREPOSITIONS and noun.lemma_.lower() in TIME_NOUNS):
        yield Interrogative("when", first, last, (tokens[0], rest[-1]), "when", 0.7)
        if noun.lemma_.lower() in TIME_NOUNS:
            return
    for wh in noun_foci(noun, rest):
        if wh.kind != "body" or head.dep_ == "agent":
            yield wh


def is_date(part: Constituent) -> bool:
    """Whether a prepositional phrase says on which day or in which year."""
    return part.role == "preposition" and any(
        child.dep_ == "pobj" and child.ent_type_ == "DATE" for child in part.head.children
    )


def is_place(part: Constituent) -> bool:
    """Whether a prepositional phrase says where: then nobody asks "what ... in?"."""
    noun = next((child for child in part.head.children if child.dep_ == "pobj"), None)
    directions = {"to", "from", "into"}
    return noun is not None and noun.ent_type_ in PLACE_LABELS and part.head.lower_ in PLACE_PREPOSITIONS | directions


def _adverbial_foci(part: Constituent) -> Iterator[Interrogative]:
    head, tokens = part.head, part.tokens
    first, last = tokens[0].i, tokens[-1].i
    if not contiguous(tokens) or len(tokens) > MAX_ADVERBIAL_TOKENS:
        return
    mark = next((child for child in head.children if child.dep_ in {"mark", "advmod"} and child.i == tokens[0].i), None)
    to = next((child for child in head.children if child.dep_ == "aux" and child.lower_ == "to"), None)
    if mark is not None and mark.lower_ in {"because", "since"}:
        yield Interrogative("why", first, last, (tokens[1], tokens[-1]), "why", 0.9)
    elif mark is not None and mark.lower_ in {"when", "after", "before", "until", "once"}:
        yield Interrogative("when", first, last, (tokens[0], tokens[-1]), "when", 0.6)
    elif to is not None and to.i == head.i - 1 and head.tag_ == "VB":
        yield Interrogative("why", first, last, (to, tokens[-1]), "why", 0.75)
        yield Interrogative("for what purpose", first, last, (to, tokens[-1]), "why", 0.6)
        yield from _nested_foci(tokens)
