"""DOCX (WordprocessingML, ECMA-376) -> blocks: paragraphs, headings, numbered lists, tables and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.zip_archive import Archive, resolve

_RELATIONS = "_rels/.rels"
_LEFT_OUT = frozenset(
    ["del", "moveFrom", "instrText", "delText", "Fallback", "rt", "rPr", "pPr", "sectPr", "tblPr", "tcPr"]
)
# The most that Word itself has or shows: nine levels of a list, 32,767 as a number, thirty letters or "m"s as one. A
# file may state any number, and a level's label is written before every paragraph of it.
_LAST_LEVEL = 8
_MAX_NUMBER = 32_767
_MAX_LETTERED = 780
_MAX_LABEL_CHARS = 64
_DIGITS = 9
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_ONES = ((9, "ix"), (5, "v"), (4, "iv"), (1, "i"))


def read_docx(archive: Archive) -> Content:
    """Read a Word document; text that is deleted or hidden, and the table of contents, are left out.

    The title is that of the document's properties, else of a paragraph of style Title. Notes stand as paragraphs of
    their own after the first one that refers to them. Raises DocumentError for a broken file.
    """
    walk = _Walk(_read_styles(archive), _read_numbering(archive), _read_notes(archive))
    body = archive.xml(_main_member(archive)).find("{*}body")
    if body is not None:
        walk.walk(body)
    return Content(title=_core_title(archive) or walk.title, blocks=walk.blocks)


@dataclass(frozen=True)
class _Style:
    """A style with what it inherits."""

    has_heading_name: bool = False
    outline: str | None = None
    is_title: bool = False
    is_contents: bool = False
    numbering: tuple[str, int] | None = None

    @property
    def is_heading(self) -> bool:
        return self.has_heading_name or _is_heading_level(self.outline)


@dataclass
class _Inline:
    """What stands in a paragraph: its text in pieces, the text boxes, and the notes that it refers to."""

    pieces: list[str] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class _Level:
    format: str = "bullet"
    text: str = ""
    start: int = 1


@dataclass
class _Walk:
    """Reads the body in order, counting numbered paragraphs as Word does."""

    styles: dict[str, _Style]
    numbering: dict[str, dict[int, _Level]]
    notes: dict[tuple[str, str], str]
    blocks: list[Block] = field(default_factory=list)
    title: str | None = None
    counters: dict[str, dict[int, int]] = field(default_factory=dict)
    in_list: bool = False
    note_count: int = 0

    def walk(self, parent: Any) -> None:
        """Read the paragraphs and tables below `parent`, through content controls and tracked insertions."""
        for element in parent:
            name = _name(element)
            if name == "p":
                self._paragraph(element)
            elif name == "tbl":
                self._table(element)
            elif name not in _LEFT_OUT:
                self.walk(element)

    def _paragraph(self, paragraph: Any) -> None:
        properties = paragraph.find("{*}pPr")
        style = self.styles.get(_value(properties, "pStyle") or "", _Style())
        if style.is_contents:
            return
        inline = _read_inline(paragraph)
        text = inline.text.strip()
        numbering = _numbering_of(properties, style)
        marker = self._marker(*numbering) if text and numbering else ""
        outline = _value(properties, "outlineLvl")
        is_heading = style.is_heading or _is_heading_level(outline)
        if text:
            if style.is_title and self.title is None:
                self.title = one_line(text)
            is_item = bool(marker) and not is_heading
            separator = LINE if is_item and self.in_list else PARAGRAPH
            self.in_list = is_item
            whole = marker + text
            self.blocks.append(
                Block(whole, heading=whole if is_heading or style.is_title else None, separator=separator)
            )
        self._notes(inline.notes)
        for box in inline.boxes:
            self.walk(box)

    def _notes(self, references: list[tuple[str, str]]) -> None:
        for reference in sorted(references, key=lambda reference: reference[0] != "footnote"):
            if note := self.notes.pop(reference, ""):
                self.note_count += 1
                self.blocks.append(Block(f"Note {self.note_count}: {note}"))
                self.in_list = False

    def _table(self, table: Any) -> None:
        separator = PARAGRAPH
        self.in_list = False
        notes: list[tuple[str, str]] = []
        for row in _below(table, "tr"):
            cells = [_flat_text(cell, notes) for cell in _below(row, "tc")]
            if any(cells):
                self.blocks.append(Block(" | ".join(cells).strip(), separator=separator))
                separator = LINE
        self._notes(notes)

    def _marker(self, number_id: str, level: int) -> str:
        levels = self.numbering.get(number_id)
        if levels is None:
            return ""
        definition = levels.get(level, _Level())
        indent = "  " * level
        if definition.format in {"bullet", "none"}:
            return f"{indent}- " if definition.format == "bullet" else ""
        counters = self.counters.setdefault(number_id, {})
        counters[level] = counters.get(level, definition.start - 1) + 1
        for deeper in [known for known in counters if known > level]:
            del counters[deeper]

        def number(found: re.Match[str]) -> str:
            shown = int(found.group(1)) - 1
            shown_level = levels.get(shown, _Level("decimal"))
            return _spell(counters.get(shown, shown_level.start), shown_level.format)

        label = re.sub(r"%(\d)", number, definition.text) if definition.text else f"{counters[level]}."
        return f"{indent}{label} "


def _main_member(archive: Archive) -> str:
    """The document itself is nearly always word/document.xml, but only the package's relations say so."""
    if _RELATIONS in archive:
        for relation in archive.xml(_RELATIONS):
            if (relation.get("Type") or "").endswith("/officeDocument"):
                return resolve("", (relation.get("Target") or "").lstrip("/"))
    return "word/document.xml"


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _attribute(element: Any, name: str) -> str | None:
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


def _value(properties: Any, name: str) -> str | None:
    """The `val` of a child such as <w:pStyle w:val="Heading1"/>."""
    child = properties.find("{*}" + name) if properties is not None else None
    return _attribute(child, "val") if child is not None else None


def _integer(value: str | None, default: int, most: int) -> int:
    """The number that `value` states, at most `most`; `default` where it states none."""
    if value is None or not value.isdecimal():
        return default
    return min(int(value), most) if len(value) <= _DIGITS else most


def _is_heading_level(outline: str | None) -> bool:
    return _integer(outline, _LAST_LEVEL + 1, _LAST_LEVEL + 1) <= _LAST_LEVEL


def _is_hidden(run: Any) -> bool:
    properties = run.find("{*}rPr")
    vanish = properties.find("{*}vanish") if properties is not None else None
    return vanish is not None and (_attribute(vanish, "val") or "1") not in {"0", "false", "off"}


def _read_inline(paragraph: Any) -> _Inline:
    inline = _Inline()
    _collect(paragraph, inline)
    return inline


def _collect(element: Any, inline: _Inline) -> None:
    """Put what stands below `element` into `inline`; the parser lets no file nest deeper than recursion goes."""
    for child in element:
        name = _name(child)
        if name == "t":
            inline.pieces.append(child.text or "")
        elif name in {"tab", "ptab"}:
            inline.pieces.append(" ")
        elif name in {"br", "cr"}:
            inline.pieces.append(" " if _attribute(child, "type") in {"page", "column"} else "\n")
        elif name == "noBreakHyphen":
            inline.pieces.append("-")
        elif name == "txbxContent":
            inline.boxes.append(child)
        elif name in {"footnoteReference", "endnoteReference"}:
            inline.notes.append((name.removesuffix("Reference"), _attribute(child, "id") or ""))
        elif name not in _LEFT_OUT and not (name == "r" and _is_hidden(child)):
            _collect(child, inline)


def _flat_text(parent: Any, notes: list[tuple[str, str]]) -> str:
    """The paragraphs below `parent` as one line, those of text boxes and inner tables too; adds to `notes`."""
    texts: list[str] = []

    def flatten(element: Any) -> None:
        for child in element:
            if _name(child) == "p":
                inline = _read_inline(child)
                texts.append(inline.text)
                notes.extend(inline.notes)
                for box in inline.boxes:
                    flatten(box)
            elif _name(child) not in _LEFT_OUT:
                flatten(child)

    flatten(parent)
    return one_line(" ".join(texts))


def _below(parent: Any, name: str) -> Iterator[Any]:
    """The elements of that name of a table or row, through content controls, none of an inner table."""
    for child in parent:
        found = _name(child)
        if found == name:
            yield child
        elif found not in _LEFT_OUT and found not in {"tbl", "tr", "tc", "p"}:
            yield from _below(child, name)


def _numbering_of(properties: Any, style: _Style) -> tuple[str, int] | None:
    direct = properties.find("{*}numPr") if properties is not None else None
    number_id = _value(direct, "numId") or (style.numbering[0] if style.numbering else None)
    level = _value(direct, "ilvl") or str(style.numbering[1] if style.numbering else 0)
    if not number_id or number_id == "0" or not level.isdecimal():
        return None
    return number_id, _integer(level, 0, _LAST_LEVEL)


def _read_styles(archive: Archive) -> dict[str, _Style]:
    member = "word/styles.xml"
    if member not in archive:
        return {}
    elements = {_attribute(style, "styleId") or "": style for style in archive.xml(member).iter("{*}style")}
    styles: dict[str, _Style] = {}
    for style_id in elements:
        chain: dict[str, Any] = {}  # from the style to the first that is known; a style may be based on itself
        current: str | None = style_id
        while current is not None and current in elements and current not in styles and current not in chain:
            chain[current] = elements[current]
            current = _value(elements[current], "basedOn")
        style = styles.get(current or "", _Style())
        for link, element in reversed(chain.items()):
            style = styles[link] = _derive_style(element, style)
    return styles


def _derive_style(element: Any, base: _Style) -> _Style:
    """A style with what it inherits from `base`; the built-in names are English in every language of Word."""
    properties = element.find("{*}pPr")
    name = (_value(element, "name") or "").lower()
    return _Style(
        has_heading_name=base.has_heading_name or bool(re.fullmatch(r"heading \d", name)),
        outline=_value(properties, "outlineLvl") or base.outline,
        is_title=name == "title",
        is_contents=base.is_contents or bool(re.fullmatch(r"toc \d|toc heading|table of figures", name)),
        numbering=_numbering_of(properties, _Style()) or base.numbering,
    )


def _read_numbering(archive: Archive) -> dict[str, dict[int, _Level]]:
    """numId -> level -> how it counts."""
    member = "word/numbering.xml"
    if member not in archive:
        return {}
    root = archive.xml(member)
    abstract = {
        _attribute(element, "abstractNumId"): {
            _integer(_attribute(level, "ilvl"), 0, _LAST_LEVEL): _Level(
                format=_value(level, "numFmt") or "decimal",
                text=(_value(level, "lvlText") or "")[:_MAX_LABEL_CHARS],
                start=_integer(_value(level, "start"), 1, _MAX_NUMBER),
            )
            for level in element.iter("{*}lvl")
        }
        for element in root.iter("{*}abstractNum")
    }
    return {
        _attribute(element, "numId") or "": abstract.get(_value(element, "abstractNumId"), {})
        for element in root.iter("{*}num")
    }


def _read_notes(archive: Archive) -> dict[tuple[str, str], str]:
    notes: dict[tuple[str, str], str] = {}
    for kind in ("footnote", "endnote"):
        member = f"word/{kind}s.xml"
        if member not in archive:
            continue
        for note in archive.xml(member).iterchildren("{*}" + kind):
            if _attribute(note, "type") in {None, "normal"}:
                notes[kind, _attribute(note, "id") or ""] = _flat_text(note, [])
    return notes


def _core_title(archive: Archive) -> str | None:
    member = "docProps/core.xml"
    if member not in archive:
        return None
    found = archive.xml(member).find("{http://purl.org/dc/elements/1.1/}title")
    return one_line(found.text or "") or None if found is not None else None


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
    return str(number)
