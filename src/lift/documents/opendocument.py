"""OpenDocument (ISO/IEC 26300): texts, sheets and presentations of LibreOffice -> blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.document import Omission
from lift.documents.formulas import BASE_CHARS, mathml_text, set_high
from lift.documents.table_rows import MAX_COLUMNS, SpanFiller, SpannedCell, row_blocks, sheet_blocks, span_of
from lift.documents.zip_archive import Archive, ArchiveLimitError, resolve
from lift.errors import DocumentError

CONTENT = "content.xml"
_MANIFEST = "META-INF/manifest.xml"
_META = "meta.xml"
_HREF = "{http://www.w3.org/1999/xlink}href"
_MAX_SPACES = 100
_MAX_REPEATED_ROWS = 1_000
_MAX_LEVEL = 20
_INDEXES = frozenset(
    {
        "table-of-content", "illustration-index", "table-index", "object-index", "user-index", "alphabetical-index",
        "bibliography"
    }
)  # fmt: skip
_OMITTED = {
    "annotation": "comment", "image": "image", "plugin": "recording", "applet": "embedded object",
    "object-ole": "embedded object", "floating-frame": "embedded page"
}  # fmt: skip
_SILENT = frozenset(["tracked-changes", "ruby-text", "annotation-end", "forms", "sequence-decls", "desc", "title"])


@dataclass(frozen=True)
class _Styles:
    """Names of the styles of text that is set high, struck out or hidden, and of hidden sheets and numbered lists."""

    raised: frozenset[str]
    struck: frozenset[str]
    hidden: frozenset[str]
    numbered: frozenset[str]
    parents: dict[str, str]


@dataclass
class _Walk:
    """Reads the body in order."""

    archive: Archive
    styles: _Styles
    blocks: list[Block] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)
    page: int | None = None
    notes: list[str] = field(default_factory=list)
    note_count: int = 0
    title: str | None = None

    def omit(self, kind: str) -> None:
        self.omissions.append(Omission(kind, self.page))

    def walk(self, parent: Any) -> None:
        """Read paragraphs, lists, tables and frames below `parent`."""
        for element in parent:
            name = _name(element)
            if name in {"p", "h"}:
                self._paragraph(element, name)
            elif name == "list":
                self._list(element, 0, self._is_numbered(element, None))
            elif name == "table":
                self._table(element)
            elif name in _INDEXES:
                self.omit("table of contents" if name == "table-of-content" else "index")
            elif name == "section" and _attribute(element, "display") in {"none", "condition"}:
                self.omit("hidden section")
            elif name == "frame":
                self._frame(element)
            elif name == "tracked-changes":
                for _ in element.iter("{*}deletion"):
                    self.omit("deleted passage")
            elif name in _OMITTED:
                self.omit(_OMITTED[name])
            elif name not in _SILENT and name != "notes":
                self.walk(element)

    def _paragraph(self, element: Any, name: str, prefix: str = "", separator: str = PARAGRAPH) -> bool:
        """Read a paragraph; returns whether it has a text."""
        frames: list[Any] = []
        text = self.text(element, frames).strip()
        style = self.styles.parents.get(
            _attribute(element, "style-name") or "", _attribute(element, "style-name") or ""
        )
        if text:
            is_title = style == "Title"
            if is_title and self.title is None:
                self.title = one_line(text)
            heading = one_line(text) if name == "h" or is_title else None
            self.blocks.append(Block(prefix + text, heading, self.page, separator))
        self._flush_notes()
        for frame in frames:
            self._frame(frame)
        return bool(text)

    def _flush_notes(self) -> None:
        for note in self.notes:
            self.note_count += 1
            self.blocks.append(Block(f"Note {self.note_count}: {note}", page=self.page))
        self.notes = []

    def _list(self, element: Any, level: int, is_numbered: bool) -> None:
        count = 0
        for item in element:
            name = _name(item)
            if name not in {"list-item", "list-header"}:
                continue
            count += name == "list-item"
            marker = "" if name == "list-header" else f"{count}. " if is_numbered else "- "
            for child in item:
                kind = _name(child)
                if kind == "list" and level < _MAX_LEVEL:
                    self._list(child, level + 1, self._is_numbered(child, is_numbered))
                elif kind in {"p", "h"}:
                    in_run = bool(self.blocks) and self.blocks[-1].heading is None and (count > 1 or level > 0)
                    prefix = "  " * level + marker if kind == "p" else ""
                    separator = LINE if in_run and kind == "p" else PARAGRAPH
                    if self._paragraph(child, kind, prefix, separator):
                        marker = ""
                elif kind != "list":
                    self.walk([child])

    def _is_numbered(self, element: Any, inherited: bool | None) -> bool:
        style = _attribute(element, "style-name")
        return style in self.styles.numbered if style else bool(inherited)

    def _table(self, table: Any) -> None:
        filler = SpanFiller()
        rows = [filler.fill(self._cells(row)) for row in _rows_of(table)]
        self.blocks += [Block(block.text, None, self.page, block.separator) for block in row_blocks(rows)]
        self._flush_notes()

    def _cells(self, row: Any) -> Iterator[SpannedCell]:
        """The cells of a row; those that a span of another covers are none."""
        given = 0
        for cell in row:
            if _name(cell) != "table-cell":
                continue
            text = self.cell_text(cell)
            spanned = _attribute(cell, "number-columns-spanned"), _attribute(cell, "number-rows-spanned")
            for _ in range(min(_repeated(cell), MAX_COLUMNS - given) if text else 1):
                given += 1
                yield SpannedCell(text, span_of(spanned[0]), span_of(spanned[1]))

    def cell_text(self, cell: Any) -> str:
        """The paragraphs of a cell as one line."""
        texts: list[str] = []
        for element in cell.iter("{*}p", "{*}h"):
            if not any(_name(above) in {"annotation", "p", "h"} for above in _between(element, cell)):
                frames: list[Any] = []
                texts.append(self.text(element, frames))
        for _ in cell.iterchildren("{*}annotation"):
            self.omit("comment")
        return one_line(" ".join(texts))

    def text(self, element: Any, frames: list[Any]) -> str:
        """The text of a paragraph; notes are kept for behind it, frames are added to `frames`."""
        pieces: list[str] = [element.text or ""]
        for child in element:
            name = _name(child)
            if name == "s":
                count = _attribute(child, "c") or "1"
                pieces.append(" " * min(int(count) if count.isdecimal() and len(count) < 6 else 1, _MAX_SPACES))
            elif name == "tab":
                pieces.append(" ")
            elif name == "line-break":
                pieces.append("\n")
            elif name == "note":
                body = child.find("{*}note-body")
                if body is not None:
                    self.notes.append(one_line(" ".join(self.text(p, frames) for p in body.iter("{*}p"))))
            elif name == "frame" or (name == "a" and child.find("{*}frame") is not None):
                frames.append(child if name == "frame" else child.find("{*}frame"))
            elif name in _OMITTED:
                self.omit(_OMITTED[name])
            elif name in {"hidden-text", "hidden-paragraph"}:
                self.omit("hidden passage")
            elif name and name not in _SILENT:
                pieces.append(self._span(child, name, pieces, frames))
            pieces.append(child.tail or "")
        return "".join(pieces)

    def _span(self, child: Any, name: str, before: list[str], frames: list[Any]) -> str:
        text = self.text(child, frames)
        style = _attribute(child, "style-name") or "" if name == "span" else ""
        if text.strip() and (style in self.styles.struck or style in self.styles.hidden):
            self.omit("struck-out passage" if style in self.styles.struck else "hidden passage")
            return ""
        return set_high("".join(before)[-BASE_CHARS:], text) if style in self.styles.raised else text

    def _frame(self, frame: Any) -> None:
        """A text box, a table, a formula, a picture or an object."""
        for child in frame:
            name = _name(child)
            if name == "text-box":
                self.walk(child)
                return
            if name == "table":
                self._table(child)
                return
            if name == "object":
                if not self._formula(child):
                    self.omit("embedded object")
                return
            if name in _OMITTED:
                self.omit(_OMITTED[name])
                return

    def _formula(self, element: Any) -> bool:
        formula = next(element.iter("{*}math"), None)
        member = resolve("", (element.get(_HREF) or "").removeprefix("./")) + "/content.xml"
        if formula is None and member in self.archive:
            try:
                root = self.archive.xml(member)
            except ArchiveLimitError:
                raise
            except DocumentError:
                return False
            formula = root if _name(root) == "math" else None
        text = mathml_text(formula) if formula is not None else ""
        if text:
            self.blocks.append(Block(text, page=self.page))
        return bool(text)


def read_opendocument(archive: Archive) -> Content:
    """Read a text, a sheet or a presentation; raises DocumentError where it is broken or locked by a password.

    A slide's number is its page; of a sheet the values are those that it shows. What is hidden, deleted or drawn is
    left out and told.
    """
    if _MANIFEST in archive and next(archive.xml(_MANIFEST).iter("{*}encryption-data"), None) is not None:
        raise DocumentError(f"{archive.name}: the file is locked by a password; save it without one and try again")
    root = archive.xml(CONTENT)
    walk = _Walk(archive, _read_styles(root))
    body = root.find("{*}body")
    for document in body if body is not None else []:
        kind = _name(document)
        if kind == "spreadsheet":
            _read_sheets(document, walk)
        elif kind in {"presentation", "drawing"}:
            _read_slides(document, walk)
        else:
            walk.walk(document)
    return Content(_meta_title(archive) or walk.title, walk.blocks, tuple(walk.omissions))


def _read_sheets(document: Any, walk: _Walk) -> None:
    tables = list(document.iterchildren("{*}table"))
    for table in tables:
        if _attribute(table, "style-name") in walk.styles.hidden:
            walk.omit("hidden sheet")
            continue
        hidden = Counter[str]()
        blocks = list(sheet_blocks(_sheet_rows(table, walk, hidden)))
        name = one_line(_attribute(table, "name") or "")
        if blocks and name and len(tables) > 1:
            walk.blocks.append(Block(name, heading=name))
        walk.blocks += blocks
        for kind, count in hidden.items():
            walk.omissions += [Omission(kind)] * count
        for _ in table.iter("{*}frame"):
            walk.omit("drawing")


def _sheet_rows(table: Any, walk: _Walk, hidden: Counter[str]) -> Iterator[list[str]]:
    filler = SpanFiller()
    for row in _rows_of(table):
        cells: list[SpannedCell] = []
        column = 0
        for cell in row:
            name = _name(cell)
            if name not in {"table-cell", "covered-table-cell"} or column >= MAX_COLUMNS:
                continue
            text = walk.cell_text(cell)
            rows = span_of(_attribute(cell, "number-rows-spanned"))
            is_last = not text and cell.getnext() is None
            for _ in range(1 if is_last else min(_repeated(cell), MAX_COLUMNS - column)):
                if name == "table-cell" or not filler.spans(column):
                    cells.append(SpannedCell(text, 1, rows))
                column += 1
        texts = filler.fill(cells)
        if _attribute(row, "visibility") in {"collapse", "filter"}:
            hidden["hidden row"] += any(texts)
            continue
        for _ in range(min(_repeated(row, "number-rows-repeated"), _MAX_REPEATED_ROWS) if any(texts) else 1):
            yield texts


def _read_slides(document: Any, walk: _Walk) -> None:
    for number, slide in enumerate(document.iterchildren("{*}page"), start=1):
        walk.page = number
        if _attribute(slide, "style-name") in walk.styles.hidden:
            walk.omit("hidden slide")
            continue
        begin = len(walk.blocks)
        for frame in slide.iterchildren("{*}frame"):
            if _attribute(frame, "class") == "title":
                title = one_line(" ".join(walk.text(p, []) for p in frame.iter("{*}p")))
                if title:
                    walk.blocks.append(Block(title, heading=title, page=number))
        walk.walk([child for child in slide if _attribute(child, "class") not in {"title", "page-number", "footer"}])
        for notes in slide.iterchildren("{*}notes"):
            walk.walk([frame for frame in notes if _attribute(frame, "class") == "notes"])
        if len(walk.blocks) > begin and walk.blocks[begin].heading is None:
            walk.blocks[begin] = replace(walk.blocks[begin], heading=f"Slide {number}")


def _read_styles(root: Any) -> _Styles:
    raised, struck, hidden, numbered = set[str](), set[str](), set[str](), set[str]()
    parents: dict[str, str] = {}
    for style in root.iterfind("{*}automatic-styles/*"):
        name = _attribute(style, "name") or ""
        if _name(style) == "list-style":
            first = next(iter(style), None)
            if first is not None and _name(first) == "list-level-style-number" and _attribute(first, "num-format"):
                numbered.add(name)
            continue
        parents[name] = _attribute(style, "parent-style-name") or name
        for properties in style:
            position = (_attribute(properties, "text-position") or "").split()
            if position and (position[0] == "super" or (position[0].rstrip("%").isdecimal() and position[0] != "0%")):
                raised.add(name)
            if (_attribute(properties, "text-line-through-style") or "none") != "none":
                struck.add(name)
            if (
                _attribute(properties, "display") in {"none", "false"}
                or _attribute(properties, "visibility") == "hidden"
            ):
                hidden.add(name)
    return _Styles(frozenset(raised), frozenset(struck), frozenset(hidden), frozenset(numbered), parents)


def _rows_of(table: Any) -> Iterator[Any]:
    """The rows of a table through its groups, none of an inner table."""
    for child in table:
        name = _name(child)
        if name == "table-row":
            yield child
        elif name in {"table-rows", "table-header-rows", "table-row-group"}:
            yield from _rows_of(child)


def _repeated(element: Any, name: str = "number-columns-repeated") -> int:
    return min(span_of(_attribute(element, name)), MAX_COLUMNS)


def _between(element: Any, above: Any) -> Iterator[Any]:
    parent = element.getparent()
    while parent is not None and parent is not above:
        yield parent
        parent = parent.getparent()


def _meta_title(archive: Archive) -> str | None:
    if _META not in archive:
        return None
    try:
        found = next(archive.xml(_META).iter("{http://purl.org/dc/elements/1.1/}title"), None)
    except ArchiveLimitError:
        raise
    except DocumentError:
        return None
    return one_line(found.text or "") or None if found is not None else None


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _attribute(element: Any, name: str) -> str | None:
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None
