"""Bytes -> Document, in this process: the bytes decide which reader gets them, the suffix only where they cannot tell.

For bytes of known origin. A file may be made to break its reader: read.py parses files in a process of their own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lift.documents.blocks import Content, assemble, one_line, shortened
from lift.documents.document import Document
from lift.documents.encoding import decode
from lift.documents.plain_text import read_plain_text
from lift.errors import DocumentError

if TYPE_CHECKING:
    from lift.documents.zip_archive import Archive

MAX_BYTES = 200 * 1000 * 1000
HEAD_BYTES = 1 << 16
_HTML_SUFFIXES = frozenset([".html", ".htm", ".xhtml"])
_MARKDOWN_SUFFIXES = frozenset([".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"])
_PLAIN_SUFFIXES = _MARKDOWN_SUFFIXES | {".txt", ".text"}
_HTML_TAG = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_UTF8_MARK = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 4096
_LONGEST_CHARACTER_BYTES = 4
_PDF_MARK = b"%PDF-"
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_IMAGE_REMEDY = "run OCR on it and give the text"
_REFUSED_MARKS = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Word or Office file, or a locked one",
        "save it as docx without a password",
    ),
    (b"{\\rtf", "an RTF file", "save it as docx or txt"),
    (b"%!PS", "a PostScript file", "convert it to PDF"),
    (b"\x89PNG", "a PNG image", _IMAGE_REMEDY),
    (b"\xff\xd8\xff", "a JPEG image", _IMAGE_REMEDY),
    (b"GIF8", "a GIF image", _IMAGE_REMEDY),
    (b"II*\x00", "a TIFF image", _IMAGE_REMEDY),
    (b"MM\x00*", "a TIFF image", _IMAGE_REMEDY),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x7fELF", "a program", "give a txt, md, html, pdf, docx or epub file"),
)
# Files that are text on the outside and not what a reader would read.
_TABLE = "a table", "write what its rows say as sentences, or put the table into a docx, html or md file"
_DATA = "a data file", "write what it says as text, in a txt, md or docx file"
_CODE = "the source of a program", "write what is to be known of it as text, in a txt or md file"
_MAIL = "a mail with its wrapping", "open it and save the text as txt, html or PDF"
_WEB_ARCHIVE = "a web archive", "open it and save the page as html or PDF"
_SUBTITLES = "subtitles with their time codes", "save the spoken text alone as txt"
_NOTEBOOK = "a notebook", "export it as md or html"
_LINK = "a link to a web page", "open it, save the page as html or PDF, and give that file"
_REFUSED_SUFFIXES = {
    suffix: refusal
    for suffixes, refusal in (
        (".csv .tsv", _TABLE),
        (".json .jsonl .ndjson .yaml .yml .toml .ini .xml .xsd .rdf .bib .ics .vcf .geojson .sqlite .parquet", _DATA),
        (
            ".py .pyi .js .mjs .cjs .jsx .ts .tsx .c .h .cc .cpp .cxx .hpp .cs .java .kt .kts .go .rs .rb .php .pl .pm "
            ".lua .swift .scala .r .jl .sql .sh .bash .zsh .fish .bat .cmd .ps1 .css .scss .less .vue .dart .hs .ml "
            ".ex .exs .erl .clj .asm .f90 .vb .gradle .cmake .proto .patch .diff",
            _CODE,
        ),
        (".eml .emlx .mbox", _MAIL),
        (".mht .mhtml", _WEB_ARCHIVE),
        (".srt .vtt .sbv .ass .ssa", _SUBTITLES),
        (".ipynb", _NOTEBOOK),
        (".url .webloc", _LINK),
    )
    for suffix in suffixes.split()
}
_MIME_HEADER = re.compile(rb"(?:[!-9;-~]++:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*?MIME-Version:", re.IGNORECASE)
_SRT = re.compile(rb"\d+\r?\n\d{1,2}:\d\d:\d\d[,.]\d{3} --> ")
_OTHER_ARCHIVES = (
    ("xl/", "an Excel workbook", "write what its rows say as sentences, or put the table into a docx or md file"),
    ("ppt/", "a PowerPoint presentation", "save it as PDF"),
    ("Index/", "a Pages, Numbers or Keynote file", "export it as docx or PDF"),
    ("content.xml", "an OpenDocument file", "save it as docx or PDF"),
)
_EPUB_MEMBER = "META-INF/container.xml"
_DOCX_FOLDER = "word/"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_NO_TITLE = re.compile(
    r"\W*(?:(?:untitled|unnamed|new|no|ohne|sans|senza|sin|sem)[\W_]*(?:document|documento|dokument|file|page|title|"
    r"titel|titre|titolo|título)?|anonymous|unknown|undefined|null|none|n/?a|unbenannt|namnlös|"
    r"(?:document|dokument|documento)[\W_]*\d+)[\W_]*\d{0,4}\W*",
    re.IGNORECASE,
)


def parse_document(data: bytes, name: str, title: str | None = None) -> Document:
    """A document from the bytes of a txt, md, html, pdf, docx or epub file called `name`.

    The title is `title`, else the file's own (its properties or first heading), else its name made readable. Raises
    DocumentError for anything that no text can be had from: an empty, locked, broken or binary file, a scan, one over
    MAX_BYTES, or one of a kind that is text on the outside alone (tables, data, source code, mails, subtitles).
    """
    suffix = Path(name).suffix.lower()
    if not data:
        raise empty_file(name)
    if len(data) > MAX_BYTES:
        raise too_large(name)
    content = _read_content(data, name, suffix)
    heading = None if suffix == ".txt" else content.first_heading
    chosen = one_line(title or "") or _named(content.title) or _named(heading) or readable_stem(name)
    return assemble(chosen, name, content.blocks, content.omissions)


def check_readable(head: bytes, name: str, size_bytes: int) -> None:
    """Raise DocumentError where the first HEAD_BYTES of a file called `name` show that no reader takes it.

    `head` is those bytes, all where the file has no more; nothing is unpacked. What passes may be refused when it is
    read.
    """
    start, suffix, is_whole = head[:_SNIFFED_BYTES], Path(name).suffix.lower(), len(head) >= size_bytes
    if not head:
        raise empty_file(name)
    if _PDF_MARK in start[:1024]:
        return
    if start.startswith(_ZIP_MARKS):
        if is_whole:
            _open_zip(head, name)
        else:
            _check_archive(_first_members(head, name), name, whole=False)
        return
    _check_start(start, name, suffix)
    if is_whole:
        decode(head, name)
    else:
        _check_text_head(head, name)


def _check_text_head(head: bytes, name: str) -> None:
    """Raise DocumentError where the beginning of a text is none, wherever in a character it ends."""
    for cut_bytes in range(_LONGEST_CHARACTER_BYTES):
        try:
            decode(head[: len(head) - cut_bytes], name)
            return
        except DocumentError as error:
            refusal = error
    raise refusal


def empty_file(name: str) -> DocumentError:
    """The error for a file of no bytes."""
    return DocumentError(f"{name}: expected text, got an empty file; give a file with words in it")


def too_large(name: str) -> DocumentError:
    """The error for a file of more than MAX_BYTES."""
    return DocumentError(f"{name}: expected at most {MAX_BYTES:,} bytes, got more; split the file")


def document_from_text(text: str, title: str, source: str = "text") -> Document:
    """A document from plain text in memory; raises DocumentError where the text is empty or only white space."""
    return assemble(one_line(title) or source, source, read_plain_text(text).blocks)


def readable_stem(name: str) -> str:
    """A title from a file's name: "board_minutes-2024-03-01.pdf" becomes "Board minutes 2024-03-01"."""
    stem = Path(name).stem
    words = re.sub(r"[_\s]+|(?<!\d)-|-(?!\d)", " ", stem).strip() or stem
    return one_line(words[:1].upper() + words[1:] if words.islower() else words)


def _named(title: str | None) -> str | None:
    """The title that a file gives itself, None where a program has put "(anonymous)" or "Untitled" there."""
    return None if not title or _NO_TITLE.fullmatch(shortened(title)) else title


def _read_content(data: bytes, name: str, suffix: str) -> Content:
    start = data[:_SNIFFED_BYTES]
    if _PDF_MARK in start[:1024]:
        from lift.documents.pdf import read_pdf

        return read_pdf(data, name)
    if start.startswith(_ZIP_MARKS):
        return _read_zip(data, name)
    if _check_start(start, name, suffix):
        from lift.documents.html import read_html

        return read_html(data, name)
    from lift.documents.markdown import looks_like_markdown, read_markdown

    text = decode(data, name)
    if suffix in _MARKDOWN_SUFFIXES or (suffix != ".txt" and looks_like_markdown(text)):
        return read_markdown(text, name, is_mdx=suffix == ".mdx")
    return read_plain_text(text)


def _check_start(start: bytes, name: str, suffix: str) -> bool:
    """Whether a file that is neither PDF nor zip is HTML; raises DocumentError where no reader takes it."""
    for mark, kind, remedy in _REFUSED_MARKS:
        if start.startswith(mark):
            raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    if suffix in {".pdf", ".docx", ".epub"}:
        raise DocumentError(
            f"{name}: expected a {suffix[1:]} file as its name says, "
            f"got something else (it begins with {start[:8]!r}); "
            "the file is broken or misnamed"
        )
    if suffix in _HTML_SUFFIXES or _begins_as_html(start):
        return True
    refusal = _REFUSED_SUFFIXES.get(suffix) or (None if suffix in _PLAIN_SUFFIXES else _text_on_the_outside(start))
    if refusal is not None:
        kind, remedy = refusal
        raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    return False


def _begins_as_html(start: bytes) -> bool:
    """Whether the first thing but an XML declaration and comments is a tag that only HTML begins with."""
    place = _after_space(start, len(_UTF8_MARK) if start.startswith(_UTF8_MARK) else 0)
    if start.startswith(b"<?xml", place):
        place = _after_space(start, start.find(b">", place) + 1)
    while start.startswith(b"<!--", place) and (end := start.find(b"-->", place + 4)) != -1:
        place = _after_space(start, end + 3)
    return bool(_HTML_TAG.match(start, place))


def _after_space(data: bytes, place: int) -> int:
    return len(data) - len(data[place:].lstrip())


def _text_on_the_outside(start: bytes) -> tuple[str, str] | None:
    """What a file of unknown name is that is text for a program, and what to do with it; None for other text."""
    start = start.removeprefix(_UTF8_MARK).lstrip()
    if start.startswith(b"WEBVTT") or _SRT.match(start):
        return _SUBTITLES
    if _MIME_HEADER.match(start):
        return _WEB_ARCHIVE if b"multipart/related" in start.lower() else _MAIL
    if start.startswith(b"{") and (b'"cell_type"' in start or b'"nbformat"' in start):
        return _NOTEBOOK
    if start.startswith(b"#!/"):
        return _CODE
    return _DATA if start.startswith(b"<?xml") else None


def _read_zip(data: bytes, name: str) -> Content:
    archive, is_epub = _open_zip(data, name)
    if is_epub:
        from lift.documents.epub import read_epub

        return read_epub(archive)
    from lift.documents.docx import read_docx

    return read_docx(archive)


def _open_zip(data: bytes, name: str) -> tuple[Archive, bool]:
    """The archive that a docx or epub file is, and whether it is the latter."""
    from lift.documents.zip_archive import Archive

    archive = Archive(data, name)
    _check_archive(archive.members, name, whole=True)
    return archive, _EPUB_MEMBER in archive


def _check_archive(members: Iterable[str], name: str, whole: bool) -> None:
    """Raise DocumentError for an archive of these members, of all or of the first, that is no docx or epub."""
    members = list(members)
    if any(member == _EPUB_MEMBER or member.startswith(_DOCX_FOLDER) for member in members):
        return
    for mark, kind, remedy in _OTHER_ARCHIVES:
        if any(member.startswith(mark) for member in members):
            raise DocumentError(f"{name}: expected a docx or epub file, got {kind}; {remedy}")
    if whole or not members:
        raise DocumentError(
            f"{name}: expected a docx or epub file, got another zip archive; unpack it, or save it as docx, pdf or txt"
        )


def _first_members(start: bytes, name: str) -> list[str]:
    """The names of the first members of an archive, as far as `start` has them."""
    members: list[str] = []
    place = 0
    while len(start) >= place + _LOCAL_HEADER.size and start.startswith(_ZIP_MARKS[0], place):
        *_, packed_bytes, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(start, place)
        if name_bytes == 0:
            break
        place += _LOCAL_HEADER.size
        members.append(start[place : place + name_bytes].decode("utf-8", "replace"))
        place += name_bytes + extra_bytes + packed_bytes
    if not members and start.startswith(_ZIP_MARKS[0]):
        raise DocumentError(f"{name}: expected a whole zip archive, got a broken one; get it anew")
    return members
