"""Mails (RFC 5322, MIME), mailboxes and web archives -> blocks: the headers that a reader sees, and the text."""

from __future__ import annotations

import email
import email.errors
import email.header
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import Message

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.document import Omission
from lift.documents.encoding import decode
from lift.documents.html import read_html
from lift.documents.plain_text import read_plain_text
from lift.errors import DocumentError

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MAX_HEADER_CHARS = 2_000
_NO_SUBJECT = "Mail without a subject"
_MAX_DEPTH = 20
_MAX_PARTS = 10_000
_FROM_LINE = re.compile(rb"^From [^\r\n]*\r?\n", re.MULTILINE)
_ESCAPED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
_QUOTE = re.compile(r"((?:>[ ]?)*)(.*)")
_LOCKED = frozenset(["multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"])


def read_mail(data: bytes, name: str) -> Content:
    """Read a mail: From, To, Cc, Date and Subject as lines, then its text, that of an HTML part where it has one.

    Quoted replies and forwarded mails are kept, attachments told. The title is the subject. Raises DocumentError for
    one that is encrypted, or has neither headers nor a text.
    """
    message = _parse(data, name)
    if not any(message.get(header) for header in (*_HEADERS, "MIME-Version", "Received")):
        raise DocumentError(f"{name}: expected a mail with its headers, got other text; save it as txt")
    walk = _Walk(name)
    walk.message(message, 0)
    if walk.is_locked and not walk.has_text:
        raise DocumentError(f"{name}: the mail is encrypted; open it and save its text as txt, html or PDF")
    return Content(_header(message, "Subject") or None, walk.blocks, tuple(walk.omissions))


def read_mailbox(data: bytes, name: str) -> Content:
    """Read all mails of an mbox file, in its order, each under its subject."""
    starts = [found for found in _FROM_LINE.finditer(data) if _begins_mail(data, found.start())]
    walk = _Walk(name)
    for index, found in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(data)
        walk.message(_parse(_ESCAPED_FROM.sub(rb"\1", data[found.end() : end]), name), 0)
    return Content(None, walk.blocks, tuple(walk.omissions))


def read_web_archive(data: bytes, name: str) -> Content:
    """Read the page of an MHTML file; raises DocumentError where it holds none."""
    message = _parse(data, name)
    pages = [part for part in _parts(message) if part.get_content_type() in {"text/html", "application/xhtml+xml"}]
    if not pages:
        raise DocumentError(f"{name}: expected a web archive with a page in it, got none; save the page as html or PDF")
    content = read_html(_payload(pages[0]), name, declared=pages[0].get_content_charset())
    frames = [Omission("embedded page")] * len(pages[1:])
    return replace(
        content, title=content.title or _header(message, "Subject") or None, omissions=(*content.omissions, *frames)
    )


def without_size_line(data: bytes) -> bytes:
    """A mail as Apple's emlx files hold it, behind a line with its size."""
    first, line_end, rest = data.partition(b"\n")
    return rest if line_end and first.strip().isdigit() else data


@dataclass
class _Walk:
    """Reads the parts of a mail in order."""

    name: str
    blocks: list[Block] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)
    is_locked: bool = False
    has_text: bool = False

    def message(self, message: Message, depth: int) -> None:
        """Read the headers of a mail and its text."""
        subject = _header(message, "Subject")
        separator = PARAGRAPH
        for header in _HEADERS:
            if value := _header(message, header):
                heading = (subject or _NO_SUBJECT) if separator == PARAGRAPH else None
                self.blocks.append(Block(f"{header}: {value}", heading=heading, separator=separator))
                separator = LINE
        self.part(message, depth)

    def part(self, part: Message, depth: int) -> None:
        """Read a part, and those that it holds."""
        kind = part.get_content_type()
        if kind in _LOCKED:
            self.is_locked = True
        if depth > _MAX_DEPTH:
            self.omissions.append(Omission("attachment"))
        elif kind == "multipart/alternative" and part.is_multipart():
            self._alternative(part, depth)
        elif kind == "message/rfc822" and part.is_multipart():
            for inner in _held(part):
                self.message(inner, depth + 1)
        elif part.is_multipart() and part.get_content_maintype() == "multipart":
            for inner in _held(part):
                self.part(inner, depth + 1)
        elif part.get_content_disposition() == "attachment" or part.get_content_maintype() != "text":
            is_picture = part.get_content_maintype() == "image" and part.get_content_disposition() != "attachment"
            self.omissions.append(Omission("image" if is_picture else "attachment"))
        elif kind in {"text/plain", "text/html", "text/enriched", "text/markdown"}:
            self._text(part, kind)
        else:
            self.omissions.append(Omission("attachment"))

    def _alternative(self, part: Message, depth: int) -> None:
        """Read the one of several forms of the same text that says most: HTML, else what comes first."""
        forms = [form for form in _held(part) if form.get_content_type() != "text/calendar"]
        preferred = [form for form in forms if _holds_html(form)] or forms
        for form in [*preferred, *[form for form in forms if form not in preferred]]:
            known = len(self.blocks)
            self.part(form, depth + 1)
            if len(self.blocks) > known:
                return

    def _text(self, part: Message, kind: str) -> None:
        data, charset = _payload(part), part.get_content_charset()
        if not data.strip():
            return
        if kind == "text/html":
            content = read_html(data, self.name, declared=charset, is_page=False)
            blocks, omissions = content.blocks, content.omissions
        else:
            text = decode(data, self.name, declared=charset)
            is_flowed = (part.get_param("format") or "") == "flowed"
            blocks, omissions = list(_plain_blocks(text, is_flowed, part.get_param("delsp") == "yes")), ()
        self.has_text = self.has_text or bool(blocks)
        self.blocks += [replace(block, heading=None) for block in blocks]
        self.omissions += omissions


def _plain_blocks(text: str, is_flowed: bool, is_space_dropped: bool) -> Iterator[Block]:
    """Paragraphs of a plain text: what is quoted stands in paragraphs of its own, without its marks."""
    groups: list[tuple[int, list[str]]] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        found = _QUOTE.fullmatch(line)
        marks, rest = found.groups() if found else ("", line)
        level = marks.count(">")
        if not groups or groups[-1][0] != level:
            groups.append((level, []))
        lines = groups[-1][1]
        rest = rest.removeprefix(" ") if is_flowed and not level else rest
        if is_flowed and lines and lines[-1].endswith(" ") and lines[-1] != "-- ":
            lines[-1] = (lines[-1][:-1] if is_space_dropped else lines[-1]) + rest
        else:
            lines.append(rest)
    for _, lines in groups:
        yield from read_plain_text("\n".join(lines)).blocks


def _parse(data: bytes, name: str) -> Message:
    try:
        return email.message_from_bytes(data.lstrip(b"\r\n"), policy=email.policy.compat32)
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DocumentError(
            f"{name}: expected a mail, got one that cannot be read ({type(error).__name__}); save its text as txt"
        ) from error


def _held(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _parts(message: Message) -> Iterator[Message]:
    waiting, count = [message], 0
    while waiting and count < _MAX_PARTS:
        part = waiting.pop(0)
        count += 1
        yield part
        waiting += _held(part)


def _holds_html(form: Message) -> bool:
    return any(part.get_content_type() == "text/html" for part in _parts(form))


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _header(message: Message, name: str) -> str:
    """A header's value, decoded, as one line; raw where it is not encoded as it says."""
    value = message.get(name)
    if value is None:
        return ""
    raw = str(value)[:_MAX_HEADER_CHARS]
    try:
        pieces = email.header.decode_header(raw)
    except (ValueError, LookupError, TypeError, email.errors.HeaderParseError):
        return one_line(raw)
    shown = ""
    for piece, charset in pieces:
        if isinstance(piece, str):
            shown += piece
            continue
        try:
            shown += piece.decode(charset or "utf-8", "replace")
        except (LookupError, ValueError):
            shown += piece.decode("utf-8", "replace")
    return one_line(shown.replace("\ufffd", ""))


def _begins_mail(data: bytes, place: int) -> bool:
    """Whether a line of "From " begins a mail: at the file's start or behind a blank line."""
    before = data[max(0, place - 4) : place]
    return place == 0 or before.endswith((b"\n\n", b"\n\r\n"))
