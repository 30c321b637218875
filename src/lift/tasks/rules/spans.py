"""Answer spans: every stretch of a sentence that somebody may want as a short answer, whatever the question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lift.tasks.rules.interrogatives import answer_tokens
from lift.tasks.rules.lexicon import words
from lift.tasks.rules.phrases import contiguous, phrase_tokens, tight_name, trimmed

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_SPAN_TOKENS = 9
_APPROXIMATE = words(
    """
    about around approximately roughly nearly almost over under some more less than up to at least early late
    mid
    """
)


def answer_spans(doc: Doc) -> Iterator[tuple[Token, tuple[Token, ...]]]:
    """(head, tokens) of entities, numbers, noun phrases, list members and adjectives; some come more than once."""
    for entity in doc.ents:
        tokens = [token for token in entity if token.tag_ != "POS"]
        yield from _checked(entity.root, tokens)
        if entity.label_ in {"PERCENT", "QUANTITY", "CARDINAL", "MONEY", "DATE"}:
            exact = tokens
            while len(exact) > 1 and exact[0].lower_ in _APPROXIMATE:
                exact = exact[1:]
            yield from _checked(entity.root, exact)
    for token in doc:
        if token.pos_ in {"NOUN", "PROPN"} and token.dep_ not in {"compound", "nmod"}:
            yield from _checked(token, phrase_tokens(token, brief=True))
            if tight_name(token) is None:
                yield from _checked(token, [word for word in phrase_tokens(token, brief=True) if word.i <= token.i])
            whole = phrase_tokens(token)
            yield from _checked(token, whole)
            if any(child.dep_ == "conj" for child in token.children):
                later = {word.i for child in token.children if child.dep_ == "conj" for word in child.subtree}
                yield from _checked(token, [word for word in phrase_tokens(token, brief=True) if word.i not in later])
        elif token.text == "%" or _is_number(token):
            yield from _checked(
                token,
                [
                    word
                    for word in token.subtree
                    if word.i <= token.i and word.pos_ in {"NUM", "SYM", "ADV", "ADP", "ADJ"}
                ],
            )
        elif token.pos_ == "ADJ" and token.dep_ in {"amod", "acomp"}:
            yield from _checked(
                token, [word for word in token.lefts if word.dep_ == "advmod" and word.i == token.i - 1] + [token]
            )


def _checked(head: Token, tokens: Sequence[Token]) -> Iterator[tuple[Token, tuple[Token, ...]]]:
    body = tuple(trimmed(tokens))
    if body and body[-1].tag_ == "POS":
        body = body[:-1]
    if not body or body[0].pos_ in {"ADP", "SCONJ", "PART"}:
        return
    if any(token.tag_ in {"WDT", "WP", "WP$", "WRB"} for token in body):
        return
    if contiguous(body) and len(body) <= MAX_SPAN_TOKENS and head in body:
        yield head, tuple(answer_tokens(head, body))


def _is_number(token: Token) -> bool:
    """Whether the token is a number that stands for itself, not one of a date or before a percent sign."""
    if token.tag_ != "CD" or token.ent_type_ == "DATE" or (token.i + 1 < len(token.doc) and token.nbor().text == "%"):
        return False
    return token.dep_ in {"nummod", "pobj", "dobj", "attr", "conj", "appos"}
