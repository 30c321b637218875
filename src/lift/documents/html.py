"""HTML and XHTML -> blocks: the reading matter without scripts, navigation and other furniture of a page."""

from __future__ import annotations

import html as entities
import itertools
import re
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.cleaning import join_unspaced_lines
from lift.documents.document import Omission
from lift.documents.encoding import decode
from lift.documents.formulas import BASE_CHARS, mathml_text, set_high
from lift.documents.html_furniture import PageSurvey, element_name, furniture_kind, is_collapsed_panel
from lift.documents.table_rows import SpanFiller, SpannedCell, row_line, span_of
from lift.errors import DocumentError

_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_NO_TEXT = frozenset(
    {
        "head", "script", "style", "noscript", "template", "rp", "rt", "annotation", "annotation-xml", "mjx-math",
        "param", "source", "track", "datalist", "basefont", "bgsound"
    }
)  # fmt: skip
_MEDIA = {
    "iframe": "embedded page", "object": "embedded page", "embed": "embedded page", "applet": "embedded page",
    "audio": "recording", "video": "recording", "canvas": "drawing"
}  # fmt: skip
_CONTROLS = frozenset(["button", "select", "textarea", "input"])
_STRUCK_OUT = frozenset(["del", "s", "strike"])
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
# The question of a collapsed answer stands in one of these, often as a button.
_LABELS = _HEADINGS | {"summary", "dt", "legend"}
_MIN_LABEL_BUTTON_CHARS = 15
# What is drawn for the eye of what MathML or TeX beside it says, and signs that link a heading to itself.
_DRAWN_CLASSES = frozenset(
    {
        "katex-html", "MathJax", "MathJax_Preview", "MathJax_CHTML", "MathJax_SVG", "mwe-math-fallback-image-inline",
        "mwe-math-fallback-image-display", "mw-editsection", "noprint", "headerlink", "header-anchor", "hash-link",
        "footnote-backref", "material-icons", "material-symbols-outlined", "material-symbols-rounded"
    }
)  # fmt: skip
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_DECLARED_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)|<\?xml[^>]+encoding=[\"']([\w.:-]+)", re.I)
_XML_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml[^>]*\?>")
_DOCUMENT_END = re.compile(r"</(?:body|html)\s{0,9}>", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!DOCTYPE", re.IGNORECASE)
_DOCTYPE_END = re.compile(r"\]\s*+>")
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]*;")
_HARD_BREAK = "\v"
_MAX_LABEL_CHARS, _MAX_LABEL_NODES = 1_000, 1_000
# deeper lists are indented no further: a page may nest a thousand of them
_MAX_INDENT_LEVELS = 20
_MAX_ITEM_NUMBER = 10**9
_MAX_ARTICLES = 200
_OPS = "{http://www.idpf.org/2007/ops}type"


def read_html(data: bytes, name: str, declared: str | None = None, is_page: bool = True) -> Content:
    """Read a page; the title is og:title, else its only h1, else the title element.

    Menus, page headers and footers, forms, consent banners and the like are left out, unless most of the page is in
    them; where one `main` or `article` holds most of the page, nothing else is read. All that is left out is told.
    `declared` is the encoding that came with the page; without one its own is used. With `is_page` False, as in a mail,
    nothing is furniture. Raises DocumentError, naming the
    file as `name`, where the bytes hold no markup.
    """
    found = _DECLARED_CHARSET.search(data[:4096])
    own = next((group.decode("ascii") for group in found.groups() if group), None) if found else None
    root = _parse(decode(data, name, declared=declared or own), name)
    if not is_page:
        return _whole_content(root)
    matter = _reading_matter(root)
    content = _Walk(PageSurvey(root), keeps_furniture=False).content(matter)
    return Content(_title(root), content.blocks, (*content.omissions, *_beside(root, matter)))


def read_markup(markup: str, name: str) -> Content:
    """Read HTML that is nothing but reading matter (what markdown renders to): nothing of it is furniture."""
    return _whole_content(_parse(f"<body>{markup}</body>", name))


def read_xhtml(data: bytes, name: str) -> Content:
    """Read one chapter of a book, where nothing is furniture; it has no title."""
    return _whole_content(parse_xhtml(data, name))


def _whole_content(root: Any) -> Content:
    return _Walk(PageSurvey(root), keeps_furniture=True).content(root)


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
    # libxml2 drops in silence what stands behind a NUL, or behind the end of body and html, where browsers read on
    text = _DOCUMENT_END.sub("", text.replace("\0", ""))
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


def _reading_matter(root: Any) -> Any:
    """The main or article element that holds most of the page's paragraphs, else the page."""
    whole_chars = _paragraph_chars(root)
    for name in ("main", "article"):
        found = list(
            itertools.islice((element for element in root.iter() if element_name(element) == name), _MAX_ARTICLES)
        )
        sized = [(chars, -index) for index, element in enumerate(found) if (chars := _paragraph_chars(element))]
        if sized:
            chars, index = max(sized)
            if whole_chars < 2 * chars:
                return found[-index]
    return root


def _beside(root: Any, matter: Any) -> list[Omission]:
    """Tells of the parts of a page that stand beside its reading matter."""
    told = []
    while matter is not root and (parent := matter.getparent()) is not None:
        for sibling in parent:
            name = element_name(sibling)
            if sibling is not matter and name and name not in _NO_TEXT and label_of(sibling):
                kind = furniture_kind(sibling, name)
                told.append(Omission(kind or "part beside the article"))
        matter = parent
    return told


def _paragraph_chars(root: Any) -> int:
    """Characters in paragraphs; what stands in a paragraph of a paragraph counts once."""
    from lxml import etree

    chars, inside = 0, 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        is_paragraph = element_name(element) == "p"
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
        name = element_name(element)
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


class _Walk:
    """One pass over the elements in document order, without recursion: pages may be nested a thousand deep."""

    def __init__(self, survey: PageSurvey, keeps_furniture: bool) -> None:
        self._survey = survey
        self._keeps_furniture = keeps_furniture
        self._found: list[Block] = []
        self._omissions: list[Omission] = []
        self._buffer: list[str] = []
        self._prefix = ""
        self._separator = PARAGRAPH
        self._lists: list[int | None] = []
        self._in_item_run = False
        self._cells: list[SpannedCell] | None = None
        self._data_tables: list[Any] = []
        self._filler = SpanFiller()
        self._rows = 0
        self._preformatted = 0
        self._sectioning = 0
        self._labels = 0
        self._raised: list[int] = []  # where in the buffer each open <sup> begins

    def content(self, root: Any) -> Content:
        """The blocks below `root`, and what was left out of it."""
        from lxml import etree

        skipped: Any = None
        for event, element in etree.iterwalk(root, events=("start", "end")):
            name = element_name(element)
            if event == "start":
                if skipped is None and (kind := self._left_out(element, name)) is not None:
                    skipped = element
                    if kind:
                        self._omissions.append(Omission(kind))
                if skipped is None:
                    self._open(element, name)
                continue
            if skipped is None:
                self._close(element, name)
            elif skipped is element:
                skipped = None
            if skipped is None and element is not root:
                self._text(element.tail)
        self._flush()
        return Content(None, self._found, tuple(self._omissions))

    def _left_out(self, element: Any, name: str) -> str | None:
        """The kind of what is left out with all that it holds, "" where nobody would miss it; None for the rest."""
        if name == "math":
            self._text(f" {mathml_text(element)} " if self._is_display(element) else mathml_text(element))
            return ""
        if name == "script" and (element.get("type") or "").startswith("math/tex"):
            self._text(element.text)
            return ""
        if not name or (name in _NO_TEXT and not (name == "template" and element.get("shadowrootmode"))):
            return ""
        classes = set((element.get("class") or "").split())
        if classes & _DRAWN_CLASSES:
            return ""
        kinds = set((element.get(_OPS) or "").split())
        if kinds & {"noteref", "pagebreak"} or element.get("role") in {"doc-noteref", "doc-pagebreak", "doc-backlink"}:
            return ""
        if name in _MEDIA:
            return _MEDIA[name]
        if name in {"img", "svg"}:
            return _picture(element, name)
        if name in _CONTROLS:
            return self._control(element, name)
        inside = self._survey.of(element)
        if name in _STRUCK_OUT:
            return "struck-out passage" if inside.text_chars else ""
        if name == "sup" and inside.has_link:
            return ""
        if self._is_hidden(element) and not inside.has_formula and not is_collapsed_panel(element, self._survey):
            return "hidden panel" if inside.text_chars else ""
        if self._keeps_furniture or kinds & _NOTE_TYPES or element.get("role") == "doc-footnote":
            return None
        if name == "header" and (self._sectioning or inside.has_first_heading):
            return None
        kind = furniture_kind(element, name)
        if kind is None or self._survey.is_matter(element, kind, in_article=self._sectioning > 0):
            return None
        return kind if inside.text_chars else ""

    def _is_hidden(self, element: Any) -> bool:
        has_attribute: bool = element.get("hidden") is not None
        return has_attribute or bool(_HIDDEN_STYLE.search(element.get("style") or ""))

    def _is_display(self, element: Any) -> bool:
        return bool(element.get("display") == "block")

    def _control(self, element: Any, name: str) -> str | None:
        """Buttons are kept where they are the label of what they open."""
        if name == "input":
            has_text = (element.get("type") or "text") in {"text", "number", "date"} and element.get("value")
            return "form control" if has_text else ""
        chars = self._survey.of(element).text_chars
        if name == "button" and (
            self._labels or (element.get("aria-expanded") is not None and chars >= _MIN_LABEL_BUTTON_CHARS)
        ):
            return None
        return "form control" if chars else ""

    def _open(self, element: Any, name: str) -> None:
        if name in _BLOCKS or (name == "button" and not self._labels):
            self._flush()
        if name in _LABELS:
            self._labels += 1
        if name in {"article", "main", "section"}:
            self._sectioning += 1
        elif name in {"ul", "ol"}:
            start = element.get("start") or "1"
            is_number = start.isdecimal() and len(start) < len(str(_MAX_ITEM_NUMBER))
            self._lists.append((int(start) if is_number else 1) - 1 if name == "ol" else None)
            self._in_item_run = self._in_item_run and len(self._lists) > 1
        elif name == "li" and self._cells is None:
            self._start_item()
        elif name == "table" and not self._data_tables and self._survey.of(element).is_data_table:
            self._data_tables.append(element)
            self._filler = SpanFiller()
            self._rows = 0
        elif name == "tr" and self._data_tables:
            self._cells = []
        elif name == "pre":
            self._preformatted += 1
        elif name == "br":
            self._buffer.append(_HARD_BREAK)
        elif name == "q":
            self._buffer.append("“")
        elif name == "sup":
            self._raised.append(len(self._buffer))
        self._text(element.text)

    def _close(self, element: Any, name: str) -> None:
        if name == "q":
            self._buffer.append("”")
        elif name == "sup" and self._raised:
            self._set_high(self._raised.pop())
        if name == "button" and not self._labels:
            self._flush()
        if name in _LABELS:
            self._labels -= 1
        if name not in _BLOCKS:
            return
        if name in {"td", "th"} and self._cells is not None:
            text = _collapse("".join(self._buffer)).replace("\n", " ")
            self._cells.append(SpannedCell(text, span_of(element.get("colspan")), span_of(element.get("rowspan"))))
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

    def _set_high(self, begin: int) -> None:
        """Mark what stands in the buffer from `begin` on as set high, unless a block has ended within it."""
        if begin > len(self._buffer):
            return
        raised = "".join(self._buffer[begin:])
        before, at = "", begin
        while at and len(before) < BASE_CHARS:
            at -= 1
            before = self._buffer[at] + before
        self._buffer[begin:] = [set_high(before, raised)]

    def _start_item(self) -> None:
        depth = min(max(1, len(self._lists)), _MAX_INDENT_LEVELS)
        marker = "- "
        if self._lists and (last := self._lists[-1]) is not None:
            self._lists[-1] = last + 1
            marker = f"{last + 1}. "
        self._prefix = "  " * (depth - 1) + marker
        self._separator = LINE if self._in_item_run else PARAGRAPH
        self._in_item_run = True

    def _close_row(self, cells: list[SpannedCell]) -> None:
        self._cells = None
        if line := row_line(self._filler.fill(cells)):
            self._found.append(Block(line, separator=LINE if self._rows else PARAGRAPH))
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


def _picture(element: Any, name: str) -> str:
    """The kind of a picture that may say something; "" for those that decorate or count the page's readers."""
    if name == "svg":
        if next(element.iter("{*}image"), None) is not None:
            return "image"
        return "drawing" if next(element.iter("{*}text"), None) is not None else ""
    is_decoration = element.get("alt") == "" or element.get("role") in {"presentation", "none"}
    is_dot = any((element.get(side) or "").removesuffix("px") in {"0", "1", "2"} for side in ("width", "height"))
    return "" if is_decoration or is_dot or not (element.get("src") or element.get("data-src")) else "image"


def _collapse(text: str) -> str:
    lines = (" ".join(line.split()) for line in join_unspaced_lines(text).split(_HARD_BREAK))
    return "\n".join(lines).strip()
