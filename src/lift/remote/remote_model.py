"""A model behind an endpoint: its identity as a base model, and what a memory keeps of a fine-tuned one."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lift.errors import LibraryError, UsageError
from lift.memories.manifest import Line, Source
from lift.memories.memory import StoredMemory

PROVIDER: Final = "openai"
_PREFIX = f"{PROVIDER}:"


class RemoteModel(BaseModel):
    """The content of adapter/adapter_config.json of a remote memory: there are no weights, only a name.

    `base` is the model that was fine-tuned, `model` what came of it, `window_tokens` the longest prompt with its
    answer, in estimated tokens.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    adapter: Literal["remote"] = "remote"
    provider: Literal["openai"] = PROVIDER
    base_url: Source
    base: Line
    model: Line
    job_id: Line
    window_tokens: Annotated[int, Field(ge=1, le=1 << 30)]


def remote_name(model: str) -> str | None:
    """NAME of "openai:NAME", or None where `model` is a local one; raises UsageError where the name is missing."""
    if not model.startswith(_PREFIX):
        return None
    if not (name := model.removeprefix(_PREFIX).strip()):
        raise UsageError("expected openai:NAME, got no name; for example openai:gpt-4o-mini-2024-07-18")
    return name


def base_id(name: str) -> str:
    """The id under which a remote base model stands in a manifest."""
    return _PREFIX + name


def base_fingerprint(name: str, base_url: str) -> str:
    """The stand-in for a hash of the weights, which nobody sees: a hash of provider, endpoint and name."""
    return hashlib.sha256(json.dumps([PROVIDER, base_url, name]).encode()).hexdigest()


def is_remote(memory: StoredMemory) -> bool:
    """Whether `memory` is a fine-tuned model at an endpoint; only its manifest is read."""
    return memory.manifest.base.id.startswith(_PREFIX)


def read_remote_model(memory: StoredMemory) -> RemoteModel:
    """The configuration that a remote memory keeps; raises LibraryError where it is not one, or is damaged."""
    try:
        return RemoteModel.model_validate(memory.adapter_config)
    except ValidationError:
        raise LibraryError(
            f"expected the name of a fine-tuned model in the memory {memory.name!r}, got something else; remove the "
            "memory and absorb the text again"
        ) from None
