"""Examples of a kind: "drugs such as cyclosporin" -> an example of drugs, and what cyclosporin is an example of.

Kinds are noun phrases in the plural before "such as" or "including", or the subjects of "include".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lift.tasks.rules.phrases import (
    Names,
    UnboundPronounError,
    contiguous,
    item_tokens,
    list_members,
    phrase_tokens,
    trimmed,
    write,
)

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_ASIDE = re.compile(r"^(?:e\.g\.|such as|for example|for instance|including),? +(?P<examples>\w.*)$")
MAX_KIND_TOKENS = 6
# "Prices include breakfast": what is included is no example of a price.
_SUMS = frozenset({"price", "fee", "fare", "cost", "rent", "rate", "ticket", "charge", "sum", "amount", "package"})


def example_questions(doc: Doc, names: Names) -> Iterator[tuple[str, Token, Token, float]]:
    """(question, first and last token of the answer, weight) for each kind in the plural with its examples."""
    for token in doc:
        kind, examples = _kind(token), _examples(token)
        if kind is None or not examples:
            continue
        try:
            text = write(kind, names)
        except UnboundPronounError:
            continue
        first, last = examples[0][0], examples[-1][-1]
        if len(examples) == 1:
            yield f"what is an example of {text}", first, last, 0.8
        else:
            yield f"what are examples of {text}", first, last, 0.75
        for tokens in examples:
            try:
                named = write(tokens, names)
            except UnboundPronounError:
                continue
            verb = "are" if tokens[-1].tag_ in {"NNS", "NNPS"} else "is"
            yield f"what {verb} {named} an example of", kind[0], kind[-1], 0.6


def examples_aside(content: str) -> str | None:
    """The examples in a parenthesis that gives some, as written; None in any other."""
    match = _ASIDE.match(content)
    return match.group("examples") if match else None


def _kind(marker: Token) -> tuple[Token, ...] | None:
    """The noun phrase in the plural that `marker` gives examples of; None where it gives none."""
    before, head = marker.i, marker.head
    if marker.lower_ == "as" and marker.i and marker.nbor(-1).lower_ == "such":
        before -= 1
    elif marker.lemma_ == "include" and marker.tag_ in {"VBP", "VBD"}:
        head = next((child for child in marker.children if child.dep_ == "nsubj"), marker)
        if head.lemma_.lower() in _SUMS or any(child.dep_ == "neg" for child in marker.children):
            return None
    elif marker.lower_ != "including":
        return None
    if head.tag_ not in {"NNS", "NNPS"} or head.i >= before or any(child.dep_ == "nummod" for child in head.children):
        return None
    tokens = trimmed([token for token in phrase_tokens(head, brief=True) if token.i < before])
    own = [token for token in tokens if token.lower_ not in {"such", "other", "several", "some", "many", "various"}]
    return tuple(own) if own and contiguous(own) and len(own) <= MAX_KIND_TOKENS else None


def _examples(marker: Token) -> list[tuple[Token, ...]]:
    """The items listed behind `marker`, each as its tokens."""
    first = next((child for child in marker.children if child.dep_ in {"pobj", "dobj"}), None)
    found = []
    for member in list_members(first) if first is not None else ():
        tokens = trimmed(item_tokens(member, brief=True))
        if not tokens or not contiguous(tokens):
            return []
        found.append(tokens)
    return found
