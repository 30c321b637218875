"""XLSX (SpreadsheetML, ECMA-376) -> blocks: each sheet under its name, a line for each row, as it is shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lift.documents.blocks import Block, Content, one_line
from lift.documents.document import Omission
from lift.documents.number_formats import BUILT_IN, general, shown_number
from lift.documents.table_rows import sheet_blocks
from lift.documents.zip_archive import Archive, ArchiveLimitError, core_title, related_parts
from lift.errors import DocumentError

WORKBOOK = "xl/workbook.xml"
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_MERGED = re.compile(r"([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})")
_UNNAMED_SHEET = re.compile(r"(?:sheet|tabelle|feuil|hoja|foglio|blad|ark|planilha|лист|シート)\s*\d*", re.IGNORECASE)
_RELATION_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_MAX_COLUMNS = 16_384
_MAX_MERGED_CELLS = 100_000
_UNSHOWN = "hidden", "veryHidden"


@dataclass(frozen=True)
class _Book:
    """The shared tables that the cells of all sheets refer to."""

    strings: list[str]
    formats: list[str]
    is_1904: bool


@dataclass
class _Sheet:
    """A sheet as it is read: its rows, and how much of it is hidden."""

    rows: list[list[str]] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)


def read_xlsx(archive: Archive) -> Content:
    """Read a workbook: of formulas the value that was last computed; of merged cells the value in each row of them.

    Hidden sheets, rows and columns, comments, charts and pictures are left out and told. Raises DocumentError where it
    is broken.
    """
    workbook = archive.xml(WORKBOOK)
    properties = workbook.find("{*}workbookPr")
    is_1904 = properties is not None and properties.get("date1904") in {"1", "true"}
    book = _Book(_shared_strings(archive), _formats(archive), is_1904)
    parts = related_parts(archive, WORKBOOK)
    sheets = list(workbook.iterfind("{*}sheets/{*}sheet"))
    blocks: list[Block] = []
    omissions: list[Omission] = []
    for sheet in sheets:
        name = one_line(sheet.get("name") or "")
        member = parts.get(sheet.get(_RELATION_ID) or "", "")
        if sheet.get("state") in _UNSHOWN:
            omissions.append(Omission("hidden sheet"))
            continue
        if "chartsheet" in member:
            omissions.append(Omission("chart"))
            continue
        try:
            read = _read_sheet(archive, member, book)
        except ArchiveLimitError:
            raise
        except DocumentError:
            if len(sheets) == 1:
                raise
            omissions.append(Omission("sheet that does not open"))
            continue
        found = list(sheet_blocks(read.rows))
        if found and name and (len(sheets) > 1 or not _UNNAMED_SHEET.fullmatch(name)):
            blocks.append(Block(name, heading=name))
        blocks += found
        omissions += [Omission(kind) for kind, count in read.hidden.items() for _ in range(count)]
    omissions += _beside_cells(archive)
    return Content(core_title(archive), blocks, tuple(omissions))


def _beside_cells(archive: Archive) -> list[Omission]:
    found = []
    for member in sorted(archive.members):
        if re.fullmatch(r"xl/(?:comments/?\w*|threadedComments/\w+)\.xml", member):
            try:
                root = archive.xml(member)
            except ArchiveLimitError:
                raise
            except DocumentError:
                continue
            if "threaded" not in member:
                found += [Omission("comment") for _ in root.iter("{*}comment")]
        elif re.fullmatch(r"xl/charts/chart\d+\.xml", member):
            found.append(Omission("chart"))
        elif member.startswith("xl/media/"):
            found.append(Omission("image"))
    return found


def _shared_strings(archive: Archive) -> list[str]:
    member = "xl/sharedStrings.xml"
    return [_rich_text(item) for item in archive.iterate(member, "si")] if member in archive else []


def _rich_text(item: Any) -> str:
    """The text of a string item, without the reading aids of Japanese."""
    pieces = [child for child in item.iter("{*}t") if not _is_phonetic(child)]
    return one_line("".join(piece.text or "" for piece in pieces))


def _is_phonetic(element: Any) -> bool:
    parent = element.getparent()
    return parent is not None and str(parent.tag).endswith("}rPh")


def _formats(archive: Archive) -> list[str]:
    """The number format of each cell style."""
    member = "xl/styles.xml"
    if member not in archive:
        return []
    root = archive.xml(member)
    own = {element.get("numFmtId"): element.get("formatCode") or "" for element in root.iter("{*}numFmt")}
    styles = root.find("{*}cellXfs")
    found = []
    for style in styles if styles is not None else []:
        number = style.get("numFmtId") or "0"
        built_in = BUILT_IN.get(int(number), "General") if number.isdecimal() and len(number) < 6 else "General"
        found.append(own.get(number, built_in))
    return found


def _read_sheet(archive: Archive, member: str, book: _Book) -> _Sheet:
    sheet = _Sheet()
    hidden_columns: set[int] = set()
    merged: list[tuple[int, int, int, int]] = []
    numbered: list[tuple[int, dict[int, str]]] = []
    expected = 1
    for element in archive.iterate(member, "row", "col", "mergeCell"):
        name = str(element.tag).rpartition("}")[2]
        if name == "col":
            if element.get("hidden") in {"1", "true"}:
                first, last = _number(element.get("min")), _number(element.get("max"))
                hidden_columns.update(range(first - 1, min(last, _MAX_COLUMNS)))
        elif name == "mergeCell":
            if found := _MERGED.fullmatch(element.get("ref") or ""):
                left, top, right, bottom = found.groups()
                merged.append((int(top), _column(left), int(bottom), _column(right)))
        else:
            row_number = _number(element.get("r")) or expected
            expected = row_number + 1
            cells = dict(_cells(element, book))
            if element.get("hidden") in {"1", "true"}:
                sheet.hidden["hidden row"] += any(cells.values())
            else:
                numbered.append((row_number, cells))
    _fill_merged(dict(numbered), merged)
    used = {column for _, cells in numbered for column, text in cells.items() if text}
    sheet.hidden["hidden column"] = len(used & hidden_columns)
    previous = 0
    shown = sorted(used - hidden_columns)
    for row_number, cells in sorted(numbered, key=lambda row: row[0]):
        if row_number > previous + 1:
            sheet.rows.append([])
        previous = row_number
        sheet.rows.append([cells.get(column, "") for column in shown])
    return sheet


def _fill_merged(rows: dict[int, dict[int, str]], merged: list[tuple[int, int, int, int]]) -> None:
    """Give the value of cells merged over several rows to each of them; a value over several columns stands once."""
    left = _MAX_MERGED_CELLS
    for top, first, bottom, _last in merged:
        value = rows.get(top, {}).get(first, "")
        for row in range(top + 1, min(bottom, top + left) + 1) if value else ():
            left -= 1
            if row in rows:
                rows[row].setdefault(first, value)
                rows[row][first] = rows[row][first] or value


def _cells(row: Any, book: _Book) -> Iterator[tuple[int, str]]:
    column = -1
    for cell in row.iterchildren("{*}c"):
        found = _REFERENCE.fullmatch(cell.get("r") or "")
        column = _column(found.group(1)) if found else column + 1
        if column < _MAX_COLUMNS:
            yield column, _shown(cell, book)


def _shown(cell: Any, book: _Book) -> str:
    kind = cell.get("t") or "n"
    if kind == "inlineStr":
        item = cell.find("{*}is")
        return _rich_text(item) if item is not None else ""
    stored = cell.findtext("{*}v") or ""
    if kind == "s":
        index = _number(stored, default=-1)
        return book.strings[index] if 0 <= index < len(book.strings) else ""
    if kind == "b":
        return "TRUE" if stored == "1" else "FALSE"
    if kind in {"str", "e", "d"}:
        return one_line(stored)
    try:
        value = float(stored)
    except ValueError:
        return one_line(stored)
    style = _number(cell.get("s"), default=-1)
    if 0 <= style < len(book.formats):
        return one_line(shown_number(value, book.formats[style], book.is_1904))
    return general(value)


def _number(value: str | None, default: int = 0) -> int:
    return int(value) if value and value.isdecimal() and len(value) < 10 else default


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
