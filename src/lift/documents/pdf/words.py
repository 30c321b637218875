"""A page's glyphs -> words: text with its place, upright, whatever way the page or its text is turned.

PDFium gives each glyph's character, box and text object in the order of drawing. A word ends at a space, where the
style or the height changes, and at a gap that no letter spacing makes.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

_SPACES = frozenset(" \t\r\n\x0b\x0c\x00\u00a0\u202f\u3000").union(map(chr, range(0x2000, 0x200B)))
_HYPHENS_AT_LINE_END = frozenset("\ufffe\x02")  # what PDFium has for a hyphen at the end of a line
_BOLD_NAME = re.compile(r"bold|black|heavy|demi", re.IGNORECASE)
_UNREADABLE = re.compile("[\ufffd\ue000-\uefff\U000f0000-\U0010fffd]")
# On a page with more characters than these a picture is no picture of the text.
MUCH_TEXT_CHARS = 300
_MAX_SLANT_DEGREES = 5.0
_RAISED_SIZE = 0.85
_FILL_AND_STROKE = 2


@dataclass(frozen=True, slots=True)
class PrintedWord:
    """A word: its extent from left to right, its baseline (growing upwards) and its type size, all in points.

    `is_glued`: no space stands before it, since only the style changes there; `is_raised`: it is a superscript.
    """

    text: str
    left: float
    right: float
    y: float
    size: float
    is_bold: bool = False
    is_glued: bool = False
    is_raised: bool = False


@dataclass(frozen=True)
class FormValue:
    """The value that a form field shows, and the field's rectangle."""

    text: str
    left: float
    right: float
    bottom: float
    top: float


@dataclass(frozen=True)
class PageWords:
    """All words of a page: upright ones, those that are turned by a quarter or a half, and those of slanted lines.

    `largest_image_share` is the share of the page that its largest picture covers, 0 on a page with much text;
    `unreadable_share` is that of the characters that no Unicode character is known for, `comments` the number of
    notes that a reader has stuck on.
    """

    number: int
    words: list[PrintedWord]
    turned: list[list[PrintedWord]] = field(default_factory=list)
    slanted: str = ""
    largest_image_share: float = 0.0
    unreadable_share: float = 0.0
    comments: int = 0

    @property
    def characters(self) -> int:
        """The number of characters in upright and turned words."""
        return sum(len(word.text) for words in (self.words, *self.turned) for word in words)


@dataclass(slots=True)
class _Style:
    """Properties that all glyphs of one text object share.

    `turn` is in quarters, None for slanted text; `descent` is how far the baseline stands above a glyph's box, and
    `grain` what a coordinate is multiplied by before it is rounded.
    """

    size: float
    turn: int | None
    is_bold: bool
    descent: float
    grain: float


def read_page_words(page: Any, number: int, form: Any = None) -> PageWords:
    """The words of an open page of pypdfium2; raises PdfiumError where its text cannot be loaded."""
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    try:
        layers, slanted = _layers(text_page.raw, pdfium)
    finally:
        text_page.close()
    values, comments = _annotations(page.raw, form, pdfium)
    by_size = sorted(layers.items(), key=lambda layer: -sum(len(word.text) for word in layer[1]))
    upright = by_size[0][1] if by_size else []
    if values:
        turn = by_size[0][0] if by_size else 0
        upright = upright + [word for value in values for word in _words_of_value(_turned_value(value, turn), upright)]
    text = "".join(word.text for words in layers.values() for word in words)
    return PageWords(
        number,
        upright,
        [words for _, words in by_size[1:]],
        slanted,
        _largest_image_share(page, pdfium) if len(text) < MUCH_TEXT_CHARS else 0.0,
        len(_UNREADABLE.findall(text)) / len(text) if text else 0.0,
        comments,
    )


def _layers(text_page: Any, pdfium: Any) -> tuple[dict[int, list[PrintedWord]], str]:
    """The words by the quarters that they are turned by, each in the coordinates of its own turn; and slanted text."""
    # This loop runs for each glyph of a file: what PDFium is asked for is asked for no more often than needed.
    unicode_of, is_generated = pdfium.FPDFText_GetUnicode, pdfium.FPDFText_IsGenerated
    object_of, box_of, address_of = pdfium.FPDFText_GetTextObject, pdfium.FPDFText_GetLooseCharBox, ctypes.addressof
    builders: dict[int, _WordBuilder] = {}
    slanted: list[str] = []
    styles = _Styles(text_page, pdfium)
    styles_by_object: dict[int, _Style] = {}
    box = pdfium.FS_RECTF()
    box_at = ctypes.byref(box)
    drawn: set[tuple[int, float, int, int]] = set()
    builder: _WordBuilder | None = None
    for index in range(pdfium.FPDFText_CountChars(text_page)):
        code = unicode_of(text_page, index)
        character = chr(code) if code < 0x110000 else "\ufffd"
        if character in _SPACES:
            if builder is not None:
                if is_generated(text_page, index) == 1:
                    builder.may_end = True
                else:
                    builder.end()
            continue
        drawing = object_of(text_page, index)
        address = address_of(drawing.contents) if drawing else 0
        style = styles_by_object.get(address)
        if style is None:
            style = styles_by_object[address] = styles.of(index, drawing)
        if style.turn is None:
            slanted.append(character)
            continue
        if builder is None or builder.turn != style.turn:
            if builder is not None:
                builder.end()
            builder = builders.get(style.turn)
            if builder is None:
                builder = builders[style.turn] = _WordBuilder(style.turn)
        box_of(text_page, index, box_at)
        left, bottom, right, top = box.left, box.bottom, box.right, box.top
        # what is drawn twice for boldness stands within a fifth of the size
        at = (code, style.size, round(left * style.grain), round(bottom * style.grain))
        if at in drawn:
            continue
        drawn.add(at)
        if character in _HYPHENS_AT_LINE_END:
            character = "-"
        builder.add(character, style, left, bottom, right, top)
    for each in builders.values():
        each.end()
    layers = {turn: each.words for turn, each in builders.items() if each.words}
    return layers, " ".join("".join(slanted).split())


class _WordBuilder:
    """Glyphs of one turn, in the order of drawing, gathered into words.

    `may_end`: PDFium sees a space or a line end that is not in the file; the next glyph's place decides.
    """

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.words: list[PrintedWord] = []
        self.may_end = False
        self._upright = _TURNS[turn]
        self._letters: list[str] = []
        self._left = self._right = self._y = 0.0
        self._style = _Style(1.0, turn, False, 0.0, 1.0)
        self._is_glued = self._is_raised = False

    def end(self) -> None:
        """The word ends here."""
        if self._letters:
            style, text = self._style, "".join(self._letters)
            self.words.append(
                PrintedWord(
                    text, self._left, self._right, self._y, style.size, style.is_bold, self._is_glued, self._is_raised
                )
            )
            self._letters = []
        self.may_end = self._is_raised = self._is_glued = False

    def add(self, letter: str, style: _Style, left: float, bottom: float, right: float, top: float) -> None:
        """Add a glyph by its box in the page's own coordinates."""
        if self.turn:
            (left, bottom), (right, top) = self._upright(left, bottom), self._upright(right, top)
            left, right, bottom = min(left, right), max(left, right), min(bottom, top)
        y = bottom + style.descent
        if self._letters:
            last = self._style
            size = max(last.size, style.size)
            gap = max(left - self._right, self._left - right)
            rise = y - self._y
            if style is last:
                if self.may_end or gap > 0.3 * size or abs(rise) > 0.3 * size:
                    self.end()
            elif (
                not self._is_raised
                and style.size < _RAISED_SIZE * last.size
                and 0.12 * size < rise < 0.8 * size
                and -0.3 * size < left - self._right < 0.2 * size
            ):
                self.end()
                self._is_glued = self._is_raised = True
                y = self._y
            elif (
                self.may_end
                or gap > 0.3 * size
                or (abs(rise) > 0.3 * size and not self._is_raised)
                or style.size < 0.7 * last.size
                or (self._is_raised and style.size > last.size / _RAISED_SIZE)
                or (style.is_bold != last.is_bold and gap > 0.12 * size)
            ):
                is_glued = not self.may_end and gap <= 0.12 * size and abs(rise) < 0.6 * size
                if self._is_raised:
                    y = y if abs(rise) > 0.3 * size else self._y
                self.end()
                self._is_glued = is_glued
        if not self._letters:
            self._left, self._right, self._y, self._style = left, right, y, style
        self._letters.append(letter)
        self._left, self._right = min(self._left, left), max(self._right, right)
        self.may_end = False


_TURNS: dict[int, Callable[[float, float], tuple[float, float]]] = {
    0: lambda x, y: (x, y),
    1: lambda x, y: (y, -x),
    2: lambda x, y: (-x, -y),
    3: lambda x, y: (-y, x),
}


class _Styles:
    """The styles of a page's text objects, of which some programs make one for each glyph."""

    def __init__(self, text_page: Any, pdfium: Any) -> None:
        self._text_page = text_page
        self._pdfium = pdfium
        self._matrix = pdfium.FS_MATRIX()
        self._matrix_at = ctypes.byref(self._matrix)
        self._known: dict[tuple[int, float, float, float, float, float], _Style] = {}

    def of(self, index: int, drawing: Any) -> _Style:
        """The style of the text object that the glyph of that index belongs to."""
        matrix, pdfium = self._matrix, self._pdfium
        pdfium.FPDFText_GetMatrix(self._text_page, index, self._matrix_at)
        points = pdfium.FPDFText_GetFontSize(self._text_page, index)
        font = pdfium.FPDFTextObj_GetFont(drawing) if drawing else None
        key = (ctypes.addressof(font.contents) if font else 0, points, matrix.a, matrix.b, matrix.c, matrix.d)
        style = self._known.get(key)
        if style is None:
            style = self._known[key] = self._measured(index, drawing, font, points)
        return style

    def _measured(self, index: int, drawing: Any, font: Any, points: float) -> _Style:
        matrix = self._matrix
        size = abs(points) * (math.hypot(matrix.c, matrix.d) or 1.0)
        size = max(size, 0.1) if math.isfinite(size) else 1.0
        degrees = math.degrees(math.atan2(matrix.b, matrix.a)) if matrix.a or matrix.b else 0.0
        quarters = round(degrees / 90)
        turn = quarters % 4 if abs(degrees - 90 * quarters) <= _MAX_SLANT_DEGREES else None
        is_bold = bool(font) and (
            _is_bold(font, self._pdfium) or self._pdfium.FPDFTextObj_GetTextRenderMode(drawing) == _FILL_AND_STROKE
        )
        return _Style(size, turn, is_bold, _descent(self._text_page, index, turn or 0, self._pdfium), 5 / size)


def _descent(text_page: Any, index: int, turn: int, pdfium: Any) -> float:
    box, x, y = pdfium.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetLooseCharBox(text_page, index, ctypes.byref(box))
    pdfium.FPDFText_GetCharOrigin(text_page, index, ctypes.byref(x), ctypes.byref(y))
    upright = _TURNS[turn]
    bottom = min(upright(box.left, box.bottom)[1], upright(box.right, box.top)[1])
    return upright(x.value, y.value)[1] - bottom


def _is_bold(font: Any, pdfium: Any) -> bool:
    name = ctypes.create_string_buffer(256)
    pdfium.FPDFFont_GetBaseFontName(font, name, len(name))
    return bool(_BOLD_NAME.search(name.value.decode("utf-8", "replace")))


def _annotations(page: Any, form: Any, pdfium: Any) -> tuple[list[FormValue], int]:
    """The values of the page's form fields, and the number of comments with a text of their own."""
    values, comments = list[FormValue](), 0
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            kind = pdfium.FPDFAnnot_GetSubtype(annotation)
            if kind == pdfium.FPDF_ANNOT_WIDGET and form is not None:
                values.extend(_form_value(annotation, form, pdfium))
            elif kind in {pdfium.FPDF_ANNOT_TEXT, pdfium.FPDF_ANNOT_FREETEXT}:
                comments += bool(_string(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents").strip())
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
    return values, comments


def _form_value(annotation: Any, form: Any, pdfium: Any) -> Iterator[FormValue]:
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in {pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON}:
        text = "☒" if pdfium.FPDFAnnot_IsChecked(form, annotation) else "☐"
    elif kind in {pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX}:
        text = _string(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation)
    else:
        return
    box = pdfium.FS_RECTF()
    if text.strip() and pdfium.FPDFAnnot_GetRect(annotation, ctypes.byref(box)):
        left, right, bottom, top = sorted((box.left, box.right)) + sorted((box.bottom, box.top))
        yield FormValue(text, left, right, bottom, top)


def _string(function: Any, *arguments: Any) -> str:
    """A string by one of PDFium's functions that tell a length in bytes and fill a buffer with UTF-16."""
    import pypdfium2.raw as pdfium

    length_bytes = function(*arguments, None, 0)
    if length_bytes <= 2:
        return ""
    buffer = ctypes.create_string_buffer(length_bytes)
    function(*arguments, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), length_bytes)
    return buffer.raw[:length_bytes].decode("utf-16-le", "replace").rstrip("\0")


def _turned_value(value: FormValue, turn: int) -> FormValue:
    first, second = _TURNS[turn](value.left, value.bottom), _TURNS[turn](value.right, value.top)
    left, right, bottom, top = sorted((first[0], second[0])) + sorted((first[1], second[1]))
    return replace(value, left=left, right=right, bottom=bottom, top=top)


def _words_of_value(value: FormValue, words: list[PrintedWord]) -> Iterator[PrintedWord]:
    """The value's words on the line of the label beside its field; further lines of it below."""
    beside = [word for word in words if value.bottom - 0.3 * word.size <= word.y <= value.top]
    sizes = Counter(round(word.size, 1) for word in beside or words)
    size = sizes.most_common(1)[0][0] if sizes else 10.0
    lines = [line for line in re.split(r"[\r\n]+", value.text) if line.strip()]
    nearest = min(
        beside, key=lambda word: min(abs(word.right - value.left), abs(word.left - value.right)), default=None
    )
    first_y = nearest.y if nearest else max(value.bottom, value.top - 1.2 * size)
    for number, line in enumerate(lines):
        left = value.left
        for text in line.split():
            width = 0.5 * size * len(text)
            yield PrintedWord(text, left, left + width, first_y - 1.2 * size * number, size)
            left += width + 0.25 * size


def _largest_image_share(page: Any, pdfium: Any) -> float:
    width, height = page.get_size()
    area = max(width * height, 1.0)
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    largest = 0.0
    for index in range(pdfium.FPDFPage_CountObjects(page.raw)):
        drawing = pdfium.FPDFPage_GetObject(page.raw, index)
        if pdfium.FPDFPageObj_GetType(drawing) not in {pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_FORM}:
            continue
        if pdfium.FPDFPageObj_GetType(drawing) == pdfium.FPDF_PAGEOBJ_FORM and not _holds_image(drawing, pdfium):
            continue
        bounds = (ctypes.byref(each) for each in (left, bottom, right, top))
        if pdfium.FPDFPageObj_GetBounds(drawing, *bounds):
            largest = max(largest, abs(right.value - left.value) * abs(top.value - bottom.value) / area)
    return min(largest, 1.0)


def _holds_image(form: Any, pdfium: Any) -> bool:
    count = min(pdfium.FPDFFormObj_CountObjects(form), 64)
    kinds = (pdfium.FPDFPageObj_GetType(pdfium.FPDFFormObj_GetObject(form, index)) for index in range(max(count, 0)))
    return any(kind == pdfium.FPDF_PAGEOBJ_IMAGE for kind in kinds)
