"""Jupyter notebooks (nbformat 3 and 4) -> blocks: prose cells as Markdown, code, and what it printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lift.documents.blocks import Block, Content
from lift.documents.document import Omission
from lift.documents.html import read_markup
from lift.documents.markdown import read_markdown
from lift.errors import DocumentError

_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_notebook(text: str, name: str) -> Content:
    """Read a notebook; pictures, widgets and error messages are left out and told.

    Raises DocumentError where it is not a notebook's JSON.
    """
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(
            f"{name}: expected the JSON of a notebook, got something else ({type(error).__name__}); save it anew"
        ) from error
    blocks: list[Block] = []
    omissions: list[Omission] = []
    for cell in _cells(notebook):
        source = _text(cell.get("source", cell.get("input")))
        kind = cell.get("cell_type")
        if kind in {"markdown", "heading", "html"} and source.strip():
            level = cell.get("level")
            marks = "#" * min(max(level, 1), 6) + " " if kind == "heading" and isinstance(level, int) else ""
            content = read_markdown(marks + source, name)
            blocks += content.blocks
            omissions += content.omissions
        elif source.strip():
            blocks.append(Block(source))
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else []:
            if isinstance(output, dict):
                for found in _output(output, name):
                    (blocks if isinstance(found, Block) else omissions).append(found)  # type: ignore[arg-type]
    metadata = notebook.get("metadata") if isinstance(notebook, dict) else None
    title = metadata.get("title") if isinstance(metadata, dict) else None
    return Content(title if isinstance(title, str) else None, blocks, tuple(omissions))


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(notebook, dict):
        return
    worksheets = notebook.get("worksheets")
    sheets = worksheets if isinstance(worksheets, list) else [notebook]
    for sheet in sheets:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        yield from (cell for cell in cells if isinstance(cell, dict)) if isinstance(cells, list) else ()


def _output(output: dict[str, Any], name: str) -> Iterator[Block | Omission]:
    kind = output.get("output_type")
    if kind == "stream":
        if text := _text(output.get("text")).strip("\n"):
            yield Block(text)
        return
    if kind in {"error", "pyerr"}:
        yield Omission("error message")
        return
    data = output.get("data")
    data = data if isinstance(data, dict) else output
    page = _text(data.get("text/html", data.get("html")))
    if "<table" in page:
        content = read_markup(page, name)
        yield from content.blocks
        yield from content.omissions
    elif any(str(key).startswith("image") or key in {"png", "jpeg", "svg"} for key in data):
        yield Omission("image")
    elif text := _text(data.get("text/plain", data.get("text"))).strip("\n"):
        yield Block(text)
    elif data:
        yield Omission("output that is no text")


def _text(value: Any) -> str:
    """The lines of a cell, which are a text or a list of texts."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return _TERMINAL_CODE.sub("", value) if isinstance(value, str) else ""
