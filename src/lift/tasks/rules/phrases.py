"""Phrases of a parsed sentence: which tokens belong to one, how it reads in a question, and its verbatim span."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lift.tasks.rules.lexicon import DISCOURSE_ADVERBS, MONTHS, words

if TYPE_CHECKING:
    from spacy.tokens import Token

# Names for pronouns: token index -> (what to say instead, index of the antecedent in the same sentence or None).
Names = Mapping[int, tuple[str, int | None]]

_CLAUSAL = frozenset({"relcl", "advcl", "parataxis", "ccomp", "csubj", "meta", "intj", "dep"})
_UNBOUND = words(
    """
    i me my mine myself you your yours we us our ours he him his she her hers it its they them their theirs this
    that these those itself himself herself themselves one ones another latter former
    """
)


@dataclass(frozen=True)
class Gap:
    """A run of tokens (by index, both ends included) to be replaced by `text` when a phrase is written out."""

    first: int
    last: int
    text: str = ""


_NUMERIC_LABELS = frozenset({"DATE", "CARDINAL", "ORDINAL", "TIME", "PERCENT", "QUANTITY", "MONEY"})


class UnboundPronounError(Exception):
    """A phrase holds a pronoun whose antecedent is unknown: no question can be asked with it."""


def after_comma(token: Token) -> bool:
    """Whether the subtree of `token` is set off by a comma, dash or bracket from what stands before it."""
    left = token.left_edge.i
    return left > 0 and token.doc[left - 1].text in {",", "–", "—", "-", "(", ";", ":"}


def tight_name(head: Token) -> Token | None:
    """The name that directly follows a common noun: "Ada Quill" in "the Polish engineer Ada Quill"."""
    for child in head.children:
        if child.dep_ == "appos" and child.pos_ == "PROPN" and head.pos_ == "NOUN" and child.left_edge.i == head.i + 1:
            return child
    return None


def _keep(child: Token, brief: bool) -> bool:
    if child.dep_ in _CLAUSAL:
        short = (
            child.dep_ in {"relcl", "ccomp"} and not after_comma(child) and child.right_edge.i - child.left_edge.i < 7
        )
        return short and not brief
    if child.dep_ == "appos":
        # "the Polish engineer Ada Quill" is one name.
        return tight_name(child.head) == child
    if child.dep_ == "advmod" and child.head.pos_ in {"NOUN", "PROPN"} and child.lower_ in DISCOURSE_ADVERBS:
        return False
    if child.dep_ in {"acl", "prep", "amod"} and child.i > child.head.i:
        if after_comma(child):
            return False
        length = child.right_edge.i - child.left_edge.i + 1
        if child.lower_ == "of" and child.head.pos_ in {"NUM", "PRON", "DET"}:
            return length <= 16
        if brief:
            return child.dep_ == "prep" and child.lower_ == "of" and length <= 6
        return length <= (4 if child.tag_ == "VBG" else 12)
    return True


def phrase_tokens(head: Token, brief: bool = False) -> tuple[Token, ...]:
    """The tokens of the phrase under `head`, without appositions, asides and long clauses.

    A `brief` phrase also lacks everything after the head but a short "of" and conjoined phrases.
    """
    tokens = [head]
    for child in head.children:
        if child.dep_ == "punct" or child.dep_ in {"cc", "preconj"}:
            continue
        if child.dep_ == "conj" and (child.pos_ in {"VERB", "AUX"} and head.pos_ not in {"VERB", "AUX"}):
            continue
        if _keep(child, brief):
            tokens.extend(phrase_tokens(child, brief))
    kept = {token.i for token in tokens}
    # Punctuation and conjunctions belong to the phrase where words of it stand on both sides.
    low, high = min(kept), max(kept)
    for token in head.doc[low : high + 1]:
        if token.i not in kept and token.dep_ in {"punct", "cc", "preconj", "case"} and head.is_ancestor(token):
            if token.dep_ == "punct" and token.text in {",", ";", "–", "—", ":"}:
                before, after = token.i - 1 in kept, token.i + 1 in kept or head.doc[token.i + 1].dep_ == "cc"
                if not (before and after):
                    continue
            tokens.append(token)
    return tuple(sorted(set(tokens), key=lambda token: token.i))


def list_members(first: Token, inside: Container[int] | None = None) -> list[Token]:
    """The heads of the list that begins with `first`, as far as their indices are `inside`; `first` alone is a list."""
    members = [first]
    while following := [
        child for child in members[-1].children if child.dep_ == "conj" and (inside is None or child.i in inside)
    ]:
        members.append(following[0])
    return members


def names_members(members: Sequence[Token]) -> bool:
    """Whether a "list" says what its first member consists of: "two ships, the Curlew and the Petrel"."""
    first, *others = members
    if len({member.pos_ for member in members if member.pos_ in {"NOUN", "PROPN"}}) > 1 and len(members) > 1:
        # "the secretary, Ada Quill, and her brother": the second may be the first
        return True
    return (
        first.tag_ == "NNS"
        and any(child.dep_ == "nummod" for child in first.children)
        and bool(others)
        and all(other.pos_ == "PROPN" for other in others)
    )


def item_tokens(member: Token, brief: bool = False) -> list[Token]:
    """The tokens of the phrase of a list's member, without the members after it."""
    later = {word.i for child in member.children if child.dep_ == "conj" for word in child.subtree}
    return [word for word in phrase_tokens(member, brief) if word.i not in later]


def trimmed(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """`tokens` without punctuation and conjunctions at the ends."""
    low, high = 0, len(tokens)
    while (
        low < high
        and (tokens[low].is_punct or tokens[low].is_space or tokens[low].dep_ == "cc")
        and tokens[low].text != "$"
    ):
        low += 1
    while high > low and (tokens[high - 1].is_punct or tokens[high - 1].is_space or tokens[high - 1].dep_ == "cc"):
        if tokens[high - 1].text in {"%", '"', "”"}:
            break
        high -= 1
    return tuple(tokens[low:high])


def contiguous(tokens: Sequence[Token]) -> bool:
    """Whether `tokens` are one run of the sentence."""
    return bool(tokens) and tokens[-1].i - tokens[0].i + 1 == len(tokens)


def lowered(token: Token) -> str:
    """The token as it reads in the middle of a sentence."""
    if token.i and not (token.i == 1 and token.doc[0].is_punct):
        return token.text
    if token.tag_ == "NNPS" and token.ent_type_ not in {"GPE", "LOC", "NORP", "PERSON"}:
        # "Groups of at least 12": the tagger takes many a plural at the beginning for a name
        return token.text[:1].lower() + token.text[1:]
    if token.pos_ == "PROPN" or (token.ent_type_ and token.pos_ != "DET" and token.ent_type_ not in _NUMERIC_LABELS):
        return token.text
    if token.text == "I" or (token.text.isupper() and len(token.text) > 1) or token.text[1:] != token.text[1:].lower():
        return token.text
    if (token.pos_ == "ADJ" and token.lemma_[:1].isupper()) or token.lower_ in MONTHS:
        return token.text
    return token.text[:1].lower() + token.text[1:]


def write(tokens: Iterable[Token], names: Names, gap: Gap | None = None, bound: frozenset[int] = frozenset()) -> str:
    """Write `tokens` out, pronouns replaced by names and the `gap` by its text.

    A pronoun whose antecedent is among the `bound` tokens stays: the question names it anyway.
    Raises UnboundPronounError where no name is known.
    """
    words: list[str] = []
    previous: Token | None = None
    for token in tokens:
        if previous is not None and previous.i + 2 == token.i and token.doc[previous.i + 1].text == ",":
            words.append(",")
        if previous is not None and (previous.whitespace_ or previous.i + 1 != token.i):
            words.append(" ")
        previous = token
        if gap is not None and gap.first <= token.i <= gap.last:
            if token.i == gap.first:
                words.append(gap.text)
            continue
        if token.i in names:
            name, antecedent = names[token.i]
            words.append(lowered(token) if antecedent is not None and antecedent in bound else name)
        elif token.lower_ in {"this", "these", "that", "those"} and token.dep_ == "det":
            words.append("the")
        elif (
            token.lower_ in _UNBOUND
            and token.pos_ in {"PRON", "DET"}
            and token.dep_ not in {"mark", "expl"}
            and token.tag_ not in {"WDT", "WP", "IN"}
        ):
            raise UnboundPronounError(token.text)
        else:
            words.append(lowered(token))
    return tidy("".join(words))


def tidy(text: str) -> str:
    """Normal white space, no stray quotation marks, brackets or commas."""
    for opening, closing in (("“", "”"), ("(", ")"), ("[", "]")):
        if text.count(opening) != text.count(closing):
            text = text.replace(opening, "").replace(closing, "")
    if text.count('"') % 2:
        text = text.replace('"', "")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,;:.?!%’”)])", r"\1", text)
    text = re.sub(r"(?:,\s*)+,", ",", text)
    return text.strip(" ,;:–—-")
