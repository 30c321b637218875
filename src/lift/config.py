"""Configuration objects: frozen, validated, and unknown keys refused with the nearest known one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from lift.errors import RecipeError, nearest_names


class Settings(BaseModel):
    """Base of every configuration section: immutable, and it names the nearest known key for an unknown one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], origin: str) -> Self:
        """Validate `values`; raises RecipeError with every problem found, each with its key and `origin`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [_describe(problem, cls) for problem in error.errors()]
            raise RecipeError(f"{origin}: " + "; ".join(problems)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with each "section.key=value" applied; the value is read as TOML, else as a plain string."""
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for override in overrides:
        path, separator, text = override.partition("=")
        section, dot, key = path.strip().partition(".")
        if not separator or not dot or not key:
            raise RecipeError(f"expected --set section.key=value, got {override!r}; for example training.epochs=3")
        target = merged.setdefault(section, {})
        if not isinstance(target, dict):
            raise RecipeError(f"{section!r} is not a section, so {path!r} cannot be set")
        target[key] = _parse_value(text.strip())
    return merged


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _describe(problem: Any, root: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(location, root)
        near = nearest_names(location[-1], known)
        hint = f"the nearest known one is {near[0]!r}" if near else f"known here are {', '.join(known)}"
        return f"unknown key {path!r}" + (f", {hint}" if known else "")
    return f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _keys_beside(location: list[str], root: type[BaseModel]) -> list[str]:
    model: type[BaseModel] = root
    for part in location[:-1]:
        if part.isdigit():  # the place in a list, whose items were found with the list
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inside = [annotation, *get_args(annotation)]
        sections = [each for each in inside if isinstance(each, type) and issubclass(each, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
