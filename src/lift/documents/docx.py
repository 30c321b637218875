"""DOCX (WordprocessingML, ECMA-376) -> blocks: paragraphs, headings, numbered lists, tables and notes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.document import Omission
from lift.documents.docx_numbering import (
    LAST_LEVEL,
    ListNumbering,
    attribute,
    integer,
    is_on,
    local_name,
    read_numbering,
    value_of,
)
from lift.documents.formulas import BASE_CHARS, omml_text, set_high
from lift.documents.symbol_fonts import is_private, symbol_character
from lift.documents.table_rows import MAX_COLUMNS, row_line, span_of
from lift.documents.zip_archive import Archive, core_title, resolve
from lift.errors import DocumentError

_RELATIONS = "_rels/.rels"
_LEFT_OUT = frozenset(
    {
        "moveFrom", "instrText", "delText", "Fallback", "rt", "rPr", "pPr", "sectPr", "tblPr", "tcPr", "trPr", "sdtPr",
        "docPr", "cNvGraphicFramePr"
    }
)  # fmt: skip
_PICTURES = {
    "pic": "image",
    "imagedata": "image",
    "chart": "chart",
    "relIds": "diagram",
    "altChunk": "embedded document",
}
_MARGINS = re.compile(r"word/(header|footer)\d*\.xml")
_TICKED, _UNTICKED = "☑", "☐"


def read_docx(archive: Archive) -> Content:
    """Read a Word document as it stands when all changes are accepted.

    Deleted, struck-out and hidden text, comments, page headers and footers, the table of contents and pictures are left
    out and told. The title is that of the document's properties, else of a paragraph of style Title. Notes stand as
    paragraphs of their own after the first one that refers to them. Raises DocumentError for a broken file.
    """
    walk = _Walk(_read_styles(archive), read_numbering(archive))
    walk.notes = _read_notes(archive, walk.omissions)
    body = archive.xml(_main_member(archive)).find("{*}body")
    if body is not None:
        walk.walk(body)
    kinds = [kind for kind, count in (walk.omissions + _beside_text(archive)).items() for _ in range(count)]
    return Content(core_title(archive) or walk.title, walk.blocks, tuple(Omission(kind) for kind in kinds))


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
    """The content of a paragraph: its text in pieces, the text boxes, and the notes that it refers to."""

    omissions: Counter[str]
    pieces: list[str] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)

    def add(self, text: str, is_raised: bool = False) -> None:
        """Put a piece behind the others; those that are set high and follow each other are one."""
        if is_raised:
            self.raised.append(text)
        elif text:
            self._lower()
            self.pieces.append(text)

    @property
    def text(self) -> str:
        """The text so far."""
        self._lower()
        return "".join(self.pieces)

    def _lower(self) -> None:
        if not self.raised:
            return
        before, at = "", len(self.pieces)
        while at and len(before) < BASE_CHARS:
            at -= 1
            before = self.pieces[at] + before
        self.pieces.append(set_high(before, "".join(self.raised)))
        self.raised = []


@dataclass
class _Walk:
    """Reads the body in order, counting numbered paragraphs as Word does."""

    styles: dict[str, _Style]
    numbering: ListNumbering
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    omissions: Counter[str] = field(default_factory=Counter)
    blocks: list[Block] = field(default_factory=list)
    title: str | None = None
    in_list: bool = False
    note_count: int = 0

    def walk(self, parent: Any) -> None:
        """Read the paragraphs and tables below `parent`, through content controls and tracked insertions."""
        for element in parent:
            name = local_name(element)
            if name == "p":
                self._paragraph(element)
            elif name == "tbl":
                self._table(element)
            elif name in _PICTURES:
                self.omissions[_PICTURES[name]] += 1
            elif name == "del":
                self.omissions["deleted passage"] += _has_text(element)
            elif name not in _LEFT_OUT and not _is_placeholder(element):
                self.walk(element)

    def _paragraph(self, paragraph: Any) -> None:
        properties = paragraph.find("{*}pPr")
        style = self.styles.get(value_of(properties, "pStyle") or "", _Style())
        if style.is_contents:
            self.omissions["table of contents"] = 1
            return
        inline = _read_inline(paragraph, self.omissions)
        text = inline.text.strip()
        numbering = _numbering_of(properties, style)
        marker = self.numbering.marker(*numbering) if text and numbering else ""
        outline = value_of(properties, "outlineLvl")
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
        above: dict[int, str] = {}
        for row in _below(table, "tr"):
            properties = row.find("{*}trPr")
            if properties is not None and properties.find("{*}del") is not None:
                self.omissions["deleted passage"] += 1
                continue
            if line := row_line(self._cells(row, above, notes)):
                self.blocks.append(Block(line, separator=separator))
                separator = LINE
        self._notes(notes)

    def _cells(self, row: Any, above: dict[int, str], notes: list[tuple[str, str]]) -> list[str]:
        """The texts of a row, column by column; a cell that goes on from the row above repeats its text."""
        texts = [""] * integer(value_of(row.find("{*}trPr"), "gridBefore"), 0, MAX_COLUMNS)
        cells = list(_below(row, "tc"))
        for cell in cells:
            properties = cell.find("{*}tcPr")
            merge = properties.find("{*}vMerge") if properties is not None else None
            text = _flat_text(cell, notes, self.omissions)
            if merge is not None and (attribute(merge, "val") or "continue") == "continue":
                text = text or above.get(len(texts), "")
            columns = span_of(value_of(properties, "gridSpan"))
            for _ in range(1 if len(cells) == 1 else min(columns, MAX_COLUMNS - len(texts))):
                above[len(texts)] = text if merge is not None else ""
                texts.append(text)
        return texts


def _beside_text(archive: Archive) -> Counter[str]:
    """Counts what a document holds beside its text: comments, page headers and page footers."""
    found = Counter[str]()
    try:
        if "word/comments.xml" in archive:
            comments = archive.xml("word/comments.xml").iterchildren("{*}comment")
            found["comment"] = sum(_has_text(comment) for comment in comments)
        for member in sorted(archive.members):
            if (kind := _MARGINS.fullmatch(member)) and _has_text(archive.xml(member)):
                found[f"page {kind.group(1)}"] += 1
    except DocumentError:
        found["part that does not open"] += 1
    return found


def _has_text(element: Any) -> bool:
    return any((text.text or "").strip() for text in element.iter("{*}t", "{*}delText"))


def _main_member(archive: Archive) -> str:
    """The document itself is nearly always word/document.xml, but only the package's relations say so."""
    if _RELATIONS in archive:
        for relation in archive.xml(_RELATIONS):
            if (relation.get("Type") or "").endswith("/officeDocument"):
                return resolve("", (relation.get("Target") or "").lstrip("/"))
    return "word/document.xml"


def _is_heading_level(outline: str | None) -> bool:
    return integer(outline, LAST_LEVEL + 1, LAST_LEVEL + 1) <= LAST_LEVEL


def _is_placeholder(element: Any) -> bool:
    """Whether an element is a content control that nobody has filled in."""
    if local_name(element) != "sdt":
        return False
    return is_on(element.find("{*}sdtPr"), "showingPlcHdr")


def _read_inline(paragraph: Any, omissions: Counter[str]) -> _Inline:
    inline = _Inline(omissions)
    _collect(paragraph, inline, None)
    return inline


def _collect(element: Any, inline: _Inline, run_properties: Any) -> None:
    """Put what stands below `element` into `inline`; the parser lets no file nest deeper than recursion goes."""
    is_raised = value_of(run_properties, "vertAlign") == "superscript"
    for child in element:
        name = local_name(child)
        if name == "t":
            inline.add(_readable(child.text or "", run_properties, inline.omissions), is_raised)
        elif name in {"tab", "ptab"}:
            inline.add(" ")
        elif name in {"br", "cr"}:
            inline.add(" " if attribute(child, "type") in {"page", "column"} else "\n")
        elif name == "noBreakHyphen":
            inline.add("-", is_raised)
        elif name == "sym":
            inline.add(_symbol(attribute(child, "font"), attribute(child, "char"), inline.omissions), is_raised)
        elif name in {"oMath", "oMathPara"}:
            inline.add(omml_text(child))
        elif name == "ffData":
            inline.add(_form_value(child))
        elif name == "txbxContent":
            inline.boxes.append(child)
        elif name in {"footnoteReference", "endnoteReference"}:
            inline.notes.append((name.removesuffix("Reference"), attribute(child, "id") or ""))
        elif name == "del":
            inline.omissions["deleted passage"] += _has_text(child)
        elif name == "object":
            inline.omissions["embedded object"] += 1
        elif name in _PICTURES:
            inline.omissions[_PICTURES[name]] += 1
        elif name == "r":
            properties = child.find("{*}rPr")
            if kind := _left_out_kind(properties):
                inline.omissions[kind] += _has_text(child)
            else:
                _collect(child, inline, properties)
        elif name not in _LEFT_OUT and not _is_placeholder(child):
            _collect(child, inline, run_properties)


def _left_out_kind(run_properties: Any) -> str | None:
    """The kind of text that a run of these properties is and no reader is to read, or None."""
    if is_on(run_properties, "vanish"):
        return "hidden passage"
    return "struck-out passage" if is_on(run_properties, "strike") or is_on(run_properties, "dstrike") else None


def _readable(text: str, run_properties: Any, omissions: Counter[str]) -> str:
    """The text with the codes of a symbol font as the characters that they show."""
    if not any(map(is_private, text)):
        return text
    fonts = run_properties.find("{*}rFonts") if run_properties is not None else None
    font = attribute(fonts, "ascii") or attribute(fonts, "hAnsi") if fonts is not None else None
    return "".join(
        _symbol(font, f"{ord(character):x}", omissions) if is_private(character) else character for character in text
    )


def _symbol(font: str | None, code: str | None, omissions: Counter[str]) -> str:
    try:
        shown = symbol_character(font, int((code or "")[:8], 16))
    except ValueError:
        shown = None
    if shown is None:
        omissions["symbol of an unknown font"] += 1
    return shown or ""


def _form_value(form: Any) -> str:
    """The choice of a legacy drop-down list or the mark of a legacy check box."""
    for kind in ("ddList", "checkBox"):
        control = form.find("{*}" + kind)
        if control is None:
            continue
        if kind == "checkBox":
            is_stated = control.find("{*}checked") is not None
            return _TICKED if is_on(control, "checked" if is_stated else "default") else _UNTICKED
        entries = [attribute(entry, "val") or "" for entry in control.iterchildren("{*}listEntry")]
        chosen = integer(value_of(control, "result") or value_of(control, "default"), 0, len(entries))
        return entries[chosen] if chosen < len(entries) else ""
    return ""


def _flat_text(parent: Any, notes: list[tuple[str, str]], omissions: Counter[str]) -> str:
    """The paragraphs below `parent` as one line, those of text boxes and inner tables too; adds to `notes`."""
    texts: list[str] = []

    def flatten(element: Any) -> None:
        for child in element:
            if local_name(child) == "p":
                inline = _read_inline(child, omissions)
                texts.append(inline.text)
                notes.extend(inline.notes)
                for box in inline.boxes:
                    flatten(box)
            elif local_name(child) not in _LEFT_OUT and not _is_placeholder(child):
                flatten(child)

    flatten(parent)
    return one_line(" ".join(texts))


def _below(parent: Any, name: str) -> Iterator[Any]:
    """The elements of that name of a table or row, through content controls, none of an inner table."""
    for child in parent:
        found = local_name(child)
        if found == name:
            yield child
        elif found not in _LEFT_OUT and found not in {"tbl", "tr", "tc", "p"}:
            yield from _below(child, name)


def _numbering_of(properties: Any, style: _Style) -> tuple[str, int] | None:
    direct = properties.find("{*}numPr") if properties is not None else None
    number_id = value_of(direct, "numId") or (style.numbering[0] if style.numbering else None)
    level = value_of(direct, "ilvl") or str(style.numbering[1] if style.numbering else 0)
    if not number_id or number_id == "0" or not level.isdecimal():
        return None
    return number_id, integer(level, 0, LAST_LEVEL)


def _read_styles(archive: Archive) -> dict[str, _Style]:
    member = "word/styles.xml"
    if member not in archive:
        return {}
    elements = {attribute(style, "styleId") or "": style for style in archive.xml(member).iter("{*}style")}
    styles: dict[str, _Style] = {}
    for style_id in elements:
        chain: dict[str, Any] = {}  # from the style to the first that is known; a style may be based on itself
        current: str | None = style_id
        while current is not None and current in elements and current not in styles and current not in chain:
            chain[current] = elements[current]
            current = value_of(elements[current], "basedOn")
        style = styles.get(current or "", _Style())
        for link, element in reversed(chain.items()):
            style = styles[link] = _derive_style(element, style)
    return styles


def _derive_style(element: Any, base: _Style) -> _Style:
    """A style with what it inherits from `base`; the built-in names are English in every language of Word."""
    properties = element.find("{*}pPr")
    name = (value_of(element, "name") or "").lower()
    return _Style(
        has_heading_name=base.has_heading_name or bool(re.fullmatch(r"heading \d", name)),
        outline=value_of(properties, "outlineLvl") or base.outline,
        is_title=name == "title",
        is_contents=base.is_contents or bool(re.fullmatch(r"toc \d|toc heading|table of figures", name)),
        numbering=_numbering_of(properties, _Style()) or base.numbering,
    )


def _read_notes(archive: Archive, omissions: Counter[str]) -> dict[tuple[str, str], str]:
    notes: dict[tuple[str, str], str] = {}
    for kind in ("footnote", "endnote"):
        member = f"word/{kind}s.xml"
        if member not in archive:
            continue
        for note in archive.xml(member).iterchildren("{*}" + kind):
            if attribute(note, "type") in {None, "normal"}:
                notes[kind, attribute(note, "id") or ""] = _flat_text(note, [], omissions)
    return notes
