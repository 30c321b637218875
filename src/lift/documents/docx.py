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
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_ONES = ((9, "ix"), (5, "v"), (4, "iv"), (1, "i"))


def read_docx(archive: Archive) -> Content:
    """Read a Word document; text that is deleted or hidden, and the table of contents, are left out.

    The title is that of the document's properties, else of a paragraph of style Title. Notes stand as paragraphs of
    their own after the one that refers to them. Raises DocumentError for a broken file.
    """
    walk = _Walk(_read_styles(archive), _read_numbering(archive), _read_notes(archive))
    body = archive.xml(_main_member(archive)).find("{*}body")
    if body is not None:
        walk.walk(body)
    return Content(title=_core_title(archive) or walk.title, blocks=walk.blocks)


@dataclass(frozen=True)
class _Style:
    is_heading: bool = False
    is_title: bool = False
    is_contents: bool = False
    numbering: tuple[str, int] | None = None


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
        text = _text(paragraph).strip()
        numbering = _numbering_of(properties, style)
        marker = self._marker(*numbering) if text and numbering else ""
        outline = _value(properties, "outlineLvl")
        is_heading = style.is_heading or (outline is not None and outline.isdecimal() and int(outline) < 9)
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
        self._notes(paragraph)
        for box in _text_boxes(paragraph):
            self.walk(box)

    def _notes(self, element: Any) -> None:
        for kind in ("footnote", "endnote"):
            for reference in element.iter("{*}" + kind + "Reference"):
                if note := self.notes.get((kind, _attribute(reference, "id") or "")):
                    self.note_count += 1
                    self.blocks.append(Block(f"Note {self.note_count}: {note}"))
                    self.in_list = False

    def _table(self, table: Any) -> None:
        separator = PARAGRAPH
        self.in_list = False
        rows = [row for row in table.iter("{*}tr") if _nearest_table(row) is table]
        for row in rows:
            cells = [_cell_text(cell) for cell in row.iter("{*}tc") if _nearest_table(cell) is table]
            if any(cells):
                self.blocks.append(Block(" | ".join(cells).strip(), separator=separator))
                separator = LINE
        self._notes(table)

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


def _integer(value: str | None, default: int) -> int:
    return int(value) if value is not None and value.isdecimal() else default


def _is_hidden(run: Any) -> bool:
    properties = run.find("{*}rPr")
    vanish = properties.find("{*}vanish") if properties is not None else None
    return vanish is not None and (_attribute(vanish, "val") or "1") not in {"0", "false", "off"}


def _pieces(element: Any) -> Iterator[str]:
    for child in element:
        name = _name(child)
        if name == "t":
            yield child.text or ""
        elif name in {"tab", "ptab"}:
            yield " "
        elif name in {"br", "cr"}:
            yield " " if _attribute(child, "type") in {"page", "column"} else "\n"
        elif name == "noBreakHyphen":
            yield "-"
        elif name not in _LEFT_OUT and name != "txbxContent" and not (name == "r" and _is_hidden(child)):
            yield from _pieces(child)


def _text(paragraph: Any) -> str:
    return "".join(_pieces(paragraph))


def _cell_text(cell: Any) -> str:
    return one_line(" ".join(_text(paragraph) for paragraph in cell.iter("{*}p")))


def _nearest_table(element: Any) -> Any:
    return next(ancestor for ancestor in element.iterancestors() if _name(ancestor) == "tbl")


def _text_boxes(paragraph: Any) -> list[Any]:
    boxes = paragraph.iter("{*}txbxContent")
    return [
        box
        for box in boxes
        if not any(_name(ancestor) in {"Fallback", "txbxContent"} for ancestor in box.iterancestors())
    ]


def _numbering_of(properties: Any, style: _Style) -> tuple[str, int] | None:
    direct = properties.find("{*}numPr") if properties is not None else None
    number_id = _value(direct, "numId") or (style.numbering[0] if style.numbering else None)
    level = _value(direct, "ilvl") or str(style.numbering[1] if style.numbering else 0)
    return (number_id, int(level)) if number_id and number_id != "0" and level.isdecimal() else None


def _read_styles(archive: Archive) -> dict[str, _Style]:
    member = "word/styles.xml"
    if member not in archive:
        return {}
    elements = {_attribute(style, "styleId") or "": style for style in archive.xml(member).iter("{*}style")}
    return {style_id: _style(style_id, elements) for style_id in elements}


def _style(style_id: str, elements: dict[str, Any]) -> _Style:
    """A style with what it inherits; the built-in names are English in every language of Word."""
    chain: list[Any] = []
    current: str | None = style_id
    while current in elements and elements[current] not in chain:
        chain.append(elements[current])
        current = _value(chain[-1], "basedOn")
    names = [(_value(element, "name") or "").lower() for element in chain]
    outline = next((value for element in chain if (value := _value(element.find("{*}pPr"), "outlineLvl"))), "9")
    numbering = None
    for element in chain:
        numbering = numbering or _numbering_of(element.find("{*}pPr"), _Style())
    return _Style(
        is_heading=any(re.fullmatch(r"heading \d", name) for name in names)
        or (outline.isdecimal() and int(outline) < 9),
        is_title=names[0] == "title",
        is_contents=any(re.fullmatch(r"toc \d|toc heading|table of figures", name) for name in names),
        numbering=numbering,
    )


def _read_numbering(archive: Archive) -> dict[str, dict[int, _Level]]:
    """numId -> level -> how it counts."""
    member = "word/numbering.xml"
    if member not in archive:
        return {}
    root = archive.xml(member)
    abstract = {
        _attribute(element, "abstractNumId"): {
            _integer(_attribute(level, "ilvl"), 0): _Level(
                format=_value(level, "numFmt") or "decimal",
                text=_value(level, "lvlText") or "",
                start=_integer(_value(level, "start"), 1),
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
        for note in archive.xml(member).iter("{*}" + kind):
            if _attribute(note, "type") in {None, "normal"}:
                notes[kind, _attribute(note, "id") or ""] = _cell_text(note)
    return notes


def _core_title(archive: Archive) -> str | None:
    member = "docProps/core.xml"
    if member not in archive:
        return None
    found = archive.xml(member).find("{http://purl.org/dc/elements/1.1/}title")
    return one_line(found.text or "") or None if found is not None else None


def _spell(number: int, number_format: str) -> str:
    if number_format in {"lowerLetter", "upperLetter"} and number > 0:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters.upper() if number_format == "upperLetter" else letters
    if number_format in {"lowerRoman", "upperRoman"} and number > 0:
        roman = ""
        for value, numeral in _ROMAN + _ROMAN_ONES:
            roman += numeral * (number // value)
            number %= value
        return roman.upper() if number_format == "upperRoman" else roman
    return str(number)
