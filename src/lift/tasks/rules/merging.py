"""Words that belong together become one token of the parse: no answer may be cut out of the middle of them.

Compounds with hyphens ("sister-in-law", "Baden-Württemberg"), names of firms ("Smith & Sons", "Marks and Spencer"),
numbers with their bounds ("at least two") and spans of time ("from 9:15 to 14:45 Tuesday to Friday").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lift.tasks.rules.lexicon import MONTHS, WEEKDAYS

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

_HYPHENATED = re.compile(r"[^\W_]+(?:[-‑][^\W_]+)+")
_FIRM = re.compile(r"[A-Z][\w'’.-]*(?: [A-Z][\w'’.-]*)* (?:&|und|et) [A-Z][\w'’-]*")
_PARTNERS = re.compile(
    r"[A-Z][\w'’-]+(?:, [A-Z][\w'’-]+)* and (?:Partners|Sons|Daughters|Brothers|Sisters|Company|Co\.|Associates)(?!\w)"
)
_PAIR = re.compile(r"(?<![\w'’-])[A-Z][\w'’-]+ and [A-Z][\w'’-]+(?! (?:&|[A-Z]))(?=[^\w-]|$)")
_BOUND = re.compile(
    r"\b(?:(?:at (?:least|most)|(?:no )?(?:more|less|fewer|later|earlier) than|up to) )+"
    r"(?=[$€£]?\d|(?:a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twice)\b)"
    r"(?:[$€£]?\d[\d.,:]*\d|\d|\w+)",
    re.IGNORECASE,
)
# The parser hangs them on the noun before: "a concert for the Lender free of charge".
_ADVERB = re.compile(r"\b(?:free of charge|at present|at all times)\b")
_DAY = rf"(?:{'|'.join(sorted(day.title() for day in WEEKDAYS))})s?"
_MONTH = rf"(?:\d{{1,2}} )?(?:{'|'.join(sorted(month.title() for month in MONTHS))})(?: \d{{1,2}}(?!\d))?"
_CLOCK = r"(?:\d{1,2}[:.]\d{2}(?: ?[ap]\.?m\b\.?)?|\d{1,2} ?[ap]\.?m\b\.?|noon|midnight)"
_DAYS = rf"(?:,? (?:(?:from|on|every) )?{_DAY}(?: (?:to|and|until|or) {_DAY})?|,? (?:daily|every day|on weekdays))"
_HOURS = rf"(?:from|between) {_CLOCK} (?:to|until|till|and) {_CLOCK}{_DAYS}?"
_SPAN_OF_TIME = re.compile(
    rf"\b(?:{_HOURS}(?:,? and (?:{_HOURS}))*|from {_DAY} to {_DAY}|(?:on |every )?{_DAY} (?:and|or|to) {_DAY}|"
    rf"(?:from|between) (?:the (?:beginning|middle|end) of )?{_MONTH} (?:to|until|till|and) "
    rf"(?:the (?:beginning|middle|end) of )?{_MONTH})"
)
_TIMES = frozenset({"DATE", "TIME"})
_PLACES = frozenset({"GPE", "LOC", "NORP", "LANGUAGE", "FAC", "EVENT"})
_VERBS = frozenset({"VERB", "AUX"})


def merge_tokens(doc: Doc) -> Doc:
    """`doc` with what belongs together as single tokens; its text and the places of its characters stay."""
    text = doc.text
    taken: set[int] = set()
    merged: list[tuple[Span, dict[str | int, Any]]] = []
    times: list[int] = []
    bounds: list[int] = []
    for kind, span in _spans(doc, text):
        if len(span) < 2 or taken & set(range(span.start, span.end)):
            continue
        taken.update(range(span.start, span.end))
        merged.append((span, _attributes(kind, span)))
        if kind in {"time", "adverb"}:
            times.append(span.start_char)
        elif kind == "bound" and span.root.i != span.end - 1:
            bounds.append(span.start_char)
    if not merged:
        return doc
    with doc.retokenize() as retokenizer:
        for span, attributes in merged:
            retokenizer.merge(span, attrs=attributes)
    for token in doc:
        if token.idx in times:
            _hang_on_verb(token)
        elif token.idx in bounds:
            _hang_on_noun(token)
    return doc


def _spans(doc: Doc, text: str) -> Iterator[tuple[str, Span]]:
    """(kind, tokens) of everything to be merged; the first of two that overlap is meant."""
    if ":" in text or any(word in text for word in ("day", "from ", "between ")):
        for match in _SPAN_OF_TIME.finditer(text):
            span = doc.char_span(*match.span())
            if span is not None:
                yield "time", span
    if "&" in text or " und " in text or " et " in text:
        for match in _FIRM.finditer(text):
            span = doc.char_span(*match.span())
            if span is not None:
                yield "firm", span
    if " and " in text:
        for match in _PARTNERS.finditer(text):
            span = doc.char_span(*match.span())
            if span is not None:
                yield "firm", span
        for match in _PAIR.finditer(text):
            span = doc.char_span(*match.span())
            if span is not None and _is_pair_of_names(span):
                yield "pair", span
    for match in _ADVERB.finditer(text):
        span = doc.char_span(*match.span())
        if span is not None:
            yield "adverb", span
    for match in _BOUND.finditer(text):
        span = doc.char_span(*match.span())
        if span is not None and span.root.pos_ not in _VERBS:
            yield "bound", span
    if "-" in text or "‑" in text:
        for match in _HYPHENATED.finditer(text):
            span = doc.char_span(*match.span())
            if span is not None:
                yield "hyphen", span


def _is_pair_of_names(span: Span) -> bool:
    """Whether "Marks and Spencer" may be one name: two single names, neither of a place nor of a time."""
    if len(span) != 3:
        return False
    first, last = span[0], span[-1]
    if any(name.pos_ != "PROPN" for name in (first, last)) or last.head.i != first.i:
        return False
    labels = {first.ent_type_, last.ent_type_}
    if labels & _TIMES or labels <= _PLACES:
        return False
    return not any(child.i < first.i and child.dep_ in {"compound", "det", "amod", "nmod"} for child in first.children)


def _attributes(kind: str, span: Span) -> dict[str | int, Any]:
    root: Token = span.root
    if kind == "time":
        return {"TAG": "NN", "POS": "NOUN", "DEP": "npadvmod", "ENT_TYPE": "TIME", "LEMMA": span.text.lower()}
    if kind == "adverb":
        return {"TAG": "RB", "POS": "ADV", "DEP": "advmod", "LEMMA": span.text.lower()}
    if kind == "bound":
        return {"TAG": "CD", "POS": "NUM", "DEP": span[-1].dep_, "LEMMA": span.text.lower()}
    if kind == "firm":
        return {"TAG": "NNP", "POS": "PROPN", "DEP": _outer(span, span[0]), "ENT_TYPE": "ORG", "LEMMA": span.text}
    if kind == "pair":
        return {"TAG": "NNP", "POS": "PROPN", "LEMMA": span.text}
    if root.pos_ in {"NOUN", "PROPN"}:
        return {"LEMMA": root.lemma_}
    before = span.text[: root.idx - span.start_char]
    return {"LEMMA": f"{before}{root.lemma_}" if root.i == span.end - 1 else span.text.lower()}


def _outer(span: Span, word: Token) -> str:
    """The role of the merged words: that of the word in them which hangs on a word outside of them."""
    outer = [token for token in span if token.head.i < span.start or token.head.i >= span.end or token.head == token]
    if word in outer:
        return word.dep_
    return outer[-1].dep_ if outer else word.dep_


def _hang_on_verb(token: Token) -> None:
    """A span of time says when something is done: it belongs to the verb above it."""
    above = token.head
    while above.pos_ not in _VERBS and above.head.i != above.i:
        above = above.head
    if above.i != token.i and above.pos_ in _VERBS and not token.is_ancestor(above):
        token.head = above


def _hang_on_noun(token: Token) -> None:
    """ "at most 2.5 percent": the parser took "at" for a preposition; the number belongs to the noun behind it."""
    if token.i + 1 >= len(token.doc):
        return
    noun, above, before = token.nbor(), token.head, token.doc[token.i - 1] if token.i else None
    if noun.head.i != token.i or above.i == token.i:
        return
    governed = before is not None and before.pos_ == "ADP" and not list(before.rights)
    noun.head = before if governed and before is not None else above
    noun.dep_ = "pobj" if governed else "dobj"
    token.head, token.dep_ = noun, "nummod"
