"""Plain text -> blocks: paragraphs, chapter headings, and lines that a narrow page had wrapped.

Whether a text is hard-wrapped is judged from the whole text: a line break was forced where the next line's first word
would not have fitted in. A single paragraph cannot tell (of two lines, the longer always looks full), so verse,
dialogue and lists would be run together.
"""

from __future__ import annotations

import re
from itertools import pairwise

from lift.documents.blocks import Block, Content
from lift.documents.cleaning import clean_text

LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•‣▪◦–—]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|\d+(?:\.\d+)+\.?)[ \t]+\S")
_TABLE_ROW = re.compile(r"[ \t]*\|.*\||.*\S \| \S")
_RULE = re.compile(r"[\s\-=*_+~#.|]+")
_SPEAKER = re.compile(r"[A-Z][\w.'’-]*(?: [\w.'’()-]+){0,4}:\s")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]]*\s*$")
_EMPHASIS = re.compile(r"(?<!\w)_(\w[^_\n]*?|\w)_(?!\w)")
_NUMBERED_HEADING = re.compile(
    r"(?:chapter|part|book|section|act|scene|letter|appendix|volume|canto|article)\s+"
    r"(?:\d+|[ivxlc]+|[a-z]|one|two|three|four|five|six|seven|eight|nine|ten|the \w+)\b[.:]?(?:\s.{0,80})?",
    re.IGNORECASE,
)
_NAMED_HEADING = re.compile(
    r"(?:contents|preface|prologue|epilogue|introduction|conclusions?|abstract|summary|references|bibliography|"
    r"acknowledge?ments|foreword|afterword|glossary|index)\.?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_DIVIDED_LEFT = re.compile(r"([^\W_]+(?:-[^\W_]+)*)-$")
_DIVIDED_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*-\n\s*[^\W_]+")
_DIVIDED_RIGHT = re.compile(r"[^\W_]+")
_MAX_HEADING_CHARS = 100
_MIN_WIDTH_CHARS, _MAX_WIDTH_CHARS = 35, 150
_SLACK_CHARS = 10
_MIN_FORCED_SHARE = 0.5
_MIN_CONTINUED_SHARE = 0.35


def read_plain_text(text: str) -> Content:
    """Split a plain text into paragraphs and chapter headings, with hard-wrapped lines joined by spaces."""
    text = clean_text(text)
    paragraphs = [paragraph.rstrip() for paragraph in text.split("\n\n") if paragraph.strip()]
    width_chars = wrap_width_chars(paragraphs)
    words = vocabulary(text) if width_chars is not None else frozenset()
    blocks = []
    for paragraph in paragraphs:
        joined = paragraph if width_chars is None else join_wrapped_lines(paragraph, width_chars, words)
        joined = _EMPHASIS.sub(r"\1", joined)
        blocks.append(Block(joined, heading=joined.strip() if is_heading(joined) else None))
    return Content(title=None, blocks=blocks)


def is_heading(paragraph: str) -> bool:
    """Whether a paragraph of plain text is a heading: numbered as one, a customary one, or all in capitals."""
    line = paragraph.strip()
    if "\n" in line or not 2 <= len(line) <= _MAX_HEADING_CHARS:
        return False
    if _NUMBERED_HEADING.fullmatch(line) or _NAMED_HEADING.fullmatch(line):
        return not line.endswith((",", ";")) and line.count(". ") <= 1
    words = [word for word in re.findall(r"\w+", line) if word.isalpha()]
    return line.isupper() and line[0].isalpha() and any(len(word) > 3 for word in words) and line[-1] not in '.,;!?"”'


def wrap_width_chars(paragraphs: list[str]) -> int | None:
    """The width in characters that the text was wrapped to, or None where its line breaks are the author's own."""
    pairs = [
        (line, following)
        for lines in (paragraph.split("\n") for paragraph in paragraphs)
        for line, following in pairwise(lines)
        if line.strip() and following.strip() and not starts_own_line(line, following)
    ]
    if not pairs:
        return None
    lengths = sorted(len(line) for line, _ in pairs)
    width_chars = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))]
    if not _MIN_WIDTH_CHARS <= width_chars <= _MAX_WIDTH_CHARS:
        return None
    forced = [following for line, following in pairs if _was_forced(line, following, width_chars)]
    continued = [following for following in forced if _continues(following)]
    if len(forced) < _MIN_FORCED_SHARE * len(pairs) or len(continued) < _MIN_CONTINUED_SHARE * len(forced):
        return None
    return width_chars


def join_wrapped_lines(paragraph: str, width_chars: int, words: frozenset[str]) -> str:
    """Replace the line breaks that a width of `width_chars` forced by spaces; lists, tables and short lines stay."""
    lines = paragraph.split("\n")
    joined = [lines[0]]
    indent_chars = _indent_chars(lines[0])
    for previous, line in pairwise(lines):
        deeper = _indent_chars(line) > indent_chars + 3 and not LIST_ITEM.match(joined[-1])
        if starts_own_line(previous, line) or deeper or not _was_forced(previous, line, width_chars):
            joined.append(line)
            indent_chars = _indent_chars(line)
        else:
            joined[-1] = join_lines(joined[-1], line, words)
    return "\n".join(joined)


def vocabulary(text: str) -> frozenset[str]:
    """The words of a text in lower case, compounds with their hyphens: what tells a divided word from a compound.

    The halves of words at the ends of lines are no evidence and are left out.
    """
    return frozenset(_WORD.findall(_DIVIDED_WORD.sub(" ", text.lower())))


def join_lines(first: str, second: str, words: frozenset[str]) -> str:
    """Two lines as one: a word that a hyphen divided at the line's end is made whole.

    The text's own `words` decide whether a hyphen belongs to the word: "with-/out" loses it where "without" stands
    elsewhere, "drawing-/room" keeps it where "drawing-room" does, or where both halves are words and the whole is not.
    """
    first, second = first.rstrip(), second.strip()
    left = _DIVIDED_LEFT.search(first) if first.endswith("-") else None
    right = _DIVIDED_RIGHT.match(second)
    if left is None or right is None:
        return f"{first} {second}"
    head, tail = left.group(1), right.group()
    whole = (head + tail).lower()
    if not (head[-1].islower() and tail[0].islower()) or "-" in head:
        return first + second
    compound = f"{head}-{tail}".lower() in words or {head.lower(), tail.lower()} <= words
    return first + second if compound and whole not in words else first[:-1] + second


def _was_forced(line: str, following: str, width_chars: int) -> bool:
    word = following.split(maxsplit=1)[0] if following.strip() else ""
    return len(line) + 1 + len(word) > width_chars - _SLACK_CHARS


def _continues(line: str) -> bool:
    first = next((character for character in line if character.isalpha()), "")
    return first.islower()


def starts_own_line(previous: str, line: str) -> bool:
    """Whether a line is a list item, a table row, a rule or the next speaker's turn, never joined to the one before."""
    if LIST_ITEM.match(line) or _TABLE_ROW.match(line) or _RULE.fullmatch(line):
        return True
    return bool(_SPEAKER.match(line) and (SENTENCE_END.search(previous) or _SPEAKER.match(previous)))


def _indent_chars(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
