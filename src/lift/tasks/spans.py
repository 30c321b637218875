"""Answer spans: every stretch of a sentence that somebody may want as a short answer, without regard to any question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lift.tasks.interrogatives import answer_tokens
from lift.tasks.phrases import contiguous, phrase_tokens, trimmed

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_SPAN_TOKENS = 9
_APPROXIMATE = frozenset("about around approximately roughly nearly almost over under some more less than up to at least early late mid".split())


def answer_spans(doc: Doc) -> Iterator[tuple[Token, tuple[Token, ...]]]:
    """(head, tokens) of entities, numbers, noun phrases, list members and adjectives; a span may come more than once."""
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
            yield from _checked(token, [word for word in phrase_tokens(token, brief=True) if word.i <= token.i])
            whole = phrase_tokens(token)
            yield from _checked(token, whole)
            if any(child.dep_ == "conj" for child in token.children):
                later = {word.i for child in token.children if child.dep_ == "conj" for word in child.subtree}
                yield from _checked(token, [word for word in phrase_tokens(token, brief=True) if word.i not in later])
        elif token.tag_ == "CD" and token.dep_ in {"nummod", "pobj", "dobj", "attr", "conj", "appos"} or token.text == "%":
            yield from _checked(token, [word for word in token.subtree if word.i <= token.i and word.pos_ in {"NUM", "SYM", "ADV", "ADP", "ADJ"}])
        elif token.pos_ == "ADJ" and token.dep_ in {"amod", "acomp"}:
            yield from _checked(token, [word for word in token.lefts if word.dep_ == "advmod" and word.i == token.i - 1] + [token])


def _checked(head: Token, tokens: Sequence[Token]) -> Iterator[tuple[Token, tuple[Token, ...]]]:
    body = tuple(trimmed(tokens))
    if body and contiguous(body) and len(body) <= MAX_SPAN_TOKENS and head in body:
        yield head, tuple(answer_tokens(head, body))
