"""Markdown -> blocks, by way of HTML: CommonMark with tables, markup removed, lists and tables line by line."""

from __future__ import annotations

import re

from lift.documents.blocks import Content
from lift.documents.html import read_markup

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_MATTER_TITLE = re.compile(r"^title[ \t]*+:[ \t]*+(\S.*)$", re.MULTILINE | re.IGNORECASE)
_QUOTED = re.compile(r"(['\"])(.+)\1")
_ATX_HEADING = re.compile(r"^#{1,6}[ \t]++\S.*+\n[ \t]*+(?:\n|\Z)", re.MULTILINE)


def looks_like_markdown(text: str) -> bool:
    """Whether a text of unknown kind has markdown headings: a line of # and words with a blank line after it."""
    return bool(_ATX_HEADING.search(text.replace("\r\n", "\n")))


def read_markdown(text: str, name: str) -> Content:
    """Read CommonMark; the title is that of the front matter, else the first heading's."""
    from markdown_it import MarkdownIt

    text = text.replace("\r\n", "\n").replace("\r", "\n")
    title = None
    if front_matter := _FRONT_MATTER.match(text):
        text = text[front_matter.end() :]
        if found := _FRONT_MATTER_TITLE.search(front_matter.group(1)):
            title = found.group(1).rstrip(" \t")
            if quoted := _QUOTED.fullmatch(title):
                title = quoted.group(2)
    blocks = read_markup(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text), name).blocks
    return Content(title=title, blocks=blocks)
