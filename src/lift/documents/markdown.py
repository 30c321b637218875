"""Markdown -> blocks, by way of HTML: CommonMark with tables, markup removed, lists and tables line by line.

Beside CommonMark the dialects that people write: footnotes, front matter in YAML or TOML, admonitions (":::", "!!!" and
"> [!note]"), the links, marks and comments of Obsidian, and the components of MDX, whose text alone is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lift.documents.blocks import Content
from lift.documents.document import Omission
from lift.documents.html import read_markup

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_FRONT_MATTER = re.compile(r"\A\ufeff?(---|\+\+\+)[ \t]*\n(.*?)\n(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_MATTER_TITLE = re.compile(r"^title[ \t]*+[:=][ \t]*+(\S.*)$", re.MULTILINE | re.IGNORECASE)
_QUOTED = re.compile(r"(['\"])(.+)\1")
_ATX_HEADING = re.compile(r"^#{1,6}[ \t]++\S.*+\n[ \t]*+(?:\n|\Z)", re.MULTILINE)
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(`++)(?:(?!\1(?!`))[^\n])*+(?<!`)\1(?!`)")
_ADMONITION_FENCE = re.compile(
    r"[ ]{0,3}:{3,}[ \t]*(?:\{?([\w-]+)\}?)?(?:[ \t]*\[([^\]\n]+)\]|[ \t]+([^\n{]+?))?[ \t]*(?:\{[^\n]*\})?"
)
_CALLOUT = re.compile(r"([ ]{0,3}(?:>[ ]?)+)\[!([\w-]{1,40})\][+-]?[ \t]*([^\n]*)")
_EMBED = re.compile(r"!\[\[[^\[\]\n]{1,300}\]\]")
_WIKI_LINK = re.compile(r"\[\[([^\[\]|\n]{1,300})(?:\\?\|([^\[\]\n]{1,300}))?\]\]")
_HIGHLIGHT = re.compile(r"==(?=[^\s=])([^=\n]{1,500})(?<=\S)==")
_COMMENT = re.compile(r"%%(?:[^%]|%(?!%)){1,5000}+%%")
_TASK = re.compile(r"([ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+)\[([ xX])\](?=[ \t]+\S)")
_IMPORT = re.compile(r"(?:import|export)\s[^\n]*")


def looks_like_markdown(text: str) -> bool:
    """Whether a text of unknown kind has markdown headings: a line of # and words with a blank line after it."""
    return bool(_ATX_HEADING.search(text.replace("\r\n", "\n")))


def read_markdown(text: str, name: str, is_mdx: bool = False) -> Content:
    """Read CommonMark and its dialects; the title is that of the front matter, else the first heading's.

    With `is_mdx` the import and export lines of MDX are no text.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    title = None
    if front_matter := _FRONT_MATTER.match(text):
        text = text[front_matter.end() :]
        if found := _FRONT_MATTER_TITLE.search(front_matter.group(2)):
            title = found.group(1).rstrip(" \t")
            if quoted := _QUOTED.fullmatch(title):
                title = quoted.group(2)
    omissions: list[Omission] = []
    content = read_markup(_parser().render(_plain_dialect(text, is_mdx, omissions)), name)
    return Content(title=title, blocks=content.blocks, omissions=(*omissions, *content.omissions))


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.admon import admon_plugin
    from mdit_py_plugins.deflist import deflist_plugin
    from mdit_py_plugins.footnote import footnote_plugin

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return parser.use(footnote_plugin).use(deflist_plugin).use(admon_plugin)


def _plain_dialect(text: str, is_mdx: bool, omissions: list[Omission]) -> str:
    """The text with what only a dialect knows written as CommonMark; code stays as it is."""

    def drop(kind: str) -> Callable[[re.Match[str]], str]:
        def replace(_found: re.Match[str]) -> str:
            omissions.append(Omission(kind))
            return ""

        return replace

    lines: list[str] = []
    for segment in _between_fences(text):
        if segment.startswith(_CODE):
            lines.append(segment.removeprefix(_CODE))
            continue
        plain = _outside_code(segment, lambda part: _COMMENT.sub(drop("comment"), part))
        for line in plain.split("\n"):
            lines.append(_plain_line(line, is_mdx, drop))
    return "\n".join(lines)


_CODE = "\x00"


def _between_fences(text: str) -> list[str]:
    """The text in pieces of whole lines: those of fenced code begin with _CODE, which no other text holds."""
    pieces: list[list[str]] = [[]]
    fence = ""
    for line in text.replace(_CODE, "").split("\n"):
        found = _FENCE.match(line)
        if not fence and found:
            fence = found.group(1)
            pieces.append([_CODE + line])
        else:
            pieces[-1].append(line)
            if fence and found and found.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
                pieces.append([])
    return ["\n".join(piece) for piece in pieces if piece]


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` made to all but its code spans."""
    changed, begin = [], 0
    for span in _CODE_SPAN.finditer(text):
        changed += [change(text[begin : span.start()]), span.group()]
        begin = span.end()
    return "".join([*changed, change(text[begin:])])


def _plain_line(line: str, is_mdx: bool, drop: Any) -> str:
    if is_mdx and _IMPORT.fullmatch(line):
        return ""
    if found := _ADMONITION_FENCE.fullmatch(line):
        kind, label, title = found.groups()
        return f"\n**{label or title or kind.capitalize()}**\n" if kind else ""
    if found := _CALLOUT.fullmatch(line):
        quote, kind, title = found.groups()
        return f"{quote}**{title.strip() or kind.capitalize()}**\n{quote}"
    line = _TASK.sub(lambda task: f"{task.group(1)}{'☐' if task.group(2) == ' ' else '☑'}", line)
    return _outside_code(line, lambda part: _plain_inline(part, drop))


def _plain_inline(part: str, drop: Any) -> str:
    part = _EMBED.sub(drop("embedded file"), part)
    part = _WIKI_LINK.sub(lambda link: link.group(2) or link.group(1).replace("#", " > ").strip(), part)
    return _HIGHLIGHT.sub(r"\1", part)
