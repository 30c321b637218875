"""Clauses -> questions: put a wh-phrase where the answer stood, move it to the front, and invert (cloze translation)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lift.tasks.asides import aside_questions
from lift.tasks.clauses import Clause, Constituent, clauses_of
from lift.tasks.echo import echo_questions
from lift.tasks.interrogatives import Interrogative, answer_tokens, date_interrogatives, is_person, is_year, noun_interrogatives
from lift.tasks.lexicon import FREQUENCY_ADVERBS, OBJECT_CONTROL_VERBS, PERSON_NOUNS, PLACE_NOUNS, PLACE_PREPOSITIONS, TIME_NOUNS, TIME_PREPOSITIONS
from lift.tasks.parse import ParsedSentence
from lift.tasks.phrases import Gap, Names, UnboundPronounError, contiguous, phrase_tokens, tidy, trimmed, write
from lift.tasks.voice import activated, passivised, third_person

if TYPE_CHECKING:
    from spacy.tokens import Token

MAX_QUESTION_WORDS = 30
MAX_ANSWER_TOKENS = 14
_ORIGIN_WEIGHT = {"clause": 1.0, "relative": 0.85, "participle": 0.85, "apposition": 0.9, "active": 0.95, "passive": 0.9}
_PLACES = frozenset({"GPE", "LOC", "FAC"})
_FUNCTION_WORDS = frozenset(
    """what who whom whose which when where why how many much often long old is are was were be been being am do does did has have had
    will would can could may might must shall should not a an the of in on at to for with by from as and or but one ones this that there
    it he she they into about over under""".split()
)
_POSSESSIVES = frozenset({"his", "her", "its", "their", "my", "our", "your"})
_EMPTY_ANSWERS = frozenset(
    """it this that these those they them he she him her his its their i you we us one some any all many most more less both
    each other others another same such which who what there here so thing things way ways fact time times part something
    anything nothing everything someone order case example instance addition respect turn kind type much lot number lots few several none either the a an and or""".split()
)


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
    """What is asked for: an interrogative inside one constituent (None: inside the subject)."""

    part: Constituent | None
    wh: Interrogative


def question_candidates(parsed: ParsedSentence, names: Names) -> list[Candidate]:
    """All questions that the rules can ask about one sentence, each with a verbatim answer."""
    found: list[Candidate] = []
    for clause in clauses_of(list(parsed.doc)):
        found.extend(_Asker(parsed, names, clause).candidates())
        active = activated(clause)
        if active is not None:
            found.extend(_Asker(parsed, names, active).candidates())
        passive = passivised(clause)
        if passive is not None:
            asker = _Asker(parsed, names, passive)
            found.extend(asker.candidates(subject=False))
            found.extend(asker.agent_questions(clause))
    found.extend(_title_questions(parsed))
    for question, answer, weight, place in aside_questions(parsed, names):
        found.append(Candidate(question, answer, "aside", weight, place))
    covered = {candidate.answer_span for candidate in found}
    for text, first, last, weight in echo_questions(parsed.doc, names, covered):
        found.extend(_candidate(parsed, text, first, last, "echo", weight))
    return found


def _title_questions(parsed: ParsedSentence) -> Iterator[Candidate]:
    """"the Polish engineer Ada Quill" -> "Who was the Polish engineer?", "What was Ada Quill?" """
    past = any(token.tag_ == "VBD" for token in parsed.doc)
    verb = "was" if past else "is"
    for entity in parsed.doc.ents:
        head = entity.root
        if entity.label_ != "PERSON" or head.pos_ != "PROPN":
            continue
        run: list[Token] = []
        index = entity.start - 1
        while index >= 0 and parsed.doc[index].head in (head, *run) and parsed.doc[index].dep_ in {"compound", "amod", "nmod", "poss"}:
            run.insert(0, parsed.doc[index])
            index -= 1
        if not run or run[-1].lemma_.lower() not in PERSON_NOUNS or run[0].dep_ == "poss":
            continue
        names = [token for token in entity if token.tag_ != "POS"]
        title = " ".join(token.text for token in run)
        yield from _candidate(parsed, f"who {verb} the {title}", names[0], names[-1], "title", 0.8)
        yield from _candidate(parsed, f"what {verb} {' '.join(t.text for t in names)}", run[0], run[-1], "title", 0.7)


def _candidate(parsed: ParsedSentence, text: str, first: Token, last: Token, rule: str, weight: float) -> Iterator[Candidate]:
    """The finished question, if it is worth asking."""
    if first.lower_ in _POSSESSIVES and last.i > first.i:
        # "his patents" asked for by "what" is answered by "patents" as well, and stands without the sentence.
        first = first.nbor()
        weight *= 0.8
    question = _polish(text)
    answer = parsed.verbatim(first, last).strip(" ,;:")
    if question is not None and _worth_asking(question, answer, last.i - first.i + 1):
        yield Candidate(question, answer, rule, round(max(weight, 0.2), 3), (first.i, last.i))


class _Asker:
    """Asks about one clause."""

    def __init__(self, parsed: ParsedSentence, names: Names, clause: Clause) -> None:
        self.parsed = parsed
        self.names = names
        self.clause = clause
        self.bound = frozenset(token.i for token in clause.subject)

    def candidates(self, subject: bool = True) -> Iterator[Candidate]:
        clause = self.clause
        if subject and not clause.existential:
            for wh in _foci(clause.subject_head, clause.subject):
                if wh.besides and clause.origin == "relative":
                    continue
                yield from self._questions(_Focus(None, wh))
        for part in clause.constituents:
            for wh in _part_foci(part, clause):
                yield from self._questions(_Focus(part, wh))
        yield from self._action_questions()

    def agent_questions(self, active: Clause) -> Iterator[Candidate]:
        """"By whom was the museum founded?" """
        head, tokens = active.subject_head, active.subject
        if not contiguous(tokens):
            return
        body = answer_tokens(head, tokens)
        wh = Interrogative("by whom" if is_person(head) or head.ent_type_ in {"ORG", "GPE", "NORP"} else "by what", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "by", 0.75)
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
            if wh.kind == "property" or (clause_is_bare(self.clause, wh)):
                break
            if wh.kind == "infinitive":
                yield from self._finish(self._fronted(focus, "what", ["to do"], level), focus, rule, weight)
                continue
            if whole:
                yield from self._finish(self._fronted(focus, wh.text, [], level), focus, rule, weight)
            elif wh.first == first:
                yield from self._finish(self._fronted(focus, self._write(part.tokens, gap), [], level), focus, rule, weight)
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
                elif wh.kind not in {"when", "year", "date", "decade", "century", "duration"}:
                    if not tail:
                        yield from self._finish(self._fronted(focus, wh.text, [preposition], level), focus, rule, weight * 0.95)
            elif part.role in {"verb_phrase", "adjective"} or (wh.last == last and part.head.doc[wh.first - 1].pos_ == "ADP" and (
                part.role == "attribute" and part.head.doc[wh.first - 1].lower_ in {"of", "to", "for"} or part.role == "object"
            )):
                rest = self._write([token for token in part.tokens if not wh.first <= token.i <= wh.last], None)
                if part.role not in {"clause"}:
                    yield from self._finish(self._fronted(focus, wh.text, [rest], level), focus, rule, weight * 0.8)
        if wh.kind not in {"why", "how", "do", "frequency", "infinitive", "property"} and part.role not in {"adverbial"}:
            text = wh.text if whole else self._write(part.tokens, gap)
            weight = 0.65 if adjunct or wh.kind in {"number", "year", "which", "percentage"} else 0.55
            yield from self._finish(self._in_situ(focus, text), focus, f"{rule}-in-situ", weight)

    def _action_questions(self) -> Iterator[Candidate]:
        """"What did Ada Quill do in 1911?" -> "founded the lighthouse museum"."""
        clause = self.clause
        if clause.lemma in {"be", "have", "become"} or clause.auxiliaries or clause.negated or not clause.main:
            return
        agent = is_person(clause.subject_head) or clause.subject_head.ent_type_ in {"ORG", "NORP", "GPE"} or clause.subject_head.pos_ == "PRON"
        objects = [part for part in clause.constituents if part.role in {"object", "verb_phrase"}] or [
            part for part in clause.constituents if part.role == "preposition" and part.head.i not in clause.fronted][:1]
        if not objects or clause.anchor.i > objects[0].tokens[0].i:
            return
        run = [clause.anchor, *(token for part in clause.constituents if part.core or part is objects[0] for token in part.tokens)]
        run.sort(key=lambda token: token.i)
        if not contiguous(run) or len(run) > MAX_ANSWER_TOKENS:
            return
        wh = Interrogative("what", run[0].i, run[-1].i, (run[0], run[-1]), "do", 0.55)
        focus = _Focus(objects[0], wh)
        front = {"VBD": "did", "VBZ": "does", "VBP": "do"}.get(clause.tag, "did")
        subject = self._subject_text()
        adjuncts = [self._write(part.tokens, None) for part in clause.constituents
                    if not part.core and part is not objects[0] and part.role in {"preposition", "time"}]
        if subject is not None and None not in adjuncts:
            texts = [text for text in adjuncts if text][:2]
            yield from self._finish(" ".join(["what", front, subject, "do", *texts]), focus, "action", (1.0 if texts else 0.7) * (1.0 if agent else 0.7))

    def _write(self, tokens: Sequence[Token], gap: Gap | None) -> str | None:
        try:
            return write(trimmed(list(tokens)), self.names, gap, self.bound)
        except UnboundPronounError:
            return None

    def _subject_text(self) -> str | None:
        if self.clause.existential:
            return "there"
        try:
            return write(self.clause.subject, self.names)
        except UnboundPronounError:
            return None

    def _texts(self, focus: _Focus | None, level: str) -> list[str] | None:
        """The constituents beside the focus, as text; None where a pronoun has no name."""
        texts: list[str] = []
        adjuncts = 0
        core = any(part.core for part in self.clause.constituents)
        for part in self.clause.constituents:
            if focus is not None and part is focus.part:
                continue
            if not part.core:
                if part.role == "adverbial" and (len(part.tokens) > 9 or level == "core"):
                    continue
                tied = self.clause.lemma == "be" and part.role == "preposition" and part.head.i not in self.clause.fronted
                if level == "core" and not tied and (core or adjuncts >= 1):
                    continue
                adjuncts += 1
            tokens = part.tokens
            if len(tokens) > 12 and part.role in {"object", "attribute"}:
                tokens = trimmed(phrase_tokens(part.head, brief=True))
            text = self._write(tokens, None)
            if text is None:
                if part.core:
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
        negation = ["not"] if self.clause.negated else []
        return " ".join([front, auxiliary, subject, *negation, *self._adverb_texts(), *verb, *rest])

    def _fronted(self, focus: _Focus, front: str | None, stranded: list[str | None], level: str) -> str | None:
        texts = self._texts(focus, level)
        if texts is None or front is None or None in stranded:
            return None
        return self._inverted(front, _in_order(texts, [text for text in stranded if text], focus, self.clause))

    def _in_situ(self, focus: _Focus, text: str | None) -> str | None:
        texts, subject = self._texts(focus, "core"), self._subject_text()
        if texts is None or subject is None or text is None or (self.clause.existential and not texts and len(text.split()) < 3):
            return None
        auxiliary, verb = self.clause.auxiliaries or (self.clause.verb,), [self.clause.verb] if self.clause.auxiliaries else []
        if not self.clause.auxiliaries and self.clause.lemma != "be":
            auxiliary, verb = (), [self.clause.verb]
        verb = [*auxiliary[:1], *(["not"] if self.clause.negated else []), *auxiliary[1:], *self._adverb_texts(), *verb]
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
        negation = ["not"] if clause.negated else []
        if negation and not auxiliaries:
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
        total = focus.wh.weight * weight * _ORIGIN_WEIGHT[self.clause.origin]
        yield from _candidate(self.parsed, text, first, last, rule, total)


def clause_is_bare(clause: Clause, wh: Interrogative) -> bool:
    """Whether the question would ask for the manner of just being."""
    return clause.lemma == "be" and (wh.kind == "how" or wh.kind == "why" and len(clause.constituents) < 3)


def is_place(part: Constituent) -> bool:
    """Whether a prepositional phrase says where: then nobody asks "what ... in?"."""
    noun = next((child for child in part.head.children if child.dep_ == "pobj"), None)
    return noun is not None and noun.ent_type_ in _PLACES and part.head.lower_ in PLACE_PREPOSITIONS


def _in_order(texts: list[str], inserted: list[str], focus: _Focus, clause: Clause) -> list[str]:
    """The other constituents with the rest of the focused one: core parts stay next to the verb, others go last."""
    if focus.part is None or (not focus.part.core and focus.part not in clause.constituents[:1]):
        return [*texts, *inserted]
    if not focus.part.core:
        return [*inserted, *texts]
    before = sum(1 for part in clause.constituents if part.core and part.head.i < focus.part.head.i and part is not focus.part)
    return [*texts[:before], *inserted, *texts[before:]]


def _polish(text: str) -> str | None:
    """Capital, question mark; None for what cannot be a good question."""
    text = tidy(text)
    words = text.split()
    core = text.split(", ", 1)[-1] if text.startswith("besides ") else text
    content = [word for word in re.findall(r"[\w'’-]+", core) if word.lower() not in _FUNCTION_WORDS]
    if len(content) < 2 and not any(word[:1].isupper() or word[:1].isdigit() for word in content):
        return None
    if re.search(r" [-–—] |- -|\bwh\w+ ?[-/]|(?:^|\s)[-–/]\w| (?:a|an|the|and|or)(?:\?|$)|\bwhat of\b|\bwhat what\b", text):
        return None
    if not 3 <= len(words) <= MAX_QUESTION_WORDS or re.search(r"[\"“”;?!\[\]]|\.\.\.|['‘’] ['‘’]|\bwh\w+['’]s\b", text):
        return None
    if re.search(r"\b(\w+) \1\b", text.lower()):
        return None
    return f"{text[:1].upper()}{text[1:]}?"


def _worth_asking(question: str, answer: str, tokens: int) -> bool:
    words = re.findall(r"\w+", answer.lower())
    if not words or tokens > MAX_ANSWER_TOKENS or all(word in _EMPTY_ANSWERS for word in words):
        return False
    if answer.count("(") != answer.count(")") or answer.lower() in {"today", "now", "then"} or answer.count('"') % 2:
        return False
    asked = set(re.findall(r"\w+", question.lower()))
    content = [word for word in words if word not in _EMPTY_ANSWERS]
    return not (content and all(word in asked for word in content))


def _foci(head: Token, tokens: Sequence[Token], nested: bool = True) -> Iterator[Interrogative]:
    """Question words for a noun phrase and for what it contains."""
    tokens = list(tokens)
    if head.pos_ in {"NOUN", "PROPN", "NUM", "X", "ADJ", "SYM"} and tokens:
        brief = list(trimmed(phrase_tokens(head, brief=True)))
        left = [token for token in brief if token.i <= head.i]
        use = tokens if contiguous(tokens) and len(tokens) <= 8 else brief
        if head.ent_type_ in {"DATE", "TIME"} and contiguous(tokens) and head.pos_ != "PROPN":
            yield from (wh for wh in date_interrogatives(tokens) if wh.kind not in {"when"})
        elif contiguous(use):
            seen = set()
            for wh in noun_interrogatives(head, use):
                if (wh.text, wh.first, wh.last) in seen:
                    continue
                seen.add((wh.text, wh.first, wh.last))
                # The answer to "what" may leave out the tail of the phrase, but then the question may not keep it.
                last = tokens[-1].i if wh.last == use[-1].i and wh.kind in {"who", "what"} else wh.last
                yield Interrogative(wh.text, wh.first, last, wh.answer, wh.kind, wh.weight)
            if nested:
                yield from _listed(head, tokens)
                yield from _renamed(head, tokens)
            if use is tokens and len(left) < len(tokens) and contiguous(left):
                yield from _headed(head, left, tokens)
    if not nested:
        return
    inside = {token.i for token in tokens}
    for token in tokens:
        if token.i == head.i:
            continue
        if token.dep_ == "poss" and (token.pos_ == "PROPN" or is_person(token)):
            owner = [word for word in phrase_tokens(token) if word.i in inside]
            body = trimmed([word for word in owner if word.tag_ != "POS"])
            marks = [child for child in token.children if child.tag_ == "POS"]
            if body and marks and contiguous(body):
                answer = answer_tokens(token, body)
                yield Interrogative("whose", body[0].i, marks[0].i, (answer[0], answer[-1]), "whose", 0.8)
        elif token.dep_ in {"pobj", "dobj", "attr", "conj"} and token.pos_ in {"NOUN", "PROPN", "NUM"}:
            if token.dep_ == "conj":
                continue
            phrase = [word for word in trimmed(phrase_tokens(token)) if word.i in inside]
            if contiguous(phrase) and token in phrase:
                for wh in _foci(token, phrase, nested=False):
                    yield replace(wh, weight=wh.weight * 0.85)


def _listed(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """Each member of a list: "Besides mills and bridges, what did Ada build?" """
    inside = {token.i for token in tokens}
    members, last = [head], head
    while (last := next((child for child in last.children if child.dep_ == "conj" and child.i in inside), None)) is not None:  # type: ignore[assignment]
        members.append(last)
    if not 2 <= len(members) <= 5 or any(member.pos_ not in {"NOUN", "PROPN"} or member.ent_type_ == "DATE" for member in members):
        return
    items = []
    for member in members:
        later = {word.i for child in member.children if child.dep_ == "conj" for word in child.subtree}
        items.append(trimmed([word for word in phrase_tokens(member) if word.i in inside and word.i not in later]))
    if not all(item and contiguous(item) for item in items):
        return
    for member, item in zip(members, items, strict=True):
        body = answer_tokens(member, item)
        others = tuple(tuple(other) for other in items if other is not item)
        text = "who" if is_person(member) else "what"
        yield Interrogative(text, tokens[0].i, tokens[-1].i, (body[0], body[-1]), "besides", 0.8, others)


def _renamed(head: Token, tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """An apposition names the same thing: ask for the name, or for the kind of thing that it is."""
    appositions = [child for child in head.children if child.dep_ == "appos"]
    if len(appositions) != 1 or any(child.dep_ in {"conj", "cc"} for child in (*head.children, *appositions[0].children)):
        return
    other = appositions[0]
    brief = [token for token in trimmed(phrase_tokens(other, brief=True)) if token.i <= other.i]
    if not contiguous(brief) or len(brief) > 7:
        return
    body = answer_tokens(other, brief)
    if head.pos_ == "NOUN" and other.pos_ == "PROPN":
        yield Interrogative("who" if is_person(other) or is_person(head) else "what", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "who", 1.0)
        named = [token for token in phrase_tokens(head, brief=True) if token.dep_ not in {"det", "poss", "case"} and token.tag_ not in {"POS", "PRP$"}]
        if contiguous(named) and len(named) <= 4 and head.tag_ == "NN":
            noun = " ".join(token.text for token in named)
            yield Interrogative(f"which {noun}", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "name", 0.9)
    elif head.pos_ == "PROPN" and other.pos_ == "NOUN" and other.tag_ == "NN" and brief[0].lower_ in {"a", "an", "the"} and len(brief) > 1:
        own = answer_tokens(head, [token for token in tokens if token.i <= head.i])
        if contiguous(own):
            noun = " ".join(token.text for token in brief[1:])
            yield Interrogative(f"which {noun}", tokens[0].i, tokens[-1].i, (own[0], own[-1]), "name", 0.9)


def _headed(head: Token, left: Sequence[Token], tokens: Sequence[Token]) -> Iterator[Interrogative]:
    """The noun alone as the answer, the rest of the phrase kept in the question."""
    for wh in noun_interrogatives(head, left):
        if wh.kind in {"which", "kind", "number"}:
            yield Interrogative(wh.text, wh.first, wh.last, wh.answer, wh.kind, wh.weight * 0.95)


def _part_foci(part: Constituent, clause: Clause) -> Iterator[Interrogative]:
    """Question words for one constituent."""
    head, tokens = part.head, part.tokens
    if part.role in {"object", "attribute", "dative"}:
        if clause.lemma == "be" and part.role == "attribute" and clause.subject_head.ent_type_ == "PERSON" and contiguous(tokens):
            body = answer_tokens(head, tokens)
            yield Interrogative("who", tokens[0].i, tokens[-1].i, (body[0], body[-1]), "who", 0.8)
        if clause.lemma == "be" and part.role == "attribute" and is_person(clause.subject_head) and head.pos_ == "NUM":
            yield Interrogative("how old", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "age", 0.9)
            return
        copular = clause.lemma == "be" and part.role == "attribute"
        for wh in _foci(head, tokens):
            if not (copular and (wh.text == "who" and not is_person(clause.subject_head) or wh.kind == "which" and wh.last >= head.i and not head.ent_type_)):
                yield wh
    elif part.role in {"preposition", "agent"}:
        yield from _preposition_foci(part)
    elif part.role == "time":
        if contiguous(tokens):
            yield from (Interrogative(wh.text, wh.first, wh.last, wh.answer, wh.kind, wh.weight) for wh in date_interrogatives(tokens)
                        if head.ent_type_ in {"DATE", "TIME"} and wh.text not in {"what year", "which year"})
    elif part.role == "adverb":
        if head.lower_ in {"once", "twice", "thrice"}:
            yield Interrogative("how many times", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "frequency", 0.9)
        elif head.lower_ in FREQUENCY_ADVERBS:
            yield Interrogative("how often", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "frequency", 0.8)
        elif head.lower_.endswith("ly") and contiguous(tokens):
            yield Interrogative("how", tokens[0].i, tokens[-1].i, (tokens[0], tokens[-1]), "how", 0.6)
    elif part.role == "adjective":
        inner = [token for token in tokens if token.i <= head.i]
        if contiguous(inner):
            yield Interrogative("what", tokens[0].i, tokens[-1].i, (inner[0], inner[-1]), "property", 0.5)
        yield from _nested(tokens)
    elif part.role == "verb_phrase":
        to = next((child for child in head.children if child.dep_ == "aux" and child.lower_ == "to"), None)
        rest = [token for token in tokens if token.i >= head.i]
        if to is not None and contiguous(rest):
            controlled = any(other.role == "object" and other.head.i < head.i for other in clause.constituents)
            if controlled and clause.lemma not in OBJECT_CONTROL_VERBS:
                yield Interrogative("why", tokens[0].i, tokens[-1].i, (to, rest[-1]), "why", 0.6)
                yield Interrogative("for what purpose", tokens[0].i, tokens[-1].i, (to, rest[-1]), "why", 0.5)
            else:
                yield Interrogative("what", tokens[0].i, tokens[-1].i, (head, rest[-1]), "infinitive", 0.5)
        yield from _nested(tokens)
    elif part.role == "clause":
        rest = [token for token in tokens if token.dep_ != "mark"]
        if contiguous(rest):
            yield Interrogative("what", tokens[0].i, tokens[-1].i, (rest[0], rest[-1]), "what", 0.55)
    elif part.role == "adverbial":
        yield from _adverbial_foci(part)


def _nested(tokens: Sequence[Token]) -> Iterator[Interrogative]:
    inside = {token.i for token in tokens}
    for token in tokens:
        if token.dep_ in {"dobj", "pobj", "attr"} and token.pos_ in {"NOUN", "PROPN", "NUM"}:
            phrase = [word for word in trimmed(phrase_tokens(token)) if word.i in inside]
            if phrase and contiguous(phrase):
                for wh in _foci(token, phrase, nested=False):
                    yield replace(wh, weight=wh.weight * 0.9)


def _preposition_foci(part: Constituent) -> Iterator[Interrogative]:
    head, tokens = part.head, part.tokens
    word = head.lower_
    first, last = tokens[0].i, tokens[-1].i
    rest = trimmed(tokens[1:])
    if not rest:
        return
    if word in {"because", "due", "owing"}:
        body = trimmed([token for token in rest if token.lower_ not in {"of", "to"} or token.i > rest[0].i])
        if body and contiguous(body):
            yield Interrogative("why", first, last, (body[0], body[-1]), "why", 0.9)
        return
    verb = next((child for child in head.children if child.dep_ == "pcomp" and child.tag_ == "VBG"), None)
    if verb is not None:
        if contiguous(rest):
            if word in {"by", "through", "via"}:
                yield Interrogative("how", first, last, (rest[0], rest[-1]), "how", 0.8)
            elif word == "for":
                yield Interrogative("why", first, last, (rest[0], rest[-1]), "why", 0.7)
        yield from _nested(rest)
        return
    objects = [child for child in head.children if child.dep_ == "pobj"]
    if not objects:
        return
    noun = objects[0]
    body = answer_tokens(noun, rest)
    if not contiguous(rest):
        rest = trimmed(phrase_tokens(noun, brief=True))
        body = answer_tokens(noun, rest)
        if not contiguous(rest) or not rest:
            return
    answer = (body[0], body[-1])
    if noun.ent_type_ in {"DATE", "TIME"} or is_year(rest):
        if word in TIME_PREPOSITIONS and word not in {"of", "about"}:
            for wh in date_interrogatives(rest):
                if wh.text == "when" and word in {"in", "on", "at", "during", "by", "around", "after", "before", "between", "circa"}:
                    yield Interrogative("when", first, last, wh.answer if word not in {"after", "before", "between"} else (tokens[0], wh.answer[1]), "when", 1.0)
                elif wh.text == "when":
                    yield Interrogative("when", rest[0].i, rest[-1].i, wh.answer, "until", 0.9)
                elif wh.kind == "duration" and word in {"for", "in", "over", "within", "during", "throughout"}:
                    yield Interrogative(wh.text, first, last, wh.answer, "duration", wh.weight)
                elif wh.kind != "duration":
                    yield wh
            if word == "from" and any(child.lower_ in {"to", "until"} for child in head.head.children if child.dep_ == "prep"):
                end = next(child for child in head.head.children if child.dep_ == "prep" and child.lower_ in {"to", "until"})
                span = [token for token in end.subtree]
                if span[0].i == last + 1:
                    yield Interrogative("when", first, last, (rest[0], span[-1]), "when", 0.9)
        return
    if noun.ent_type_ in _PLACES and word in PLACE_PREPOSITIONS:
        yield Interrogative("where", first, last, answer, "where", 1.0)
    elif noun.ent_type_ in _PLACES and word in {"from", "to", "into", "towards", "through"}:
        yield Interrogative("where", rest[0].i, rest[-1].i, answer, "place", 0.9)
        if word in {"to", "into", "towards"}:
            yield Interrogative("where", first, last, answer, "where", 0.9)
    elif (word in {"near", "inside", "beneath", "behind"} or word in PLACE_PREPOSITIONS and noun.lemma_.lower() in PLACE_NOUNS) and noun.pos_ == "NOUN":
        yield Interrogative("where", first, last, (tokens[0], rest[-1]), "where", 0.5)
    elif word in {"after", "before", "during"} or word in TIME_PREPOSITIONS and noun.lemma_.lower() in TIME_NOUNS:
        yield Interrogative("when", first, last, (tokens[0], rest[-1]), "when", 0.7)
        if noun.lemma_.lower() in TIME_NOUNS:
            return
    yield from _foci(noun, rest)


def _adverbial_foci(part: Constituent) -> Iterator[Interrogative]:
    head, tokens = part.head, part.tokens
    first, last = tokens[0].i, tokens[-1].i
    if not contiguous(tokens) or len(tokens) > MAX_ANSWER_TOKENS:
        return
    mark = next((child for child in head.children if child.dep_ in {"mark", "advmod"} and child.i == tokens[0].i), None)
    to = next((child for child in head.children if child.dep_ == "aux" and child.lower_ == "to"), None)
    if mark is not None and mark.lower_ in {"because", "since"}:
        yield Interrogative("why", first, last, (tokens[1], tokens[-1]), "why", 0.9)
    elif mark is not None and mark.lower_ in {"when", "after", "before", "until", "once"}:
        yield Interrogative("when", first, last, (tokens[0], tokens[-1]), "when", 0.6)
    elif to is not None and to.i == head.i - 1 and head.tag_ == "VB":
        yield Interrogative("why", first, last, (to, tokens[-1]), "why", 0.75)
        yield Interrogative("for what purpose", first, last, (to, tokens[-1]), "why", 0.6)
        yield from _nested(tokens)
