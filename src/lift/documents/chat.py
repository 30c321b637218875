"""Exports of chats -> blocks: one message, one line, "date, name: text", under the day on which it was written.

The text exports of WhatsApp, Signal and the like, and the JSON exports of Slack, Discord and Telegram.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content, one_line
from lift.documents.document import Omission
from lift.errors import DocumentError

_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\.?"
_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[ \u00a0\u202f]?[aApP]\.?[ \u00a0\u202f]?[mM]\.?)?"
_MESSAGE = re.compile(
    rf"[\u200e\u200f\u202a]*(?:\[(?P<date>{_DATE}),?[ ]+(?P<time>{_CLOCK})\][ ]?|"
    rf"(?P<date2>{_DATE}),?[ ]+(?P<time2>{_CLOCK})[ \u00a0\u202f]+[-–][ ])(?P<rest>.*)"
)
_NAMED = re.compile(r"[\u200e\u200f~ \u00a0\u202f]*(?P<name>[^:\n]{1,60}): ?(?P<text>.*)", re.DOTALL)
_MEDIA = re.compile(
    r"[\u200e\u200f<\[( ]{0,5}"
    r"(?:media|image|video|audio|sticker|gif|document|photo|voice message|file|bild|medien|contact card)"
    r"s?[ ]{1,3}(?:omitted|weggelassen|ausgeschlossen|omis(?:es)?|omitid[oa]s?)[>\]). ]{0,5}|<?attached: [^>]{1,200}>?",
    re.IGNORECASE,
)
_DELETED = re.compile(r"[\u200e\u200f ]*(?:this message was deleted|you deleted this message)\.?", re.IGNORECASE)
_MIN_MESSAGES = 3
_MIN_SHARE, _MIN_LATER_SHARE = 0.2, 0.6
_SAMPLE_CHARS = 200_000
_JSON_CHAT = re.compile(rb'"messages"\s*:\s*\[|"client_msg_id"|"ts"\s*:\s*"\d{10}\.\d')
_MENTION = re.compile(r"<(?:[@#!][^<>|]{0,100}\|?|[^<>|]{0,500}\|)([^<>|]{0,200})>")


@dataclass(frozen=True)
class _Message:
    day: str
    time: str
    name: str
    text: str


def looks_like_chat(text: str) -> bool:
    """Whether a text is the export of a chat: its lines, or its first and many others, begin with a date and a name."""
    lines = [line for line in text[:_SAMPLE_CHARS].splitlines() if line.strip()]
    found = [number for number, line in enumerate(lines) if _MESSAGE.match(line)]
    # long messages have many lines; where the text does not begin with a message, most lines must be one
    share = _MIN_SHARE if found and found[0] == 0 else _MIN_LATER_SHARE
    if len(found) < max(_MIN_MESSAGES, share * len(lines)):
        return False
    named = sum(bool(_NAMED.match(match["rest"])) for number in found if (match := _MESSAGE.match(lines[number])))
    return 2 * named > len(found)


def looks_like_json_chat(start: bytes) -> bool:
    """Whether the beginning of a JSON file is that of an exported chat."""
    return bool(_JSON_CHAT.search(start))


def read_chat(text: str) -> Content:
    """Read a text export; messages of the program itself, deleted ones and media are left out and told."""
    omissions: list[Omission] = []
    messages: list[_Message] = []
    day, time, rest = "", "", list[str]()
    for line in [*text.replace("\r\n", "\n").split("\n"), None]:
        found = _MESSAGE.match(line) if line is not None else None
        if line is not None and found is None:
            rest.append(line)
            continue
        if day:
            messages += _message(day, time, "\n".join(rest), omissions)
        elif any(each.strip() for each in rest):
            messages.append(_Message("", "", "", " ".join(rest)))
        if found is not None:
            day, time = found["date"] or found["date2"], found["time"] or found["time2"]
            rest = [found["rest"]]
    return Content(None, list(_blocks(messages)), tuple(omissions))


def _message(day: str, time: str, said: str, omissions: list[Omission]) -> Iterator[_Message]:
    found = _NAMED.match(said)
    if found is None:
        omissions.append(Omission("message of the chat program"))
        return
    text = found["text"]
    if _DELETED.fullmatch(text):
        omissions.append(Omission("deleted message"))
        return
    text, media = _MEDIA.subn("", text)
    omissions += [Omission("attachment")] * media
    if text.strip(" \n\u200e"):
        yield _Message(day, time, found["name"].strip(), text)


def read_json_chat(text: str, name: str) -> Content:
    """Read an export of Slack, Discord or Telegram; raises DocumentError for JSON that is none of them."""
    try:
        export = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(
            f"{name}: expected the JSON of a chat, got one that cannot be read ({type(error).__name__}); export it anew"
        ) from error
    entries = export.get("messages") if isinstance(export, dict) else export
    omissions: list[Omission] = []
    messages: list[Any] = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            messages += _json_message(entry, omissions)
    if not messages:
        raise DocumentError(
            f"{name}: expected a chat exported from Slack, Discord or Telegram, got other data; "
            "write what it says as text, in a txt, md or docx file"
        )
    title = export.get("name") if isinstance(export, dict) else None
    return Content(title if isinstance(title, str) else None, list(_blocks(messages)), tuple(omissions))


def _json_message(entry: dict[str, Any], omissions: list[Omission]) -> Iterator[_Message]:
    for key in ("files", "attachments", "photo", "file", "media_type"):
        held = entry.get(key)
        omissions += [Omission("attachment")] * (len(held) if isinstance(held, list) else bool(held))
    text = entry.get("text", entry.get("content"))
    if isinstance(text, list):  # Telegram: pieces of text, some with a look of their own
        text = "".join(piece if isinstance(piece, str) else str(piece.get("text", "")) for piece in text if piece)
    if not isinstance(text, str) or not text.strip():
        return
    moment = _moment(entry.get("ts", entry.get("timestamp", entry.get("date"))))
    yield _Message(moment[0], moment[1], _name(entry), _MENTION.sub(r"\1", text))


def _name(entry: dict[str, Any]) -> str:
    profile = entry.get("user_profile")
    author = entry.get("author")
    for held, keys in (
        (profile, ("real_name", "display_name")),
        (author, ("nickname", "global_name", "name", "username")),
    ):
        if isinstance(held, dict):
            for key in keys:
                if isinstance(held.get(key), str) and held[key]:
                    return one_line(held[key])
    for key in ("from", "username", "user", "author", "sender", "actor"):
        if isinstance(entry.get(key), str) and entry[key]:
            return one_line(entry[key])
    return "unknown"


def _moment(value: Any) -> tuple[str, str]:
    """Day and time of a message, in UTC where the export counts seconds."""
    try:
        stated = str(value or "")[:40]
        if re.fullmatch(r"\d{9,11}(?:\.\d{1,9})?", stated):
            moment = datetime.datetime.fromtimestamp(float(stated), datetime.UTC)
        else:
            moment = datetime.datetime.fromisoformat(stated)
    except (ValueError, OverflowError, OSError):
        return "", ""
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M")


def _blocks(messages: list[_Message]) -> Iterator[Block]:
    day: str | None = None
    for message in messages:
        moment = " ".join(part for part in (message.day, message.time) if part)
        before = ", ".join(part for part in (moment, message.name) if part)
        text = one_line(message.text)
        is_new_day = message.day != day
        day = message.day
        yield Block(
            f"{before}: {text}" if before else text,
            heading=message.day or None if is_new_day else None,
            separator=PARAGRAPH if is_new_day else LINE,
        )
