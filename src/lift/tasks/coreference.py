"""Pronouns -> names, by the simplest rules that are right most of the time (recency, grammatical role, agreement).

A resolver walks through the document once, sentence by sentence. Where it finds no antecedent, it says nothing, and
no question is asked with that pronoun.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lift.tasks.lexicon import PERSON_NOUNS
from lift.tasks.parse import ParsedSentence
from lift.tasks.phrases import Names, UnboundPronounError, phrase_tokens, trimmed, write

if TYPE_CHECKING:
    from spacy.tokens import Token

_MASCULINE = frozenset({"he", "him", "his"})
_FEMININE = frozenset({"she", "her", "hers"})
_NEUTER = frozenset({"it", "its"})
_PLURAL = frozenset({"they", "them", "their", "theirs"})
_FIRST = frozenset({"i", "me", "my"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
MAX_NAME_WORDS = 7


@dataclass(frozen=True)
class Mention:
    """Something that a later pronoun may mean; `index` is its head in its own sentence."""

    text: str
    kind: str
    index: int
    gender: str = ""


def possessive(name: str) -> str:
    """"Ada" -> "Ada's", "the engineers" -> "the engineers'"."""
    return f"{name}'" if name.endswith("s") and name.split()[0].islower() else f"{name}'s"


def plain_title(title: str) -> str:
    """The title without a disambiguating parenthesis."""
    return re.sub(r"\s*\([^)]*\)", "", title).strip()


def _is_plural(head: Token) -> bool:
    return head.tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in head.children)


def mention_kind(head: Token) -> str:
    """"person", "plural" or "thing"."""
    if _is_plural(head):
        return "plural"
    if head.ent_type_ == "PERSON" or (head.pos_ == "NOUN" and head.lemma_.lower() in PERSON_NOUNS):
        return "person"
    return "thing"


@dataclass
class Resolver:
    """Keeps what has been mentioned; call `names` once for each sentence, in order."""

    title: str
    title_kind: str = "thing"
    genders: dict[str, str] = field(default_factory=dict)
    person: Mention | None = None
    subject: Mention | None = None
    plural: Mention | None = None
    speaker: str | None = None
    paragraph: int = -1

    def names(self, sentence: ParsedSentence, paragraph: int) -> Names:
        """What the pronouns of `sentence` stand for."""
        if paragraph != self.paragraph:
            self.paragraph = paragraph
            self.subject = self.plural = None
            if self.title_kind == "person":
                self.person = None
            self.speaker = None
        self.speaker = sentence.speaker or self.speaker
        names: dict[int, tuple[str, int | None]] = {}
        here: list[Mention] = []
        for token in sentence.doc:
            if token.pos_ == "PRON" and token.dep_ != "expl":
                found = self._antecedent(token, here)
                if found is not None:
                    mention, local = found
                    text = possessive(mention.text) if token.dep_ == "poss" else mention.text
                    names[token.i] = (text, mention.index if local else None)
                    if token.dep_ in _SUBJECTS:
                        here.append(Mention(mention.text, mention.kind, token.i, mention.gender))
            elif token.dep_ in _SUBJECTS and token.pos_ in {"NOUN", "PROPN"}:
                mentioned = self._mention(token, names)
                if mentioned is not None:
                    here.append(mentioned)
            elif token.ent_type_ == "PERSON" and token.dep_ in {"dobj", "pobj", "appos", "poss", "conj"}:
                mentioned = self._mention(token, names)
                if mentioned is not None and self.person is None and not any(m.kind == "person" for m in here):
                    self.person = mentioned
        self._remember(here)
        return names

    def _mention(self, head: Token, names: Names) -> Mention | None:
        try:
            text = write(trimmed(phrase_tokens(head, brief=True)), names)
        except UnboundPronounError:
            return None
        if not text or len(text.split()) > MAX_NAME_WORDS or text.split()[0].lower() in {"a", "an", "some", "many", "most", "no", "each", "every"}:
            return None
        return Mention(re.sub(r"['’]s$", "", text), mention_kind(head), head.i, self.genders.get(head.text, ""))

    def _antecedent(self, token: Token, here: list[Mention]) -> tuple[Mention, bool] | None:
        word = token.lower_
        if word in _MASCULINE or word in _FEMININE:
            gender = "m" if word in _MASCULINE else "f"
            for mention in reversed(here):
                if mention.kind == "person" and mention.gender in {"", gender}:
                    self.genders[mention.text.split()[-1]] = gender
                    return Mention(mention.text, "person", mention.index, gender), True
            if self.person is not None and self.person.gender in {"", gender}:
                self.genders[self.person.text.split()[-1]] = gender
                return self.person, False
            if self.title_kind == "person":
                return Mention(self.title, "person", -1, gender), False
            return None
        if word in _NEUTER:
            for mention in here:
                if mention.kind == "thing":
                    return mention, True
            if self.subject is not None and self.subject.kind == "thing":
                return self.subject, False
            if self.title_kind == "thing" and self.title and self.subject is None and token.dep_ in {*_SUBJECTS, "poss"}:
                return Mention(self.title, "thing", -1), False
            return None
        if word in _PLURAL:
            for mention in here:
                if mention.kind == "plural":
                    return mention, True
            return (self.plural, False) if self.plural is not None else None
        if word in _FIRST and self.speaker:
            return Mention(self.speaker, "person", -1), False
        return None

    def _remember(self, here: list[Mention]) -> None:
        for mention in here:
            if mention.kind == "person":
                self.person = mention
        if here:
            self.subject = here[0]
            plural = [mention for mention in here if mention.kind == "plural"]
            self.plural = plural[0] if plural else None
        else:
            self.subject = self.plural = None


def title_kind(title: str, sentences: list[ParsedSentence]) -> str:
    """Whether the document is about a person, a plural ("Normans") or a thing, from how its text names the title."""
    name = plain_title(title)
    last = name.split()[-1] if name.split() else ""
    heads = [token for sentence in sentences for token in sentence.doc if last and token.text == last]
    persons = sum(token.ent_type_ == "PERSON" for token in heads)
    pronouns = sum(token.lower_ in _MASCULINE | _FEMININE for sentence in sentences for token in sentence.doc)
    if heads and persons * 2 > len(heads) and pronouns >= 2:
        return "person"
    if heads and sum(token.tag_ in {"NNS", "NNPS"} for token in heads) * 2 > len(heads):
        return "plural"
    return "thing"
