"""Bytes -> text: byte order marks, UTF-8 first, then the legacy encodings."""

from __future__ import annotations

import codecs
import re

from lift.errors import DocumentError

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1 << 16
_TEXT_CONTROLS = b"\t\n\r\x0b\x0c\x1b\x1a"
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte not in _TEXT_CONTROLS) + b"\x7f"
_MAX_CONTROL_SHARE = 0.02
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜŸßàáâãäåæçèéêëìíîïñòóôõöøœùúûüÿ“”„‘’‚‹›«»–—…•·¡£€¥¢©®™°§¶†‡±×÷½¼¾µ\u00a0\u00ad"
)
_MAX_ACCENTED_SHARE = 0.25
# Encodings of text on the web and in old files. Python knows others, whose decoders take time of the length squared
# (punycode, idna), or that a text never is in.
_DECLARABLE = (
    "ascii", "utf-8", "utf-16", "utf-32", "iso8859", "cp", "windows", "koi8", "mac", "gb", "big5", "shift_jis", "euc",
    "iso2022", "hz", "johab", "tis-620", "kz1048", "ptcp154", "hp-roman8"
)  # fmt: skip
# Browsers take these labels for wider encodings, and pages rely on it (WHATWG, Encoding Standard, section 4.2).
_LABELS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"
}  # fmt: skip
_DAMAGED_BYTE = "\udc80-\udcff"


def decode(data: bytes, name: str, declared: str | None = None) -> str:
    """The text of `data`; `declared` is the encoding that the file claims, tried after UTF-8.

    Raises DocumentError, naming the file as `name`, for bytes that are no text or in no encoding that can be told.
    """
    for mark, marked in _MARKS:
        if data.startswith(mark):
            return _decode_marked(data, marked, name)
    sample = data[:_SAMPLE_BYTES]
    if wide := _wide_encoding(sample):
        return _decode_marked(data, wide, name)
    if len(sample.translate(None, _CONTROL_BYTES)) < len(sample) * (1 - _MAX_CONTROL_SHARE):
        raise DocumentError(
            f"{name}: expected a text, got binary data; give a document such as a txt, pdf or docx file"
        )
    try:
        return data.decode("utf-8")
    except UnicodeError:
        if declared and (text := _decode_declared(data, declared)) is not None:
            return text
    damaged = _decode_damaged_utf8(data)
    return damaged if damaged is not None else _decode_legacy(data, name)


def _decode_declared(data: bytes, declared: str) -> str | None:
    """The text in the encoding that browsers take the label `declared` for; None where the bytes are not in it."""
    try:
        name = codecs.lookup(declared.strip()).name
    except (LookupError, ValueError):
        return None
    if not name.startswith(_DECLARABLE):
        return None
    for encoding in dict.fromkeys([_LABELS.get(name, name), name]):
        try:
            # the five bytes that windows-1252 has no character for are control codes to a browser
            return data.decode(encoding, "ignore" if encoding == "cp1252" else "strict")
        except UnicodeError:
            continue
    return None


def _decode_marked(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{name}: expected {encoding} text, as its first bytes say, got a wrong byte at {error.start}; "
            "save it as UTF-8"
        ) from error


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark: Latin text in it has a zero in every second byte and nowhere else."""
    even, odd = sample[0::2], sample[1::2]
    if len(odd) < 2:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) < 0.05 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.7 * len(even) and odd.count(0) < 0.05 * len(odd):
        return "utf-16-be"
    return None


def _decode_damaged_utf8(data: bytes) -> str | None:
    """UTF-8 with a few wrong bytes, which are dropped; None where the bytes are rather another encoding."""
    text = data.decode("utf-8", errors="surrogateescape")
    wrong = len(re.findall(f"[{_DAMAGED_BYTE}]", text))
    right = sum(character > "\x7f" for character in text) - wrong
    return re.sub(f"[{_DAMAGED_BYTE}]", "", text) if right >= 20 * wrong else None


def _decode_legacy(data: bytes, name: str) -> str:
    """A one-byte or East Asian encoding, told from the bytes.

    Windows-1252 is tried by hand first: charset-normalizer ranks it below its neighbour 1250 on equal evidence, which
    turns every English pound sign into a Polish letter.
    """
    try:
        western = data.decode("cp1252")
    except UnicodeDecodeError:
        western = ""
    foreign = [character for character in western if character > "\x7f"]
    letters = sum(character.isalpha() for character in western)
    accented = sum(character.isalpha() for character in foreign)
    if foreign and _WESTERN.issuperset(foreign) and accented <= _MAX_ACCENTED_SHARE * letters:
        return western
    from charset_normalizer import from_bytes

    match = from_bytes(data).best()
    if match is None:
        raise DocumentError(f"{name}: expected text in a known encoding, got bytes that fit none; save it as UTF-8")
    return str(match)
