"""Text -> sentences, with their place in the text. Pure: no model, no file.

sentencex proposes the boundaries (rules and abbreviations for many languages); here they are kept inside paragraphs and
lines, mended where a fragment or a missed boundary would make a bad training sample, and given offsets into the text.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lift.documents.language import document_language
from lift.documents.plain_text import SENTENCE_END, is_table_row, starts_own_line

if TYPE_CHECKING:
    from lift.documents.document import Document

MAX_SENTENCE_CHARS = 1_000
_WRAPPED_LINE_CHARS = (55, 150)
_BLANK_LINES = re.compile(r"\n\s*\n")
_SOLID = re.compile(r"\S")
_ENUMERATOR = re.compile(
    r"\W*(?:(?:article|section|clause|paragraph|part|chapter|rule|regulation|schedule|annex|appendix|exhibit|item|note|"
    r"step|question|example|figure|table|title|art|sec|cl|para|reg|sched|§+|#|artikel|abschnitt|absatz|kapitel|ziffer|"
    r"artículo|sección|cláusula|capítulo|chapitre|articolo|artigo|artikkel)\.?\s*)?"
    r"(?:\d{1,3}(?:\.\d+)*[a-z]?|[a-z]|[ivx]{1,5})\W*|第[〇零一二三四五六七八九十百千\d]+[条條章节節款项項編编]\W*",
    re.IGNORECASE,
)
# The number or letter that an item of a list begins with: neither is it a word of the sentence, nor its beginning.
_LIST_MARK = re.compile(r"\W*(?:\d{1,3}(?:\.\d+)*|[A-Za-z]|[ivxIVX]{1,5})[.)\]:]\s+(?=\S)")
_MAX_ENUMERATOR_CHARS = 200
# Where a sentence ends, this many of its last characters decide; longer words and abbreviations there are not.
_END_CHARS = 300
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"‘'–—-])(?:vols?|nos?|pp?|pt|figs?|eqs?|secs?|ch|chap|chaps|arts?|tab|refs?|approx|circa|ca?|cf|vs?|eds?|"
    r"est|al|op|cit|ibid|viz|fl|ff|incl|excl|max|min|avg|tel|ext|dept|rev|hon|capt|cpt|cmdr|maj|sgt|messrs|mt|ft|st|ste|"
    r"bros|corp|inc|ltd|co|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|sat|sun|"
    r"b|d|r|m|lit|trans|repr|eg|ie|e\.g|i\.e|a\.k\.a|etc|resp|per cent|p\.a|p\.m|a\.m|p\.d|subs?|subss|subparas?|"
    r"pars?|paras?|scheds?|regs?|cls?|ss|et seq|seq|ann|exh?|app|pts?|cir|stat|amt|qty|acct|attn|encl|yrs?|hrs?|mos?|"
    r"aprox|env|núms?|págs?|cap|tít|abs|ziff|rdn?r|evtl|ggf|zzgl|inkl|exkl|bzw|mind|std|sek|jh|jhdt)"
    r"\.[\s\"'”’)]*$",
    re.IGNORECASE,
)
# "Ex. B", "Art. IV", "No. B-2": a number in letters
_LETTERED = re.compile(
    r"(?:^|[\s(])(?:nos?|arts?|secs?|cls?|paras?|scheds?|exh?|app|figs?|vols?|chs?|pts?|divs?|tab|lit)\.\s*$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\s*(?:[A-Z]-?\d|[B-HJ-Z](?![\w'’])|[IVX]{2,5}(?![\w'’]))")
# Short forms that stand before a word with a capital and never at the end, by language; for German also ordinals.
_BEFORE_CAPITALS = {
    "de": re.compile(
        r"(?:^|[\s(])(?:geb|inkl|einschl|exkl|ausschl|zzgl|abzgl|ggf|bspw|bzw|bzgl|vgl|sog|insb|insbes|gem|lt|evtl|zzt|"
        r"mind|ca|hrsg|hg|fa|hr|fr|frl|dipl|ing|med|phil|jur|rer|nat|betr|abs|art|nr|ziff|str|"
        r"(?:im|am|vom|zum|zur|beim|ins|der|die|das|den|dem|des|ein|eine|einen|einem|einer|eines|jede[rmns]?|diese[rmns]?|"
        r"seine[rmns]?|ihre[rmns]?|und|bis|seit|ab|um|auf|als|mein|sein|ihr|unser)\s\d{1,2})\.\s*$",
        re.IGNORECASE,
    ),
    "fr": re.compile(
        r"(?:^|[\s(])(?:pr|me|mme|mlle|mgr|st|ste|bd|av|env|n°|art|chap|éd|cf|vol|sté)\.\s*$", re.IGNORECASE
    ),
    "es": re.compile(
        r"(?:^|[\s(])(?:d|dña|dª|sr|sra|srta|dr|dra|prof|profa|lic|ing|ud|uds|vd|vds|excmo|ilmo|sta|sto|avda|art|núm|"
        r"aprox|pág|págs|ee|ff)\.\s*$",
        re.IGNORECASE,
    ),
    "it": re.compile(
        r"(?:^|[\s(])(?:sig|sigg|sig\.ra|dott|dott\.ssa|prof|ing|avv|geom|rag|arch|on|spett|art|artt|n|nn|pag|fig)\.\s*$",
        re.IGNORECASE,
    ),
    "pt": re.compile(r"(?:^|[\s(])(?:sr|sra|dr|dra|prof|profa|eng|exmo|av|art|n|pág|lda|ltda)\.\s*$", re.IGNORECASE),
    "nl": re.compile(r"(?:^|[\s(])(?:dhr|mevr|mw|dr|drs|ir|ing|prof|mr|art|nr|ca|bijv|incl|excl)\.\s*$", re.IGNORECASE),
}
# After such a number a word that opens many sentences begins one: "Er wohnt in der 3. Sie kam später."
_GERMAN_OPENING = re.compile(
    r"\s*(?:Der|Die|Das|Er|Sie|Es|Wir|Ich|Im|Am|In|Ein|Eine|Und|Aber|Dann|Dort|Diese[rs]?|Bei|Auf|Mit|Nach|Von|Für|Als|"
    r"Wenn|Wer|Was|Wo|Wie|Warum)\s"
)
_ORDINAL = re.compile(r"\d\.\s*$")
# A new item in the middle of a line: "... is paid. (b) The fee ..."
_ITEM_INSIDE = re.compile(r"(?<=[.!?;。；])\s+(?=\((?:\d{1,2}|[a-z]|[ivx]{1,5})\)\s+[^\W\d_a-z])")
# What was said goes on behind the quotation mark: 「どこへ？」と彼女は聞いた。
_SAID = re.compile(r"[」』”’][ \t]*$")
_SAYING = re.compile(r"(?:と|って|など|との|という|，|、)")
_NAME_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"])(?:Mr|Mrs|Ms|Dr|Prof|Mt|Ft|St|Ste|Capt|Cpt|Cmdr|Maj|Sgt|Rev|Hon|Messrs|Mme|Mlle|vs|cf|viz)\.\s*$"
)
_BRACKETING = re.compile(r"[\"“”„«»()\[\]]|(?<!\w)['‘’]|['’](?!\w)")
_OPENED = re.compile(r"(?<=\s)[\"'“‘„«(\[]+\s*\Z")
_MAX_OPENING_CHARS = 8
_WHITE_SPACE = re.compile(r"\s")
_CITATION = re.compile(r"\[\d{1,3}\]")
_SHORT_ENCLOSED = re.compile(
    r"(?<![\w.,!?;:…])\"(?=\S)[^\"\n]{0,199}(?<=\S)\"(?!\w)|“[^“”\n]{1,200}”|«[^«»\n]{1,200}»|\([^()\n]{1,200}\)|\[[^\[\]\n]{1,200}\]"
)
_STARTER = re.compile(
    r"(?:The|An?|In|On|At|By|For|From|He|She|It|They|We|His|Her|Its|This|That|These|Those|After|Before|But|And|As)\s"
)
_UNSPACED_LOWER = re.compile(r"\s[a-z]{2,}[\])”\"’']*\.$")
_UNSPACED = re.compile(r"\s\S+\s\S+\s[\w’'-]+[\])”\"]*\.$")
_CAPITALISED = re.compile(r"[A-Z][a-z]*\s")
_OPENING = re.compile(r"[\s\"'“‘«(\[_*—–-]*")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a document: `text` is document.text[start:end], stripped; `paragraph` counts from 0."""

    index: int
    text: str
    start: int
    end: int
    paragraph: int


def split_sentences(text: str, language: str = "en") -> list[Sentence]:
    """Split a text into sentences, in order and without overlap; every character but white space is in one of them.

    A sentence never crosses a blank line, a list item, a table row or a speaker's turn, and is never longer than
    MAX_SENTENCE_CHARS: what is longer (tables, lists, transcripts without stops) is cut at line breaks, semicolons,
    commas or spaces. `language` is an ISO 639-1 code, for the abbreviations.
    """
    sentences: list[Sentence] = []
    for number, (paragraph_start, paragraph_end) in enumerate(_paragraphs(text)):
        for line_start, line_end in _line_groups(text, paragraph_start, paragraph_end):
            for start, end in _sentence_spans(text[line_start:line_end], language):
                for cut_start, cut_end in _cut(text, line_start + start, line_start + end):
                    piece = text[cut_start:cut_end]
                    left = cut_start + len(piece) - len(piece.lstrip())
                    right = left + len(piece.strip())
                    if left < right:
                        sentences.append(Sentence(len(sentences), text[left:right], left, right, number))
    return sentences


def document_sentences(document: Document) -> list[Sentence]:
    """The sentences of a document by the rules of its language, the same whenever they are asked for."""
    return split_sentences(document.text, document_language(document))


def joined(sentences: Iterable[Sentence]) -> str:
    """The sentences as one text, as a prompt shows them."""
    return " ".join(sentence.text for sentence in sentences)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """The spans between blank lines, each from its first solid character on."""
    place = 0
    while solid := _SOLID.search(text, place):
        blank = _BLANK_LINES.search(text, solid.start())
        yield solid.start(), blank.start() if blank else len(text)
        place = blank.end() if blank else len(text)


def _line_groups(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The spans of lines that belong together: a line break ends a group where it is the author's own."""
    group_start = start
    line_start = start
    while (line_end := text.find("\n", line_start, end)) != -1:
        following_end = text.find("\n", line_end + 1, end)
        following = text[line_end + 1 : following_end if following_end != -1 else end]
        if _is_own_break(text[line_start:line_end], following):
            yield group_start, line_end
            group_start = line_end + 1
        line_start = line_end + 1
    yield group_start, end


def _is_own_break(line: str, following: str) -> bool:
    if starts_own_line(line, following) or SENTENCE_END.search(line) or is_table_row(line):
        return True
    first = _OPENING.sub("", following, count=1)[:1]
    if first.islower() or line.rstrip().endswith((",", "-", "–", "—")):
        return False
    narrow, wide = _WRAPPED_LINE_CHARS
    return not narrow <= len(line) <= wide


def _sentence_spans(text: str, language: str) -> list[tuple[int, int]]:
    """The sentences of one group of lines as spans that cover it; a row of a table is one, whatever its cells say."""
    if is_table_row(text):
        return [(0, len(text))]
    boundaries = _boundaries(text, language)
    spans = [span for span in pairwise([0, *boundaries, len(text)]) if text[span[0] : span[1]].strip()]
    merged: list[tuple[int, int]] = []
    first_letter = ""
    for start, end in spans:
        if merged and _belongs_together(text, merged[-1][0], start, end, first_letter, language):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
            first_letter = ""
        first_letter = first_letter or _first_letter(_without_mark(text[start:end]))
    return merged


def _without_mark(text: str) -> str:
    """The text behind the number or letter that it begins with as an item of a list."""
    mark = _LIST_MARK.match(text)
    return text[mark.end() :] if mark else text


def _first_letter(text: str) -> str:
    """The first letter or digit, "" where there is none."""
    return next((character for character in text if character.isalnum()), "")


def _boundaries(text: str, language: str) -> list[int]:
    """Where sentences end by sentencex, but for the insides of short quotations and asides.

    sentencex looks for no boundary between quotation marks or brackets at all, so that one mark left open swallows
    half a chapter. It is shown the text without them, and without citations such as [12], which follow the stop.
    """
    from sentencex import get_sentence_boundaries

    bare = _CITATION.sub(lambda found: " " * len(found.group()), text)
    # one space for each white space: sentencex breaks down over others that stand before an initial
    bare = _WHITE_SPACE.sub(" ", _BRACKETING.sub(" ", bare))
    enclosed = [found.span() for found in _SHORT_ENCLOSED.finditer(text)]
    openings = [first for first, _ in enclosed]
    ends = set()
    for boundary in get_sentence_boundaries(language, bare):
        end = int(boundary["end_index"])
        opening = _OPENED.search(text, max(0, end - _MAX_OPENING_CHARS), end)
        end = opening.start() if opening else end
        around = bisect.bisect_left(openings, end) - 1  # they do not overlap
        if 0 < end < len(text) and not (around >= 0 and end < enclosed[around][1]):
            ends.add(end)
    ends.update(found.start() for found in _ITEM_INSIDE.finditer(text))
    return sorted(ends)


def _belongs_together(text: str, begin: int, middle: int, end: int, first_letter: str, language: str) -> bool:
    """Whether the proposed boundary at `middle` is wrong, between a piece from `begin` and another up to `end`.

    `first_letter` is that of the first piece, which may be long: only its end is looked at, or a long text whose
    boundaries are all wrong would take time of its length squared.
    """
    first, second = text[max(begin, middle - _END_CHARS) : middle], text[middle:end]
    if not first_letter or not _first_letter(second):
        return True
    if middle - begin <= _MAX_ENUMERATOR_CHARS and _ENUMERATOR.fullmatch(first):
        return True
    if _NAME_ABBREVIATION.search(first) or (_LETTERED.search(first) and _LETTER.match(second)):
        return True
    before_capitals = _BEFORE_CAPITALS.get(language)
    if before_capitals is not None and before_capitals.search(first):
        return not (_ORDINAL.search(first) and _GERMAN_OPENING.match(second))
    if _SAID.search(first) and _SAYING.match(second):
        return True
    if first[-1:] == "." and not second[:1].isspace():
        return not (
            (_UNSPACED_LOWER.search(first) and _CAPITALISED.match(second))
            or (_UNSPACED.search(first) and _STARTER.match(second))
        )
    opening = _OPENING.sub("", _without_mark(second), count=1)[:1]
    if _ABBREVIATION.search(first) and (opening.islower() or opening.isdigit() or opening in ("§", "#")):
        return True
    # In a text without capitals (some transcripts) a small letter says nothing.
    return opening.islower() and bool(first_letter) and not first_letter.islower()


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut what is too long at the last good place within MAX_SENTENCE_CHARS, looked for in its second half."""
    while end - start > MAX_SENTENCE_CHARS:
        earliest, latest = start + MAX_SENTENCE_CHARS // 2, start + MAX_SENTENCE_CHARS
        places = (text.rfind(mark, earliest, latest) + len(mark) for mark in ("\n", "; ", ": ", ", ", " "))
        place = next((place for place in places if place > earliest), latest)
        yield start, place
        start = place
    yield start, end
