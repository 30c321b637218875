"""Numbers with their units, times and dates of a text: 14 days are not 14 months, and 1.5 hours are 90 minutes.

Units are those of the SI brochure (9th edition), of everyday English and its trades; currencies have the signs and
names of ISO 4217. A number that no unit follows is a count; one of four digits between 1000 and 2100 may be a year.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lift.tasks.rules.lexicon import words

_UNITS: dict[str, dict[str, float]] = {
    # dimension: words and their factor to the first unit
    "time_s": {"s sec secs second seconds": 1, "min mins minute minutes": 60, "h hr hrs hour hours": 3600,
               "day days": 86400, "week weeks": 604800, "fortnight fortnights": 1209600},
    "time_months": {"month months": 1, "quarter quarters": 3, "year years yr yrs": 12, "decade decades": 120,
                    "century centuries": 1200},
    "time_nights": {"night nights": 1},
    "length_m": {"m metre metres meter meters": 1, "mm millimetre millimetres millimeter millimeters": 0.001,
                 "cm centimetre centimetres centimeter centimeters": 0.01,
                 "km kilometre kilometres kilometer kilometers": 1000,
                 "inch inches": 0.0254, "ft foot feet": 0.3048, "yard yards yd": 0.9144, "mile miles": 1609.344,
                 "fathom fathoms": 1.8288},
    "mass_g": {"g gram grams gramme grammes": 1, "mg milligram milligrams": 0.001,
               "kg kilo kilos kilogram kilograms": 1000,
               "t tonne tonnes": 1e6, "ton tons": 1.016e6, "lb lbs": 453.592, "ounce ounces oz": 28.3495},
    "volume_l": {"l litre litres liter liters": 1, "ml millilitre millilitres milliliter milliliters": 0.001,
                 "cl centilitre centilitres": 0.01, "gallon gallons": 4.54609, "pint pints": 0.568},
    "area_m2": {"hectare hectares ha": 10_000, "acre acres": 4046.86},
    "power_w": {"w watt watts": 1, "kw kilowatt kilowatts": 1000, "mw megawatt megawatts": 1e6, "hp horsepower": 745.7},
    "energy_j": {"kwh": 3.6e6, "j joule joules": 1, "kj": 1000, "kcal": 4184},
    "tension_v": {"v volt volts": 1, "mv": 0.001, "kv": 1000},
    "current_a": {"ampere amperes amp amps": 1, "ma milliampere milliamperes": 0.001},
    "pressure_bar": {"bar bars": 1, "mbar": 0.001, "psi": 0.0689476},
    "sound_db": {"db decibel decibels": 1},
    "frequency_hz": {"hz hertz": 1, "khz": 1000, "mhz": 1e6, "ghz": 1e9},
    "data_byte": {"byte bytes": 1, "kb": 1e3, "mb megabyte megabytes": 1e6, "gb gigabyte gigabytes": 1e9, "tb": 1e12},
    "temperature_c": {"°c celsius": 1},
    "temperature_f": {"°f fahrenheit": 1},
    "angle_deg": {"degree degrees °": 1},
    "percent": {"% percent pct": 1},
}  # fmt: skip
_CURRENCIES = {
    "eur": "€ euro euros eur",
    "gbp": "£ pound pounds gbp sterling",
    "usd": "$ dollar dollars usd",
    "jpy": "¥ yen jpy",
    "inr": "₹ rupee rupees inr",
    "chf": "franc francs chf",
    "crown": "crown crowns krona kronor kroner krone sek nok dkk",
    "guinea": "guinea guineas",
    "shilling": "shilling shillings",
    "pence": "penny pence p",
    "cent": "cent cents ct",
}
UNITS: dict[str, tuple[str, float]] = {
    word: (dimension, factor)
    for dimension, units in _UNITS.items()
    for listed, factor in units.items()
    for word in listed.split()
}
UNITS |= {word: (f"money_{code}", 1.0) for code, listed in _CURRENCIES.items() for word in listed.split()}
# single letters and short words that are units behind a figure alone
_BARE_SYMBOLS = words("s m g t l w v h j p ha min mw")
_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = dict(
    zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10), strict=True)
)
_NUMBER_WORDS: dict[str, float] = {word: float(value) for value, word in enumerate(_SMALL)} | {
    word: float(value) for word, value in _TENS.items()
}
_NUMBER_WORDS |= {"dozen": 12.0, "half": 0.5, "quarter": 0.25, "third": 1 / 3, "twice": 2.0, "once": 1.0, "both": 2.0}
_MULTIPLIERS = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "m": 1e6, "bn": 1e9, "k": 1e3}
_ORDINALS = dict(
    zip(
        [
            "first",
            "second",
            "third",
            "fourth",
            "fifth",
            "sixth",
            "seventh",
            "eighth",
            "ninth",
            "tenth",
            "eleventh",
            "twelfth",
        ],
        range(1, 13),
        strict=True,
    )
)
MONTHS = dict(
    zip(
        [
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
        ],
        range(1, 13),
        strict=True,
    )
)
_MONTHS = MONTHS | {name[:3]: number for name, number in MONTHS.items()} | {"sept": 9}
_MONTH = r"(?P<month>{})\b\.?".format("|".join(sorted((name.capitalize() for name in _MONTHS), key=len, reverse=True)))
_DATES = [
    re.compile(r"\b(?P<year>[12]\d{3})-(?P<number>\d{2})-(?P<day>\d{2})\b"),
    re.compile(rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? (?P<year>[12]\d{{3}}))?"),
    re.compile(rf"\b{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)(?:,? (?P<year>[12]\d{{3}})\b)?"),
    re.compile(rf"\b{_MONTH}(?:,? (?P<year>[12]\d{{3}})\b)"),
    re.compile(r"\b(?P<day>\d{1,2})[./](?P<number>\d{1,2})[./](?P<year>[12]\d{3})\b"),
]
_TIME = re.compile(
    r"\b(?P<hour>\d{1,2})(?:[:.](?P<minute>[0-5]\d))?(?:\s*(?P<half>[ap])\.?\s?m\b\.?|\s*o['’]?clock\b(?P<clock>))"
    r"|\b(?P<hour24>[01]?\d|2[0-4]):(?P<minute24>[0-5]\d)\b",
    re.IGNORECASE,
)
_WORD_TIME = re.compile(
    r"\b(?P<noon>noon|midday)\b|\b(?P<midnight>midnight)\b"
    r"|\b(?P<word>one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d{1,2})"
    r"(?: o['’]?clock)? in the (?P<part>morning|afternoon|evening)\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(
    r"(?<![\w.,])(?P<sign>[-−])?(?P<currency>[$€£¥₹])?\s?"
    r"(?P<figure>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)"
    r"|\d+(?:[.,]\d+)?)"
    r"(?P<ordinal>st|nd|rd|th)?(?![\d])"
)
_WORDS = re.compile(r"[^\W\d_]+|[%°€£$¥₹]+[CFcf]?\b|[%€£$¥₹°]")
_NUMBER_RUN = re.compile(
    r"\b(?:{words})(?:[ -](?:and )?(?:{words}))*\b".format(
        words="|".join(sorted([*_NUMBER_WORDS, "hundred", "thousand", "million", "billion"], key=len, reverse=True))
    ),
    re.IGNORECASE,
)
_LOWER_BOUND = re.compile(
    r"\b(?:at least|more than|over|above|minimum(?: of)?|"
    r"(?:not|no) (?:less|fewer|smaller|earlier|cooler|shorter|lower) than|"
    r"(?:larg|long|wid|high|old|strong|warm|heavi|great|bigg|lat)er than)\s*$",
    re.IGNORECASE,
)
_UPPER_BOUND = re.compile(
    r"\b(?:at most|up to|below|under|(?<!not )(?<!no )(?:less|fewer) than|maximum(?: of)?|not over|not above|"
    r"(?:not|no|never) (?:be |[a-z]+ )?(?:more|longer|later|larger|wider|warmer|higher|older|bigger|greater|heavier"
    r"|stronger|worth more) than|"
    r"(?:small|short|low|young|earli|cool)er than)\s*$",
    re.IGNORECASE,
)
_BOUND_CHARS = 64
_NEGATED_LOWER_BOUND = re.compile(
    r"\b(?:no|not|never|nobody|cannot|[a-z]+n['’]t)\b[^.;,]{0,48}\b(?:more|longer|larger|older|later|warmer|wider|higher|over)"
    r" than\s*$",
    re.IGNORECASE,
)
_JOINING = re.compile(r"\s*(?:to|or|and|-|–|—|through|until)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number, time or date at text[start:end].

    `dimension`: of UNITS, "clock" (minutes of the day), "date", "ordinal", or "" for a bare number. `value` is in the
    first unit of its dimension, `written` as the text has it; `date` is (year, month, day) with 0 for what is not said.
    `bound`: 1 for at least, -1 for at most.
    """

    dimension: str
    value: float
    written: float
    start: int
    end: int
    date: tuple[int, int, int] = (0, 0, 0)
    bound: int = 0

    @property
    def family(self) -> str:
        """The sort of thing that it measures: "money", "time", "length", ... or "number"."""
        if self.dimension in ("clock", "date"):
            return "time"
        return self.dimension.partition("_")[0] or "number"

    @property
    def may_be_year(self) -> bool:
        """Whether a bare number can be a year."""
        return not self.dimension and self.value == int(self.value) and 1000 <= self.value <= 2100


def read_quantities(text: str) -> list[Quantity]:
    """The quantities of a text, in order and without overlap."""
    found: list[Quantity] = []
    taken = [False] * (len(text) + 1)

    def take(quantity: Quantity | None) -> None:
        if quantity is not None and not any(taken[quantity.start : quantity.end]):
            taken[quantity.start : quantity.end] = [True] * (quantity.end - quantity.start)
            found.append(quantity)

    for pattern in _DATES:
        for match in pattern.finditer(text):
            take(_date(match))
    for match in _TIME.finditer(text):
        take(_clock(match))
    for match in _WORD_TIME.finditer(text):
        take(_spoken_clock(match))
    for match in _FIGURE.finditer(text):
        take(_figure(text, match))
    for match in _NUMBER_RUN.finditer(text):
        take(_spelled(text, match))
    for match in _WORDS.finditer(text):
        take(_named_date(text, match))
    return _with_shared_units(text, sorted(found, key=lambda each: each.start))


def agree(said: Quantity, told: Quantity, wanted: str = "") -> bool:
    """Whether `told` in a text bears out `said`; a bare number is of the family `wanted` that a question asks for.

    A said bound must not be turned round; a date may say less than the text does, not more.
    """
    if said.bound * told.bound < 0:
        return False
    if said.dimension == told.dimension == "date":
        return all(mine in (0, theirs) for mine, theirs in zip(said.date, told.date, strict=True))
    if said.dimension == "date" or told.dimension == "date":
        date, other = (said, told) if said.dimension == "date" else (told, said)
        return other.may_be_year and other.value == date.date[0] and (other is said or date.date[1:] == (0, 0))
    if said.dimension == told.dimension:
        return _near(said.value, told.value)
    if {said.dimension, told.dimension} == {"", "clock"}:
        bare, clock = (said, told) if not said.dimension else (told, said)
        return bare.value * 60 in (clock.value, (clock.value - 720) % 1440)
    if not said.dimension and wanted in ("", "number", "measure", "frequency", told.family):
        return _near(said.value, told.written)
    return False


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


def _date(match: re.Match[str]) -> Quantity | None:
    groups = match.groupdict()
    name = groups.get("month")
    month = _MONTHS[name.lower().rstrip(".")] if name else int(groups["number"])
    day, year = int(groups.get("day") or 0), int(groups.get("year") or 0)
    if month > 12 and day <= 12:
        month, day = day, month
    if month > 12 or day > 31:
        return None
    return Quantity("date", 0.0, 0.0, match.start(), match.end(), (year, month, day))


def _clock(match: re.Match[str]) -> Quantity | None:
    groups = match.groupdict()
    hour = int(groups["hour"] or groups["hour24"])
    minutes = hour * 60 + int(groups["minute"] or groups["minute24"] or 0)
    if groups["half"]:
        minutes = minutes % 720 + (720 if groups["half"].lower() == "p" else 0)
    return Quantity("clock", minutes, minutes, match.start(), match.end()) if hour <= 24 else None


def _spoken_clock(match: re.Match[str]) -> Quantity | None:
    if match["noon"] or match["midnight"]:
        minutes = 720 if match["noon"] else 0
        return Quantity("clock", minutes, minutes, match.start(), match.end())
    word = match["word"].lower()
    hour = int(word) if word.isdigit() else int(_NUMBER_WORDS[word])
    if hour > 12:
        return None
    minutes = hour % 12 * 60 + (0 if match["part"].lower() == "morning" else 720)
    return Quantity("clock", minutes, minutes, match.start(), match.end())


def _figure(text: str, match: re.Match[str]) -> Quantity | None:
    figure = match["figure"]
    if re.fullmatch(r"\d{1,3}(?:[,. \u00a0\u202f]\d{3})+(?:\.\d+)?", figure) and figure.count(".") != 1:
        figure = re.sub(r"[, \u00a0\u202f]", "", figure)
        figure = figure.replace(".", "") if figure.count(".") > 1 else figure
    elif re.fullmatch(r"\d{1,3}(?:,\d{3})+\.\d+", figure):
        figure = figure.replace(",", "")
    value = float(figure.replace(",", "."))
    start = match.start("currency") if match["currency"] else match.start("figure")
    if match["sign"]:
        value, start = -value, match.start("sign")
    if match["ordinal"]:
        return Quantity("ordinal", value, value, start, match.end())
    return _measured(text, value, start, match.end(), match["currency"])


def _spelled(text: str, match: re.Match[str]) -> Quantity | None:
    words = re.findall(r"[a-z]+", match.group().lower())
    value, group = 0.0, 0.0
    for word in words:
        if word in _MULTIPLIERS:
            group = (group or 1.0) * _MULTIPLIERS[word]
            if word != "hundred":
                value, group = value + group, 0.0
        elif word in _NUMBER_WORDS:
            group += _NUMBER_WORDS[word]
    if words == ["second"]:
        return None
    return _measured(text, value + group, match.start(), match.end(), None)


def _measured(text: str, value: float, start: int, end: int, currency: str | None) -> Quantity:
    """The number with a multiplier and the unit that follow it."""
    written = value
    following = re.match(r"[\s-]?(hundred|thousand|million|billion|bn|m|k)\b", text[end : end + 12], re.IGNORECASE)
    if following and (len(following[1]) > 2 or currency):
        value = written = value * _MULTIPLIERS[following[1].lower()]
        end += following.end()
    before = text[max(0, start - _BOUND_CHARS) : start]
    bound = (
        -1
        if _UPPER_BOUND.search(before) or _NEGATED_LOWER_BOUND.search(before)
        else 1
        if _LOWER_BOUND.search(before)
        else 0
    )
    if currency:
        return Quantity(UNITS[currency][0], value, written, start, end, bound=bound)
    unit = re.match(
        r"[\s\u00a0-]{0,2}(per cent\b|kilowatt-hours?\b|°\s?[CF]\b|[%€£$¥₹°]|[^\W\d_]+)", text[end : end + 24]
    )
    if unit:
        name = unit[1].lower().replace(" ", "")
        name = {"percent": "percent", "kilowatt-hour": "kwh", "kilowatt-hours": "kwh"}.get(name, name)
        known = UNITS.get(name)
        bare_symbol = name in _BARE_SYMBOLS and not text[start].isdigit()
        if known and not bare_symbol:
            return Quantity(known[0], value * known[1], written, start, end + unit.end(), bound=bound)
    half = re.match(r"\s+and a half(?:\s+([a-z]+))?", text[end : end + 24])
    if half:
        known = UNITS.get(half[1] or "", ("", 1.0))
        return Quantity(known[0], (value + 0.5) * known[1], written + 0.5, start, end + half.end(), bound=bound)
    return Quantity("", value, written, start, end, bound=bound)


def _named_date(text: str, match: re.Match[str]) -> Quantity | None:
    word = match.group()
    if word.lower() in _ORDINALS and word.lower() != "second":
        value = float(_ORDINALS[word.lower()])
        return Quantity("ordinal", value, value, match.start(), match.end())
    if word[:1].isupper() and word.lower() in MONTHS:
        # "May" begins many a question
        if word == "May" and (match.start() == 0 or text[: match.start()].rstrip().endswith((".", "?", "!"))):
            return None
        return Quantity("date", 0.0, 0.0, match.start(), match.end(), (0, MONTHS[word.lower()], 0))
    return None


def _with_shared_units(text: str, found: list[Quantity]) -> list[Quantity]:
    """In "10 to 12 days" the 10 is of days, too."""
    shared = list(found)
    for number in range(len(shared) - 2, -1, -1):
        one, other = shared[number], shared[number + 1]
        if one.dimension or not other.dimension or other.dimension in ("clock", "date", "ordinal"):
            continue
        if _JOINING.fullmatch(text[one.end : other.start]) and other.written:
            shared[number] = replace(one, dimension=other.dimension, value=one.value * other.value / other.written)
    return shared
