"""Pronouns -> names, by the simplest rules that are right most of the time (recency, grammatical role, agreement).

A resolver walks through the document once, sentence by sentence. Where it finds no antecedent, it says nothing, and
no question is asked with that pronoun.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lift.tasks.rules.dependency_parse import ParsedSentence
from lift.tasks.rules.lexicon import PERSON_NOUNS
from lift.tasks.rules.phrases import Names, UnboundPronounError, item_tokens, phrase_tokens, trimmed, write

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


def possessive(name: str, plural: bool = False) -> str:
    """ "Ada" -> "Ada's", "the engineers" -> "the engineers'"."""
    return f"{name}'" if name.endswith("s") and (plural or name.split(maxsplit=1)[0].islower()) else f"{name}'s"


def plain_title(title: str) -> str:
    """The title without a disambiguating parenthesis."""
    return re.sub(r"\s*\([^)]*\)", "", title).strip()


def _is_plural(head: Token) -> bool:
    return head.tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in head.children)


def _owner_beside(pronoun: Token) -> Token | None:
    """The person in "Ada and her brother", the owner of what "her" stands before; None elsewhere."""
    relative = pronoun.head
    if pronoun.dep_ != "poss" or relative.dep_ != "conj" or relative.head.ent_type_ != "PERSON":
        return None
    return relative.head


def _own_subjects(pronoun: Token) -> set[int]:
    """The places of the subjects of the verb that has `pronoun` as its object: "it" is none of them."""
    if pronoun.dep_ not in {"dobj", "pobj", "dative"}:
        return set()
    verb = next((word for word in pronoun.ancestors if word.pos_ in {"VERB", "AUX"}), pronoun)
    return {child.i for child in verb.children if child.dep_ in _SUBJECTS}


def _without_conjuncts(head: Token) -> str:
    return write(trimmed(item_tokens(head, brief=True)), {})


def _gender_of(head: Token) -> str:
    """ "m" or "f" from the form of address before a name; "" where there is none."""
    titles = {child.lower_.rstrip(".") for child in head.lefts}
    if titles & {"mr", "sir", "lord", "father", "king", "brother", "saint"}:
        return "m"
    return "f" if titles & {"mrs", "ms", "miss", "lady", "queen", "sister", "mother"} else ""


def mention_kind(head: Token) -> str:
    """ "person", "plural" or "thing"."""
    if _is_plural(head):
        return "plural"
    if head.ent_type_ == "PERSON" or (head.pos_ in {"NOUN", "PROPN"} and head.lemma_.lower() in PERSON_NOUNS):
        return "person"
    return "thing"


@dataclass
class Resolver:
    """Keeps what has been mentioned; call `names` once for each sentence, in order."""

    title: str
    title_kind: str = "thing"
    title_gender: str = ""
    genders: dict[str, str] = field(default_factory=dict)
    person: Mention | None = None
    subject: Mention | None = None
    plural: Mention | None = None
    speaker: str | None = None
    paragraph: int = -1

    def names(self, sentence: ParsedSentence, paragraph: int) -> Names:
        """The referents of the pronouns of `sentence`."""
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
                    text = possessive(mention.text, mention.kind == "plural") if token.dep_ == "poss" else mention.text
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
        self._remember(here, self._last_plural(sentence, names))
        return names

    def _last_plural(self, sentence: ParsedSentence, names: Names) -> Mention | None:
        """The only plural object of the sentence, which a following "they" may mean where no subject is plural."""
        objects = [token for token in sentence.doc if token.dep_ == "dobj" and token.tag_ in {"NNS", "NNPS"}]
        return self._mention(objects[0], names) if len(objects) == 1 else None

    def _mention(self, head: Token, names: Names) -> Mention | None:
        alias = next((child for child in head.children if child.dep_ == "appos" and child.pos_ == "PROPN"), None)
        named = alias if alias is not None and head.pos_ == "NOUN" else head
        try:
            text = write(trimmed(phrase_tokens(named, brief=True)), names)
        except UnboundPronounError:
            return None
        if (
            not text
            or len(text.split()) > MAX_NAME_WORDS
            or text.split()[0].lower() in {"a", "an", "some", "many", "most", "no", "each", "every"}
        ):
            return None
        return Mention(
            re.sub(r"['’]s$", "", text), mention_kind(head), head.i, self.genders.get(head.text) or _gender_of(named)
        )

    def _antecedent(self, token: Token, here: list[Mention]) -> tuple[Mention, bool] | None:
        word = token.lower_
        if word in _MASCULINE or word in _FEMININE:
            gender = "m" if word in _MASCULINE else "f"
            owner = _owner_beside(token)
            if owner is not None and word not in {"him", "hers"}:
                return Mention(_without_conjuncts(owner), "person", owner.i, gender), True
            for mention in reversed(here):
                if mention.kind == "person" and mention.gender in {"", gender}:
                    self.genders[mention.text.split()[-1]] = gender
                    return Mention(mention.text, "person", mention.index, gender), True
            if self.person is not None and self.person.gender in {"", gender}:
                self.genders[self.person.text.split()[-1]] = gender
                return self.person, False
            if self.title_kind == "person" and self.title_gender in {"", gender}:
                return Mention(self.title, "person", -1, gender), False
            return None
        if word in _NEUTER:
            if not here and any(
                other.dep_ in {"dobj", "pobj"} and other.pos_ in {"NOUN", "PROPN"} for other in token.doc[: token.i]
            ):
                # "lift the kiln by its door": not what the sentence before was about
                return None
            own = _own_subjects(token)
            for mention in here:
                if mention.kind == "thing" and mention.index not in own:
                    if token.dep_ == "poss" and " of " in mention.text:
                        # the casing of the pump and its wheel: whose wheel?
                        return None
                    return mention, True
            if self.subject is not None and self.subject.kind == "thing":
                return self.subject, False
            if self.title_kind == "thing" and self.title and self.subject is None and token.dep_ in _SUBJECTS:
                return Mention(self.title, "thing", -1), False
            return None
        if word in _PLURAL:
            for mention in here:
                if mention.kind == "plural":
                    return mention, True
            if self.plural is not None:
                return self.plural, False
            if self.title_kind == "plural":
                return Mention(
                    self.title if self.title.startswith("the ") else f"the {self.title}", "plural", -1
                ), False
            return None
        if word in _FIRST and self.speaker:
            return Mention(self.speaker, "person", -1), False
        return None

    def _remember(self, here: list[Mention], last_plural: Mention | None) -> None:
        for mention in here:
            if mention.kind == "person":
                self.person = mention
        if here:
            self.subject = here[0]
            plural = [mention for mention in here if mention.kind == "plural"]
            self.plural = plural[0] if plural else last_plural
        else:
            self.subject, self.plural = None, last_plural


class TitleReference:
    """Facts about a document's title, read from its sentences one by one: what it is, and which pronouns fit it."""

    def __init__(self, title: str) -> None:
        self._name = plain_title(title)
        self._last = self._name.split()[-1] if self._name.split() else ""
        self._sentences = self._masculine = self._feminine = 0
        self._heads = self._persons = self._plurals = 0

    def see(self, sentence: ParsedSentence) -> None:
        """Count one sentence."""
        self._sentences += 1
        for token in sentence.doc:
            self._masculine += token.lower_ in _MASCULINE
            self._feminine += token.lower_ in _FEMININE
            if self._last and token.text == self._last:
                self._heads += 1
                self._persons += token.ent_type_ == "PERSON"
                self._plurals += token.tag_ in {"NNS", "NNPS"}

    @property
    def gender(self) -> str:
        """ "m" or "f", from which pronouns prevail in a text about a person; "" where neither does."""
        if self._masculine == self._feminine:
            return ""
        return "m" if self._masculine > self._feminine else "f"

    @property
    def kind(self) -> str:
        """Whether the document is about a person, a plural ("Normans") or a thing, from how its text names the title.

        "unnamed" where the text never does: no pronoun stands for the title then.
        """
        pronouns = self._masculine + self._feminine
        if not self._heads:
            return "unnamed"
        if self._persons * 2 > self._heads and pronouns >= 2:
            return "person"
        if 1 < len(self._name.split()) <= 4 and self._name.istitle() and pronouns * 3 > self._sentences:
            return "person"
        return "plural" if self._plurals * 2 > self._heads else "thing"
