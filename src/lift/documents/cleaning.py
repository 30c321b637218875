"""Cleaning: the one normal form of characters and white space that every document's text has. Pure."""

from __future__ import annotations

import re
import unicodedata

_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
# Soft hyphen, zero-width space, word joiner, byte order mark and marks of direction change no word; the zero-width
# joiners (U+200C, U+200D) do, in Persian, in Indic scripts and in emoji, and stay.
_INVISIBLE = "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"
_LINE_BREAK = re.compile("\r\n?|[\x0b\x1c\x1d\x1e\x85\u2028]")
_PARAGRAPH_BREAK = re.compile("[\x0c\u2029]")
_INNER_SPACES = re.compile(r"(?<=[^ \n]) {2,}")
_BLANK_LINES = re.compile(r"\n{3,}")
_FIRST_PRIVATE = 0xE000  # every control character, space and surrogate stands below the private use area
# A run of combining marks takes NFC time of its length squared. No language stacks more than a few: the stream-safe
# text of Unicode (UAX #15) parts longer runs by a joiner that cannot be seen. A mark stands for at most three.
_MAX_MARKS = 30
_MARK_JOINER = "\u034f"
_MANY_MARKS = re.compile(r"[^\w\s\x00-\u02ff]{10,}")
# Han, kana, bopomofo and the punctuation that goes with them; Thai, Lao, Khmer and Burmese
_UNSPACED = (
    r"[\u2e80-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f"
    r"\uffe0-\uffe6\U00020000-\U0003fffd\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
_UNSPACED_RUN = re.compile(rf"{_UNSPACED}+|(?:(?!{_UNSPACED}).)+", re.DOTALL)
_UNSPACED_PAIR = re.compile(_UNSPACED * 2)
_UNSPACED_LINES = re.compile(rf"(?<={_UNSPACED})[ \t]*\n\s*(?={_UNSPACED})")


def _character_table() -> dict[int, str | None]:
    table: dict[int, str | None] = {}
    for code in range(_FIRST_PRIVATE):
        category = unicodedata.category(chr(code))
        if category == "Zs":
            table[code] = " "
        elif category in {"Cc", "Cs"} and code != ord("\n"):
            table[code] = None
    table.update({ord(character): None for character in _INVISIBLE})
    table.update({ord(ligature): letters for ligature, letters in _LIGATURES.items()})
    table[ord("\t")] = "    "
    table[0xF0B7] = "•"  # the bullet of Word's Symbol font, which has no Unicode name of its own
    return table


_CHARACTERS = _character_table()


# C0 and C1 but line ends and tab: a terminal that is shown them moves its cursor, or does worse.
_TERMINAL_CODES = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\r\n\t"}


def without_terminal_codes(text: str) -> str:
    """The text with a space for each control character but line ends and tab; no other character moves."""
    return text.translate(_TERMINAL_CODES)


def clean_text(text: str) -> str:
    """Normalise characters and white space.

    The result is NFC with line feeds only; without control characters, soft hyphens and lone surrogates; ligatures
    are spelt out, every kind of space is a plain one, runs of spaces inside a line are one space (indentation stays),
    no line ends with a space, and no two blank lines follow each other.
    """
    text = _PARAGRAPH_BREAK.sub("\n\n", _LINE_BREAK.sub("\n", text))
    text = unicodedata.normalize("NFC", _MANY_MARKS.sub(_part_marks, text.translate(_CHARACTERS)))
    lines = _INNER_SPACES.sub(" ", text).split("\n")
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip(" ") for line in lines))


def is_unspaced(first: str, second: str) -> bool:
    """Whether no space belongs between two characters: both are of scripts that are written without."""
    return _UNSPACED_PAIR.fullmatch(first + second) is not None


def unspaced_runs(text: str) -> list[str]:
    """The text in pieces, each all of characters of scripts that are written without spaces, or of others."""
    return _UNSPACED_RUN.findall(text)


def join_unspaced_lines(text: str) -> str:
    """The text without the line breaks between characters of scripts that are written without spaces."""
    return text if text.isascii() else _UNSPACED_LINES.sub("", text)


def _part_marks(found: re.Match[str]) -> str:
    """The match, with a joiner after each 30 combining marks that follow each other."""
    parted: list[str] = []
    marks = 0
    for character in found.group():
        for piece in unicodedata.normalize("NFD", character):
            marks = marks + 1 if unicodedata.combining(piece) else 0
            if marks > _MAX_MARKS:
                parted.append(_MARK_JOINER)
                marks = 1
            parted.append(piece)
    return "".join(parted)
