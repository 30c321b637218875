"""Connection questions, for answers in sentences whose structure the parser could not make out.

"Which year is mentioned in connection with the Nobel Prize and Edison?" holds whatever the sentence says about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lift.tasks.rules.echo import inside_name
from lift.tasks.rules.interrogatives import entity_category, is_person, is_year
from lift.tasks.rules.lexicon import MONTHS
from lift.tasks.rules.phrases import Names, UnboundPronounError, write
from lift.tasks.rules.spans import answer_spans

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_TERM_TOKENS = 4
MAX_DISTANCE_TOKENS = 15
_LABELS = {
    "GPE": "which place",
    "LOC": "which place",
    "DATE": "which date",
    "TIME": "which time",
    "PERCENT": "which percentage",
    "MONEY": "which amount",
    "QUANTITY": "which measure",
    "CARDINAL": "which number",
    "WORK_OF_ART": "which work",
    "LAW": "which law",
    "EVENT": "which event",
    "FAC": "which building",
    "LANGUAGE": "which language",
    "PRODUCT": "which product",
    "NORP": "which group",
}


def connection_questions(
    doc: Doc, names: Names, covered: set[tuple[int, int]]
) -> Iterator[tuple[str, Token, Token, float]]:
    """(question, first and last token of the answer, weight) for each entity, name or number not yet `covered`."""
    spans = list(dict.fromkeys((head, tokens) for head, tokens in answer_spans(doc)))
    done = set(covered)
    for head, tokens in spans:
        span = (tokens[0].i, tokens[-1].i)
        if (
            span in done
            or tokens[0].pos_ == "ADV"
            or tokens[0].tag_ == "JJR"
            or head.pos_ not in {"NOUN", "PROPN", "NUM", "SYM"}
            or not (head.ent_type_ or head.pos_ in {"PROPN", "NUM"} or (head.pos_ == "NOUN" and len(tokens) > 1))
            or head.ent_type_ == "ORDINAL"
            or head.dep_ == "compound"
            or (head.dep_ == "appos" and head.pos_ == "NUM")
            or (head.dep_ == "npadvmod" and not _is_calendar(tokens))
            or (head.tag_ == "CD" and head.i and head.nbor(-1).pos_ in {"NOUN", "PROPN"})
            or (len(tokens) == 1 and head.pos_ == "NOUN" and head.ent_type_ in {"DATE", "TIME"})
            or (head.pos_ == "NOUN" and is_person(head) and any(token.text == "," for token in tokens))
            or (len(tokens) == 1 and head.pos_ == "NOUN" and is_person(head))
            or inside_name(doc, span)
        ):
            continue
        done.add(span)
        terms = _nearest_terms(spans, span, names)
        if terms is None:
            continue
        listed = f"{', '.join(terms[:-1])} and {terms[-1]}"
        yield (
            f"{_wh(head, tokens)} is mentioned in connection with {listed}",
            tokens[0],
            tokens[-1],
            0.35 if head.ent_type_ else 0.25,
        )


def _wh(head: Token, tokens: tuple[Token, ...]) -> str:
    if is_year(tokens):
        return "which year"
    if is_person(head):
        # in a line without a verb, names of streets and firms look like those of people
        return "who" if _root(head).pos_ in {"VERB", "AUX"} else "what"
    if head.ent_type_ == "ORG" and head.tag_ == "NNPS":
        return "what"
    category = entity_category(head, tokens)
    if category is not None:
        return f"which {category}"
    if head.ent_type_ in {"DATE", "TIME"} and not _is_calendar(tokens):
        return "what"
    return _LABELS.get(head.ent_type_, "what")


def _root(token: Token) -> Token:
    while token.head.i != token.i:
        token = token.head
    return token


def _is_calendar(tokens: tuple[Token, ...]) -> bool:
    """Whether the words name a point in time, not a length of it or a day of the week."""
    return any(token.lower_ in MONTHS or ":" in token.text or is_year([token]) for token in tokens)


def _nearest_terms(
    spans: list[tuple[Token, tuple[Token, ...]]], span: tuple[int, int], names: Names
) -> list[str] | None:
    """Two or three short phrases next to the span, in the order of the sentence; None where there are fewer."""
    near: list[tuple[int, int, int, tuple[Token, ...]]] = []
    for head, tokens in spans:
        first, last = tokens[0].i, tokens[-1].i
        if (
            head.pos_ not in {"NOUN", "PROPN"}
            or head.dep_ == "compound"
            or len(tokens) > MAX_TERM_TOKENS
            or tokens[0].pos_ == "ADV"
        ):
            continue
        if first > span[1] or last < span[0]:
            distance = min(abs(first - span[1]), abs(span[0] - last))
            if distance <= MAX_DISTANCE_TOKENS:
                near.append((distance, -len(tokens), first, tokens))
    chosen: list[tuple[Token, ...]] = []
    for _, _, _, tokens in sorted(near, key=lambda entry: entry[:3]):
        if len(chosen) < 3 and not any(tokens[0].i <= other[-1].i and other[0].i <= tokens[-1].i for other in chosen):
            chosen.append(tokens)
    try:
        written = [write(tokens, names) for tokens in sorted(chosen, key=lambda tokens: tokens[0].i)]
    except UnboundPronounError:
        return None
    terms = list(dict.fromkeys(written))
    return terms if len(terms) >= 2 else None
