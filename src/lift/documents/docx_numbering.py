"""The numbers of Word's lists, counted as Word counts them: "2.", "2.i", "(a)".

Lists that share a definition go on counting where the last of them ended, unless one states a start of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lift.documents.zip_archive import Archive

# The most that Word itself has or shows: nine levels of a list, 32,767 as a number, thirty letters or "m"s as one. A
# file may state any number, and a level's label is written before every paragraph of it.
LAST_LEVEL = 8
_MAX_NUMBER = 32_767
_MAX_LETTERED = 780
_MAX_LABEL_CHARS = 64
_DIGITS = 9
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_ONES = ((9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
_UNMARKED = "none"


@dataclass(frozen=True)
class _Level:
    format: str = "bullet"
    text: str = ""
    start: int = 1
    restarts: bool = True
    is_legal: bool = False  # shows the numbers of all levels as decimal ones


@dataclass(frozen=True)
class _List:
    """A list of the document: the definition whose count it shares, its levels, and those that it starts anew."""

    definition: str
    levels: dict[int, _Level]
    starts: dict[int, int]


@dataclass
class ListNumbering:
    """The lists of a document, and how far each has been counted."""

    lists: dict[str, _List]
    _counts: dict[str, dict[int, int]] = field(default_factory=dict)
    _begun: set[tuple[str, int]] = field(default_factory=set)

    def marker(self, list_id: str, level: int) -> str:
        """Count the next paragraph of a list and level; returns what stands before its text, indented by its level."""
        found = self.lists.get(list_id)
        if found is None:
            return ""
        definition = found.levels.get(level, _Level())
        indent = "  " * level
        if definition.format in {"bullet", _UNMARKED}:
            return f"{indent}- " if definition.format == "bullet" else ""
        counts = self._counts.setdefault(found.definition, {})
        if level in found.starts and (list_id, level) not in self._begun:
            counts[level] = found.starts[level] - 1
        self._begun.add((list_id, level))
        counts[level] = min(counts.get(level, definition.start - 1) + 1, _MAX_NUMBER)
        for deeper in [known for known in counts if known > level and found.levels.get(known, _Level()).restarts]:
            del counts[deeper]

        def number(place: re.Match[str]) -> str:
            shown = int(place.group(1)) - 1
            shown_level = found.levels.get(shown, _Level("decimal"))
            shown_format = "decimal" if definition.is_legal else shown_level.format
            return _spell(counts.get(shown, shown_level.start), shown_format)

        label = re.sub(r"%(\d)", number, definition.text) if definition.text else f"{counts[level]}."
        return f"{indent}{label} "


def local_name(element: Any) -> str:
    """The tag without its namespace."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str | None:
    """The attribute of that name in any namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


def value_of(properties: Any, name: str) -> str | None:
    """The `val` of a child such as <w:pStyle w:val="Heading1"/>."""
    child = properties.find("{*}" + name) if properties is not None else None
    return attribute(child, "val") if child is not None else None


def is_on(properties: Any, name: str) -> bool:
    """Whether a switch such as <w:vanish/> is there and not turned off."""
    child = properties.find("{*}" + name) if properties is not None else None
    return child is not None and (attribute(child, "val") or "1") not in {"0", "false", "off", "none"}


def integer(value: str | None, default: int, most: int) -> int:
    """The number that `value` states, at most `most`; `default` where it states none."""
    if value is None or not value.isdecimal():
        return default
    return min(int(value), most) if len(value) <= _DIGITS else most


def read_numbering(archive: Archive, member: str = "word/numbering.xml") -> ListNumbering:
    """The lists that a document defines, none counted yet."""
    if member not in archive:
        return ListNumbering({})
    root = archive.xml(member)
    definitions: dict[str, dict[int, _Level]] = {}
    by_style: dict[str, str] = {}
    links: dict[str, str] = {}
    for element in root.iter("{*}abstractNum"):
        definition_id = attribute(element, "abstractNumId") or ""
        definitions[definition_id] = dict(_levels(element))
        if (style := value_of(element, "styleLink")) is not None:
            by_style[style] = definition_id
        if (style := value_of(element, "numStyleLink")) is not None:
            links[definition_id] = style
    lists = {}
    for element in root.iter("{*}num"):
        stated = value_of(element, "abstractNumId") or ""
        definition = by_style.get(links.get(stated, ""), stated)
        levels, starts = dict(definitions.get(definition, {})), dict[int, int]()
        for override in element.iterchildren("{*}lvlOverride"):
            level = integer(attribute(override, "ilvl"), 0, LAST_LEVEL)
            levels.update(_levels(override))
            if (start := value_of(override, "startOverride")) is not None:
                starts[level] = integer(start, 1, _MAX_NUMBER)
                levels[level] = replace(levels.get(level, _Level("decimal")), start=starts[level])
        lists[attribute(element, "numId") or ""] = _List(definition, levels, starts)
    return ListNumbering(lists)


def _levels(parent: Any) -> Iterator[tuple[int, _Level]]:
    for level in parent.iterchildren("{*}lvl"):
        yield (
            integer(attribute(level, "ilvl"), 0, LAST_LEVEL),
            _Level(
                format=value_of(level, "numFmt") or "decimal",
                text=(value_of(level, "lvlText") or "")[:_MAX_LABEL_CHARS],
                start=integer(value_of(level, "start"), 1, _MAX_NUMBER),
                restarts=value_of(level, "lvlRestart") != "0",
                is_legal=is_on(level, "isLgl"),
            ),
        )


def _spell(number: int, number_format: str) -> str:
    if number_format in {"lowerLetter", "upperLetter"} and 0 < number <= _MAX_LETTERED:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters.upper() if number_format == "upperLetter" else letters
    if number_format in {"lowerRoman", "upperRoman"} and 0 < number <= _MAX_NUMBER:
        roman = ""
        for value, numeral in _ROMAN + _ROMAN_ONES:
            roman += numeral * (number // value)
            number %= value
        return roman.upper() if number_format == "upperRoman" else roman
    return f"{number:02d}" if number_format == "decimalZero" else str(number)
