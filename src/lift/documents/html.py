"""HTML and XHTML -> blocks: the reading matter without scripts, navigation and other furniture of a page."""

from __future__ import annotations

import html as entities
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.cleaning import join_unspaced_lines
from lift.documents.encoding import decode
from lift.errors import DocumentError

_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_NO_TEXT = frozenset(
    {
        "head", "script", "style", "noscript", "template", "iframe", "object", "embed", "applet", "svg", "canvas",
        "audio", "video", "button", "select", "textarea", "input", "datalist", "rp", "rt", "annotation",
        "annotation-xml"
    }
)  # fmt: skip
_FURNITURE = frozenset(["nav", "aside", "footer", "form", "menu", "dialog"])
_FURNITURE_ROLES = frozenset(["navigation", "banner", "contentinfo", "search", "complementary", "doc-toc"])
_FURNITURE_CLASSES = frozenset(["mw-editsection", "navbox", "noprint", "toc"])
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr",
        "html", "legend", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "td",
        "tfoot", "th", "thead", "tr", "ul"
    }
)  # fmt: skip
_NOTE_TYPES = frozenset(["footnote", "footnotes", "endnote", "endnotes", "rearnote", "rearnotes", "note"])
# A table's rows can be told in a line each; one that lays out a page holds headings, lists or tables.
_NO_DATA_TABLE = _HEADINGS | {"ul", "ol", "pre"}
_LOOKED_INTO = frozenset(["sup", "header", "table"])
_COUNTED = _NO_DATA_TABLE | {"a", "h1", "table"}
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_DECLARED_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)|<\?xml[^>]+encoding=[\"']([\w.:-]+)", re.I)
_XML_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml[^>]*\?>")
_DOCTYPE = re.compile(r"<!DOCTYPE", re.IGNORECASE)
_DOCTYPE_END = re.compile(r"\]\s*+>")
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]*;")
_HARD_BREAK = "\v"
_MAX_EXPONENT_CHARS = 64
_MAX_LABEL_CHARS, _MAX_LABEL_NODES = 1_000, 1_000
# deeper lists are indented no further: a page may nest a thousand of them
_MAX_INDENT_LEVELS = 20
_MAX_ITEM_NUMBER = 10**9
_OPS = "{http://www.idpf.org/2007/ops}type"


def read_html(data: bytes, name: str) -> Content:
    """Read a page; the title is og:title, else its only h1, else the title element.

    `nav`, `aside`, `footer`, page headers and forms are left out; where the page marks one `main` or one `article`,
    nothing else is read. Raises DocumentError, naming the file as `name`, where the bytes hold no markup.
    """
    declared = _DECLARED_CHARSET.search(data[:4096])
    encoding = next((group.decode("ascii") for group in declared.groups() if group), None) if declared else None
    root = _parse(decode(data, name, declared=encoding), name)
    blocks = _Walk(furniture=False).blocks(_reading_matter(root))
    return Content(title=_title(root), blocks=blocks)


def read_markup(markup: str, name: str) -> Content:
    """Read HTML that is nothing but reading matter (what markdown renders to): nothing of it is furniture."""
    blocks = _Walk(furniture=True).blocks(_parse(f"<body>{markup}</body>", name))
    return Content(title=None, blocks=blocks)


def read_xhtml(data: bytes, name: str) -> list[Block]:
    """The blocks of one chapter of a book; of a book, nothing but page numbers and hidden text is left out."""
    return _Walk(furniture=True).blocks(parse_xhtml(data, name))


def parse_xhtml(data: bytes, name: str) -> Any:
    """The root element of an XHTML page, which need not be well-formed."""
    from lxml import etree

    # An HTML parser would take <title/> or <a/> for tags left open and swallow the chapter; an XML parser without
    # the DTD does not know &nbsp; and its kin, so these are spelt out before. Without its DOCTYPE the text cannot
    # declare entities of its own, which makes the parser's huge_tree safe.
    text = _without_doctype(_XML_DECLARATION.sub("", decode(data, name)))
    text = _ENTITY.sub(lambda found: entities.escape(entities.unescape(found.group())), text)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        recover=True,
        huge_tree=True,
        remove_comments=True,
        remove_pis=True,
    )
    root = etree.fromstring(text.lstrip().encode(), parser) if text.strip() else None
    _check_depth(parser, name)
    return root if root is not None else _parse(text, name)


def _without_doctype(text: str) -> str:
    """The text without its DOCTYPE; any other that it may hold is made plain text, so that none can take effect."""
    found = _DOCTYPE.search(text)
    if found:
        end = text.find(">", found.end())
        subset = text.find("[", found.end(), end if end != -1 else len(text))
        if subset != -1:
            closed = _DOCTYPE_END.search(text, subset)
            end = closed.end() - 1 if closed else -1
        if end != -1:
            text = text[: found.start()] + text[end + 1 :]
    return _DOCTYPE.sub("&lt;!DOCTYPE", text)


def _parse(text: str, name: str) -> Any:
    from lxml import etree

    parser = etree.HTMLParser(
        encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=True, recover=True
    )
    root = etree.fromstring(text.encode("utf-8", errors="ignore"), parser) if text.strip() else None
    _check_depth(parser, name)
    if root is None:
        raise DocumentError(f"{name}: expected HTML, got nothing that can be read as such; save it as text instead")
    return root


def _check_depth(parser: Any, name: str) -> None:
    """libxml2 drops what is nested too deep without a word; a document must not lose text in silence."""
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        raise DocumentError(
            f"{name}: expected elements nested at most 2,048 deep, got markup nested deeper; save it as text instead"
        )


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _reading_matter(root: Any) -> Any:
    """The one main or article element, where there is exactly one and most paragraphs are in it; else the page."""
    whole_chars = _paragraph_chars(root)
    for name in ("main", "article"):
        found = [element for element in root.iter() if _name(element) == name]
        if len(found) == 1 and 0 < whole_chars < 2 * _paragraph_chars(found[0]):
            return found[0]
    return root


def _paragraph_chars(root: Any) -> int:
    """Characters in paragraphs; what stands in a paragraph of a paragraph counts once."""
    from lxml import etree

    chars, inside = 0, 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        is_paragraph = _name(element) == "p"
        if event == "start":
            inside += is_paragraph
            text = element.text
        else:
            inside -= is_paragraph
            text = element.tail
        if inside and text:
            chars += len(text.strip())
    return chars


def _title(root: Any) -> str | None:
    first_level, title = [], ""
    for element in root.iter():
        name = _name(element)
        if name == "meta" and element.get("property") == "og:title" and element.get("content"):
            return one_line(element.get("content"))
        if name == "h1":
            first_level.append(element)
        elif name == "title" and not title:
            title = label_of(element)
    if len(first_level) == 1 and (heading := label_of(first_level[0], " ")):
        return heading
    return title or None


def label_of(element: Any, between: str = "") -> str:
    """The text of a title, heading or link as one line; of one that is not a label but a page, the beginning."""
    from lxml import etree

    pieces: list[str] = []
    chars = 0
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, inner in itertools.islice(walk, _MAX_LABEL_NODES):
        text = inner.text if event == "start" else inner.tail if inner is not element else None
        if text:
            pieces.append(text)
            chars += len(text)
        if chars > _MAX_LABEL_CHARS:
            break
    return one_line(between.join(pieces)[: _MAX_LABEL_CHARS + 1])


@dataclass(frozen=True)
class _Inside:
    """What an element that is left out or read otherwise for it holds, or whether its text is a number."""

    has_link: bool
    has_first_heading: bool
    is_number: bool
    is_data_table: bool


def _look_inside(root: Any) -> Iterator[_Inside]:
    """What each sup, header and table below `root` holds, in the order in which they begin, from one pass over all."""
    from lxml import etree

    found: list[_Inside | None] = []
    opened: list[tuple[int, Counter[str], int, int]] = []
    seen: Counter[str] = Counter()
    pieces: list[str] = []
    chars = 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        name = _name(element)
        if event == "start":
            if name in _LOOKED_INTO:
                opened.append((len(found), seen.copy(), len(pieces), chars))
                found.append(None)
            if name in _COUNTED:
                seen[name] += 1
        elif name in _LOOKED_INTO:
            index, before, first_piece, chars_before = opened.pop()
            held = seen - before
            exponent = "".join(pieces[first_piece:]).strip() if chars - chars_before <= _MAX_EXPONENT_CHARS else ""
            found[index] = _Inside(
                has_link=held["a"] > 0,
                has_first_heading=held["h1"] > 0,
                is_number=bool(exponent) and exponent.isdecimal(),
                is_data_table=held["table"] <= 1 and not held.keys() & _NO_DATA_TABLE,
            )
        text = element.text if event == "start" else element.tail
        if text and name:
            pieces.append(text)
            chars += len(text)
    return (each for each in found if each is not None)


_NOTHING_INSIDE = _Inside(has_link=False, has_first_heading=False, is_number=False, is_data_table=False)


class _Walk:
    """One pass over the elements in document order, without recursion: pages may be nested a thousand deep."""

    def __init__(self, furniture: bool) -> None:
        self._keeps_furniture = furniture
        self._found: list[Block] = []
        self._buffer: list[str] = []
        self._prefix = ""
        self._separator = PARAGRAPH
        self._lists: list[int | None] = []
        self._in_item_run = False
        self._cells: list[str] | None = None
        self._data_tables: list[Any] = []
        self._rows = 0
        self._preformatted = 0
        self._sectioning = 0

    def blocks(self, root: Any) -> list[Block]:
        """The blocks below `root`."""
        from lxml import etree

        skipped: Any = None
        looked = _look_inside(root)
        for event, element in etree.iterwalk(root, events=("start", "end")):
            if event == "start":
                inside = next(looked) if _name(element) in _LOOKED_INTO else _NOTHING_INSIDE
                if skipped is None and self._is_left_out(element, inside):
                    skipped = element
                if skipped is None:
                    self._open(element, _name(element), inside)
                continue
            if skipped is None:
                self._close(element, _name(element))
            elif skipped is element:
                skipped = None
            if skipped is None and element is not root:
                self._text(element.tail)
        self._flush()
        return self._found

    def _is_left_out(self, element: Any, inside: _Inside) -> bool:
        name = _name(element)
        if name in _NO_TEXT or not name:
            return True
        kinds = set((element.get(_OPS) or "").split())
        if kinds & {"noteref", "pagebreak"} or element.get("role") in {"doc-noteref", "doc-pagebreak"}:
            return True
        if name == "sup" and inside.has_link:
            return True
        if element.get("hidden") is not None or _HIDDEN_STYLE.search(element.get("style") or ""):
            return True
        if self._keeps_furniture or kinds & _NOTE_TYPES or element.get("role") == "doc-footnote":
            return False
        if name == "header":
            return not self._sectioning and not inside.has_first_heading
        return (
            name in _FURNITURE
            or element.get("role") in _FURNITURE_ROLES
            or bool(_FURNITURE_CLASSES.intersection((element.get("class") or "").split()))
        )

    def _open(self, element: Any, name: str, inside: _Inside) -> None:
        if name in _BLOCKS:
            self._flush()
        if name in {"article", "main", "section"}:
            self._sectioning += 1
        elif name in {"ul", "ol"}:
            start = element.get("start") or "1"
            is_number = start.isdecimal() and len(start) < len(str(_MAX_ITEM_NUMBER))
            self._lists.append((int(start) if is_number else 1) - 1 if name == "ol" else None)
            self._in_item_run = self._in_item_run and len(self._lists) > 1
        elif name == "li" and self._cells is None:
            self._start_item()
        elif name == "table" and not self._data_tables and inside.is_data_table:
            self._data_tables.append(element)
            self._rows = 0
        elif name == "tr" and self._data_tables:
            self._cells = []
        elif name == "pre":
            self._preformatted += 1
        elif name == "br":
            self._buffer.append(_HARD_BREAK)
        elif name == "q":
            self._buffer.append("“")
        elif name == "sup" and inside.is_number:
            self._buffer.append("^")
        self._text(element.text)

    def _close(self, element: Any, name: str) -> None:
        if name == "q":
            self._buffer.append("”")
        if name not in _BLOCKS:
            return
        if name in {"td", "th"} and self._cells is not None:
            self._cells.append(_collapse("".join(self._buffer)).replace("\n", " "))
            self._buffer = []
            return
        self._flush(heading=name in _HEADINGS)
        if name == "tr" and self._cells is not None:
            self._close_row(self._cells)
        elif name == "table" and self._data_tables and self._data_tables[-1] is element:
            self._data_tables.pop()
        elif name in {"ul", "ol"} and self._lists:
            self._lists.pop()
            self._in_item_run = bool(self._lists)
        elif name == "li":
            self._prefix = ""
        elif name == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        elif name in {"article", "main", "section"}:
            self._sectioning -= 1

    def _start_item(self) -> None:
        depth = min(max(1, len(self._lists)), _MAX_INDENT_LEVELS)
        marker = "- "
        if self._lists and (last := self._lists[-1]) is not None:
            self._lists[-1] = last + 1
            marker = f"{last + 1}. "
        self._prefix = "  " * (depth - 1) + marker
        self._separator = LINE if self._in_item_run else PARAGRAPH
        self._in_item_run = True

    def _close_row(self, cells: list[str]) -> None:
        self._cells = None
        if any(cells):
            self._found.append(Block(" | ".join(cells).strip(), separator=LINE if self._rows else PARAGRAPH))
            self._rows += 1

    def _text(self, text: str | None) -> None:
        if text:
            self._buffer.append(text)

    def _flush(self, heading: bool = False) -> None:
        if self._cells is not None:
            if self._buffer and not self._buffer[-1].endswith(" "):
                self._buffer.append(" ")
            return
        raw = "".join(self._buffer)
        self._buffer = []
        text = raw.replace(_HARD_BREAK, "\n").strip("\n") if self._preformatted else _collapse(raw)
        if not text.strip():
            return
        text, self._prefix = self._prefix + text, ""
        self._found.append(Block(text, heading=text if heading else None, separator=self._separator))
        self._separator = PARAGRAPH


def _collapse(text: str) -> str:
    lines = (" ".join(line.split()) for line in join_unspaced_lines(text).split(_HARD_BREAK))
    return "\n".join(lines).strip()
