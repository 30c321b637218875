"""Several files, and the files of folders, as one document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lift.documents.document import Document, Omission, join_documents
from lift.documents.read import read_document
from lift.errors import DocumentError

UNREADABLE = "file that cannot be read"


def read_files(files: Sequence[str], title: str | None, say: Callable[[str], None], ocr: bool = False) -> Document:
    """One document of all `files` and of those in the folders among them, which are read in the order of their names.

    `title` is that of a single file, else of the whole; `ocr` as for read_document. A file in a folder that cannot be
    read is left out: `say` is given the sentence why, and the document counts it among its omissions. Hidden files are
    no part of a folder. Raises DocumentError for a file that is named itself and cannot be read, and for a folder
    without any that can.
    """
    if len(files) == 1 and not _is_folder(files[0]):
        return read_document(files[0], title=title, ocr=ocr)
    documents: list[Document] = []
    unread: list[Omission] = []
    for file in files:
        if not _is_folder(file):
            documents.append(read_document(file, ocr=ocr))
            continue
        read_before = len(documents)
        for path in files_of(Path(file).expanduser()):
            try:
                documents.append(read_document(path, ocr=ocr))
            except DocumentError as error:
                say(str(error))
                unread.append(Omission(UNREADABLE, file=str(path)))
        if len(documents) == read_before:
            raise DocumentError(f"{file}: expected a folder with a file that can be read, got none; name a file")
    joined = join_documents(documents, title)
    return replace(joined, omissions=(*joined.omissions, *unread))


def files_of(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, sorted by their paths, without hidden ones.

    Links are not followed out of it. Raises DocumentError where the folder cannot be read.
    """
    found: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                found.extend(files_of(path))
            elif path.is_file():
                found.append(path)
    except OSError as error:
        raise DocumentError(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions") from error
    return found


def _is_folder(file: str) -> bool:
    return file != "-" and Path(file).expanduser().is_dir()
