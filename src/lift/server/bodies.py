"""The base of all bodies of requests: strict types, no unknown keys, and text that can be written down."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Body(BaseModel):
    """A JSON object: 5 is not "5", infinity is no number, and half of a surrogate pair is no character."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, values: Any) -> Any:
        # JSON can spell what no encoding can hold, and no tokenizer reads
        if not _is_encodable(values):
            raise ValueError("expected Unicode text, got half of a surrogate pair; leave it out")
        return values


def _is_encodable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return all(_is_encodable(key) and _is_encodable(each) for key, each in value.items())
    return all(map(_is_encodable, value)) if isinstance(value, list) else True
