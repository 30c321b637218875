"""The frame that a statement holds in: conditions ("if the pump runs dry"), and who says so ("according to Ada").

A question about the statement begins with its frame. What is only supposed is not asked about at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lift.tasks.rules.lexicon import words
from lift.tasks.rules.phrases import Names, UnboundPronounError, phrase_tokens, trimmed, write

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_CONDITION_TOKENS = 18
MAX_SPEAKER_TOKENS = 8
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_CONDITIONS = frozenset({"if", "unless", "provided", "providing", "whenever", "lest", "whether"})
# In a rule of the present tense these say under which condition it holds; in a story, when something happened.
_TIMES = frozenset({"when", "while", "until", "once", "before", "after", "where", "wherever"})
_PAST_MODALS = frozenset({"would", "could", "might", "should", "ought"})
_MODALS = frozenset({"must", "may", "can", "shall", "should", "will", "ca", "wo"})
_SPEECH = words(
    """
    say state claim argue believe think suggest report allege assert insist maintain predict propose estimate hope
    expect fear promise explain warn feel contend conclude assume write tell declare suspect speculate imagine
    complain swear deny doubt pretend wish suppose assert
    """
)
_UNREAL = frozenset({"deny", "doubt", "pretend", "wish", "imagine", "suppose", "refuse", "reject", "dispute"})
_NEGATIVE = words(
    """
    not n't n’t never no neither nor nobody none nothing nowhere hardly barely scarcely seldom rarely without cannot
    except unless
    """
)
_AS_LONG = frozenset({"long", "soon", "far"})
_WORD = re.compile(r"[\w’']+")


@dataclass(frozen=True)
class Frame:
    """The runs of tokens that a question about a statement must begin with: its `speaker` and its `conditions`."""

    conditions: tuple[tuple[Token, ...], ...] = ()
    speaker: tuple[Token, ...] = ()

    def text(self, names: Names) -> str:
        """ "according to Ada, if the pump runs dry, ", or "". Raises UnboundPronounError."""
        for token in (word for condition in self.conditions for word in condition):
            if token.i in names and names[token.i][1] is None and token.dep_ not in _SUBJECTS:
                # "unless the owner asks for it, the coat is given away": the pronoun may look ahead
                raise UnboundPronounError(token.text)
        parts = [f"according to {write(self.speaker, names)}"] if self.speaker else []
        parts += [write(tokens, names) for tokens in self.conditions]
        return "".join(f"{part}, " for part in parts)

    def holds(self, token: Token) -> bool:
        """Whether `token` is part of one of the conditions."""
        return any(token in condition for condition in self.conditions)


def frame_of(verb: Token) -> Frame | None:
    """The frame of the statement with this `verb`; None where it is only supposed, or nobody is named who says it."""
    if _is_counterfactual(verb):
        return None
    conditions: list[tuple[Token, ...]] = []
    speaker: tuple[Token, ...] = ()
    step, linked = verb, True
    while True:
        if _is_condition(step):
            return None
        if linked:
            for child in step.children:
                fronted = child.i < step.i
                if child.dep_ in {"advcl", "ccomp"} and (fronted or step == verb) and _is_condition(child):
                    condition = _condition_tokens(child)
                    if condition is None:
                        return None
                    conditions.append(condition)
                elif child.lower_ in _AS_LONG and child.dep_ == "advmod" and (fronted or step == verb):
                    inner = next((word for word in child.children if word.dep_ == "advcl"), None)
                    if inner is not None:
                        condition = _condition_tokens(inner)
                        if condition is None:
                            return None
                        conditions.append(condition)
        above = step.head
        if step.dep_ in {"ccomp", "parataxis"} and above.lemma_.lower() in _SPEECH:
            if above.lemma_.lower() in _UNREAL or any(child.dep_ == "neg" for child in above.children):
                return None
            said = next((child for child in above.children if child.dep_ == "nsubj"), None)
            if said is None or speaker:
                return None
            if said.lower_ in {"this", "that", "it", "these"}:
                # "this suggests that": the text itself says so
                step, linked = above, False
                continue
            speaker = trimmed([token for token in phrase_tokens(said, brief=True)])
        if above.i == step.i:
            break
        linked = linked and step.dep_ in {"ccomp", "conj", "parataxis"}
        step = above
    named = _according_to(verb.doc)
    if named and not speaker:
        speaker = named
    if len(speaker) > MAX_SPEAKER_TOKENS:
        return None
    return Frame(tuple(conditions), speaker)


def _is_counterfactual(verb: Token) -> bool:
    helpers = [child.lower_ for child in verb.children if child.dep_ in {"aux", "auxpass"}]
    return "have" in helpers and bool(_PAST_MODALS & set(helpers))


def _is_condition(verb: Token) -> bool:
    """Whether the clause of `verb` only says under which condition the clause above it holds."""
    if verb.dep_ not in {"advcl", "ccomp"}:
        return False
    first = verb.left_edge
    if verb.dep_ == "advcl":
        for child in verb.children:
            if child.i > verb.i or child.dep_ not in {"mark", "advmod"}:
                continue
            if child.lower_ in _CONDITIONS:
                return True
            if child.lower_ == "as" and child.i and child.nbor(-1).lower_ in _AS_LONG:
                return True
            if child.lower_ in _TIMES and is_rule(verb.head):
                return True
    # "Should the client ask for more, ...", "Had the parties wished, ..."
    return (
        first.lower_ in {"should", "had", "were"}
        and first.dep_ in {"aux", "auxpass", "advcl", "ccomp"}
        and first.i < verb.head.i
        and any(child.dep_ in _SUBJECTS and child.i > first.i for child in verb.children)
    )


def is_rule(verb: Token) -> bool:
    """Whether a clause says what always holds or what must be done."""
    helpers = {child.lower_ for child in verb.children if child.dep_ in {"aux", "auxpass"}}
    if helpers & {"was", "were", "had", "did", "has", "have"}:
        return False
    return bool(helpers & (_MODALS | {"is", "are", "do", "does"})) or verb.tag_ in {"VBZ", "VBP"}


def is_modal(verb: Token) -> bool:
    """Whether a clause says what may, must or would be, not what is."""
    return any(
        child.lower_ in _MODALS | _PAST_MODALS and child.dep_ in {"aux", "auxpass"} and child.i < verb.i
        for child in verb.children
    )


def _condition_tokens(verb: Token) -> tuple[Token, ...] | None:
    """The whole clause of a condition; None where it is too long for a question."""
    first, last = verb.left_edge.i, verb.right_edge.i
    while first and verb.doc[first - 1].lower_ in {*_AS_LONG, "as", "only"}:
        first -= 1
    tokens = trimmed(list(verb.doc[first : last + 1]))
    return tokens if tokens and len(tokens) <= MAX_CONDITION_TOKENS else None


def _according_to(doc: Doc) -> tuple[Token, ...]:
    """Who is named after "according to", if anybody."""
    for token in doc[:-2]:
        if token.lower_ == "according" and token.nbor().lower_ == "to":
            said = next((word for word in doc[token.i + 1].children if word.dep_ == "pobj"), None)
            return trimmed(phrase_tokens(said, brief=True)) if said is not None else ()
    return ()


def negative_words(verb: Token, subject: Sequence[Token] = ()) -> Counter[str]:
    """The words of denial in the clause of `verb`, without those of its subordinate and conjoined clauses."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    stack = [verb, *subject]
    while stack:
        token = stack.pop()
        if token.i in seen:
            continue
        seen.add(token.i)
        if token.lower_ in _NEGATIVE:
            found["not" if token.lower_ in {"n't", "n’t", "cannot"} else token.lower_] += 1
        for child in token.children:
            if child.dep_ in {"advcl", "appos", "parataxis", "ccomp"}:
                continue
            if child.dep_ == "conj" and child.pos_ in {"VERB", "AUX"} and child.i > verb.i:
                continue
            if child.dep_ == "relcl" and child.left_edge.i and child.left_edge.nbor(-1).text == ",":
                continue
            stack.append(child)
    return found


def keeps_negation(required: Counter[str], question: str, answer: str) -> bool:
    """Whether every word of denial stands in the question or in the answer."""
    if not required:
        return True
    there = Counter(_WORD.findall(f"{question} {answer}".lower().replace("cannot", "can not")))
    for word in list(there):
        if word.endswith(("n't", "n’t")):
            there["not"] += there[word]
    return all(there[word] >= count for word, count in required.items())
