"""Any file -> Document: the bytes decide which reader gets them, the suffix only where the bytes cannot tell."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lift.documents.blocks import Content, assemble, one_line
from lift.documents.document import Document
from lift.documents.encoding import decode
from lift.documents.plain_text import read_plain_text
from lift.errors import DocumentError

if TYPE_CHECKING:
    from lift.documents.zip_archive import Archive

MAX_BYTES = 200 * 1000 * 1000
STANDARD_INPUT = "standard input"
_HTML_SUFFIXES = frozenset([".html", ".htm", ".xhtml"])
_MARKDOWN_SUFFIXES = frozenset([".md", ".markdown", ".mdown", ".mkd", ".qmd", ".rmd"])
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_SNIFFED_BYTES = 4096
HEAD_BYTES = 1 << 16
_MOST_MEMBER_NAME_BYTES = 1000
_LONGEST_CHARACTER_BYTES = 4
_PDF_MARK = b"%PDF-"
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_REFUSED = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Word or Office file, or a locked one",
        "save it as docx without a password",
    ),
    (b"{\\rtf", "an RTF file", "save it as docx or txt"),
    (b"%!PS", "a PostScript file", "convert it to PDF"),
    (b"\x89PNG", "a PNG image", "run OCR on it and give the text"),
    (b"\xff\xd8\xff", "a JPEG image", "run OCR on it and give the text"),
    (b"GIF8", "a GIF image", "run OCR on it and give the text"),
    (b"II*\x00", "a TIFF image", "run OCR on it and give the text"),
    (b"MM\x00*", "a TIFF image", "run OCR on it and give the text"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x7fELF", "a program", "give a txt, md, html, pdf, docx or epub file"),
)


def read_document(source: str | Path, *, title: str | None = None, name: str | None = None) -> Document:
    """Read a txt, md, html, pdf, docx or epub file, or standard input for "-", as a document.

    The title is `title`, else the file's own (its properties or first heading), else its name made readable. `name` is
    what the file is called where that is not its path. Raises DocumentError for anything that no text can be had from:
    a missing, empty, locked, broken or binary file, a scan, or one over MAX_BYTES.
    """
    if str(source) == "-":
        name, data, suffix = STANDARD_INPUT, _read_standard_input(), ""
    else:
        path, name = Path(source).expanduser(), name or str(source)
        data, suffix = _read_file(path, name), Path(name).suffix.lower()
    if not data:
        raise DocumentError(f"{name}: expected text, got an empty file; give a file with words in it")
    content = _read_content(data, name, suffix)
    chosen = one_line(title or "") or content.title or content.first_heading
    if suffix == ".txt" or not chosen:
        chosen = one_line(title or "") or content.title or readable_stem(name)
    return assemble(chosen, name, content.blocks)


def check_readable(head: bytes, name: str, size_bytes: int) -> None:
    """Raise DocumentError where the first HEAD_BYTES of a file called `name` show that no reader takes it.

    `head` is those bytes, all where the file has no more. What passes may be refused when it is read.
    """
    start, suffix, is_whole = head[:_SNIFFED_BYTES], Path(name).suffix.lower(), len(head) >= size_bytes
    if not head:
        raise DocumentError(f"{name}: expected text, got an empty file; give a file with words in it")
    if _PDF_MARK in start[:1024]:
        return
    if start.startswith(_ZIP_MARKS):
        if is_whole:
            _open_zip(head, name)
        else:
            _check_zip_head(head, name)
        return
    _check_start(start, name, suffix)
    if is_whole:
        decode(head, name)
    else:
        _check_text_head(head, name)


def _check_zip_head(head: bytes, name: str) -> None:
    """Raise DocumentError where the first member of an archive shows that it is broken."""
    name_bytes = int.from_bytes(head[26:28], "little")
    if not 0 < name_bytes <= _MOST_MEMBER_NAME_BYTES:
        raise DocumentError(
            f"{name}: expected a docx or epub file, got a broken zip archive; save or download it again"
        )


def _check_text_head(head: bytes, name: str) -> None:
    """Raise DocumentError where the beginning of a text is none, wherever in a character it ends."""
    for cut_bytes in range(_LONGEST_CHARACTER_BYTES):
        try:
            decode(head[: len(head) - cut_bytes], name)
            return
        except DocumentError as error:
            refusal = error
    raise refusal


def document_from_text(text: str, title: str, source: str = "text") -> Document:
    """A document from plain text in memory; raises DocumentError where the text is empty or only white space."""
    return assemble(one_line(title) or source, source, read_plain_text(text).blocks)


def readable_stem(name: str) -> str:
    """A title from a file's name: "board_minutes-2024-03-01.pdf" becomes "Board minutes 2024-03-01"."""
    stem = Path(name).stem
    words = re.sub(r"[_\s]+|(?<!\d)-|-(?!\d)", " ", stem).strip() or stem
    return one_line(words[:1].upper() + words[1:] if words.islower() else words)


def _read_content(data: bytes, name: str, suffix: str) -> Content:
    start = data[:_SNIFFED_BYTES]
    if _PDF_MARK in start[:1024]:
        from lift.documents.pdf import read_pdf

        return read_pdf(data, name)
    if start.startswith(_ZIP_MARKS):
        return _read_zip(data, name)
    _check_start(start, name, suffix)
    if suffix in _HTML_SUFFIXES or _HTML_START.match(start):
        from lift.documents.html import read_html

        return read_html(data, name)
    from lift.documents.markdown import looks_like_markdown, read_markdown

    text = decode(data, name)
    if suffix in _MARKDOWN_SUFFIXES or (suffix != ".txt" and looks_like_markdown(text)):
        return read_markdown(text, name)
    return read_plain_text(text)


def _check_start(start: bytes, name: str, suffix: str) -> None:
    for mark, kind, remedy in _REFUSED:
        if start.startswith(mark):
            raise DocumentError(f"{name}: expected a document, got {kind}; {remedy}")
    if suffix in {".pdf", ".docx", ".epub"}:
        raise DocumentError(
            f"{name}: expected a {suffix[1:]} file as its name says, "
            f"got something else (it begins with {start[:8]!r}); "
            "the file is broken or misnamed"
        )


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
    is_epub = "META-INF/container.xml" in archive
    if not is_epub and not any(member.startswith("word/") for member in archive.members):
        raise DocumentError(
            f"{name}: expected a docx or epub file, got another zip archive; unpack it, or save it as docx, pdf or txt"
        )
    return archive, is_epub


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise DocumentError(f"{name}: expected a file, got a directory; name one file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DocumentError(f"{name}: expected a file, got a path where there is none; check its spelling") from error
    except PermissionError as error:
        raise DocumentError(f"{name}: you have no permission to read this file; change it or copy the file") from error
    except (OSError, ValueError) as error:
        raise DocumentError(f"{name}: the file cannot be read ({error}); check the path") from error
    return _within_limit(data, name)


def _read_standard_input() -> bytes:
    return _within_limit(sys.stdin.buffer.read(MAX_BYTES + 1), STANDARD_INPUT)


def _within_limit(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{name}: expected at most {MAX_BYTES:,} bytes, got more; split the file")
    return data
