"""Names of memories: a name is also a directory, a model id over HTTP, and a word on the command line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from lift.errors import UsageError

MAX_NAME_CHARS = 100
# Leaves room, within the 255 bytes that common file systems allow, for the prefixes that the library puts in front.
MAX_NAME_BYTES = 200
_SLUG_CHARS = 60
_PUNCTUATION = " ._-"
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Names of most libraries; whatever else may be a name takes ten times as long to tell.
_PLAIN = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_-]{0,99}")
_RULE = (
    f"a memory's name has 1 to {MAX_NAME_CHARS} letters, digits, spaces, '.', '_' or '-' "
    f"(at most {MAX_NAME_BYTES} bytes), begins with a letter, digit or '_', "
    "and ends with neither a space nor a dot"
)


def normal_name(name: str) -> str:
    """The one spelling (Unicode NFC) under which a name is stored, however its accents were typed."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """Equal for names that a file system without case cannot tell apart."""
    if name.isascii():
        return name.lower()
    # upper first: casefold alone keeps the dotless i apart from the I that file systems take it for
    return normal_name(normal_name(name).upper().casefold())


def is_valid_name(name: str) -> bool:
    """Whether `name`, in its normal spelling, may name a memory; see check_name."""
    if _PLAIN.fullmatch(name):
        return not _DEVICES.fullmatch(name)
    return (
        0 < len(name) <= MAX_NAME_CHARS
        and name == normal_name(name)
        and all(_is_name_char(char) for char in name)
        and len(name.encode("utf-8")) <= MAX_NAME_BYTES
        and name[0] not in " .-"
        and not unicodedata.category(name[0]).startswith("M")
        and name[-1] not in " ."
        and not _DEVICES.fullmatch(name)
    )


def check_name(name: str) -> None:
    """Raise UsageError, with the rule and a name that would do, unless `name` may name a memory."""
    if is_valid_name(name):
        return
    shown = name if len(name) <= MAX_NAME_CHARS else name[:MAX_NAME_CHARS] + "…"
    reason = f"{name.lower().split('.')[0]!r} is reserved by some systems" if _DEVICES.fullmatch(name) else _RULE
    raise UsageError(f"{shown!a} cannot name a memory: {reason}; for example {suggest_name(name)!r}")


def suggest_name(title: str) -> str:
    """A valid name made of the words of `title`, in lower case: "Minutes, March 2024" -> "minutes-march-2024"."""
    text = unicodedata.normalize("NFKC", title).casefold()
    words = "".join(char if _is_name_char(char) and char not in _PUNCTUATION else "-" for char in text)
    slug = unicodedata.normalize("NFC", re.sub("-+", "-", words)).strip("-")
    if len(slug) > _SLUG_CHARS:
        cut = slug[: _SLUG_CHARS + 1]
        slug = cut[: cut.rfind("-")] if "-" in cut[_SLUG_CHARS // 2 :] else slug[:_SLUG_CHARS]
    slug = _shorten(slug, MAX_NAME_BYTES).strip("-")
    if is_valid_name(slug):
        return slug
    return f"memory-{slug}" if slug and is_valid_name(f"memory-{slug}") else "memory"


def first_free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or the first of name-2, name-3, ... that differs from all `taken` names by more than case."""
    used = {folded(other) for other in taken}
    candidate, number = name, 1
    while folded(candidate) in used:
        number += 1
        ending = f"-{number}"
        stem = _shorten(name[: MAX_NAME_CHARS - len(ending)], MAX_NAME_BYTES - len(ending))
        candidate = stem.rstrip(" .") + ending
    return candidate


def _is_name_char(char: str) -> bool:
    # marks (category M) are parts of letters in many scripts; str.isalnum alone would refuse Hindi and Thai
    return char in _PUNCTUATION or char == "_" or unicodedata.category(char)[0] in "LNM"


def _shorten(name: str, limit_bytes: int) -> str:
    return name.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")
