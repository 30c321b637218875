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
# What a file that is text on the outside is read as, by its name.
_TEXT_FORMATS = {
    **dict.fromkeys([".csv", ".tsv", ".tab"], "delimited"),
    **dict.fromkeys([".eml", ".emlx"], "mail"),
    **dict.fromkeys([".mbox", ".mbx"], "mailbox"),
    **dict.fromkeys([".mht", ".mhtml"], "web archive"),
    **dict.fromkeys([".srt", ".vtt", ".sbv", ".ass", ".ssa"], "subtitles"),
    ".ipynb": "notebook",
    **dict.fromkeys(_MARKDOWN_SUFFIXES, "markdown"),
}
_ZIP_SUFFIXES = frozenset(
    [".docx", ".docm", ".dotx", ".epub", ".xlsx", ".xlsm", ".pptx", ".pptm", ".ppsx", ".odt", ".ods", ".odp", ".ott"]
)
_HTML_TAG = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_UTF8_MARK = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 4096
_LONGEST_CHARACTER_BYTES = 4
_PDF_MARK = b"%PDF-"
_RTF_MARK = b"{\\rtf"
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
READABLE = "a document such as a txt, md, html, pdf, docx, xlsx, pptx, odt, rtf, eml or epub file"
_IMAGE_REMEDY = "run OCR on it and give the text"
_REFUSED_MARKS = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Word, Excel or PowerPoint file, or a locked one",
        "save it as docx, xlsx or pptx without a password",
    ),
    (b"%!PS", "a PostScript file", "convert it to PDF"),
    (b"\x89PNG", "a PNG image", _IMAGE_REMEDY),
    (b"\xff\xd8\xff", "a JPEG image", _IMAGE_REMEDY),
    (b"GIF8", "a GIF image", _IMAGE_REMEDY),
    (b"II*\x00", "a TIFF image", _IMAGE_REMEDY),
    (b"MM\x00*", "a TIFF image", _IMAGE_REMEDY),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x7fELF", "a program", f"give {READABLE}"),
)
# Files that are text on the outside and not what a reader would read.
_DATA = "a data file", "write what it says as text, in a txt, md or docx file"
_CODE = "the source of a program", "write what is to be known of it as text, in a txt or md file"
_LINK = "a link to a web page", "open it, save the page as html or PDF, and give that file"
_SHEET = "a binary Excel workbook", "save it as xlsx"
_MAIL_STORE = "a mail file of Outlook", "save the mail as eml, txt or PDF"
_REFUSED_SUFFIXES = {
    suffix: refusal
    for suffixes, refusal in (
        (".json .jsonl .ndjson .yaml .yml .toml .ini .xml .xsd .rdf .bib .ics .vcf .geojson .sqlite .parquet", _DATA),
        (
            ".py .pyi .js .mjs .cjs .jsx .ts .tsx .c .h .cc .cpp .cxx .hpp .cs .java .kt .kts .go .rs .rb .php .pl .pm "
            ".lua .swift .scala .r .jl .sql .sh .bash .zsh .fish .bat .cmd .ps1 .css .scss .less .vue .dart .hs .ml "
            ".ex .exs .erl .clj .asm .f90 .vb .gradle .cmake .proto .patch .diff",
            _CODE,
        ),
        (".xlsb", _SHEET),
        (".msg .pst .ost", _MAIL_STORE),
        (".url .webloc", _LINK),
    )
    for suffix in suffixes.split()
}
_MIME_HEADER = re.compile(rb"(?:[!-9;-~]++:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*?MIME-Version:", re.IGNORECASE)
_MAIL_HEADERS = re.compile(
    rb"(?=(?:[!-9;-~]++:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*?(?:Received|Message-ID|Return-Path|Delivered-To):)"
    rb"(?:[!-9;-~]++:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*?From:",
    re.IGNORECASE,
)
_MAILBOX = re.compile(rb"From [^\s]+ [^\n]*\d{4}[^\n]*\n[!-9;-~]+:")
_SRT = re.compile(rb"\d+\r?\n\d{1,2}:\d\d:\d\d[,.]\d{3} --> ")
_OTHER_ARCHIVES = (
    ("xl/workbook.bin", *_SHEET),
    ("Index/", "a Pages, Numbers or Keynote file", "export it as docx, xlsx, pptx or PDF"),
)
# A member that a kind of archive has, or the folder of one, and the reader of that kind.
_ARCHIVES = (
    ("META-INF/container.xml", "epub"),
    ("xl/workbook.xml", "xlsx"),
    ("ppt/presentation.xml", "pptx"),
    ("word/", "docx"),
    ("content.xml", "opendocument"),
)
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_NO_TITLE = re.compile(
    r"\W*(?:(?:untitled|unnamed|new|no|ohne|sans|senza|sin|sem)[\W_]*(?:document|documento|dokument|file|page|title|"
    r"titel|titre|titolo|título)?|anonymous|unknown|undefined|null|none|n/?a|unbenannt|namnlös|"
    r"(?:document|dokument|documento)[\W_]*\d+)[\W_]*\d{0,4}\W*",
    re.IGNORECASE,
)


def parse_document(data: bytes, name: str, title: str | None = None, *, ocr: bool = False) -> Document:
    """A document from the bytes of a file called `name`, of any format that a reader of this package takes.

    The title is `title`, else the file's own (its properties or first heading), else its name made readable. `ocr`:
    pages of a PDF whose text is a picture are read by character recognition. Raises DocumentError for anything that no
    text can be had from: an empty, locked, broken or binary file, a scan, one over MAX_BYTES, or one of a kind that no
    reader takes (images, data, source code, archives).
    """
    suffix = Path(name).suffix.lower()
    if not data:
        raise empty_file(name)
    if len(data) > MAX_BYTES:
        raise too_large(name)
    content = _read_content(data, name, suffix, ocr)
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
    if _format_of(start, name, suffix) in {"rtf", "mail", "mailbox", "web archive"}:
        return
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


def _read_content(data: bytes, name: str, suffix: str, ocr: bool) -> Content:
    start = data[:_SNIFFED_BYTES]
    if _PDF_MARK in start[:1024]:
        from lift.documents.pdf.pdf_reader import read_pdf

        return read_pdf(data, name, ocr=ocr)
    if start.startswith(_ZIP_MARKS):
        return _read_zip(data, name)
    file_format = _format_of(start, name, suffix)
    if file_format in {"html", "rtf", "mail", "mailbox", "web archive"}:
        return _read_marked(data, name, file_format)
    text = decode(data, name)
    if file_format == "delimited":
        from lift.documents.delimited import read_delimited

        return read_delimited(text, name)
    if file_format == "subtitles":
        from lift.documents.subtitles import read_subtitles

        return read_subtitles(text, name)
    if file_format == "notebook":
        from lift.documents.notebook import read_notebook

        return read_notebook(text, name)
    from lift.documents import chat

    if file_format == "chat":
        return chat.read_json_chat(text, name)
    if file_format == "text" and chat.looks_like_chat(text):
        return chat.read_chat(text)
    from lift.documents.markdown import looks_like_markdown, read_markdown

    if file_format == "markdown" or (suffix != ".txt" and looks_like_markdown(text)):
        return read_markdown(text, name, is_mdx=suffix == ".mdx")
    return read_plain_text(text)


def _read_marked(data: bytes, name: str, file_format: str) -> Content:
    """Read a format that says itself which encoding its parts have."""
    if file_format == "html":
        from lift.documents.html import read_html

        return read_html(data, name)
    if file_format == "rtf":
        from lift.documents.rtf import read_rtf

        return read_rtf(data, name)
    from lift.documents import mail

    if file_format == "mailbox":
        return mail.read_mailbox(data, name)
    if file_format == "web archive":
        return mail.read_web_archive(data, name)
    return mail.read_mail(mail.without_size_line(data), name)


def _format_of(start: bytes, name: str, suffix: str) -> str:
    """The format of a file that is neither PDF nor zip; raises DocumentError where no reader takes it."""
    for mark, kind, remedy in _REFUSED_MARKS:
        if start.startswith(mark):
            raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    if start.lstrip().startswith(_RTF_MARK):
        return "rtf"
    if suffix in {".pdf", ".rtf"} or suffix in _ZIP_SUFFIXES:
        raise DocumentError(
            f"{name}: expected a {suffix[1:]} file as its name says, "
            f"got something else (it begins with {start[:8]!r}); "
            "the file is broken or misnamed"
        )
    if suffix in _HTML_SUFFIXES or _begins_as_html(start):
        return "html"
    if suffix == ".json" and _looks_like_json_chat(start):
        return "chat"
    refusal = _REFUSED_SUFFIXES.get(suffix)
    file_format = _TEXT_FORMATS.get(suffix)
    if refusal is None and file_format is None and suffix not in _PLAIN_SUFFIXES:
        refusal, file_format = _text_on_the_outside(start)
    if refusal is not None:
        kind, remedy = refusal
        raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    if file_format == "mailbox" and not start.startswith(b"From "):
        return "mail"
    return file_format or "text"


def _looks_like_json_chat(start: bytes) -> bool:
    from lift.documents.chat import looks_like_json_chat

    return looks_like_json_chat(start)


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


def _text_on_the_outside(start: bytes) -> tuple[tuple[str, str] | None, str | None]:
    """How a file of unknown name that is text for a program is refused, or the format that it is read as."""
    start = start.removeprefix(_UTF8_MARK).lstrip()
    if start.startswith(b"WEBVTT") or _SRT.match(start):
        return None, "subtitles"
    if _MAILBOX.match(start):
        return None, "mailbox"
    if _MIME_HEADER.match(start) or _MAIL_HEADERS.match(start):
        return None, "web archive" if b"multipart/related" in start.lower() and b"snapshot" in start.lower() else "mail"
    if start.startswith(b"{") and (b'"cell_type"' in start or b'"nbformat"' in start):
        return None, "notebook"
    if start.startswith(b"#!/"):
        return _CODE, None
    return (_DATA if start.startswith(b"<?xml") else None), None


def _read_zip(data: bytes, name: str) -> Content:
    archive, archive_format = _open_zip(data, name)
    if archive_format == "epub":
        from lift.documents.epub import read_epub

        return read_epub(archive)
    if archive_format == "xlsx":
        from lift.documents.xlsx import read_xlsx

        return read_xlsx(archive)
    if archive_format == "pptx":
        from lift.documents.pptx import read_pptx

        return read_pptx(archive)
    if archive_format == "opendocument":
        from lift.documents.opendocument import read_opendocument

        return read_opendocument(archive)
    from lift.documents.docx import read_docx

    return read_docx(archive)


def _open_zip(data: bytes, name: str) -> tuple[Archive, str]:
    """The archive that a document is, and its format."""
    from lift.documents.zip_archive import Archive

    archive = Archive(data, name)
    return archive, _check_archive(archive.members, name, whole=True) or "docx"


def _check_archive(members: Iterable[str], name: str, whole: bool) -> str | None:
    """The format of an archive of these members, of all or of the first; raises DocumentError where no reader takes it.

    None where the first members do not tell.
    """
    members = list(members)
    for mark, archive_format in _ARCHIVES:
        if any(member == mark or (mark.endswith("/") and member.startswith(mark)) for member in members):
            return archive_format
    for mark, kind, remedy in _OTHER_ARCHIVES:
        if any(member.startswith(mark) for member in members):
            raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    if whole or not members:
        raise DocumentError(
            f"{name}: expected a docx, xlsx, pptx, odt or epub file, got another zip archive; unpack it, "
            "or save it as docx, pdf or txt"
        )
    return None


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
