"""Facts told in passing: in parentheses (years of life, abbreviations, other names) and in titles before a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lift.tasks.rules.dependency_parse import ParsedSentence
from lift.tasks.rules.examples import examples_aside
from lift.tasks.rules.interrogatives import is_person
from lift.tasks.rules.lexicon import PERSON_NOUNS
from lift.tasks.rules.phrases import Names, UnboundPronounError, phrase_tokens, trimmed, write

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_YEARS = re.compile(r"^(?:c\. ?)?(\d{3,4}) ?[–—-] ?(?:c\. ?)?(\d{2,4})$")
_YEAR = re.compile(r"^(?:in )?(\d{4})$")
_PERCENT = re.compile(r"^[\d.,]+ ?%$")
_TRANSLATIONS = re.compile(r"(?:^|[,;] )([A-Z]\w+(?:an|ish|ese|ic|in|ch|ek|ew|sh)): ([^\W\d][^,;:]*)")
_SHORT = re.compile(r"^[A-Z][A-Z0-9.&-]{1,7}$")
_WORDS = re.compile(r"^(?:the )?[^\W\d][\w’'-]*(?: [\w’'-]+){0,3}$")


def aside_questions(parsed: ParsedSentence, names: Names) -> Iterator[tuple[str, str, float, tuple[int, int]]]:
    """(question, answer, weight, place) for each parenthesis whose meaning is plain from its form."""
    for aside in parsed.asides:
        head, tokens = _phrase_before(parsed.doc[aside.after])
        if not tokens or len(tokens) > 8:
            continue
        try:
            name = write(tokens, names)
        except UnboundPronounError:
            continue
        place = (tokens[0].i, tokens[-1].i)
        full = parsed.verbatim(tokens[0], tokens[-1])
        content = aside.text
        if match := _YEARS.match(content):
            start, end = match.groups()
            if is_person(head):
                yield f"When was {name} born?", start, 0.9, place
                yield f"In what year was {name} born?", start, 0.8, place
                yield f"When did {name} die?", end, 0.9, place
                yield f"What year did {name} die?", end, 0.8, place
            else:
                yield f"What were the years of {name}?", content, 0.6, place
        elif match := _YEAR.match(content):
            yield f"What year was {name}?", match.group(1), 0.7, place
            yield f"When was {name}?", match.group(1), 0.7, place
        elif _PERCENT.match(content):
            yield f"What percentage were {name}?", content, 0.7, place
        elif examples := examples_aside(content):
            if head.tag_ == "NNS":
                yield f"What are examples of {name}?", examples, 0.7, place
        elif translations := _TRANSLATIONS.findall(content):
            for language, translated in translations:
                yield f"What is {name} called in {language}?", translated.strip(), 0.8, place
                yield f"What is the {language} name of {name}?", translated.strip(), 0.75, place
        elif _SHORT.match(content) and head.pos_ == "PROPN":
            yield f"What is {name} abbreviated as?", content, 0.7, place
            yield f"What is the abbreviation of {name}?", content, 0.7, place
            yield f"What does {content} stand for?", re.sub("^[Tt]he ", "", full), 0.9, place
        elif (
            _WORDS.match(content)
            and not re.match(r"(?i)(?:see|e\.?g|i\.?e|such|including|mostly|now|or|and|but|also)\b", content)
            and head.pos_ in {"PROPN", "NOUN"}
        ):
            yield f"What is another name for {name}?", content, 0.6, place


def _phrase_before(last: Token) -> tuple[Token, tuple[Token, ...]]:
    """The noun phrase that ends with the token before a parenthesis."""
    head = last
    while (
        head.head.i != head.i
        and head.head.i < head.i
        and head.dep_ in {"pobj", "prep"}
        and head.head.right_edge.i <= last.i
        and head.head.lower_ == "of"
    ):
        head = head.head
    while head.dep_ in {"compound", "amod"} and head.head.i <= last.i and head.head.i != head.i:
        head = head.head
    if head.lower_ == "of":
        head = head.head
    if head.pos_ not in {"NOUN", "PROPN"}:
        return head, ()
    return head, tuple(token for token in trimmed(phrase_tokens(head, brief=True)) if token.i <= last.i)


def title_questions(doc: Doc) -> Iterator[tuple[str, Token, Token, float]]:
    """ "the Polish engineer Ada Quill" -> who was the Polish engineer, what was Ada Quill.

    Yields (question, first and last token of the answer, weight).
    """
    verb = "was" if any(token.tag_ == "VBD" for token in doc) else "is"
    for entity in doc.ents:
        head = entity.root
        if entity.label_ != "PERSON" or head.pos_ != "PROPN":
            continue
        run: list[Token] = []
        index = entity.start - 1
        while index >= 0 and doc[index].head in (head, *run) and doc[index].dep_ in {"compound", "amod", "nmod"}:
            run.insert(0, doc[index])
            index -= 1
        if not run or run[-1].lemma_.lower() not in PERSON_NOUNS:
            continue
        names = [token for token in entity if token.tag_ != "POS"]
        yield f"who {verb} the {' '.join(token.text for token in run)}", names[0], names[-1], 0.8
        yield f"what {verb} {' '.join(token.text for token in names)}", run[0], run[-1], 0.7
