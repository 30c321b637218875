"""Echo questions for spans that no other rule asks for: the clause as it stands, with a wh-phrase in place of the span.

"The complex also included which cabaret?" is plain, but it is always about the right thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lift.tasks.rules.clauses import has_loose_apposition, has_unclear_conjunct
from lift.tasks.rules.frames import frame_of, keeps_negation, negative_words
from lift.tasks.rules.interrogatives import (
    NO_KIND,
    date_interrogatives,
    is_year,
    noun_interrogatives,
)
from lift.tasks.rules.lexicon import DISCOURSE_ADVERBS, DURATIVE_WORDS, FIXED_OBJECTS, FIXED_PHRASES
from lift.tasks.rules.phrases import (
    Gap,
    Names,
    UnboundPronounError,
    after_comma,
    item_tokens,
    list_members,
    names_members,
    phrase_tokens,
    trimmed,
    write,
)
from lift.tasks.rules.spans import answer_spans

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_ECHO_TOKENS = 26
_SUBJECTS = frozenset({"nsubj", "nsubjpass", "expl"})


def echo_questions(doc: Doc, names: Names, covered: set[tuple[int, int]]) -> Iterator[tuple[str, Token, Token, float]]:
    """(statement with a wh-phrase, first and last token of the answer, weight) for each span not yet `covered`."""
    done = set(covered)
    for head, tokens in answer_spans(doc):
        span = (tokens[0].i, tokens[-1].i)
        if span in done:
            continue
        done.add(span)
        if inside_name(doc, span) or (
            head.dep_ == "conj" and any(child.dep_ == "conj" and child.i <= span[1] for child in head.children)
        ):
            continue
        wh = _interrogative(head, tokens)
        clause = _clause_around(head)
        if wh is None or clause is None:
            continue
        top = _clause_top(head)
        frame = frame_of(top) if top is not None else None
        if top is None or frame is None:
            continue
        text, first, last, weight = wh
        if _tears(doc, head, first, last):
            continue
        prefix = ""
        members = _list_members(head)
        if names_members(members):
            continue
        if len(members) > 1:
            listed = _besides(members, head, names)
            inside = [token for member in members for token in phrase_tokens(member, brief=True)]
            if listed is None or not {token.i for token in inside} <= {token.i for token in clause}:
                continue
            first, last, prefix = (
                min(token.i for token in inside),
                max(token.i for token in inside),
                f"besides {listed}, ",
            )
            text = "who" if text == "who" else "what"
        if clause[0].tag_ == "WRB" or last < _subject_start(head):
            continue
        around = [token for token in clause if token.i < first or token.i > last]
        if len(around) < 3 or not {token.i for token in tokens} <= {token.i for token in clause}:
            continue
        bound = frozenset(token.i for token in clause if token.i < first)
        try:
            stated = write(clause, names, Gap(first, last, text), bound)
            if re.search(rf", {re.escape(text)}\b|\b{re.escape(text)} of\b", stated):
                # a list with a hole in it, or half a phrase
                continue
            asked = frame.text(names) + prefix + stated
            answer = doc[tokens[0].i : tokens[-1].i + 1].text
            denials = negative_words(top)
            if denials and not _is_complete(top, clause):
                continue
            if keeps_negation(denials, asked, answer):
                yield asked, tokens[0], tokens[-1], weight
        except UnboundPronounError:
            continue


def _tears(doc: Doc, head: Token, first: int, last: int) -> bool:
    """Whether the span is tied to the word before or behind it: "extension" of "extension 14", "night" of "a night"."""
    if head.dep_ == "acomp" and last + 1 < len(doc) and not doc[last + 1].is_punct:
        return True
    if head.dep_ == "npadvmod" or (head.dep_ in {"nummod", "appos"} and head.head.i < head.i):
        return True
    if (head.head.lemma_.lower(), head.lower_) in FIXED_OBJECTS or head.head.lower_ == "except":
        return True
    if f"{head.head.lower_} {head.lower_}" in FIXED_PHRASES:
        return True
    behind = doc[last + 1] if last + 1 < len(doc) else None
    if behind is not None and behind.lower_ in {"by", "x", "×"} and head.like_num:
        # "30 by 40 centimetres"
        return True
    before = doc[first - 1] if first else None
    if (
        behind is not None
        and behind.dep_ in {"prep", "acl", "relcl", "amod"}
        and first <= behind.head.i <= last
        and head.pos_ == "NOUN"
        and behind.lower_ != "of"
    ):
        # "rooms with a humidity below 35 percent" are not asked for as "what with a humidity"
        return True
    if behind is not None and (behind.tag_ == "CD" or behind.pos_ == "PROPN") and behind.head.i == head.i:
        return True
    if before is not None and before.tag_ == "CD" and before.head.i == head.i:
        return True
    return before is not None and before.pos_ in {"NOUN", "PROPN"} and head.tag_ == "CD"


def inside_name(doc: Doc, span: tuple[int, int]) -> bool:
    """Whether the span is only part of a name ("Weights" in "General Conference on Weights and Measures")."""
    return any(
        entity.start <= span[0]
        and span[1] < entity.end
        and (entity.start, entity.end - 1) != span
        and entity.label_ in {"PERSON", "ORG", "WORK_OF_ART", "LAW", "FAC", "EVENT", "DATE"}
        and doc[entity.start].pos_ != "DET"
        for entity in doc.ents
    )


def _subject_start(head: Token) -> int:
    """Where the subject of the verb above `head` begins: a wh-phrase before it would have to invert the clause."""
    starts = [
        child.left_edge.i for token in (head, *head.ancestors) for child in token.children if child.dep_ in _SUBJECTS
    ]
    return starts[0] if starts else 0


def _list_members(head: Token) -> list[Token]:
    """The heads of the list that `head` is a member of."""
    first = head
    while first.dep_ == "conj" and first.head.pos_ in {"NOUN", "PROPN"}:
        first = first.head
    return list_members(first)


def _besides(members: Sequence[Token], head: Token, names: Names) -> str | None:
    """ "A and B", the members of a list but `head`; None where the list is too long to be named."""
    if (
        len(members) > 5
        or head not in members
        or any(member.pos_ not in {"NOUN", "PROPN"} or member.ent_type_ == "DATE" for member in members)
    ):
        return None
    texts = []
    for member in members:
        if member.i == head.i:
            continue
        try:
            texts.append(write(trimmed(item_tokens(member, brief=True)), names))
        except UnboundPronounError:
            return None
    return f"{', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else texts[0]


def _interrogative(head: Token, tokens: Sequence[Token]) -> tuple[str, int, int, float] | None:
    """Replacements of the span: (text, first and last token replaced, weight)."""
    start = tokens[0].i
    before = head.doc[start - 1] if start else None
    if before is not None and before.dep_ == "det" and head.pos_ in {"NOUN", "PROPN"}:
        start -= 1
    if head.pos_ == "ADJ":
        noun = head.head
        if head.dep_ == "acomp":
            return "what", tokens[0].i, tokens[-1].i, 0.3
        earlier = head.doc[start - 1] if start else None
        if noun.pos_ != "NOUN" or noun.i != tokens[-1].i + 1 or head.lower_ in NO_KIND or head.tag_ in {"JJR", "JJS"}:
            return None
        if earlier is not None and earlier.dep_ != "det" and noun.is_ancestor(earlier):
            return None
        if earlier is not None and earlier.dep_ == "det":
            start -= 1
        return f"what kind of {noun.text}", start, noun.i, 0.3
    if head.dep_ in {"compound", "nmod", "amod"} and head.head.pos_ in {"NOUN", "PROPN"}:
        if head.head.pos_ != "NOUN" or head.head.i != tokens[-1].i + 1:
            return None
        return "which", start, tokens[-1].i, 0.35
    if head.tag_ == "CD" and head.head.pos_ == "PROPN" and head.dep_ == "nummod":
        return None
    if head.dep_ == "appos":
        return None
    if head.tag_ == "CD" and not is_year(tokens) and head.ent_type_ != "DATE":
        return (
            (
                "how many"
                if head.dep_ == "nummod" and (head.head.tag_ in {"NNS", "NNPS"} or head.head.lower_ == "percent")
                else "what"
            ),
            tokens[0].i,
            tokens[-1].i,
            0.5,
        )
    if head.ent_type_ in {"DATE", "TIME"}:
        found = next((wh for wh in date_interrogatives(tokens) if wh.text != "when"), None)
        if found and found.text == "how long" and head.head.lemma_.lower() not in DURATIVE_WORDS:
            return "what", start, tokens[-1].i, 0.4
        return (found.text if found else "when", start, tokens[-1].i, 0.5)
    if head.dep_ == "poss":
        marks = [child for child in head.children if child.tag_ == "POS"]
        return ("whose", start, marks[0].i, 0.45) if marks and head.head.dep_ != "appos" else None
    choices = [
        wh
        for wh in noun_interrogatives(head, tokens)
        if wh.answer == (tokens[0], tokens[-1]) and wh.last == tokens[-1].i
    ]
    if not choices:
        return None
    best = max(choices, key=lambda wh: wh.kind == "which")
    return best.text, min(start, best.first), best.last, 0.5 if head.ent_type_ else 0.4


def _clause_top(head: Token) -> Token | None:
    """The verb of the smallest clause around `head` that has its own subject."""
    token = head
    while True:
        subject = next((child for child in token.children if child.dep_ in _SUBJECTS), None)
        infinite = any(child.dep_ == "aux" and child.lower_ == "to" for child in token.children) or (
            token.tag_ in {"VBG", "VB"} and not any(child.dep_ in {"aux", "auxpass"} for child in token.children)
        )
        if (
            token.pos_ in {"VERB", "AUX"}
            and not infinite
            and subject is not None
            and subject.tag_ not in {"WDT", "WP"}
            and subject.lower_ != "that"
        ):
            return token
        if token.head.i == token.i:
            return None
        token = token.head


def _is_complete(top: Token, clause: Sequence[Token]) -> bool:
    """Whether the `clause` has every part of the verb `top` that is no clause of its own."""
    kept = {token.i for token in clause}
    return all(
        child.i in kept
        for child in top.children
        if child.dep_ not in {"punct", "cc", "conj", "advcl", "mark", "parataxis", "ccomp", "preconj"}
        and not (child.dep_ == "advmod" and child.lower_ in DISCOURSE_ADVERBS)
    )


def _clause_around(head: Token) -> tuple[Token, ...] | None:
    """The smallest clause around `head` that has its own subject, without side remarks that do not hold `head`."""
    token = _clause_top(head)
    if token is None or has_unclear_conjunct(token):
        return None
    subjects = [child for child in token.children if child.dep_ in {"nsubj", "nsubjpass"}]
    if len(subjects) > 1 or any(map(has_loose_apposition, subjects)):
        return None
    helpers = [child.i for child in token.children if child.dep_ in {"aux", "auxpass"}]
    if any(child.dep_ in _SUBJECTS and helpers and min(helpers) < child.i for child in token.children):
        return None
    path = [head]
    while path[-1].i != token.i:
        path.append(path[-1].head)
    for brief in (False, True):
        kept = {word.i: word for word in phrase_tokens(token)} if not brief else {}
        if brief:
            for child in token.children:
                short = (
                    child.right_edge.i - child.left_edge.i < 6
                    and child.dep_ in {"advmod", "prep", "xcomp"}
                    and not after_comma(child)
                )
                if short or child.dep_ in {
                    *_SUBJECTS,
                    "aux",
                    "auxpass",
                    "neg",
                    "dobj",
                    "attr",
                    "prt",
                    "acomp",
                    "agent",
                }:
                    kept.update({word.i: word for word in phrase_tokens(child, brief=True)})
            kept[token.i] = token
        for step in path[:-1]:
            kept.update({word.i: word for word in phrase_tokens(step, brief=brief)})
        for step in path[:-1]:
            # A relative or participial clause on the way to the span needs its own start to make sense.
            if step.dep_ == "appos":
                kept.update({word.i: word for word in step.doc[step.left_edge.i - 1 : step.left_edge.i]})
        if any(
            child.dep_ in {"ccomp", "xcomp"} and child.i not in kept and child.i > token.i for child in token.children
        ):
            continue
        for child in token.children:
            if child.dep_ == "conj" and any(word.dep_ in _SUBJECTS for word in child.children):
                # a second statement is no part of this one
                gone = {word.i for word in child.subtree}
                kept = {place: word for place, word in kept.items() if place not in gone}
        if head.i not in kept:
            return None
        clause = trimmed(sorted(kept.values(), key=lambda word: word.i))
        while clause and (
            clause[0].dep_ in {"mark", "cc", "punct"}
            or (clause[0].dep_ == "advmod" and clause[0].lower_ in DISCOURSE_ADVERBS)
        ):
            clause = clause[1:]
        if len(clause) <= MAX_ECHO_TOKENS:
            return clause
    return None
