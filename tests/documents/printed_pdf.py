"""PDFs made by ReportLab for the tests: text at places, as printers put it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reportlab.pdfgen.canvas import Canvas

from lift.documents.document import Document
from lift.documents.read import read_document

PAGE = (595, 842)


def printed(*pages: Callable[[Any], None], **options: Any) -> bytes:
    """A PDF whose pages are drawn by functions of a canvas."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=PAGE, **options)
    for draw in pages:
        canvas.setFont("Helvetica", 11)
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def texts(*placed: tuple[float, float, str], font: str = "Helvetica", size: float = 11) -> Callable[[Any], None]:
    """Draws texts at (left, height above the page's foot)."""

    def draw(canvas: Any) -> None:
        canvas.setFont(font, size)
        for left, y, text in placed:
            canvas.drawString(left, y, text)

    return draw


def lines(y: float, *said: str, left: float = 60, leading: float = 14, **style: Any) -> Callable[[Any], None]:
    """Draws lines below each other."""
    return texts(*((left, y - leading * number, text) for number, text in enumerate(said)), **style)


def grid(y: float, lefts: Iterable[float], *rows: Iterable[str], leading: float = 14) -> Callable[[Any], None]:
    """Draws the rows of a table, each cell at the left edge of its column."""
    lefts = list(lefts)
    return texts(
        *(
            (left, y - leading * number, cell)
            for number, row in enumerate(rows)
            for left, cell in zip(lefts, row, strict=True)
        )
    )


def all_of(*drawings: Callable[[Any], None]) -> Callable[[Any], None]:
    """Draws one after the other on a page."""

    def draw(canvas: Any) -> None:
        for each in drawings:
            each(canvas)

    return draw


def read(folder: Path, data: bytes, **options: Any) -> Document:
    """The document of a PDF, read as any file of unknown origin is."""
    path = folder / "printed.pdf"
    path.write_bytes(data)
    return read_document(path, **options)
