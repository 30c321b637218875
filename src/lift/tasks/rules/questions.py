"""Clauses -> questions: a wh-phrase takes the place of the answer, moves to the front, and subject and verb invert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lift.tasks.rules.asides import aside_questions, title_questions
from lift.tasks.rules.clauses import Clause, Constituent, clauses_of
from lift.tasks.rules.connections import connection_questions
from lift.tasks.rules.dependency_parse import ParsedSentence
from lift.tasks.rules.echo import echo_questions
from lift.tasks.rules.examples import example_questions
from lift.tasks.rules.foci import constituent_foci, is_date, is_place, noun_foci
from lift.tasks.rules.frames import Frame, frame_of, keeps_negation, negative_words
from lift.tasks.rules.interrogatives import (
    Interrogative,
    answer_tokens,
    is_person,
)
from lift.tasks.rules.lexicon import LENGTH_UNITS, PLACE_PREPOSITIONS, TIME_PREPOSITIONS
from lift.tasks.rules.phrases import Gap, Names, UnboundPronounError, contiguous, phrase_tokens, trimmed, write
from lift.tasks.rules.voice import activated, passivised, third_person
from lift.tasks.rules.wellformed import MAX_ANSWER_TOKENS, polished, worth_asking

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_ORIGIN_WEIGHT = {
    "clause": 1.0,
    "relative": 0.85,
    "participle": 0.85,
    "apposition": 0.9,
    "active": 0.95,
    "passive": 0.9,
    "order": 0.9,
}
_TIME_KINDS = frozenset({"when", "year", "date", "decade", "century", "duration"})
_STATES = frozenset(
    {
        "write",
        "build",
        "set",
        "design",
        "make",
        "develop",
        "create",
        "plan",
        "compose",
        "base",
        "call",
        "consider",
        "know",
        "locate",
        "name",
        "regard",
        "see",
        "situate",
        "use",
    }
)
_STATIVE = frozenset(
    {"be", "become", "belong", "consist", "contain", "cost", "hold", "have", "include", "mean", "measure"}
    | {"need", "own", "require", "weigh"}
)
_POSSESSIVES = frozenset({"his", "her", "its", "their", "my", "our", "your"})


@dataclass(frozen=True)
class Candidate:
    """A possible question task of one sentence; `answer_span` are the token indices of the answer."""

    question: str
    answer: str
    rule: str
    weight: float
    answer_span: tuple[int, int]


@dataclass(frozen=True)
class _Focus:
    """The focus of a question: an interrogative inside one constituent (None: inside the subject)."""

    part: Constituent | None
    wh: Interrogative


def question_candidates(parsed: ParsedSentence, names: Names) -> list[Candidate]:
    """All questions that the rules can ask about one sentence, each with a verbatim answer."""
    found: list[Candidate] = []
    if not parsed.is_statement or not _has_verb_on_top(parsed):
        if parsed.text.count(": ") > 1:
            # several entries in one line: which value belongs to which name is unclear
            return found
        # headings, list items and orders that the parser cannot read: only what stands together in them is asked for
        return [*_asides(parsed, names), *_connections(parsed, names, set())]
    for clause in clauses_of(list(parsed.doc)):
        found.extend(ClauseAsker(parsed, names, clause).candidates())
        if clause.origin == "order":
            continue
        active = activated(clause)
        if active is not None:
            found.extend(ClauseAsker(parsed, names, active).candidates())
        passive = passivised(clause)
        if passive is not None:
            asker = ClauseAsker(parsed, names, passive)
            found.extend(asker.candidates(subject=False))
            found.extend(asker.agent_questions(clause))
    for text, first, last, weight in title_questions(parsed.doc):
        found.extend(_candidate(parsed, text, first, last, "title", weight))
    found.extend(_asides(parsed, names))
    for text, first, last, weight in example_questions(parsed.doc, names):
        found.extend(_candidate(parsed, text, first, last, "example", weight))
    covered = {candidate.answer_span for candidate in found}
    for text, first, last, weight in echo_questions(parsed.doc, names, covered):
        found.extend(_candidate(parsed, text, first, last, "echo", weight))
    return found + _connections(parsed, names, {candidate.answer_span for candidate in found})


def _has_verb_on_top(parsed: ParsedSentence) -> bool:
    """Whether the parser found a verb that carries the sentence; where it did not, its tree says little."""
    return any(token.head.i == token.i and token.pos_ in {"VERB", "AUX"} for token in parsed.doc)


def _asides(parsed: ParsedSentence, names: Names) -> list[Candidate]:
    return [
        Candidate(question, answer, "aside", weight, place)
        for question, answer, weight, place in aside_questions(parsed, names)
    ]


def _connections(parsed: ParsedSentence, names: Names, covered: set[tuple[int, int]]) -> list[Candidate]:
    return [
        candidate
        for text, first, last, weight in connection_questions(parsed.doc, names, covered)
        for candidate in _candidate(parsed, text, first, last, "connection", weight)
    ]


def _candidate(
    parsed: ParsedSentence, text: str, first: Token, last: Token, rule: str, weight: float
) -> Iterator[Candidate]:
    """The finished question, if it is worth asking."""
    if first.lower_ in _POSSESSIVES and last.i > first.i:
        # "his patents" asked for by "what" is answered by "patents" as well, and stands without the sentence.
        first = first.nbor()
        weight *= 0.8
    if any(token.tag_ in {"WDT", "WP", "WP$"} for token in parsed.doc[first.i : last.i + 1]):
        return
    if first.lower_ == "no" and rule != "connection":
        # "What kind of porter is there?" is not answered by "no night"
        return
    if last.tag_ == "CD" and first.pos_ in {"NOUN", "PROPN"} and "how many" in text.lower():
        # "gives the Supplier two keys": the parser took the two for one phrase
        return
    if rule != "connection" and not _is_whole(parsed, text, first, last):
        return
    question = polished(text)
    answer = parsed.verbatim(first, last).strip(" ,;:")
    if question is not None and worth_asking(question, answer, last.i - first.i + 1):
        yield Candidate(question, answer, rule, round(max(weight, 0.2), 3), (first.i, last.i))


def _is_whole(parsed: ParsedSentence, question: str, first: Token, last: Token) -> bool:
    """Whether an answer that is a list has all of its members, but for those which the question names."""
    root = parsed.doc[first.i : last.i + 1].root
    if root.pos_ not in {"NOUN", "PROPN"}:
        return True
    if last.i + 1 < len(parsed.doc):
        # "a share of the loading bay" is not a share
        behind = parsed.doc[last.i + 1]
        if behind.lower_ == "of" and behind.head.i == root.i and " of " not in question and " of?" not in question:
            return False
        if behind.dep_ in {"nummod", "quantmod"} and root.is_ancestor(behind) and behind.text not in question:
            return False
    if any(
        word.dep_ == "conj" and word.pos_ == "PROPN" and word.i > last.i and word.text not in question
        for child in root.children
        if child.dep_ == "appos"
        for word in child.subtree
    ):
        return False
    named = [root, *(child for child in root.children if child.dep_ == "appos")]
    return all(
        child.i <= last.i or child.pos_ not in {"NOUN", "PROPN"} or child.text in question
        for word in named
        for child in word.children
        if child.dep_ == "conj"
    )


class ClauseAsker:
    """Asks about one clause."""

    def __init__(self, parsed: ParsedSentence, names: Names, clause: Clause) -> None:
        self.parsed = parsed
        self.names = names
        self.clause = _third_person(clause, names)
        self.bound = frozenset(token.i for token in clause.subject)
        self.frame = frame_of(clause.anchor)
        self.denials = negative_words(clause.anchor, clause.subject)

    def candidates(self, subject: bool = True) -> Iterator[Candidate]:
        clause = self.clause
        if self.frame is None or sum(part.role == "object" for part in clause.constituents) > 1:
            return
        if clause.origin == "order":
            if not any(part.role == "object" for part in clause.constituents):
                return
        elif clause.existential:
            yield from self._existence_questions()
        elif subject:
            if clause.subject_head.lower_ == "nobody" and len(clause.subject) == 1:
                nobody = clause.subject_head
                wh = Interrogative("who", nobody.i, nobody.i, (nobody, nobody), "who", 0.9)
                yield from self._questions(_Focus(None, wh))
            for wh in noun_foci(clause.subject_head, clause.subject):
                if wh.besides and clause.origin == "relative":
                    continue
                yield from self._questions(_Focus(None, wh))
            yield from self._referent_questions()
        for part in clause.constituents:
            for wh in constituent_foci(part, clause):
                yield from self._questions(_Focus(part, wh))
        yield from self._action_questions()
        yield from self._event_questions()

    def polar_text(self) -> str | None:
        """The whole clause as a yes/no question, without a mark; None where it cannot stand alone."""
        if self.frame is None or sum(part.role == "object" for part in self.clause.constituents) > 1:
            return None
        texts = self._texts(None, "full")
        subject, (auxiliary, verb) = self._subject_text(), self._finite()
        if texts is None or subject is None or (self.clause.lemma == "be" and not texts):
            return None
        return self._framed(" ".join([auxiliary, subject, *self._adverb_texts(), *verb, *texts]), None)

    def _existence_questions(self) -> Iterator[Candidate]:
        """ "Is there a lift in the annex?" -> "There is no lift in the annex": the answer says it as the text does."""
        clause = self.clause
        thing = next((part for part in clause.constituents if part.role == "attribute"), None)
        if (
            clause.lemma != "be"
            or clause.auxiliaries
            or clause.negated
            or thing is None
            or not contiguous(thing.tokens)
        ):
            return
        first, last = clause.subject_head, max((part.tokens[-1] for part in clause.constituents), key=lambda t: t.i)
        texts = self._texts(None, "full")
        if texts is None or last.i - first.i >= MAX_ANSWER_TOKENS or first.i > clause.anchor.i:
            return
        named = " ".join(texts)
        if named.startswith("no "):
            named = f"{'any' if thing.head.tag_ in {'NNS', 'NNPS'} else 'a'} {named[3:]}"
            if re.match(r"a [aeiou]", named):
                named = f"an {named[2:]}"
        elif self.denials or thing.head.tag_ not in {"NN", "NNP"}:
            return
        yield from _candidate(self.parsed, f"{clause.verb} there {named}", first, last, "existence", 0.5)

    def _referent_questions(self) -> Iterator[Candidate]:
        """Asks for a pronoun as the subject, answered by the name that it stands for, earlier in the sentence."""
        pronoun = self.clause.subject_head
        named = self._named_before(pronoun) if len(self.clause.subject) == 1 else None
        if named is None:
            return
        people = is_person(named[-1]) or named[-1].ent_type_ in {"ORG", "NORP"} or pronoun.lower_ in {"he", "she", "i"}
        text = "who" if people else "what"
        wh = Interrogative(text, pronoun.i, pronoun.i, (named[0], named[-1]), text, 0.9)
        yield from self._questions(_Focus(None, wh))

    def _named_before(self, pronoun: Token) -> Sequence[Token] | None:
        """The tokens before `pronoun` that say its name word by word, the nearest ones."""
        words = self.names[pronoun.i][0].split() if pronoun.i in self.names else []
        if not words:
            return None
        for first in range(pronoun.i - len(words), -1, -1):
            tokens = list(self.parsed.doc[first : first + len(words)])
            if [token.text for token in tokens] == words:
                return tokens
        return None

    def agent_questions(self, active: Clause) -> Iterator[Candidate]:
        """ "By whom was the museum founded?" """
        head, tokens = active.subject_head, active.subject
        if not contiguous(tokens):
            return
        body = answer_tokens(head, tokens)
        wh = Interrogative(
            "by whom" if is_person(head) or head.ent_type_ in {"ORG", "GPE", "NORP"} else "by what",
            tokens[0].i,
            tokens[-1].i,
            (body[0], body[-1]),
            "by",
            0.75,
        )
        agent = Constituent("agent", head, tuple(tokens))
        focus = _Focus(agent, wh)
        for level in ("full", "core"):
            yield from self._finish(self._fronted(focus, wh.text, [], level), focus, "passive", 0.9)
        who = "who" if is_person(head) else "what"
        parts = self._texts(focus, "core")
        if parts is not None:
            yield from self._finish(self._inverted(who, [*parts, "by"]), focus, "passive", 0.8)

    def _questions(self, focus: _Focus) -> Iterator[Candidate]:
        """Every form of the question for one focus."""
        wh, part = focus.wh, focus.part
        if _is_tied(self.parsed.doc, wh):
            return
        if part is None:
            for level, weight in (("full", 1.0), ("core", 0.95)):
                yield from self._finish(self._subject_question(wh, level), focus, "subject", weight)
            return
        gap = Gap(wh.first, wh.last, wh.text)
        first, last = part.tokens[0].i, part.tokens[-1].i
        whole = wh.first <= first and wh.last >= last
        adjunct = not part.core
        rule = part.role
        for level, weight in (("full", 1.0), ("core", 0.95)):
            if wh.kind == "property" or (_is_bare(self.clause, wh)):
                break
            if wh.kind == "infinitive":
                yield from self._finish(self._fronted(focus, "what", ["to do"], level), focus, rule, weight)
                continue
            if whole:
                yield from self._finish(self._fronted(focus, wh.text, [], level), focus, rule, weight)
            elif wh.first == first:
                yield from self._finish(
                    self._fronted(focus, self._write(part.tokens, gap), [], level), focus, rule, weight
                )
            elif part.head.pos_ in {"ADP", "SCONJ"} and wh.first == first + 1:
                text = self._write(part.tokens, Gap(wh.first, wh.last, "whom" if wh.text == "who" else wh.text))
                if wh.kind == "what" and is_place(part):
                    continue
                if wh.kind != "place" and (wh.kind != "what" or part.role == "agent" or level == "core"):
                    yield from self._finish(self._fronted(focus, text, [], level), focus, rule, weight * 0.9)
                tail = self._write([token for token in part.tokens if token.i > wh.last], None)
                preposition = self._write([part.tokens[0]], None)
                if wh.kind == "year" and part.tokens[0].lower_ in {"in", "during"} and not tail:
                    yield from self._finish(self._fronted(focus, wh.text, [], level), focus, rule, weight)
                elif not tail and wh.kind not in _TIME_KINDS and part.head.i not in self.clause.fronted:
                    # A phrase that only sets the scene is not asked for so: "What can they eat in?"
                    text = self._fronted(focus, wh.text, [preposition], level)
                    yield from self._finish(text, focus, rule, weight * 0.95)
            elif part.role in {"verb_phrase", "adjective"} or (
                wh.last == last
                and part.head.doc[wh.first - 1].pos_ == "ADP"
                and (
                    (part.role == "attribute" and part.head.doc[wh.first - 1].lower_ in {"of", "to", "for"})
                    or part.role == "object"
                )
            ):
                rest = self._write([token for token in part.tokens if not wh.first <= token.i <= wh.last], None)
                if part.role not in {"clause"}:
                    yield from self._finish(self._fronted(focus, wh.text, [rest], level), focus, rule, weight * 0.8)
        if wh.kind not in {"why", "how", "do", "frequency", "infinitive", "property", "year_of"} and part.role not in {
            "adverbial"
        }:
            text = wh.text if whole else self._write(part.tokens, gap)
            if text == "how long" and part.head.lower_ == "for":
                text = "for how long"
            weight = 0.65 if adjunct or wh.kind in {"number", "year", "which", "percentage"} else 0.55
            yield from self._finish(self._in_situ(focus, text), focus, f"{rule}-in-situ", weight)

    def _action_questions(self) -> Iterator[Candidate]:
        """ "What did Ada Quill do in 1911?" -> "founded the lighthouse museum"."""
        clause = self.clause
        if self.denials or clause.lemma in _STATIVE or clause.auxiliaries or clause.negated or not clause.main:
            return
        agent = (
            is_person(clause.subject_head)
            or clause.subject_head.ent_type_ in {"ORG", "NORP", "GPE"}
            or clause.subject_head.pos_ == "PRON"
        )
        objects = [part for part in clause.constituents if part.role in {"object", "verb_phrase"}] or [
            part for part in clause.constituents if part.role == "preposition" and part.head.i not in clause.fronted
        ][:1]
        if not objects or clause.anchor.i > objects[0].tokens[0].i:
            return
        run = [
            clause.anchor,
            *(token for part in clause.constituents if part.core or part is objects[0] for token in part.tokens),
        ]
        run.sort(key=lambda token: token.i)
        if not contiguous(run) or len(run) > MAX_ANSWER_TOKENS or _goes_on(run[-1]):
            return
        wh = Interrogative("what", run[0].i, run[-1].i, (run[0], run[-1]), "do", 0.55)
        focus = _Focus(objects[0], wh)
        front = {"VBD": "did", "VBZ": "does", "VBP": "do"}.get(clause.tag, "did")
        subject = self._subject_text()
        adjuncts = [
            self._write(part.tokens, None)
            for part in clause.constituents
            if not part.core
            and part is not objects[0]
            and (part.role == "time" or part.head.lower_ in PLACE_PREPOSITIONS | TIME_PREPOSITIONS)
        ]
        if subject is not None and None not in adjuncts:
            texts = [text for text in adjuncts if text][:2]
            yield from self._finish(
                " ".join(["what", front, subject, "do", *texts]),
                focus,
                "action",
                (1.0 if texts else 0.7) * (1.0 if agent else 0.7),
            )

    def _event_questions(self) -> Iterator[Candidate]:
        """ "What happened to the museum in 1911?" -> "destroyed by fire"."""
        clause = self.clause
        told = any(child.dep_ == "auxpass" for child in clause.anchor.children) and clause.lemma not in _STATES
        if not (told and clause.main and clause.auxiliaries in {("was",), ("were",)}) or clause.negated:
            return
        behind = [part for part in clause.constituents if part.head.i > clause.anchor.i and not is_date(part)]
        parts = [part for part in behind if part.core] or behind[:1]
        run = sorted([clause.anchor, *(token for part in parts for token in part.tokens)], key=lambda token: token.i)
        if not contiguous(run) or len(run) > MAX_ANSWER_TOKENS:
            run, parts = [clause.anchor], []
        wh = Interrogative("what", run[0].i, run[-1].i, (run[0], run[-1]), "do", 0.5)
        subject = self._subject_text()
        times = [self._write(part.tokens, None) for part in clause.constituents if is_date(part) and part not in parts]
        if subject is not None and None not in times:
            text = " ".join(["what happened to", subject, *(time for time in times if time)])
            yield from self._finish(text, _Focus(None, wh), "event", 1.0)

    def _write(self, tokens: Sequence[Token], gap: Gap | None) -> str | None:
        try:
            return write(trimmed(list(tokens)), self.names, gap, self.bound)
        except UnboundPronounError:
            return None

    def _subject_text(self) -> str | None:
        if self.clause.existential:
            return "there"
        if self.clause.origin == "order":
            return "one"
        try:
            return write(self.clause.subject, self.names)
        except UnboundPronounError:
            return None

    def _texts(self, focus: _Focus | None, level: str) -> list[str] | None:
        """The constituents beside the focus, as text; None where a pronoun has no name."""
        texts: list[str] = []
        adjuncts = 0
        core = any(part.core and part.head.lemma_.lower() not in LENGTH_UNITS for part in self.clause.constituents)
        for part in self.clause.constituents:
            if (focus is not None and part is focus.part) or (self.frame and self.frame.holds(part.head)):
                continue
            if not part.core and self.denials:
                # "may not work alone at night": what is denied is denied of the whole
                if part.role == "adverbial" and len(part.tokens) > 9:
                    return None
            elif not part.core:
                if part.role == "adverbial" and (
                    len(part.tokens) > 9 or level == "core" or part.head.i in self.clause.fronted
                ):
                    continue
                tied = any(child.dep_ == "pcomp" for child in part.head.children) or (
                    self.clause.lemma == "be" and part.role == "preposition" and part.head.i not in self.clause.fronted
                )
                if level == "core" and not tied and (core or adjuncts >= 1):
                    continue
                adjuncts += 1
            tokens = part.tokens
            if part.role == "preposition" and _is_cut(part):
                if self.denials:
                    return None
                continue
            if len(tokens) > 12 and part.role in {"object", "attribute"}:
                tokens = trimmed(phrase_tokens(part.head, brief=True))
            text = self._write(tokens, None)
            if text is None:
                if part.core or self.denials:
                    return None
                continue
            if text:
                texts.append(text)
        return texts

    def _adverb_texts(self) -> list[str]:
        return [" ".join(word.lower_ for word in token.subtree) for token in self.clause.adverbs]

    def _finite(self) -> tuple[str, list[str]]:
        """The word that inverts with the subject, and the rest of the verb."""
        clause = self.clause
        if clause.auxiliaries:
            return clause.auxiliaries[0], [*clause.auxiliaries[1:], clause.verb]
        if clause.lemma == "be":
            return clause.verb, []
        return {"VBD": "did", "VBZ": "does", "VBP": "do"}.get(clause.tag, "did"), [clause.lemma]

    def _inverted(self, front: str, rest: list[str]) -> str | None:
        subject = self._subject_text()
        if subject is None:
            return None
        auxiliary, verb = self._finite()
        negation = [self.clause.negation] if self.clause.negated else []
        return " ".join([front, auxiliary, subject, *negation, *self._adverb_texts(), *verb, *rest])

    def _fronted(self, focus: _Focus, front: str | None, stranded: list[str | None], level: str) -> str | None:
        texts = self._texts(focus, level)
        if texts is None or front is None or None in stranded:
            return None
        if stranded and level == "full" and self._adjuncts(focus) and front not in {"what to do"}:
            # "What was the lease signed on 14 June in?" is hard to read
            return None
        return self._inverted(front, _in_order(texts, [text for text in stranded if text], focus, self.clause))

    def _adjuncts(self, focus: _Focus) -> bool:
        """Whether the clause has phrases of place, time or manner beside the one that is asked for."""
        return any(
            not part.core and part is not focus.part and part.role in {"preposition", "agent", "time", "adverbial"}
            for part in self.clause.constituents
        )

    def _in_situ(self, focus: _Focus, text: str | None) -> str | None:
        texts, subject = self._texts(focus, "core"), self._subject_text()
        if (
            texts is None
            or subject is None
            or text is None
            or (self.clause.existential and not texts and len(text.split()) < 3)
        ):
            return None
        auxiliary, verb = (
            self.clause.auxiliaries or (self.clause.verb,),
            [self.clause.verb] if self.clause.auxiliaries else [],
        )
        if not self.clause.auxiliaries and self.clause.lemma != "be":
            auxiliary, verb = (), [self.clause.verb]
        verb = [
            *auxiliary[:1],
            *([self.clause.negation] if self.clause.negated else []),
            *auxiliary[1:],
            *self._adverb_texts(),
            *verb,
        ]
        return " ".join([subject, *verb, *_in_order(texts, [text], focus, self.clause)])

    def _subject_question(self, wh: Interrogative, level: str) -> str | None:
        texts = self._texts(None, level)
        clause = self.clause
        try:
            subject = write(clause.subject, self.names, Gap(wh.first, wh.last, wh.text))
        except UnboundPronounError:
            return None
        if texts is None or (clause.lemma == "be" and not texts):
            return None
        auxiliaries, verb = list(clause.auxiliaries), clause.verb
        if subject in {"who", "what"}:
            if not auxiliaries and clause.tag == "VBP" and clause.lemma != "be":
                verb = third_person(clause.lemma)
            elif auxiliaries and auxiliaries[0] in {"have", "do"}:
                auxiliaries[0] = third_person(auxiliaries[0])
        negation = [clause.negation] if clause.negated else []
        if negation and not auxiliaries and clause.lemma == "be":
            return " ".join([subject, verb, *negation, *texts])
        return " ".join([subject, *auxiliaries[:1], *negation, *auxiliaries[1:], *self._adverb_texts(), verb, *texts])

    def _finish(self, text: str | None, focus: _Focus, rule: str, weight: float) -> Iterator[Candidate]:
        if text is None or (rule.endswith("in-situ") and focus.wh.besides):
            return
        if focus.wh.besides:
            others = [self._write(item, None) for item in focus.wh.besides]
            named = [other for other in others if other]
            if len(named) < len(others):
                return
            listed = f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
            text = f"besides {listed}, {text}"
        first, last = focus.wh.answer
        if self.denials and focus.part is not None and focus.part.core and focus.wh.last >= focus.part.tokens[-1].i:
            left_out = [t.text for t in focus.part.tokens if t.i > last.i and not t.is_punct]
            if left_out and not all(word in text for word in left_out):
                # "never enter a room with a red tag": not any room
                return
        framed = self._framed(text, focus.part)
        if framed is None or not keeps_negation(self.denials, framed, self.parsed.verbatim(first, last)):
            return
        total = focus.wh.weight * weight * _ORIGIN_WEIGHT[self.clause.origin]
        yield from _candidate(self.parsed, framed, first, last, rule, total)

    def _framed(self, text: str, asked: Constituent | None) -> str | None:
        """The question behind the conditions and the speaker of the clause; None where a pronoun has no name."""
        frame = self.frame
        if frame is None:
            return None
        if asked is not None and frame.holds(asked.head):
            frame = Frame(speaker=frame.speaker)
        try:
            return f"{frame.text(self.names)}{text}"
        except UnboundPronounError:
            return None


def _third_person(clause: Clause, names: Names) -> Clause:
    """The clause with its verb in the third person where a speaker's name stands for "I"."""
    head = clause.subject_head
    if head.lower_ != "i" or head.i not in names:
        return clause
    if clause.auxiliaries:
        first = {"am": "is", "are": "is", "have": "has", "do": "does"}.get(clause.auxiliaries[0], clause.auxiliaries[0])
        return replace(clause, auxiliaries=(first, *clause.auxiliaries[1:]))
    if clause.tag == "VBP":
        return replace(clause, tag="VBZ", verb=third_person(clause.lemma))
    return clause


def _is_tied(doc: Doc, wh: Interrogative) -> bool:
    """Whether the words that are asked for are tied to a number or name behind them: "policy number" and its number."""
    if wh.last + 1 >= len(doc):
        return False
    behind = doc[wh.last + 1]
    if behind.lower_ in {"by", "x", "×"} and doc[wh.last].like_num:
        return True
    if behind.dep_ == "cc" and wh.kind != "besides" and wh.first <= behind.head.i <= wh.last:
        # "which language and German"
        return True
    return (
        (behind.tag_ == "CD" or behind.pos_ in {"PROPN", "NUM"})
        and behind.dep_ in {"nummod", "appos", "npadvmod"}
        and wh.first <= behind.head.i <= wh.last
    )


def _is_cut(part: Constituent) -> bool:
    """Whether a phrase such as "by giving notice before it ends" has lost its end."""
    verb = next((child for child in part.head.children if child.dep_ == "pcomp"), None)
    return verb is not None and any(
        child.dep_ in {"advcl", "prep", "dobj"} and child.i > part.tokens[-1].i for child in verb.subtree
    )


def _goes_on(last: Token) -> bool:
    """Whether the words behind `last` carry on with the same verb: "turns the pump on at 45 and off at 12"."""
    later = last.doc[last.i + 1 :]
    return any(
        token.lower_ == "and" and token.nbor().dep_ in {"prt", "advmod", "conj"} and token.nbor().pos_ in {"ADP", "ADV"}
        for token in later[:-1]
    )


def _is_bare(clause: Clause, wh: Interrogative) -> bool:
    """Whether the question would ask for the manner of just being."""
    return clause.lemma == "be" and (wh.kind == "how" or (wh.kind == "why" and len(clause.constituents) < 3))


def _in_order(texts: list[str], inserted: list[str], focus: _Focus, clause: Clause) -> list[str]:
    """The other constituents with the rest of the focused one: core parts stay next to the verb, others go last."""
    if focus.part is None or (not focus.part.core and focus.part not in clause.constituents[:1]):
        return [*texts, *inserted]
    if not focus.part.core:
        return [*inserted, *texts]
    before = sum(
        1 for part in clause.constituents if part.core and part.head.i < focus.part.head.i and part is not focus.part
    )
    return [*texts[:before], *inserted, *texts[before:]]
