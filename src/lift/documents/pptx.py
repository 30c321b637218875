"""PPTX (PresentationML, ECMA-376) -> blocks: the slides in order, each a page under its title, with its notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.charts import chart_rows
from lift.documents.document import Omission
from lift.documents.formulas import BASE_CHARS, omml_text, set_high
from lift.documents.table_rows import row_blocks
from lift.documents.zip_archive import Archive, ArchiveLimitError, core_title, related_parts
from lift.errors import DocumentError

PRESENTATION = "ppt/presentation.xml"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_TITLES = frozenset(["title", "ctrTitle"])
_FURNITURE = frozenset(["sldNum", "dt", "ftr", "hdr", "sldImg"])
_LISTS = frozenset(["body", "obj", "", "tbl"])
_MAX_LEVEL = 8
_MAX_DEPTH = 100


@dataclass
class _Slide:
    """A slide as it is read: its title, its blocks behind the title, and what was left out of it."""

    number: int
    parts: dict[str, str]
    title: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)

    def omit(self, kind: str) -> None:
        self.omissions.append(Omission(kind, self.number))


def read_pptx(archive: Archive) -> Content:
    """Read a presentation; a slide's number is its page.

    Tables and the figures of charts are rows, speaker notes paragraphs behind their slide. Hidden slides, pictures,
    recordings and comments are left out and told. Raises DocumentError where it is broken.
    """
    parts = related_parts(archive, PRESENTATION)
    blocks: list[Block] = []
    omissions: list[Omission] = []
    refusal: DocumentError | None = None
    for number, entry in enumerate(archive.xml(PRESENTATION).iterfind("{*}sldIdLst/{*}sldId"), start=1):
        member = parts.get(entry.get(_RELATION + "id") or "", "")
        try:
            slide = _read_slide(archive, member, number)
        except ArchiveLimitError:
            raise
        except DocumentError as error:
            refusal = refusal or error
            omissions.append(Omission("slide that does not open", number))
            continue
        title = one_line(" ".join(slide.title))
        if title:
            blocks.append(Block(title, heading=title, page=number))
        elif slide.blocks:  # else it would stand under the title of the slide before
            slide.blocks[0] = replace(slide.blocks[0], heading=f"Slide {number}")
        blocks += slide.blocks
        omissions += slide.omissions
    if not blocks and refusal is not None:
        raise refusal
    return Content(core_title(archive), blocks, tuple(omissions))


def _read_slide(archive: Archive, member: str, number: int) -> _Slide:
    root = archive.xml(member)
    slide = _Slide(number, related_parts(archive, member))
    if root.get("show") in {"0", "false"}:
        slide.omit("hidden slide")
        return slide
    tree = root.find("{*}cSld/{*}spTree")
    if tree is not None:
        _read_shapes(tree, slide, archive, 0)
    for part in slide.parts.values():
        if "/notesSlides/" in part and part in archive:
            slide.blocks += _notes(archive, part, number)
        elif "/comments/" in part:
            slide.omit("comment")
    return slide


def _read_shapes(tree: Any, slide: _Slide, archive: Archive, depth: int) -> None:
    for shape in tree:
        name = _name(shape)
        hidden = shape.xpath("./*/*[local-name()='cNvPr']/@hidden")
        if hidden and hidden[0] in {"1", "true"}:
            slide.omit("hidden shape")
        elif name == "sp":
            _read_shape(shape, slide)
        elif name == "graphicFrame":
            _read_frame(shape, slide, archive)
        elif name == "pic":
            is_recording = bool(shape.xpath(".//*[local-name()='videoFile' or local-name()='audioFile']"))
            slide.omit("recording" if is_recording else "image")
        elif name in {"grpSp", "AlternateContent", "Choice"} and depth < _MAX_DEPTH:
            _read_shapes(shape, slide, archive, depth + 1)


def _read_shape(shape: Any, slide: _Slide) -> None:
    place = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
    kind = place.get("type") or "" if place is not None else None
    if kind in _FURNITURE:
        return
    body = shape.find("{*}txBody")
    if body is None:
        return
    if kind in _TITLES:
        slide.title += [text for paragraph in body.iterchildren("{*}p") if (text := _text(paragraph))]
        return
    slide.blocks += _paragraphs(body, slide.number, is_list=kind in _LISTS)


def _paragraphs(body: Any, number: int, is_list: bool) -> Iterator[Block]:
    """The paragraphs of a shape: in the place of a slide's body each is an item of a list, as its layout says."""
    texts = [(paragraph, text) for paragraph in body.iterchildren("{*}p") if (text := _text(paragraph))]
    counts = dict[int, int]()
    in_list = False
    for paragraph, text in texts:
        properties = paragraph.find("{*}pPr")
        level = _level(properties)
        for deeper in [known for known in counts if known > level]:
            del counts[deeper]
        marker = ""
        if properties is not None and properties.find("{*}buAutoNum") is not None:
            counts[level] = counts.get(level, 0) + 1
            marker = f"{counts[level]}. "
        elif properties is not None and properties.find("{*}buNone") is not None:
            marker = ""
        elif (is_list and len(texts) > 1) or (properties is not None and properties.find("{*}buChar") is not None):
            marker = "- "
        whole = "  " * level + marker + text if marker else text
        yield Block(whole, page=number, separator=LINE if marker and in_list else PARAGRAPH)
        in_list = bool(marker)


def _level(properties: Any) -> int:
    stated = properties.get("lvl") if properties is not None else None
    return min(int(stated), _MAX_LEVEL) if stated and stated.isdecimal() and len(stated) < 4 else 0


def _text(paragraph: Any) -> str:
    """The text of a paragraph, with what is set high marked, without what is struck out."""
    text = ""
    for child in paragraph:
        name = _name(child)
        if name in {"r", "fld"}:
            properties = child.find("{*}rPr")
            piece = child.findtext("{*}t") or ""
            if properties is not None and properties.get("strike") in {"sngStrike", "dblStrike"}:
                continue
            baseline = properties.get("baseline") if properties is not None else None
            is_raised = (
                bool(baseline) and str(baseline).rstrip("%").isdecimal() and int(str(baseline)[:6].rstrip("%")) > 0
            )
            text += set_high(text[-BASE_CHARS:], piece) if is_raised else piece
        elif name == "br":
            text += " "
        elif name in {"AlternateContent", "m"}:
            formula = next(child.iter("{*}oMath"), None)
            text += omml_text(formula) if formula is not None else ""
    return one_line(text)


def _read_frame(frame: Any, slide: _Slide, archive: Archive) -> None:
    """A table, a chart, a diagram or an object of another program."""
    if (table := next(frame.iter("{*}tbl"), None)) is not None:
        slide.blocks += [_on(block, slide.number) for block in row_blocks(_rows(table))]
        return
    for data in frame.iter("{*}chart", "{*}relIds", "{*}oleObj"):
        kind = _name(data)
        part = slide.parts.get(data.get(_RELATION + ("dm" if kind == "relIds" else "id")) or "", "")
        found: list[Block] = []
        if kind != "oleObj" and part in archive:
            try:
                root = archive.xml(part)
            except ArchiveLimitError:
                raise
            except DocumentError:
                root = None
            if root is not None:
                found = list(row_blocks(chart_rows(root))) if kind == "chart" else list(_diagram(root))
        slide.blocks += [_on(block, slide.number) for block in found]
        if not found:
            slide.omit({"chart": "chart", "relIds": "diagram"}.get(kind, "embedded object"))
        return
    slide.omit("embedded object")


def _rows(table: Any) -> Iterator[list[str]]:
    """The rows of a table; cells that go on from above or from the left repeat its text."""
    above: list[str] = []
    for row in table.iterchildren("{*}tr"):
        cells = list(row.iterchildren("{*}tc"))
        texts: list[str] = []
        for column, cell in enumerate(cells):
            body = cell.find("{*}txBody")
            text = " ".join(map(_text, body.iterchildren("{*}p"))).strip() if body is not None else ""
            if cell.get("vMerge") in {"1", "true"}:
                text = above[column] if column < len(above) else ""
            elif cell.get("hMerge") in {"1", "true"}:
                text = texts[-1] if texts else ""
            texts.append(text)
        above = texts
        spans = [cell.get("gridSpan") for cell in cells]
        yield texts[:1] if cells and spans[0] == str(len(cells)) else texts


def _diagram(root: Any) -> Iterator[Block]:
    separator = PARAGRAPH
    for point in root.iter("{*}pt"):
        if text := one_line(" ".join(text.text or "" for text in point.iter("{*}t") if _name(text.getparent()) == "r")):
            yield Block(f"- {text}", separator=separator)
            separator = LINE


def _notes(archive: Archive, part: str, number: int) -> Iterator[Block]:
    try:
        root = archive.xml(part)
    except ArchiveLimitError:
        raise
    except DocumentError:
        return
    for shape in root.iter("{*}sp"):
        place = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
        body = shape.find("{*}txBody")
        if place is not None and place.get("type") == "body" and body is not None:
            for paragraph in body.iterchildren("{*}p"):
                if text := _text(paragraph):
                    yield Block(text, page=number)


def _on(block: Block, number: int) -> Block:
    return Block(block.text, block.heading, number, block.separator)


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
