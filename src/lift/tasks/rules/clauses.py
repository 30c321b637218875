"""Dependency tree -> clauses: who does what, each with its own subject, auxiliaries and constituents.

Relative clauses, participles, appositions and conjoined verbs become clauses of their own, so that the question rules
see only simple statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lift.tasks.rules.frames import is_modal, is_rule
from lift.tasks.rules.lexicon import (
    DIRECTION_ADVERBS,
    DISCOURSE_ADVERBS,
    DISCOURSE_PHRASES,
    DURATION_UNITS,
    FIXED_OBJECTS,
    FIXED_PHRASES,
    LENGTH_UNITS,
    MEANING_ADVERBS,
    MEANS_NOUNS,
    PERSON_NOUNS,
    TIME_PREPOSITIONS,
)
from lift.tasks.rules.phrases import after_comma, phrase_tokens, trimmed

if TYPE_CHECKING:
    from spacy.tokens import Token

_FINITE = frozenset({"VBD", "VBZ", "VBP"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_DENIALS = frozenset(["deny", "doubt", "refuse", "reject", "dispute", "pretend"])
_HYPOTHETICAL = frozenset({"if", "unless", "whether", "lest", "though", "than"})
_ASIDE_PREPOSITIONS = frozenset({"according", "given", "including", "such", "e.g.", "i.e.", "like", "unlike", "than"})
_ORDER_MARKS = frozenset({"do", "not", "n't", "n’t", "never", "always", "please", "then", ",", "-"})
_OBJECT_ROLES = {"dobj": "object", "attr": "attribute", "oprd": "attribute", "acomp": "adjective", "dative": "dative"}


@dataclass(frozen=True)
class Constituent:
    """One part of a clause beside subject and verb; `head` is its top token (the preposition of a "preposition")."""

    role: str
    head: Token
    tokens: tuple[Token, ...]

    @property
    def core(self) -> bool:
        """Whether the clause is incomplete without it."""
        return self.role in {"object", "attribute", "adjective", "verb_phrase", "clause", "dative", "particle"}


@dataclass(frozen=True)
class Clause:
    """A simple statement. `auxiliaries` are lower-case words before the `verb`; for a bare copula they are empty.

    `anchor` is the verb's token, or the apposition's head for a clause made from an apposition. An order ("order" as
    its `origin`) has no subject.
    """

    anchor: Token
    subject: tuple[Token, ...]
    subject_head: Token
    auxiliaries: tuple[str, ...]
    negated: bool
    verb: str
    lemma: str
    tag: str
    constituents: tuple[Constituent, ...]
    adverbs: tuple[Token, ...] = ()
    main: bool = True
    existential: bool = False
    origin: str = "clause"
    fronted: frozenset[int] = field(default=frozenset())
    negation: str = "not"

    @property
    def passive(self) -> bool:
        """Whether the verb is a passive participle."""
        return self.tag == "VBN" and any(
            word in {"was", "were", "is", "are", "been", "be", "being"} for word in self.auxiliaries
        )


def _auxiliaries(verb: Token) -> list[Token]:
    return [child for child in verb.children if child.dep_ in {"aux", "auxpass"} and child.i < verb.i]


def _subject(verb: Token) -> Token | None:
    for child in verb.children:
        if child.dep_ in _SUBJECTS:
            return child
    return None


def _past(token: Token) -> bool:
    """Whether the sentence around `token` is told in the past."""
    root = token.sent.root if token.doc.has_annotation("SENT_START") else token
    return root.tag_ == "VBD" or any(child.tag_ == "VBD" for child in root.children if child.dep_ in {"aux", "auxpass"})


def _trailing_time(head: Token) -> Token | None:
    """A time or place phrase at the end of a noun phrase, which the parser should have hung on the verb."""
    for child in head.children:
        if (
            child.dep_ == "prep"
            and child.lower_ in TIME_PREPOSITIONS | {"in"}
            and child.lower_ != "of"
            and child.i > head.i
        ):
            objects = [grandchild for grandchild in child.children if grandchild.dep_ == "pobj"]
            if objects and (
                objects[0].ent_type_ in {"DATE", "TIME"}
                or (child.lower_ in {"in", "at"} and objects[0].ent_type_ == "GPE")
            ):
                return child
    return None


def _without(tokens: tuple[Token, ...], removed: Token) -> tuple[Token, ...]:
    gone = {token.i for token in removed.subtree}
    return trimmed([token for token in tokens if token.i not in gone])


def _constituents(verb: Token, skip: frozenset[int]) -> Iterator[Constituent]:
    for child in verb.children:
        if child.i in skip:
            continue
        if child.dep_ in _OBJECT_ROLES:
            if child.tag_ in {"WDT", "WP", "WRB"}:
                continue
            role = _OBJECT_ROLES[child.dep_]
            if child.pos_ == "ADV":
                role = "adverb"
            if role == "dative" and child.pos_ == "ADP":
                role = "preposition"
            tokens = trimmed(phrase_tokens(child))
            late = _trailing_time(child) if role in {"object", "attribute"} else None
            if late is not None:
                tokens = _without(tokens, late)
            if role == "attribute" and child.pos_ == "ADJ" and verb.tag_ == "VBN":
                role = "particle"
            if role == "object" and (verb.lemma_.lower(), child.lower_) in FIXED_OBJECTS:
                role = "particle"
            if tokens:
                yield Constituent(role, child, tokens)
            if late is not None:
                yield Constituent("preposition", late, trimmed(phrase_tokens(late)))
        elif child.dep_ in {"prep", "agent"}:
            if (
                child.lower_ in _ASIDE_PREPOSITIONS
                or any(left.lower_ == "instead" for left in child.lefts)
                or " ".join(token.lower_ for token in child.subtree) in DISCOURSE_PHRASES
            ):
                continue
            if child.lower_ == "due" and not any(word.lower_ in {"to", "of"} for word in child.children):
                # "falls due on the third day"
                yield Constituent("particle", child, (child,))
                yield from _constituents(child, skip)
                continue
            if child.lower_ in {"before", "after"} and any(left.dep_ == "npadvmod" for left in child.lefts):
                # "60 years after the death"
                yield Constituent("preposition", child, trimmed(phrase_tokens(child)))
                continue
            # "mainly by", "as early as": the preposition comes first in a question.
            tokens = trimmed([token for token in phrase_tokens(child) if token.i >= child.i])
            if " ".join(token.lower_ for token in tokens) in FIXED_PHRASES:
                yield Constituent("particle", child, tokens)
            elif len(tokens) == 1 and child.i == verb.i + 1:
                # "was paid for by the fund"
                yield Constituent("particle", child, tokens)
            elif len(tokens) > 1:
                yield Constituent("agent" if _names_agent(child) else "preposition", child, tokens)
        elif child.dep_ == "prt":
            yield Constituent("particle", child, (child,))
        elif child.dep_ == "npadvmod":
            tokens = trimmed(phrase_tokens(child))
            # "up to six a day" says how many, not when
            rate = len(tokens) == 2 and tokens[0].lower_ in {"a", "an", "per"}
            yield Constituent("particle" if rate else "time", child, tokens)
        elif child.dep_ == "advmod":
            if child.tag_ == "WRB" or child.i < verb.i:
                continue
            if child.lower_ in DIRECTION_ADVERBS:
                yield Constituent("particle", child, (child,))
            elif child.lower_ not in DISCOURSE_ADVERBS or child.lower_ in {"there", "here"}:
                yield Constituent("adverb", child, trimmed(phrase_tokens(child)))
        elif child.dep_ == "xcomp":
            yield Constituent("verb_phrase", child, trimmed(phrase_tokens(child)))
        elif child.dep_ == "ccomp" and child.i > verb.i:
            yield Constituent("clause", child, trimmed(phrase_tokens(child)))
        elif child.dep_ in {"advcl", "pcomp"}:
            yield Constituent("adverbial", child, trimmed(phrase_tokens(child)))


def _clause(
    verb: Token,
    subject: tuple[Token, ...],
    subject_head: Token,
    auxiliaries: tuple[str, ...],
    tag: str,
    origin: str,
    extra: tuple[Constituent, ...] = (),
    skip: frozenset[int] = frozenset(),
) -> Clause:
    # a stray hyphen can be parsed as a clause of its own, of which nothing is left
    parts = [part for part in (*_constituents(verb, skip), *extra) if part.tokens]
    before = [part for part in parts if part.head.i < verb.i and not part.core]
    after = [part for part in parts if part not in before]
    adverbs = tuple(
        child
        for child in verb.children
        if child.dep_ == "advmod"
        and child.i < verb.i
        and child.tag_ != "WRB"
        and not after_comma(child)
        and child.i > subject_head.i
        and (child.lower_ in MEANING_ADVERBS or child.lower_ not in DISCOURSE_ADVERBS)
        and all(grandchild.lower_ == "no" for grandchild in child.children)
    )
    negation = next((child.lower_ for child in verb.children if child.dep_ == "neg"), "")
    if not negation and verb.dep_ == "conj" and auxiliaries and not _auxiliaries(verb):
        # "must not smoke or drink": what shares the auxiliary shares its negation
        negation = next((child.lower_ for child in verb.head.children if child.dep_ == "neg"), "")
    return Clause(
        verb,
        subject,
        subject_head,
        auxiliaries,
        bool(negation),
        verb.lower_,
        verb.lemma_.lower(),
        tag,
        (*after, *before),
        adverbs,
        main=origin == "clause" and verb.dep_ in {"ROOT", "conj"},
        existential=any(child.dep_ == "expl" and child.lower_ == "there" for child in verb.children),
        origin=origin,
        fronted=frozenset(part.head.i for part in before),
        negation="not" if negation in {"", "n't", "n’t"} else negation,
    )


def _finite_parts(verb: Token) -> tuple[tuple[str, ...], str] | None:
    """Auxiliaries and tag of a finite verb (conjoined verbs share the auxiliaries of the first); None if not finite."""
    own = _auxiliaries(verb)
    if any(token.lower_ == "to" for token in own):
        return None
    words = tuple(
        {
            "'s": "is",
            "'re": "are",
            "'ve": "have",
            "'d": "would",
            "'ll": "will",
            "ca": "can",
            "wo": "will",
            "’s": "is",
            "’re": "are",
            "’ve": "have",
            "’ll": "will",
            "'m": "am",
            "’m": "am",
        }.get(t.lower_, t.lower_)
        for t in own
    )
    if words:
        if words[0] in {"being", "having"}:
            return None
        return words, verb.tag_
    if verb.tag_ in _FINITE:
        if (
            verb.dep_ == "conj"
            and verb.tag_ == "VBD"
            and _subject(verb) is None
            and not any(c.dep_ == "dobj" for c in verb.children)
        ):
            shared = _finite_parts(verb.head)
            if shared and shared[1] == "VBN" and shared[0] and verb.head.tag_ == "VBN":
                return shared[0], "VBN"
        return (), verb.tag_
    if verb.dep_ == "conj" and verb.head.pos_ in {"VERB", "AUX"} and verb.tag_ == verb.head.tag_:
        shared = _finite_parts(verb.head)
        return shared if shared and shared[0] else None
    mistagged = any(child.dep_ == "dobj" for child in verb.children) and _subject(verb) is not None
    if verb.tag_ == "VBN" and mistagged and verb.dep_ in {"ROOT", "conj", "relcl", "ccomp"}:
        return (), "VBD"
    return None


def _shared_subject(verb: Token) -> Token | None:
    """The subject of a verb, taken from the verb that it is conjoined with where it has none of its own."""
    while True:
        subject = _subject(verb)
        if subject is not None or verb.dep_ != "conj" or any(child.dep_ == "expl" for child in verb.children):
            return subject
        if has_unclear_conjunct(verb.head):
            return None
        verb = verb.head


def has_loose_apposition(noun: Token) -> bool:
    """Whether a measure hangs on a noun without a comma: "machines heavier than 900 kilograms"."""
    return any(
        child.dep_ == "appos" and child.i > noun.i and child.pos_ != "PROPN" and not after_comma(child)
        for child in noun.children
    )


def has_unclear_conjunct(verb: Token) -> bool:
    """Whether it is unclear what a second verb goes with: "ends if the firm fails, or moves"."""
    between = [child.i for child in verb.children if child.dep_ in {"advcl", "ccomp"} and _subject(child) is not None]
    return any(
        child.dep_ == "conj"
        and child.pos_ in {"VERB", "AUX"}
        and _subject(child) is None
        and any(verb.i < place < child.i for place in between)
        for child in verb.children
    )


def _relative(verb: Token) -> Clause | None:
    """A relative clause as a statement about its antecedent."""
    antecedent = verb.head
    parts = _finite_parts(verb)
    if parts is None or antecedent.pos_ not in {"NOUN", "PROPN"}:
        return None
    if _is_any(antecedent) and (is_rule(verb) or is_rule(_main_verb(verb))) and not after_comma(verb):
        # "guests who have lost their key": not a fact about guests
        return None
    if antecedent.ent_type_ in {"DATE", "TIME"} or (
        after_comma(verb)
        and antecedent.dep_ == "pobj"
        and (
            antecedent.pos_ == "NOUN"
            or antecedent.ent_type_ not in {"PERSON", "ORG", "GPE", "NORP"}
            or antecedent.head.lower_ == "of"
            or any(c.dep_ == "det" for c in antecedent.lefts)
        )
    ):
        # ", which delayed the work" after such a phrase is as often about the whole clause.
        return None
    noun = trimmed(phrase_tokens(antecedent, brief=True))
    subject = _subject(verb)
    if subject is not None and any(token.tag_ in {"WDT", "WP"} and token.i != subject.i for token in subject.subtree):
        # "most of which"
        return None
    relative = [t for t in verb.subtree if t.tag_ in {"WDT", "WP", "WP$", "WRB"} and t.i < verb.i]
    word = relative[0] if relative else None
    if subject is not None and (subject.tag_ in {"WDT", "WP"} or subject.lower_ == "that"):
        return _clause(verb, noun, antecedent, parts[0], parts[1], "relative")
    if subject is None or (word is not None and word.tag_ == "WP$"):
        return None
    own = trimmed(phrase_tokens(subject))
    if word is not None and word.tag_ == "WRB":
        return _clause(verb, own, subject, parts[0], parts[1], "relative")
    if word is not None and word.dep_ == "pobj":
        return _clause(verb, own, subject, parts[0], parts[1], "relative", skip=frozenset({word.head.i}))
    if any(child.dep_ == "dobj" and child.tag_ not in {"WDT", "WP"} for child in verb.children):
        return None
    if word is not None and word.dep_ != "dobj":
        return None
    if any(child.dep_ in {"xcomp", "ccomp", "attr", "acomp"} for child in verb.children) or (
        parts[1] == "VBN" and "been" not in parts[0] and not {"has", "have", "had"} & set(parts[0])
    ):
        return None
    return _clause(verb, own, subject, parts[0], parts[1], "relative", extra=(Constituent("object", antecedent, noun),))


def _participle(verb: Token) -> Clause | None:
    """The statement in a participle after a noun: "a museum founded by Ada" -> the museum was founded by Ada."""
    antecedent = verb.head
    if antecedent.pos_ not in {"NOUN", "PROPN"} or verb.i < antecedent.i or _auxiliaries(verb):
        return None
    noun = trimmed(phrase_tokens(antecedent, brief=True))
    if after_comma(verb) and antecedent.dep_ == "pobj":
        # "a cooperative of islanders, founded in 1932": founded may be either
        return None
    if verb.tag_ not in {"VBN", "VBD"} or (after_comma(verb) and verb.left_edge.i - antecedent.i > 2):
        return None
    plural = antecedent.tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in antecedent.children)
    done = any(
        word.ent_type_ in {"PERSON", "ORG", "NORP", "DATE"}
        for child in verb.children
        if child.dep_ in {"agent", "prep"}
        for word in child.children
    )
    auxiliary = ("were" if plural else "was") if done or _past(verb) else ("are" if plural else "is")
    if antecedent.tag_ == "NNS" and not any(child.dep_ in {"det", "poss", "nummod"} for child in antecedent.lefts):
        # "kilns sold before July": some kilns, not all
        return None
    if auxiliary in {"is", "are"} and (_is_any(antecedent) or is_modal(_main_verb(verb))):
        # "may have the work done": nobody says that it is
        return None
    return _clause(verb, noun, antecedent, (auxiliary,), "VBN", "participle")


def _is_any(noun: Token) -> bool:
    """Whether a noun means anything of its kind: "guests", "a pump", "every room"."""
    if noun.pos_ != "NOUN":
        return False
    marks = [child for child in noun.children if child.dep_ in {"det", "poss", "nummod"} and child.i < noun.i]
    return all(mark.lower_ in {"a", "an", "any", "every", "each", "no", "some", "all"} for mark in marks)


def _main_verb(token: Token) -> Token:
    """The verb at the top of the sentence of `token`."""
    while token.head.i != token.i:
        token = token.head
    return token


def _is_order(verb: Token) -> bool:
    """Whether a verb gives an order: "Fasten a rope to the handle", "Never enter a room with a red tag"."""
    if verb.tag_ != "VB" or verb.lemma_.lower() in {"let", "be", "come", "go"} or _subject(verb) is not None:
        return False
    if verb.dep_ == "conj":
        return not _auxiliaries(verb) and _is_order(verb.head)
    if verb.dep_ != "ROOT" or verb.doc[-1].text in {"?", "!"}:
        return False
    set_off = {
        word.i
        for child in verb.children
        if child.dep_ in {"advcl", "prep", "punct"} and child.i < verb.i
        for word in child.subtree
    }
    return all(word.i in set_off or word.lower_ in _ORDER_MARKS for word in verb.doc[: verb.i])


def _order(verb: Token) -> Clause:
    """An order as a statement about what "one" should do; `subject` is empty."""
    clause = _clause(verb, (), verb, ("should",), "VB", "order")
    never = any(child.lower_ == "never" for child in verb.children)
    return replace(clause, negated=True, negation="never") if never else clause


def _names_agent(preposition: Token) -> bool:
    """Whether a phrase with "by" names who or what did it, not by which means or when it was done."""
    return preposition.dep_ == "agent" and not any(
        child.dep_ == "pcomp"
        or child.ent_type_ in {"DATE", "TIME", "PERCENT", "CARDINAL"}
        or ({child.lemma_.lower(), child.lower_} & MEANS_NOUNS and not list(child.lefts))
        for child in preposition.children
    )


def _apposition(head: Token) -> Clause | None:
    """ "Ada Quill, a Polish engineer," -> Ada Quill was a Polish engineer."""
    noun, attribute = head.head, head
    if noun.pos_ not in {"NOUN", "PROPN"} or head.pos_ not in {"NOUN", "PROPN"} or head.i < noun.i:
        return None
    if any(child.dep_ in {"conj", "cc"} for child in (*noun.children, *head.children)) or noun.dep_ == "conj":
        return None
    if not after_comma(head) and (noun.pos_ == "PROPN" or head.pos_ == "NOUN"):
        return None
    if (
        head.ent_type_ == "PERSON"
        and noun.pos_ == "NOUN"
        and noun.dep_ == "pobj"
        and noun.lemma_.lower() not in PERSON_NOUNS
    ):
        # "the architect of the annex, Jorun Falk": the name belongs to the noun further up
        return None
    if (
        head.pos_ == "PROPN"
        and noun.pos_ == "PROPN"
        and not any(token.dep_ in {"det", "poss"} for token in head.children)
    ):
        return None
    tokens = trimmed(phrase_tokens(attribute))
    subject = trimmed(phrase_tokens(noun, brief=True))
    if not tokens or not subject or any(part[0].lower_.startswith("no ") for part in (tokens, subject)):
        return None
    if attribute.lemma_.lower() in LENGTH_UNITS | DURATION_UNITS:
        # "in Stennet, 14 kilometres to the north"
        return None
    if noun.pos_ == "NOUN" and head.pos_ == "PROPN":
        named = {token.i for token in head.subtree}
        kept = trimmed([token for token in subject if token.i not in named])
        subject, noun, tokens, attribute = trimmed(phrase_tokens(head)), head, kept, noun
        bare = attribute.tag_ == "NN" and not any(token.dep_ in {"det", "poss"} for token in attribute.children)
        if not tokens or (bare and not after_comma(head)):
            return None
    if (
        noun.pos_ == attribute.pos_
        and noun.ent_type_
        and noun.ent_type_ == attribute.ent_type_
        and not any(t.dep_ == "det" for t in attribute.children)
    ):
        return None
    plural = noun.tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in noun.children)
    verb = ("were" if plural else "was") if _past(head) else ("are" if plural else "is")
    part = Constituent("attribute", attribute, tokens)
    return Clause(
        head,
        subject,
        noun,
        (),
        False,
        verb,
        "be",
        "VBD" if _past(head) else "VBZ",
        (part,),
        main=False,
        origin="apposition",
    )


def clauses_of(tokens: Iterator[Token] | list[Token]) -> list[Clause]:
    """All clauses of a parsed sentence, main clauses first come first."""
    found: list[Clause] = []
    for token in tokens:
        clause: Clause | None = None
        if token.dep_ == "appos":
            clause = _apposition(token)
        elif token.pos_ in {"VERB", "AUX"} and token.dep_ not in {"aux", "auxpass"}:
            if token.dep_ == "relcl":
                clause = _relative(token)
            elif token.dep_ == "acl" and token.tag_ in {"VBN", "VBD"}:
                clause = _participle(token)
            elif _is_order(token):
                clause = _order(token)
            else:
                clause = _statement(token)
        if clause is not None:
            found.append(clause)
    return found


def _statement(verb: Token) -> Clause | None:
    parts = _finite_parts(verb)
    if parts is None:
        return None
    if any(child.dep_ == "mark" and child.lower_ in _HYPOTHETICAL for child in verb.children):
        return None
    if any(token.lower_ in {"whoever", "whatever", "whichever", "whomever"} for token in verb.subtree):
        return None
    if verb.dep_ == "ccomp" and (
        verb.head.lemma_.lower() in _DENIALS or any(c.dep_ == "neg" for c in verb.head.children)
    ):
        return None
    if verb.dep_ == "conj" and verb.head.dep_ == "relcl" and _subject(verb) is None:
        relative = _relative(verb.head)
        if relative is None or relative.subject_head.i != verb.head.head.i:
            return None
        return _clause(verb, relative.subject, relative.subject_head, parts[0], parts[1], "relative")
    if verb.dep_ == "conj" and verb.head.dep_ == "acl":
        return None
    expletive = next((child for child in verb.children if child.dep_ == "expl" and child.lower_ == "there"), None)
    if expletive is not None:
        return _clause(verb, (expletive,), expletive, parts[0], parts[1], "clause")
    subject = _shared_subject(verb)
    if subject is None or subject.tag_ in {"WDT", "WP", "WRB"} or subject.pos_ in {"VERB", "AUX"}:
        return None
    if any(token.tag_ in {"WDT", "WP"} and token.dep_ == "pobj" for token in subject.subtree):
        return None
    if sum(child.dep_ in _SUBJECTS for child in verb.children) > 1:
        # "bottles heavier than 11 kilograms are not accepted": the parser took both for subjects
        return None
    if has_loose_apposition(subject) or any(word.i < subject.i < verb.i for word in _auxiliaries(verb)):
        # "has it inspected by a firm", "had the harbour been deeper"
        return None
    if any(token.lower_ in {"neither", "nor"} for token in (*subject.subtree, *verb.children)):
        return None
    if verb.lemma_ == "be" and any(child.left_edge.tag_ == "WRB" and child.i > verb.i for child in verb.children):
        return None
    if subject.lower_ == "it" and (
        verb.lemma_ == "be" and any(c.dep_ in {"ccomp", "advcl", "xcomp", "acomp"} for c in verb.children)
    ):
        return None
    tokens = trimmed(phrase_tokens(subject))
    bare_number = subject.pos_ == "NUM" and not any(child.dep_ == "prep" for child in subject.children)
    if (
        not tokens
        or bare_number
        or (subject.ent_type_ in {"DATE", "TIME"} and subject.lemma_.lower() in DURATION_UNITS)
    ):
        return None
    return _clause(verb, tokens, subject, parts[0], parts[1], "clause")
