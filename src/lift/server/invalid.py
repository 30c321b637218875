"""Faults of validation -> one sentence that names the value as the caller wrote it.

Pydantic tells of every branch of a union apart, under names of its own ("messages.0.content.list[TextPart].0.type").
Here such names are left out of the place, branches that the value did not mean are passed over, and what the others
expect is said together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN_CHARS = 60
_SOURCES = ("body", "query", "path", "header", "cookie")
# The kinds of JSON, by the fault that says that a value is of another one.
_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("of at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("of at most", "le"),
}


@dataclass(frozen=True)
class Invalid:
    """The sentence, and the place of the value: "messages.0.content", "" for the body as a whole."""

    message: str
    place: str
    code: str = "invalid_value"


@dataclass(frozen=True)
class _Fault:
    type: str
    place: tuple[str, ...]
    union: tuple[str, ...] | None
    """Where the branches of a union begin; None outside of unions."""
    value: Any
    message: str
    bounds: Mapping[str, Any]


def describe_invalid(errors: Sequence[Mapping[str, Any]], body: Any) -> Invalid:
    """The first fault of pydantic's `errors` in a sentence; `body` is the JSON that the caller sent."""
    faults = [_fault(error, body) for error in errors]
    # a branch that wants another kind of value was not meant where a fault lies within the value
    meant = [
        fault
        for fault in faults
        if not (fault.union == fault.place and any(_within(other.place, fault.place) for other in faults))
    ]
    first = meant[0]
    place = ".".join(first.place)
    if first.type == "json_invalid":
        return Invalid("expected a body of valid JSON, got something else; mend it", "", "invalid_json")
    if not first.place and first.type in ("model_type", "model_attributes_type", "missing"):
        return Invalid(
            "expected a JSON object as body, sent with Content-Type: application/json, got something else; send one",
            "",
            "invalid_json",
        )
    if first.type == "extra_forbidden":
        return Invalid(f"unknown parameter {place!r}; leave it out", place, "unknown_parameter")
    if first.type == "missing":
        return Invalid(f"expected {place}, got a request without it; add it", place)
    expected = list(dict.fromkeys(filter(None, (_expectation(each) for each in meant if each.place == first.place))))
    if not expected:
        said = first.message.removeprefix("Value error, ")
        said = f"{said[:1].lower()}{said[1:]}"
        return Invalid(f"{place}: {said}" if place else said, place)
    return Invalid(f"expected {place} to be {' or '.join(expected)}, got {_shown(first)}; {_advice(meant)}", place)


def _fault(error: Mapping[str, Any], body: Any) -> _Fault:
    location = list(error["loc"])
    is_json = bool(location) and location[0] == "body" and isinstance(body, dict | list)
    if location and location[0] in _SOURCES:
        location = location[1:]
    place, union, value = [], None, body
    for number, part in enumerate(location):
        written = _step(value, part) if is_json else (None,)
        if written is not None:
            place.append(_key(part))
            (value,) = written
        elif error["type"] == "missing" and number == len(location) - 1:
            place.append(_key(part))
        else:  # pydantic's name for a branch of a union
            union = tuple(place) if union is None else union
    return _Fault(
        error["type"], tuple(place), union, error.get("input"), str(error["msg"]), dict(error.get("ctx") or {})
    )


def _step(value: Any, part: Any) -> tuple[Any] | None:
    """The value under `part` in `value`, None without one."""
    if isinstance(value, dict) and part in value:
        return (value[part],)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return (value[part],)
    return None


def _within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _expectation(fault: _Fault) -> str:
    """The expectation, as words behind "to be"; "" where the fault has a sentence of its own."""
    bounds = fault.bounds
    if fault.type in _KINDS:
        return _KINDS[fault.type]
    if fault.type in _BOUNDS:
        word, key = _BOUNDS[fault.type]
        return f"a number {word} {_number(bounds[key])}"
    if fault.type == "literal_error":
        return str(bounds["expected"])
    if fault.type == "too_short":
        return f"a list of at least {_counted(bounds['min_length'], 'item')}"
    if fault.type == "too_long":
        return f"at most {_counted(bounds['max_length'], 'item')}" if bounds["max_length"] else "empty"
    if fault.type == "string_too_short":
        return f"a text of at least {_counted(bounds['min_length'], 'character')}"
    if fault.type == "string_too_long":
        return f"a text of at most {_counted(bounds['max_length'], 'character')}"
    if fault.message.startswith("Value error, Expected UploadFile"):
        return "a file, sent as a part of a form with a file name"
    return ""


def _advice(faults: Sequence[_Fault]) -> str:
    kinds = {fault.type for fault in faults if fault.place == faults[0].place}
    if "too_long" in kinds:
        return "leave some out"
    return "leave it out" if "none_required" in kinds else "give another value"


def _shown(fault: _Fault) -> str:
    value = fault.value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        if fault.type == "string_too_long":
            return _counted(len(value), "character")
        return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "...")
    if isinstance(value, list | tuple):
        return _counted(len(value), "item") if value else "an empty list"
    return "an object"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**18 else f"{value:g}"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _key(part: Any) -> str:
    """A key as the caller wrote it, without what cannot be printed, and not too long."""
    return re.sub(r"[^\x20-\x7e]", "?", str(part))[:_SHOWN_CHARS]
