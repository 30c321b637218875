"""RTF (Rich Text Format 1.9) -> blocks: paragraphs, headings, list markers, tables and notes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.document import Omission
from lift.documents.formulas import BASE_CHARS, set_high
from lift.documents.plain_text import LIST_ITEM
from lift.documents.symbol_fonts import symbol_character
from lift.documents.table_rows import row_line
from lift.errors import DocumentError

MARK = b"{\\rtf"
_TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\(.)|([{}])|([^\\{}\r\n]+)|[\r\n]+", re.DOTALL
)
_CHARACTERS = {
    "tab": " ", "line": "\n", "emdash": "—", "endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "emspace": " ", "enspace": " ", "qmspace": " ", "zwj": "\u200d",
    "zwnj": "\u200c", "softline": " ", "lbr": "\n"
}  # fmt: skip
_ESCAPES = {"~": " ", "-": "", "_": "-", "{": "{", "}": "}", "\\": "\\", "\n": "\n", "\r": "\n", "\t": " "}
_CODE_PAGES = {
    77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "big5hkscs", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250", 254: "cp437", 255: "cp850"
}  # fmt: skip
_SYMBOL_CHARSET = 2
# What a group holds that is not the body's text: nothing for a reader, or something that is told.
_SILENT = frozenset(
    {
        "colortbl", "listtable", "listoverridetable", "revtbl", "rsidtbl", "generator", "fldinst", "datafield",
        "nonshppict", "template", "background", "bkmkstart", "bkmkend", "ftnsep", "ftnsepc", "aftnsep", "aftnsepc",
        "atnid", "atnauthor", "atndate", "atnref", "atntime", "xe", "tc", "rxe", "filetbl", "private", "themedata",
        "latentstyles", "datastore", "sp", "pgptbl", "mmathPr", "stylesheet_rest", "pnseclvl", "do", "userprops"
    }
)  # fmt: skip
_TOLD = {
    "pict": "image", "object": "embedded object", "annotation": "comment", "header": "page header",
    "headerl": "page header", "headerr": "page header", "headerf": "page header", "footer": "page footer",
    "footerl": "page footer", "footerr": "page footer", "footerf": "page footer"
}  # fmt: skip
_ENTERED = frozenset(["shppict", "shpinst", "shptxt", "pn", "listtext", "pntext", "shprslt"])
_TOLD_IF_TEXT = frozenset(["page header", "page footer", "comment"])


@dataclass(frozen=True)
class _State:
    """The state that holds until the group ends: where its text goes, and how it looks."""

    destination: str = "body"
    font: int | None = None
    is_hidden: bool = False
    is_deleted: bool = False
    is_struck: bool = False
    is_raised: bool = False
    skipped_chars: int = 1  # stand for those that do not know the character before


@dataclass
class _Fonts:
    charsets: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


class _Reader:
    """Reads the tokens of a file in one pass, without recursion."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.omissions: list[Omission] = []
        self.title = ""
        self._state = _State()
        self._stack: list[_State] = []
        self._encoding = "cp1252"
        self._default_font: int | None = None
        self._fonts = _Fonts()
        self._headings: set[int] = set()
        self._style: int | None = None
        self._outline: int | None = None
        self._own_outline: int | None = None
        self._bytes = bytearray()
        self._raised: list[str] = []
        self._text: list[str] = []
        self._other: list[str] = []  # the text of the group that is no body text
        self._notes: list[str] = []
        self._note_count = 0
        self._in_table = False
        self._cells: list[str] = []
        self._merges: list[bool] = []
        self._next_merge = False
        self._above: list[str] = []
        self._in_rows = False
        self._in_list = False
        self._to_skip_chars = 0

    def read(self, text: str) -> None:
        place = 0
        while found := _TOKEN.match(text, place):
            place = found.end()
            word, number, code, symbol, brace, run = found.groups()
            if code is not None:
                self._byte(int(code, 16))
            elif run is not None:
                self._run(run)
            elif word is not None:
                if word == "bin":
                    place += max(0, int(number or 0))
                self._word(word, None if number is None else int(number))
            elif symbol is not None:
                if symbol == "*":
                    self._star(text, place)
                else:
                    self._put(_ESCAPES.get(symbol, ""))
            elif brace == "{":
                self._flush_bytes()
                self._stack.append(self._state)
                self._to_skip_chars = 0
            elif brace == "}":
                self._close()
                if not self._stack:
                    break
        self._end_paragraph()
        self._end_row()

    def _star(self, text: str, place: int) -> None:
        """A group for programs that know its word; of the others, all is left out."""
        following = _TOKEN.match(text, place)
        word = following.group(1) if following else None
        if word not in _ENTERED and word not in _TOLD and word not in {"footnote", "fonttbl"}:
            self._enter("nothing")

    def _enter(self, destination: str) -> None:
        self._flush_bytes()
        if self._state.destination != "nothing":
            self._state = replace(self._state, destination=destination)
            self._other = []

    def _close(self) -> None:
        self._flush_bytes()
        closed = self._state
        self._state = self._stack.pop() if self._stack else _State()
        self._to_skip_chars = 0
        if closed.destination == self._state.destination:
            return
        text = one_line("".join(self._other))
        self._other = []
        if closed.destination == "footnote" and text:
            self._notes.append(text)
        elif closed.destination == "title":
            self.title = text
        elif closed.destination in _TOLD.values() and (text or closed.destination not in _TOLD_IF_TEXT):
            self.omissions.append(Omission(closed.destination))

    def _word(self, word: str, number: int | None) -> None:
        if word != "u":
            self._flush_bytes()
            self._to_skip_chars = 0
        is_on = number != 0
        if word == "u":
            self._unicode(number)
        elif word in _CHARACTERS:
            self._put(_CHARACTERS[word])
        elif word in _TOLD:
            self._enter(_TOLD[word])
        elif word in _SILENT:
            self._enter("nothing")
        elif word in {"fonttbl", "stylesheet", "info", "footnote"}:
            self._enter(word)
        elif word == "title" and self._state.destination == "info":
            self._enter("title")
        elif self._state.destination == "info":
            self._enter("nothing")
        elif change := _CHANGES.get(word):
            self._state = change(self._state, is_on)
        elif word == "up":
            self._state = replace(self._state, is_raised=bool(number if number is not None else 6))
        elif word == "plain":
            self._state = replace(
                self._state,
                is_hidden=False,
                is_deleted=False,
                is_struck=False,
                is_raised=False,
                font=self._default_font,
            )
        elif word == "f":
            self._state = replace(self._state, font=number)
        elif word == "deff":
            self._default_font = number
        elif word == "fcharset" and self._state.destination == "fonttbl" and self._state.font is not None:
            self._fonts.charsets[self._state.font] = number or 0
        elif word == "ansicpg":
            self._encoding = _code_page(number) or self._encoding
        elif word in {"mac", "pc", "pca"}:
            self._encoding = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
        elif word == "uc":
            self._state = replace(self._state, skipped_chars=min(max(0, number or 0), 10))
        else:
            self._layout(word, number)

    def _layout(self, word: str, number: int | None) -> None:
        """Words of paragraphs and tables."""
        if self._state.destination == "stylesheet":
            if word == "s":
                self._style = number
            elif word == "outlinelevel" and self._style is not None and number is not None and number < 9:
                self._headings.add(self._style)
            return
        if self._state.destination != "body":
            if word in {"par", "cell"}:
                self._put(" ")
            return
        if word in {"par", "page", "sect", "column"}:
            self._end_paragraph()
        elif word == "pard":
            self._style = self._own_outline = None
            self._in_table = False
        elif word == "s":
            self._style = number
        elif word == "outlinelevel":
            self._own_outline = number
        elif word == "intbl":
            self._in_table = True
        elif word == "trowd":
            self._merges, self._next_merge = [], False
        elif word == "clvmrg":
            self._next_merge = True
        elif word == "cellx":
            self._merges.append(self._next_merge)
            self._next_merge = False
        elif word == "cell":
            self._lower()
            self._cells.append(one_line("".join(self._text)))
            self._text = []
        elif word == "nestcell":
            self._put(" ")
        elif word == "row":
            self._end_row()

    def _unicode(self, number: int | None) -> None:
        self._flush_bytes()
        code = (number or 0) & 0xFFFF if number is not None and number < 0 else number or 0
        if 0 < code <= 0x10FFFF:
            self._put(chr(code))
        self._to_skip_chars = self._state.skipped_chars

    def _byte(self, byte: int) -> None:
        if self._to_skip_chars:
            self._to_skip_chars -= 1
        else:
            self._bytes.append(byte)

    def _run(self, run: str) -> None:
        if self._to_skip_chars:
            skipped = min(self._to_skip_chars, len(run))
            self._to_skip_chars -= skipped
            run = run[skipped:]
        if run.isascii():
            self._flush_bytes()
            self._put(run)
        else:
            self._bytes += run.encode("latin-1", "replace")

    def _flush_bytes(self) -> None:
        if not self._bytes:
            return
        data, self._bytes = bytes(self._bytes), bytearray()
        font = self._state.font if self._state.font is not None else self._default_font
        charset = self._fonts.charsets.get(font, 0) if font is not None else 0
        if charset == _SYMBOL_CHARSET and font is not None:
            name = self._fonts.names.get(font, "Symbol")
            self._put("".join(symbol_character(name, byte) or "•" for byte in data))
            return
        self._put(data.decode(_CODE_PAGES.get(charset, self._encoding), "replace").replace("\ufffd", ""))

    def _put(self, text: str) -> None:
        if not text:
            return
        self._flush_bytes()
        state = self._state
        if state.destination == "fonttbl":
            if state.font is not None and (name := text.strip(" ;")):
                self._fonts.names.setdefault(state.font, name)
        elif state.destination == "stylesheet":
            if self._style is not None and re.match(r"\s*heading \d", text, re.IGNORECASE):
                self._headings.add(self._style)
        elif state.destination != "body":
            if state.destination != "nothing":
                self._other.append(text)
        elif state.is_hidden or state.is_deleted or state.is_struck:
            kind = (
                "hidden passage" if state.is_hidden else "deleted passage" if state.is_deleted else "struck-out passage"
            )
            if text.strip() and self._omitted_last != (kind, len(self._text), len(self.blocks)):
                self.omissions.append(Omission(kind))
                self._omitted_last = (kind, len(self._text), len(self.blocks))
        elif state.is_raised:
            self._raised.append(text)
        else:
            self._lower()
            self._text.append(text)

    _omitted_last: tuple[str, int, int] | None = None

    def _lower(self) -> None:
        if self._raised:
            before = "".join(self._text[-BASE_CHARS:])
            self._text.append(set_high(before, "".join(self._raised)))
            self._raised = []

    def _end_paragraph(self) -> None:
        self._flush_bytes()
        self._lower()
        if self._in_table or self._cells:
            self._text.append(" ")
            return
        text = "".join(self._text).strip()
        self._text = []
        if text:
            is_heading = self._style in self._headings or (self._own_outline is not None and self._own_outline < 9)
            is_item = not is_heading and bool(LIST_ITEM.match(text))
            separator = LINE if is_item and self._in_list else PARAGRAPH
            self.blocks.append(Block(text, one_line(text) if is_heading else None, separator=separator))
            self._in_list = is_item
            self._in_rows = False
        self._put_notes()

    def _end_row(self) -> None:
        merges = [*self._merges, *[False] * len(self._cells)]
        cells = [
            self._above[column] if merges[column] and not text and column < len(self._above) else text
            for column, text in enumerate(self._cells)
        ]
        self._cells = []
        if not cells:
            return
        self._above = cells
        if line := row_line(cells):
            self.blocks.append(Block(line, separator=LINE if self._in_rows else PARAGRAPH))
            self._in_rows, self._in_list = True, False
        self._put_notes()

    def _put_notes(self) -> None:
        for note in self._notes:
            self._note_count += 1
            self.blocks.append(Block(f"Note {self._note_count}: {note}"))
            self._in_rows = self._in_list = False
        self._notes = []


_CHANGES: dict[str, Callable[[_State, bool], _State]] = {
    "v": lambda state, is_on: replace(state, is_hidden=is_on),
    "deleted": lambda state, is_on: replace(state, is_deleted=is_on),
    "strike": lambda state, is_on: replace(state, is_struck=is_on),
    "striked": lambda state, is_on: replace(state, is_struck=is_on),
    "super": lambda state, is_on: replace(state, is_raised=is_on),
    "nosupersub": lambda state, is_on: replace(state, is_raised=False),
    "sub": lambda state, is_on: replace(state, is_raised=False),
}


def read_rtf(data: bytes, name: str) -> Content:
    """Read a rich text file as it stands when all changes are accepted; what is left out of it is told.

    Raises DocumentError where it is none.
    """
    if not data.lstrip().startswith(MARK):
        raise DocumentError(f"{name}: expected an RTF file, got something else; save it anew as docx or txt")
    reader = _Reader()
    reader.read(data.decode("latin-1"))
    blocks = [replace(block, text=_paired(block.text), heading=_paired(block.heading)) for block in reader.blocks]
    return Content(_paired(reader.title) or None, blocks, tuple(reader.omissions))


def _paired(text: str | None) -> str:
    """The text with the halves of characters beyond U+FFFF, which RTF writes one by one, as one character."""
    return (text or "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\ufffd", "")


def _code_page(number: int | None) -> str | None:
    try:
        return codecs.lookup({65001: "utf-8", 10000: "mac_roman"}.get(number or 0, f"cp{number}")).name
    except LookupError:
        return None
