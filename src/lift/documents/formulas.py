"""Formulas -> one line of text: MathML (web pages, books), OMML (Word), and numbers that are set high.

A reader of plain text knows 10^6, 1/2 and √(x + 1); without their marks they would be 106, 12 and x + 1.
"""

from __future__ import annotations

import re
from typing import Any

_MAX_DEPTH = 50
_INVISIBLE = dict.fromkeys(range(0x2061, 0x2065))
_SINGLE = re.compile(r"-?[\w.,′'∞]+|-?[\w√∛∜]+\([^()]*\)")
_WORD_END = re.compile(r"[^\W_]{2,}$")
_WORD_BEGIN = re.compile(r"[^\W_]{2,}")
_LETTER_END, _LETTER_BEGIN = re.compile(r"[^\W\d_]$"), re.compile(r"[^\W\d_]")

_ORDINAL = re.compile(r"(?:st|nd|rd|th|er|re|ère|ème|º|ª|TM|SM|®|©|™|℠)", re.IGNORECASE)
_SHORT_ORDINAL = re.compile(r"\d[eoa]")
_NOTE_MARK = re.compile(r"\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*|[*†‡§¶]{1,3}|[a-z]")
_EXPONENT = re.compile(r"[−–+-]?(?:\d+(?:[.,/]\d+)?|[a-zA-Z])|[−–+-]")
_YEAR_END = re.compile(r"(?<![\d.,])(?:1[5-9]|20)\d\d$")
# Units are shorter; what ends so is a word or a sentence, and what is set high behind it is the mark of a note.
_PROSE_END = re.compile(r"(?:[^\W\d_]{5,}|[.,;:!?”’\"'»)])$")
_KNOWN_UNITS = re.compile(r"(?:litres?|liters?|metres?|meters?|miles?|inch|inches|foot|yards?)$", re.IGNORECASE)
BASE_CHARS = 24


def set_high(before: str, raised: str) -> str:
    """The text `raised`, set high behind `before`, as a line of plain text has it: "^6", "[4]" for a note, or "th"."""
    raised = raised.strip()
    base = before[-BASE_CHARS:]
    if not raised or not base.strip() or base[-1:].isspace():
        return raised
    if _ORDINAL.fullmatch(raised) or _SHORT_ORDINAL.fullmatch(base[-1:] + raised):
        return raised
    if _NOTE_MARK.fullmatch(raised) and not _KNOWN_UNITS.search(base):
        is_prose = _PROSE_END.search(base) or (_YEAR_END.search(base) and raised[0].isdigit())
        if is_prose and not (base.endswith(")") and len(raised) == 1 and raised.isdigit()):
            return f"[{raised}]"
    if _EXPONENT.fullmatch(raised):
        return f"^{raised}"
    is_formula = any(character.isdigit() or character in "+−-–/=" for character in raised) and " " not in raised
    return f"^({raised})" if is_formula and not raised.startswith(("[", "(")) else raised


def mathml_text(element: Any) -> str:
    """A MathML element as a line of text; annotations, which say the same again, are left out."""
    text = _mathml(element, 0)
    return " ".join(text.split()) or str(element.get("alttext") or "")


def omml_text(element: Any) -> str:
    """An equation of Word as a line of text."""
    return " ".join(_omml(element, 0).split())


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _joined(pieces: list[str]) -> str:
    """Pieces side by side; a space where two words would grow together."""
    text = ""
    for piece in pieces:
        runs_on = (_WORD_END.search(text) and _LETTER_BEGIN.match(piece)) or (
            _LETTER_END.search(text) and _WORD_BEGIN.match(piece) and not piece[0].isdigit()
        )
        text += f" {piece}" if runs_on else piece
    return text


def _grouped(text: str) -> str:
    text = text.strip()
    return text if not text or _SINGLE.fullmatch(text) else f"({text})"


def _fraction(above: str, below: str) -> str:
    return f"{_grouped(above)}/{_grouped(below)}"


def _scripts(base: str, below: str = "", above: str = "") -> str:
    base = base if len(base) <= 1 or _SINGLE.fullmatch(base) or base in {"∑", "∏", "∫"} else _grouped(base)
    return base + (f"_{_grouped(below)}" if below else "") + (f"^{_grouped(above)}" if above else "")


def _root(radicand: str, degree: str = "") -> str:
    signs = {"": "√", "2": "√", "3": "∛", "4": "∜"}
    return f"{signs[degree]}({radicand})" if degree in signs else f"({radicand})^(1/{degree})"


def _all_text(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _mathml(element: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return _all_text(element)
    name = _name(element).lower()
    if name in {"annotation", "annotation-xml", "mphantom", "none", "mprescripts", "maligngroup", "malignmark"}:
        return ""
    if name in {"mi", "mn", "mo", "mtext", "ms"}:
        text = " ".join(_all_text(element).translate(_INVISIBLE).split())
        return f" {text} " if name == "mtext" and text else text
    if name == "mspace":
        return " "
    parts = [_mathml(child, depth + 1) for child in element if _name(child)]
    first, second, third = [*parts, "", "", ""][:3]
    if name == "mfrac" and len(parts) >= 2:
        return _fraction(first, second)
    if name in {"msup", "mover"}:
        is_accent = name == "mover" and (
            element.get("accent") == "true" or second in {"¯", "^", "~", "→", "˙", "‾", "―"}
        )
        return (
            first + ("" if is_accent else _scripts("", "", second)) if name == "mover" else _scripts(first, "", second)
        )
    if name in {"msub", "munder"}:
        return _scripts(first, second)
    if name in {"msubsup", "munderover"}:
        return _scripts(first, second, third)
    if name == "msqrt":
        return _root(_joined(parts))
    if name == "mroot":
        return _root(first, second)
    if name == "mfenced":
        separator = (element.get("separators") or ",")[:1]
        return (element.get("open") or "(") + f"{separator} ".join(parts) + (element.get("close") or ")")
    if name in {"semantics", "maction"}:
        return first
    if name == "mtable":
        return f"[{'; '.join(parts)}]"
    if name in {"mtr", "mlabeledtr"}:
        return ", ".join(parts)
    text = " ".join((element.text or "").split()) if not parts else ""
    return text or _joined(parts)


def _omml(element: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return _all_text(element)
    name = _name(element)
    if name == "t":
        return str(element.text or "").translate(_INVISIBLE)
    if name.endswith("Pr") or name in {"instrText", "delText", "del"}:
        return ""

    def part(child: str) -> str:
        found = element.find("{*}" + child)
        return _omml(found, depth + 1) if found is not None else ""

    def sign(child: str, default: str) -> str:
        properties = element.find("{*}" + name + "Pr")
        found = properties.find("{*}" + child) if properties is not None else None
        if found is None:
            return default
        return next((str(value) for key, value in found.attrib.items() if key.endswith("val")), "")[:4]

    if name == "f":
        return _fraction(part("num"), part("den"))
    if name in {"sSup", "sSub", "sSubSup"}:
        return _scripts(part("e"), part("sub"), part("sup"))
    if name == "sPre":
        return _scripts("", part("sub"), part("sup")) + part("e")
    if name == "rad":
        return _root(part("e"), part("deg").strip())
    if name == "nary":
        return f"{_scripts(sign('chr', '∫'), part('sub'), part('sup'))} {part('e')}"
    if name in {"limLow", "limUpp"}:
        return _scripts(part("e"), part("lim")) if name == "limLow" else _scripts(part("e"), "", part("lim"))
    if name == "func":
        return _joined([part("fName"), part("e")])
    pieces = [_omml(child, depth + 1) for child in element if _name(child)]
    if name == "d":
        separator = f" {sign('sepChr', '|')} "
        return sign("begChr", "(") + separator.join(piece for piece in pieces if piece) + sign("endChr", ")")
    if name == "m":
        return f"[{'; '.join(piece for piece in pieces if piece)}]"
    if name in {"mr", "eqArr"}:
        return (", " if name == "mr" else "; ").join(piece for piece in pieces if piece)
    return "".join(pieces) if name == "r" else _joined(pieces)
