"""Base models that are known to work with Lift, from the packaged list, and whether their weights are on this machine.

Nothing here reaches the network.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lift.config import Settings
from lift.errors import ModelError
from lift.models.decoder_arithmetic import Shape
from lift.models.fingerprint import weight_files
from lift.models.smollm2 import smollm2_gguf

_LIST = "known_models.toml"
# Norms, biases of attention: what the stated parameters may have beyond the matrices.
_SMALL_SHARE = 0.001

WeightsPlace = Literal["package", "file", "directory", "hub cache"]


class KnownModel(Settings):
    """A base model by its configuration. `model`: what --model takes.

    `instruct`: tuned on instructions, so it answers before it is tuned here. `restriction`: how its licence restricts
    its use, empty for none. `ran`: where Lift was run with it; empty where it is listed by its configuration alone.
    `get`: a command that brings weights which --model does not fetch by itself.
    """

    model: str = Field(min_length=1)
    architecture: str = Field(min_length=1)
    parameters: int = Field(ge=1)
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    heads: int = Field(ge=1)
    key_value_heads: int = Field(ge=1)
    head_size: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    tied: bool
    window_tokens: int = Field(ge=1)
    instruct: bool
    licence: str = Field(min_length=1)
    restriction: str = ""
    note: str = ""
    ran: str = ""
    get: str = ""

    @model_validator(mode="after")
    def _parameters_follow_from_sizes(self) -> Self:
        matrices = self._body + (1 if self.tied else 2) * self.vocabulary * self.hidden
        if not matrices <= self.parameters <= (1 + _SMALL_SHARE) * matrices:
            raise ValueError(
                f"expected about {matrices:,} parameters of {self.model} by its sizes, got {self.parameters:,}"
            )
        return self

    @property
    def name(self) -> str:
        """The last part of a hub id or path, for tables."""
        return self.model.rpartition("/")[2].removesuffix(".gguf")

    @property
    def shape(self) -> Shape:
        """Its counts, for arithmetic."""
        head = self.vocabulary * self.hidden
        return Shape(
            name=self.name,
            body=self._body,
            head=head,
            other=self.parameters - self._body - head,
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            vocabulary=self.vocabulary,
            key_value=2 * self._key_value,
            inputs=self.layers * (5 * self.hidden + self._queries + self.intermediate),
            outputs=self.layers * (2 * self.hidden + self._queries + 2 * self._key_value + 2 * self.intermediate),
        )

    @property
    def _queries(self) -> int:
        return self.heads * self.head_size

    @property
    def _key_value(self) -> int:
        return self.key_value_heads * self.head_size

    @property
    def _body(self) -> int:
        attention = 2 * self.hidden * (self._queries + self._key_value)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


class _KnownModels(Settings):
    models: tuple[KnownModel, ...] = Field(min_length=1)


@cache
def known_models() -> tuple[KnownModel, ...]:
    """The packaged list, the smallest first; raises RecipeError where it is not valid."""
    text = resources.files("lift.models").joinpath(_LIST).read_text("utf-8")
    return _KnownModels.parse(tomllib.loads(text), _LIST).models


def find_weights(model: str) -> WeightsPlace | None:
    """The place on this machine that load_model would take the weights of `model` from; None where it has to fetch."""
    if model == "smollm2":
        try:
            smollm2_gguf()
        except ModelError:
            return None
        return "package"
    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return "directory" if _is_whole(path) else None
    if path.is_file():
        return "file"
    if path.suffix == ".gguf":
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return "hub cache" if _is_whole(snapshot) else None


def _is_whole(directory: Path) -> bool:
    """Whether load_model finds a configuration and all weights; a fetch that was broken off leaves less."""
    try:
        return (directory / "config.json").is_file() and bool(weight_files(directory))
    except ModelError:
        return False
