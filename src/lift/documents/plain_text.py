"""Plain text -> blocks: paragraphs, chapter headings, and lines that a narrow page had wrapped.

Whether a text is hard-wrapped is judged from the whole text: a line break was forced where the next line's first word
would not have fitted in. A single paragraph cannot tell (of two lines, the longer always looks full), so verse,
dialogue and lists would be run together.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from lift.documents.blocks import Block, Content
from lift.documents.cleaning import clean_text, is_unspaced

# Marks that stand before the items of a list and nowhere else need no space behind them, others do.
_BULLETS = "•‣⁃∙●○◯■□▪▫◆◇◦❖❥❧▶►▸▹▷➢➣➤➔✓✔✗✘☐☑☒※★☆・\\ue000-\\uf8ff"
_SPACED_BULLETS = "-*+–—·⋅‧→⇒"
_ENUMERATOR = r"\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|\d+(?:\.\d+)+\.?"
_WIDE_ENUMERATOR = (
    r"[①-⑳㈠-㈩⑴-⒇]|[（(][一二三四五六七八九十百\d]{1,4}[）)]|(?:[一二三四五六七八九十百]{1,4}|\d{1,2})、"
)
LIST_ITEM = re.compile(
    rf"[ \t]*(?:(?:[{_SPACED_BULLETS}]|{_ENUMERATOR})[ \t]+|(?:[{_BULLETS}]|{_WIDE_ENUMERATOR})[ \t]*)(?=\S)"
)
_TABLE_ROW = re.compile(r"[ \t]*\|.*\||.*\S \| \S")
_RULE = re.compile(r"[\s\-=*_+~#.|]+")
_SPEAKER = re.compile(r"[^\W\d_][\w.'’-]*(?: [\w.'’()-]+){0,4}(?::\s|：)")
_NICKNAME = re.compile(r"[^\W\d_][\w.-]{0,20}: +\S")
# A line of a chat begins with the time that a messenger puts there, or with a name in angle brackets.
_CLOCK_TIME = r"\d{1,2}[:.]\d\d(?:[:.]\d\d)?(?: ?[AaPp]\.?[Mm]\.?)?"
_CALENDAR_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_MOMENT = rf"(?:{_CALENDAR_DATE},? {_CLOCK_TIME}|{_CLOCK_TIME}(?:,? {_CALENDAR_DATE})?)"
_CHAT = re.compile(
    rf"(?:\[{_MOMENT}\] ?|\({_MOMENT}\) ?|{_MOMENT} (?:[-–—] )?)[^\s:][^:\n]{{0,40}}:\s|"
    rf"(?:\[?{_MOMENT}\]? )?<[^<>\n]{{1,40}}> |[^\W\d_][^:\n\[\](]{{0,40}} [\[(]{_MOMENT}[\])](?::\s|\s*$)"
)
SENTENCE_END = re.compile(r"[.!?…‥。｡．！？।॥؟۔։][\"'”’»)\]）」』】〕〉》]*\s*$")
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
# only from the first letter of the first part on: a search that began anew at each letter would take the length squared
_DIVIDED_WORD = re.compile(
    r"(?<![^\W_])(?<![^\W_]-)[^\W_]++(?:-[^\W_]++)*+-\n\s*+[^\W_]++(?:(?:-[^\W_]++)++-\n\s*+[^\W_]++)*+"
)
_DIVIDED_RIGHT = re.compile(r"[^\W_]+")
_MAX_HEADING_CHARS = 100
_MAX_WORD_CHARS = 200
_MIN_WIDTH_COLUMNS, _MAX_WIDTH_COLUMNS = 35, 150
_SLACK_COLUMNS = 10
_MIN_FORCED_SHARE = 0.5
_MIN_CONTINUED_SHARE = 0.35


def read_plain_text(text: str) -> Content:
    """Split a plain text into paragraphs and chapter headings, with hard-wrapped lines joined by spaces."""
    text = clean_text(text)
    paragraphs = [paragraph.rstrip() for paragraph in text.split("\n\n") if paragraph.strip()]
    width_columns = wrap_width_columns(paragraphs)
    words = vocabulary(text) if width_columns is not None else frozenset()
    blocks = []
    for paragraph in paragraphs:
        joined = paragraph if width_columns is None else join_wrapped_lines(paragraph, width_columns, words)
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


def wrap_width_columns(paragraphs: list[str]) -> int | None:
    """The columns that the text was wrapped to, or None where its line breaks are the author's own.

    A wide character, as of Chinese, takes two columns.
    """
    pairs = [
        (line, following)
        for lines in (paragraph.split("\n") for paragraph in paragraphs)
        for line, following in pairwise(lines)
        if line.strip() and following.strip() and not starts_own_line(line, following)
    ]
    if not pairs:
        return None
    lengths = sorted(columns(line) for line, _ in pairs)
    width_columns = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))]
    if not _MIN_WIDTH_COLUMNS <= width_columns <= _MAX_WIDTH_COLUMNS:
        return None
    forced = [pair for pair in pairs if _was_forced(*pair, width_columns)]
    continued = [pair for pair in forced if _continues(*pair)]
    if len(forced) < _MIN_FORCED_SHARE * len(pairs) or len(continued) < _MIN_CONTINUED_SHARE * len(forced):
        return None
    return width_columns


def join_wrapped_lines(paragraph: str, width_columns: int, words: frozenset[str]) -> str:
    """Undo the line breaks that a width of `width_columns` forced; lists, tables and short lines stay.

    A space takes their place, and nothing between characters of scripts that are written without spaces.
    """
    lines = paragraph.split("\n")
    joined = [JoinedLines(lines[0], words)]
    indent_chars, is_item = _indent_chars(lines[0]), bool(LIST_ITEM.match(lines[0]))
    opening = lines[0]
    for previous, line in pairwise(lines):
        deeper = _indent_chars(line) > indent_chars + 3 and not is_item
        if starts_own_line(previous, line) or deeper or not _was_forced(previous, line, width_columns):
            joined.append(JoinedLines(line, words))
            opening = line
            indent_chars, is_item = _indent_chars(line), bool(LIST_ITEM.match(line))
        else:
            joined[-1].add(line)
            is_item = is_item or bool(LIST_ITEM.match(f"{opening} {line}"))
    return "\n".join(whole.text for whole in joined)


def vocabulary(text: str) -> frozenset[str]:
    """The words of a text in lower case, compounds with their hyphens: what tells a divided word from a compound.

    The halves of words at the ends of lines are no evidence and are left out.
    """
    return frozenset(_WORD.findall(_DIVIDED_WORD.sub(" ", text.lower())))


class JoinedLines:
    """Lines as one: a word that a hyphen divided at a line's end is made whole.

    The text's own `words` decide whether a hyphen belongs to the word: "with-/out" loses it where "without" stands
    elsewhere, "drawing-/room" keeps it where "drawing-room" does, or where both halves are words and the whole is not.
    """

    def __init__(self, first: str, words: frozenset[str]) -> None:
        self._words = words
        self._pieces = [first]
        self._end = first[-_MAX_WORD_CHARS:]

    @property
    def text(self) -> str:
        """The lines so far; trailing white space of the last one stays."""
        return "".join(self._pieces)

    def add(self, line: str) -> None:
        """Put `line` behind the others."""
        line = line.strip()
        piece = self.end_before(line) + line
        self._pieces.append(piece)
        self._end = (self._end + piece)[-_MAX_WORD_CHARS:]

    def end_before(self, line: str) -> str:
        """Drop the hyphen that the text's end loses before `line`; returns what stands between them, "" or " "."""
        while len(self._pieces) > 1 and not self._pieces[-1].strip():
            self._pieces.pop()
        self._pieces[-1], self._end = self._pieces[-1].rstrip(), self._end.rstrip()
        joint = self._joint(self._end, line)
        if joint == "-":
            self._pieces[-1], self._end = self._pieces[-1][:-1], self._end[:-1]
        return " " if joint == " " else ""

    def _joint(self, first: str, second: str) -> str:
        """The join of two lines: " ", "" (inside a word), or "-" for "" where the first line's hyphen goes."""
        if is_unspaced(first[-1:], second[:1]):
            return ""
        head, right = _divided_head(first), _DIVIDED_RIGHT.match(second)
        if not head or right is None:
            return " "
        tail = right.group()
        if not (head[-1].islower() and tail[0].islower()) or "-" in head:
            return ""
        compound = f"{head}-{tail}".lower() in self._words or {head.lower(), tail.lower()} <= self._words
        return "" if compound and (head + tail).lower() not in self._words else "-"


def join_lines(first: str, second: str, words: frozenset[str]) -> str:
    """Two lines as one, as JoinedLines does it."""
    joined = JoinedLines(first, words)
    joined.add(second)
    return joined.text


def _divided_head(line: str) -> str:
    """The part of a word, or of a compound, before the hyphen that ends `line`; "" where none does."""
    if not line.endswith("-"):
        return ""
    start = end = len(line) - 1
    while start and line[start - 1].isalnum():
        start -= 1
        if start > 1 and line[start - 1] == "-" and line[start - 2].isalnum():
            start -= 1
    return line[start:end]


def columns(text: str) -> int:
    """The columns of a terminal or typewriter that a line takes: two for a wide character, none for a mark on one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def _was_forced(line: str, following: str, width_columns: int) -> bool:
    word = following.split(maxsplit=1)[0] if following.strip() else ""
    if is_unspaced(word[:1], word[:1]):
        word = word[:1]  # a line may end behind any character
    return columns(line) + 1 + columns(word) > width_columns - _SLACK_COLUMNS


def _continues(line: str, following: str) -> bool:
    """Whether the sentence of `line` goes on in `following`; in a script without capitals its end alone can tell."""
    first = next((character for character in following if character.isalpha()), "")
    if first.lower() == first.upper():
        return bool(first) and not SENTENCE_END.search(line)
    return first.islower()


def is_table_row(line: str) -> bool:
    """Whether a line holds cells parted by upright strokes."""
    return _TABLE_ROW.match(line) is not None


def starts_own_line(previous: str, line: str) -> bool:
    """Whether a line is a list item, a table row, a rule, a chat's line or the next speaker's turn.

    Such a line is never joined to the one before.
    """
    if LIST_ITEM.match(line) or _TABLE_ROW.match(line) or _RULE.fullmatch(line) or _CHAT.match(line):
        return True
    if _NICKNAME.match(line) and _NICKNAME.match(previous):
        return True
    if not _SPEAKER.match(line) or line[:1].islower():
        return False
    return bool(SENTENCE_END.search(previous) or _SPEAKER.match(previous))


def _indent_chars(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
