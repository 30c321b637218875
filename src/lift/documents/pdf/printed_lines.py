"""Words -> segments: what stands on one printed line without a gap wider than the spaces of running text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lift.documents.pdf.words import PrintedWord

_GAP = 0.75
_SAME_LINE = 0.35
_LEADERS = re.compile(r"(?:[.·…_]{4,}|…{2,}|\.{3}(?=\s*$))")
_DOT = re.compile(r"[.·…]{1,3}")
_MIN_LONE_DOTS = 3
_NUMBER = re.compile(r"\d{1,4}")
_MIN_LINE_NUMBERS = 8
_UNIT_CHARS = 2
_CURRENCIES = frozenset("$€£¥")


@dataclass(frozen=True, slots=True)
class LineSegment:
    """Words beside each other; `is_led`: leader dots stand before it."""

    words: tuple[PrintedWord, ...]
    is_led: bool = False

    @property
    def left(self) -> float:
        """Where its first word begins."""
        return self.words[0].left

    @property
    def right(self) -> float:
        """Where its last word ends."""
        return max(word.right for word in self.words)

    @property
    def y(self) -> float:
        """The baseline of the first word."""
        return self.words[0].y

    @property
    def size(self) -> float:
        """The type size of most of its characters."""
        if len(self.words) == 1:
            return self.words[0].size
        characters: dict[float, int] = {}
        for word in self.words:
            characters[word.size] = characters.get(word.size, 0) + len(word.text)
        return max(characters, key=lambda size: characters[size])

    @property
    def is_bold(self) -> bool:
        """Whether every word but lone marks is bold."""
        return all(word.is_bold for word in self.words if any(map(str.isalnum, word.text)))

    @property
    def text(self) -> str:
        """The words, with a space where there is one; superscripts are told from what they stand on."""
        pieces: list[str] = []
        for word in self.words:
            if pieces and not word.is_glued:
                pieces.append(" ")
            pieces.append(_raised(word.text, "".join(pieces[-3:])) if word.is_raised and pieces else word.text)
        return "".join(pieces)


def printed_lines(words: Iterable[PrintedWord]) -> list[list[LineSegment]]:
    """The segments by their printed lines from top to bottom, each from left to right."""
    rows: list[list[PrintedWord]] = []
    for word in sorted(words, key=lambda word: -word.y):
        for row in reversed(rows[-4:]):
            if abs(row[0].y - word.y) <= _SAME_LINE * min(row[0].size, word.size):
                row.append(word)
                break
        else:
            rows.append([word])
    return [segments for row in rows if (segments := _segments(_in_reading_order(row)))]


def without_line_numbers(words: list[PrintedWord]) -> list[PrintedWord]:
    """The words but for numbers that count the lines of running text in its margin."""
    lines = printed_lines(words)
    firsts = [line[0].words[0] for line in lines]
    numbered = [
        (word, line)
        for word, line in zip(firsts, lines, strict=True)
        if _NUMBER.fullmatch(word.text) and len(line[0].words) + len(line) > 2 and _gap_after(line) > 0.8 * word.size
    ]
    alone = [(word, line) for word, line in zip(firsts, lines, strict=True) if _is_alone(line)]
    counted = sorted([*numbered, *alone], key=lambda each: -each[0].y)
    if len(counted) < _MIN_LINE_NUMBERS or len(numbered) < 0.5 * len(counted):
        return words
    numbers = [int(word.text) for word, _ in counted]
    steps = [second - first for first, second in pairwise(numbers)]
    step = max(set(steps), key=steps.count)
    rights = [word.right for word, _ in counted]
    following = [line[0].words[1].text if len(line[0].words) > 1 else line[1].text for _, line in numbered]
    goes_on = sum(text[:1].islower() for text in following)
    if step not in {1, 5} or steps.count(step) < 0.9 * len(steps) or goes_on < 0.3 * len(following):
        return words
    if max(rights) - min(rights) > 2 * counted[0][0].size:
        return words
    out = {id(word) for word, _ in counted}
    return [word for word in words if id(word) not in out]


def _is_alone(line: list[LineSegment]) -> bool:
    return len(line) == 1 and len(line[0].words) == 1 and bool(_NUMBER.fullmatch(line[0].words[0].text))


def _gap_after(line: list[LineSegment]) -> float:
    first = line[0].words
    return (first[1].left if len(first) > 1 else line[1].left) - first[0].right


def _segments(words: Sequence[PrintedWord]) -> list[LineSegment]:
    segments: list[LineSegment] = []
    current: list[PrintedWord] = []
    is_led = False
    dots = 0

    def close() -> None:
        nonlocal current
        if current:
            segments.append(LineSegment(tuple(current), is_led))
        current = []

    pieces = [piece for word in words for piece in _parted(word)]
    lone = _lone_dots([piece.text for piece in pieces])
    for index, word in enumerate(pieces):
        if _LEADERS.fullmatch(word.text) or index in lone:
            close()
            dots += 1
            continue
        if current and not word.is_glued:
            last = current[-1]
            gap = max(word.left - last.right, last.left - word.right)
            is_next_amount = word.text in _CURRENCIES and bool(re.search(r"[\d)—–-]$", last.text))
            if is_next_amount or gap > _GAP * max(min(word.size, last.size), 1.0):
                close()
        if not current:
            is_led, dots = bool(dots and segments), 0
        current.append(word)
    close()
    return segments


def _parted(word: PrintedWord) -> list[PrintedWord]:
    """The word, leader dots that it holds apart from what stands before and behind them."""
    found = _LEADERS.search(word.text)
    if found is None or found.group() == word.text or "_" in found.group():
        return [word]
    width = (word.right - word.left) / len(word.text)
    parts = [(0, found.start()), found.span(), (found.end(), len(word.text))]
    return [
        PrintedWord(
            word.text[start:end], word.left + width * start, word.left + width * end, word.y, word.size, word.is_bold
        )
        for start, end in parts
        if start < end
    ]


def _lone_dots(texts: list[str]) -> set[int]:
    """The places of words that are dots, three and more of them beside each other."""
    found: set[int] = set()
    run: list[int] = []
    for index, text in enumerate([*texts, ""]):
        if _DOT.fullmatch(text):
            run.append(index)
            continue
        if len(run) >= _MIN_LONE_DOTS:
            found.update(run)
        run = []
    return found


def _in_reading_order(words: list[PrintedWord]) -> list[PrintedWord]:
    """From left to right, or from right to left where most letters are; numbers and names stay as they are."""
    words = sorted(words, key=lambda word: word.left)
    marks = [_is_right_to_left(word.text) for word in words]
    if 2 * sum(mark is True for mark in marks) <= sum(mark is not None for mark in marks):
        return words
    words.reverse()
    marks.reverse()
    ordered: list[PrintedWord] = []
    run: list[PrintedWord] = []
    for word, mark in zip(words, marks, strict=True):
        if mark is False:
            run.insert(0, word)
            continue
        ordered += run
        run = []
        ordered.append(word)
    return ordered + run


def _is_right_to_left(text: str) -> bool | None:
    """Whether the first letter is written from right to left; None without letters and digits."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in {"R", "AL"}:
            return True
        if kind in {"L", "EN", "AN"}:
            return False
    return None


def _raised(text: str, before: str) -> str:
    """A superscript as plain text: an exponent by "^", the mark of a note in brackets, anything else as it is."""
    number = text.replace("−", "-").strip()
    if not re.fullmatch(r"[-+]?\d{1,3}(?:,\d{1,3})*", number):
        return text
    word = re.search(r"[^\W\d_]*$", before)
    is_unit = word is not None and 0 < len(word.group()) <= _UNIT_CHARS
    is_power = before[-1:].isdigit() and not re.search(r"(?<!\d)(?:1[5-9]|20)\d\d$", before)
    if is_unit or is_power or before[-1:] == ")" or number[0] in "+-":
        return f"^{number}"
    return f"[{number}]"
