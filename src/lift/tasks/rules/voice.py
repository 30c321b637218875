"""Active and passive voice: the same fact stated the other way round, and the verb forms that this takes."""

from __future__ import annotations

from dataclasses import replace

from lift.tasks.rules.clauses import Clause, Constituent
from lift.tasks.rules.lexicon import IRREGULAR_VERBS, words
from lift.tasks.rules.phrases import phrase_tokens, trimmed

_NO_PASSIVE = words(
    """
    have be become remain seem lack cost weigh last resemble fit suit want like love get do go say mean include
    contain total comprise number equal join enter leave reach show take make let help play follow
    """
)


def past_tense(lemma: str, participle: str) -> str:
    """The past tense of a verb whose past participle is known."""
    return IRREGULAR_VERBS[lemma][0] if lemma in IRREGULAR_VERBS else participle


def past_participle(lemma: str, past: str) -> str:
    """The past participle of a verb whose past tense is known."""
    return IRREGULAR_VERBS[lemma][1] if lemma in IRREGULAR_VERBS else past


def third_person(lemma: str) -> str:
    """ "found" -> "founds", "carry" -> "carries", "have" -> "has"."""
    if lemma in {"have", "do", "go", "be"}:
        return {"have": "has", "do": "does", "go": "goes", "be": "is"}[lemma]
    if lemma.endswith(("s", "x", "z", "ch", "sh")):
        return f"{lemma}es"
    if lemma.endswith("y") and lemma[-2:-1] not in "aeiou":
        return f"{lemma[:-1]}ies"
    return f"{lemma}s"


def activated(clause: Clause) -> Clause | None:
    """ "The museum was founded by Ada" -> "Ada founded the museum"; None where there is no agent or no simple tense."""
    agent = next((part for part in clause.constituents if part.role == "agent"), None)
    if (
        agent is None
        or clause.negated
        or len(clause.auxiliaries) != 1
        or clause.auxiliaries[0] not in {"was", "were", "is", "are"}
    ):
        return None
    objects = [child for child in agent.head.children if child.dep_ == "pobj"]
    if any(
        child.dep_ == "conj" or any(word.dep_ == "prep" and word.lower_ != "of" for word in child.rights)
        for child in agent.head.children
    ):
        # "by the Lender with a company": with whom belongs to the verb as often;
        # "by the director or by Mr. Vance"
        return None
    if len(objects) != 1 or any(part.role in {"attribute", "adjective"} for part in clause.constituents):
        return None
    subject = trimmed(phrase_tokens(objects[0]))
    if not subject:
        return None
    past = clause.auxiliaries[0] in {"was", "were"}
    plural = objects[0].tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in objects[0].children)
    verb = past_tense(clause.lemma, clause.verb) if past else (clause.lemma if plural else third_person(clause.lemma))
    theme = Constituent("object", clause.subject_head, clause.subject)
    particles = tuple(part for part in clause.constituents if part.role == "particle")
    others = tuple(part for part in clause.constituents if part is not agent and part.role != "particle")
    return replace(
        clause,
        subject=subject,
        subject_head=objects[0],
        auxiliaries=(),
        verb=verb,
        tag="VBD" if past else ("VBP" if plural else "VBZ"),
        constituents=(*particles, theme, *others),
        adverbs=(),
        origin="active",
    )


def passivised(clause: Clause) -> Clause | None:
    """The clause in the passive, without agent: "the museum was founded in 1911"; None where impossible."""
    theme = next((part for part in clause.constituents if part.role == "object"), None)
    if theme is None or clause.auxiliaries or clause.negated or clause.tag != "VBD" or clause.lemma in _NO_PASSIVE:
        return None
    if any(part.role in {"attribute", "adjective", "verb_phrase", "clause", "dative"} for part in clause.constituents):
        return None
    plural = theme.head.tag_ in {"NNS", "NNPS"} or any(child.dep_ == "conj" for child in theme.head.children)
    return replace(
        clause,
        subject=theme.tokens,
        subject_head=theme.head,
        auxiliaries=("were" if plural else "was",),
        verb=past_participle(clause.lemma, clause.verb),
        tag="VBN",
        constituents=tuple(part for part in clause.constituents if part is not theme),
        adverbs=(),
        origin="passive",
    )
