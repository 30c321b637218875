"""Any file -> Document: opened here, parsed in a process of its own (sandbox.py).

The readers of other formats are reached through here alone; what the caller holds as text needs no such care.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO

from lift.documents.document import Document
from lift.documents.parse import HEAD_BYTES, MAX_BYTES, check_readable, document_from_text, empty_file, too_large
from lift.documents.sandbox import parse_in_child
from lift.errors import DocumentError

__all__ = ["HEAD_BYTES", "MAX_BYTES", "check_readable", "document_from_text", "read_document"]
STANDARD_INPUT = "standard input"
_WEB_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://|www\.", re.IGNORECASE)
_CHUNK_BYTES = 1 << 20


def read_document(
    source: str | Path, *, title: str | None = None, name: str | None = None, ocr: bool = False
) -> Document:
    """Read a file of any format that there is a reader for, or standard input for "-", as a document.

    The title is `title`, else the file's own (its properties or first heading), else its name made readable. `name`
    is what the file is called where that is not its path; with `ocr`, pages of a PDF whose text is a picture are
    read by character recognition (the extra `ocr`), which takes seconds a page. The file is parsed in a process of
    its own, with limits of memory and time that grow with its size (sandbox.limits_for). Raises DocumentError for
    anything that no text can be had from: a missing, empty, locked, broken or binary file, a scan, one over
    MAX_BYTES or over those limits, or one of a kind that no reader takes.
    """
    if str(source) == "-":
        with tempfile.TemporaryFile() as file:
            return _parse(file, _spool(sys.stdin.buffer, file, STANDARD_INPUT), STANDARD_INPUT, title, ocr)
    path, name = Path(source).expanduser(), name or str(source)
    try:
        if path.is_dir():
            raise DocumentError(f"{name}: expected a file, got a directory; name one file in it")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                return _parse(file, status.st_size, name, title, ocr)
            with tempfile.TemporaryFile() as copy:
                return _parse(copy, _spool(file, copy, name), name, title, ocr)
    except FileNotFoundError as error:
        if _WEB_ADDRESS.match(str(source)):
            raise DocumentError(
                f"{name}: expected a file, got a web address; save the page as html or PDF and give that file"
            ) from error
        raise DocumentError(f"{name}: expected a file, got a path where there is none; check its spelling") from error
    except PermissionError as error:
        raise DocumentError(f"{name}: you have no permission to read this file; change it or copy the file") from error
    except (OSError, ValueError) as error:
        raise DocumentError(f"{name}: the file cannot be read ({error}); check the path") from error


def _parse(file: IO[bytes], size_bytes: int, name: str, title: str | None, ocr: bool) -> Document:
    if size_bytes == 0:
        raise empty_file(name)
    if size_bytes > MAX_BYTES:
        raise too_large(name)
    return parse_in_child(file, size_bytes, name, title, ocr=ocr)


def _spool(source: IO[bytes], into: IO[bytes], name: str) -> int:
    """Copy a stream whose size nobody knows before its end; returns its size in bytes, or the first over MAX_BYTES."""
    size_bytes = 0
    try:
        while size_bytes <= MAX_BYTES and (chunk := source.read(_CHUNK_BYTES)):
            size_bytes += into.write(chunk)
        into.seek(0)
    except OSError as error:
        raise DocumentError(f"{name}: cannot be read or copied ({error}); give the text in a file") from error
    return size_bytes
