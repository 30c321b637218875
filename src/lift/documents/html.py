"""HTML and XHTML -> blocks: the reading matter without scripts, navigation and other furniture of a page."""

from __future__ import annotations

import html as entities
import re
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
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
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_DECLARED_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)|<\?xml[^>]+encoding=[\"']([\w.:-]+)", re.I)
_XML_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml[^>]*\?>")
_DOCTYPE = re.compile(r"<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]*;")
_HARD_BREAK = "\v"
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
    text = _DOCTYPE.sub("", _XML_DECLARATION.sub("", decode(data, name)))
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
    return sum(len("".join(element.itertext()).strip()) for element in root.iter() if _name(element) == "p")


def _title(root: Any) -> str | None:
    for element in root.iter():
        if _name(element) == "meta" and element.get("property") == "og:title" and element.get("content"):
            return one_line(element.get("content"))
    first_level = [element for element in root.iter() if _name(element) == "h1"]
    if len(first_level) == 1 and (heading := one_line(" ".join(first_level[0].itertext()))):
        return heading
    titles = [one_line("".join(element.itertext())) for element in root.iter() if _name(element) == "title"]
    return next((title for title in titles if title), None)


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
        for event, element in etree.iterwalk(root, events=("start", "end")):
            if event == "start":
                if skipped is None and self._is_left_out(element):
                    skipped = element
                if skipped is None:
                    self._open(element, _name(element))
                continue
            if skipped is None:
                self._close(element, _name(element))
            elif skipped is element:
                skipped = None
            if skipped is None and element is not root:
                self._text(element.tail)
        self._flush()
        return self._found

    def _is_left_out(self, element: Any) -> bool:
        name = _name(element)
        if name in _NO_TEXT or not name:
            return True
        kinds = set((element.get(_OPS) or "").split())
        if kinds & {"noteref", "pagebreak"} or element.get("role") in {"doc-noteref", "doc-pagebreak"}:
            return True
        if name == "sup" and any(_name(child) == "a" for child in element.iter()):
            return True
        if element.get("hidden") is not None or _HIDDEN_STYLE.search(element.get("style") or ""):
            return True
        if self._keeps_furniture or kinds & _NOTE_TYPES or element.get("role") == "doc-footnote":
            return False
        if name == "header":
            return not self._sectioning and not any(_name(child) == "h1" for child in element.iter())
        return (
            name in _FURNITURE
            or element.get("role") in _FURNITURE_ROLES
            or bool(_FURNITURE_CLASSES.intersection((element.get("class") or "").split()))
        )

    def _open(self, element: Any, name: str) -> None:
        if name in _BLOCKS:
            self._flush()
        if name in {"article", "main", "section"}:
            self._sectioning += 1
        elif name in {"ul", "ol"}:
            start = element.get("start") or "1"
            self._lists.append((int(start) if start.isdecimal() else 1) - 1 if name == "ol" else None)
            self._in_item_run = self._in_item_run and len(self._lists) > 1
        elif name == "li" and self._cells is None:
            self._start_item()
        elif name == "table" and not self._data_tables and _is_data_table(element):
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
        elif name == "sup" and re.fullmatch(r"\d+", "".join(element.itertext()).strip()):
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
        depth = max(1, len(self._lists))
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
        raw = "".join(self._buffer)
        if self._cells is not None:
            if raw.strip() and not raw.endswith(" "):
                self._buffer.append(" ")
            return
        self._buffer = []
        text = raw.replace(_HARD_BREAK, "\n").strip("\n") if self._preformatted else _collapse(raw)
        if not text.strip():
            return
        text, self._prefix = self._prefix + text, ""
        self._found.append(Block(text, heading=text if heading else None, separator=self._separator))
        self._separator = PARAGRAPH


def _is_data_table(table: Any) -> bool:
    """Whether a table's rows can be told in a line each; a table that lays out a page holds headings or tables."""
    names = [_name(element) for element in table.iter()]
    return names.count("table") == 1 and not _HEADINGS.intersection(names) and not {"ul", "ol", "pre"} & set(names)


def _collapse(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.split(_HARD_BREAK))
    return "\n".join(lines).strip()
