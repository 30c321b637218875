"""A number of a spreadsheet as its format shows it: "4.5 %" for 0.045, "1 May 2024" for 45413.

A sheet stores one kind of number for money, shares and days; only the format tells them apart (ECMA-376, 18.8.30).
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

BUILT_IN = {
    0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 12: "# ?/?",
    13: "# ??/??", 14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM",
    20: "h:mm", 21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 37: "#,##0;(#,##0)", 38: "#,##0;(#,##0)",
    39: "#,##0.00;(#,##0.00)", 40: "#,##0.00;(#,##0.00)", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss", 48: "0.0E+0",
    49: "@"
}  # fmt: skip
_TOKEN = re.compile(
    r'"([^"]*)"?|\\(.)|_.|\*.|\[\$([^\]-]*)(?:-[^\]]*)?\]|\[(h+|m+|s+)\]|\[[^\]]*\]|(AM/PM|A/P)|(E[+-]0+)|'
    r"(y+|m+|d+|h+|s+|\.0+)|([0#?,./%@]+)|(.)",
    re.IGNORECASE | re.DOTALL,
)
_EPOCH, _EPOCH_1904 = datetime.datetime(1899, 12, 30), datetime.datetime(1904, 1, 1)
_MAX_DAYS = 2_958_465  # the last day of the year 9999
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December"
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MAX_FORMAT_CHARS = 255
_MAX_DECIMALS = 30
_MOST_EXACT = 1e15


@dataclass(frozen=True)
class _Part:
    """A piece of a format: literal text, a field of a date, digits, or an exponent."""

    kind: str
    text: str


def shown_number(value: float, number_format: str, is_1904: bool = False) -> str:
    """The number as the format shows it; as it is where the format cannot be shown in text."""
    if not math.isfinite(value):
        return str(value)
    sections = _sections(number_format[:_MAX_FORMAT_CHARS])
    index = 1 if value < 0 and len(sections) > 1 else 2 if value == 0 and len(sections) > 2 else 0
    parts = sections[index]
    if any(part.kind == "date" for part in parts):
        return _date(value, parts, is_1904)
    pattern = "".join(part.text for part in parts if part.kind == "digits")
    if not parts or not any(character in "0#?" for character in pattern):
        is_general = any(part.text.lower() == "general" for part in parts) or "@" in pattern or not parts
        literal = "".join(part.text for part in parts if part.kind == "literal").strip()
        return general(value) if is_general or not literal else literal
    shown = _numeric(abs(value), pattern, next((part.text for part in parts if part.kind == "exponent"), ""))
    text, is_set = "", False
    for part in parts:
        if part.kind == "digits":
            text += "" if is_set else shown
            is_set = True
        elif part.kind == "literal":
            text += part.text
    has_digit = any(character in "123456789" for character in shown)
    return ("-" if value < 0 and index == 0 and has_digit else "") + " ".join(text.split())


def general(value: float) -> str:
    """The number as a cell without a format shows it: eleven digits at most, none of them for show."""
    if value == int(value) and abs(value) < _MOST_EXACT:
        return str(int(value))
    return f"{value:.11g}".replace("e", "E")


@functools.lru_cache(maxsize=1024)
def _sections(number_format: str) -> tuple[tuple[_Part, ...], ...]:
    if number_format.lower() == "general":
        return ((_Part("literal", "general"),),)
    sections: list[list[_Part]] = [[]]
    for found in _TOKEN.finditer(number_format):
        quoted, escaped, currency, elapsed, half, exponent, field, digits, other = found.groups()
        literal = quoted if quoted is not None else escaped if escaped is not None else currency
        if other == ";":
            sections.append([])
        elif literal is not None:
            sections[-1].append(_Part("literal", literal))
        elif elapsed:
            sections[-1].append(_Part("date", f"[{elapsed[0].lower()}]"))
        elif half:
            sections[-1].append(_Part("date", "AM/PM"))
        elif exponent:
            sections[-1].append(_Part("exponent", exponent))
        elif field and field[0] == ".":
            sections[-1].append(_Part("digits", field))
        elif field:
            sections[-1].append(_Part("date", field.lower()))
        elif digits:
            sections[-1].append(_Part("digits", digits))
        elif other:
            sections[-1].append(_Part("literal", other))
    for section in sections:
        words = "".join(part.text for part in section)
        if words.lower().startswith("general"):
            section[:] = [_Part("literal", "general")]
    return tuple(tuple(section) for section in sections)


def _numeric(value: float, pattern: str, exponent: str) -> str:
    if "%" in pattern:
        value *= 100
    digits = pattern.replace("%", "")
    if "/" in digits:
        return _fraction(value, digits)
    whole, _, decimals = digits.partition(".")
    while whole.endswith(","):
        value, whole = value / 1000, whole[:-1]
    least = sum(character == "0" for character in decimals)
    most = min(sum(character in "0#?" for character in decimals), _MAX_DECIMALS)
    if exponent:
        mantissa, _, power = f"{value:.{most}e}".partition("e")
        shown = f"{mantissa}E{int(power):+0{len(exponent) - 1}d}"
    else:
        shown = f"{value:{',' if ',' in whole else ''}.{most}f}"
        spare = most - least
        while spare and shown.endswith("0"):
            shown, spare = shown[:-1], spare - 1
        shown = shown.removesuffix(".")
        integer, point, rest = shown.partition(".")
        shown = integer.rjust(sum(character == "0" for character in whole), "0") + point + rest
    return f"{shown}%" if "%" in pattern else shown


def _fraction(value: float, digits: str) -> str:
    below = digits.partition("/")[2].strip()
    most = int(below) if below.isdecimal() and int(below) else 10 ** min(max(1, len(below)), 4) - 1
    whole = int(value)
    rest = Fraction(value - whole).limit_denominator(most)
    if rest == 1:
        whole, rest = whole + 1, Fraction(0)
    return f"{whole or ''} {rest.numerator}/{rest.denominator}".strip() if rest else str(whole)


def _date(value: float, parts: tuple[_Part, ...], is_1904: bool) -> str:
    if not 0 <= value <= _MAX_DAYS:
        return general(value)
    seconds = round(value * 86_400)
    try:
        moment = (_EPOCH_1904 if is_1904 else _EPOCH) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return general(value)
    is_half = any(part.text == "AM/PM" for part in parts)
    fields = [part.text for part in parts if part.kind == "date"]
    shown, index = "", -1
    for part in parts:
        if part.kind != "date":
            shown += part.text if part.kind == "literal" else "" if part.text.startswith(".0") else part.text
            continue
        index += 1
        is_minute = part.text in {"m", "mm"} and (
            (index > 0 and fields[index - 1][:1] in {"h", "["})
            or (index + 1 < len(fields) and fields[index + 1][0] == "s")
        )
        shown += _field(part.text, moment, seconds, is_half, is_minute)
    return " ".join(shown.split())


def _field(field: str, moment: datetime.datetime, seconds: int, is_half: bool, is_minute: bool) -> str:
    width = len(field)
    if field == "AM/PM":
        return "AM" if moment.hour < 12 else "PM"
    if field[0] == "[":
        return str(seconds // {"h": 3600, "m": 60, "s": 1}[field[1]])
    if field[0] == "y":
        return f"{moment.year:04d}" if width > 2 else f"{moment.year % 100:02d}"
    if field[0] == "m" and not is_minute:
        name = _MONTHS[moment.month - 1]
        return name if width == 4 else name[:3] if width == 3 else name[0] if width > 4 else f"{moment.month:0{width}d}"
    if field[0] == "d" and width > 2:
        return _DAYS[moment.weekday()][: None if width > 3 else 3]
    hour = moment.hour % 12 or 12 if is_half else moment.hour
    number = {"m": moment.minute, "d": moment.day, "h": hour, "s": moment.second}[field[0]]
    return f"{number:0{min(width, 2)}d}"
