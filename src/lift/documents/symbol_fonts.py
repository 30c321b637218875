"""Characters of the symbol fonts of Office -> Unicode: ticks and boxes of forms, bullets, arrows, Greek, mathematics.

Word writes them as codes of the font, at F000 + code, which say nothing in any other font.
"""

from __future__ import annotations

_WINGDINGS = dict(
    zip(
        bytes.fromhex("28 2a 4a 4c 6c 6d 6e 6f 70 71 72 74 75 76 9f a1 a4 a7 a8 d8 df e0 e1 e2 e8 f0 fb fc fd fe"),
        "☎✉☺☹●○■☐☐☐☐◆◆❖•○◉▪☐➢←→↑↓➔⇨✗✓☒☑",
        strict=True,
    )
)
_WINGDINGS_2 = dict(zip(bytes.fromhex("4f 50 51 52 53 54 97 a2 a3 ae"), "✗✓☒☑☒☒●■☐◆", strict=True))
_WEBDINGS = dict(zip(bytes.fromhex("61 63 67 72"), "✓☐■✗", strict=True))
_SYMBOL = {
    **{code: chr(code) for code in range(0x20, 0x7F)},
    **dict(zip(range(0x41, 0x5B), "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", strict=True)),
    **dict(zip(range(0x61, 0x7B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True)),
    **dict(zip(bytes.fromhex("22 24 27 2d 40 5c 5e"), "∀∃∋−≅∴⊥", strict=True)),
    **dict(zip(range(0xA2, 0xBD), "′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…", strict=True)),
    **dict(zip(range(0xC5, 0xD2), "⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇", strict=True)),
    **dict(zip(range(0xD5, 0xE0), "∏√⋅¬∧∨⇔⇐⇑⇒⇓", strict=True)),
    0xE5: "∑",
    0xF2: "∫",
}
_FONTS = {"wingdings": _WINGDINGS, "wingdings 2": _WINGDINGS_2, "webdings": _WEBDINGS, "symbol": _SYMBOL}
_PRIVATE = range(0xF020, 0xF100)


def symbol_character(font: str | None, code: int) -> str | None:
    """The character that a code of a symbol font shows, None where it has none in Unicode that is known here."""
    table = _FONTS.get((font or "").strip().lower())
    return table.get(code & 0xFF) if table is not None and (code in _PRIVATE or 0x20 <= code <= 0xFF) else None


def is_private(character: str) -> bool:
    """Whether a character is a code of some symbol font."""
    return ord(character) in _PRIVATE
