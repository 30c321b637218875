"""The identity of an absorption: two with the same identity give the same memory, so the second is not trained.

Kept in the manifest, so that it can be said in which part two absorptions of one text differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lift.models.base_identity import BaseIdentity, Digest

_Version = Annotated[int, Field(ge=0, le=1_000_000)]


class AbsorptionIdentity(BaseModel):
    """All that an absorption's memory depends on.

    `text`, `titles`, `weights`, `recipe` and `warm_start` are SHA-256 (hex): of the text, of the title of the whole
    and of each part, of the base's tensors, of the settings as they are followed on that base, and of the tensors that
    the adapter begins at. `budget_s` is in seconds, None without a budget. The versions are those of the code that
    writes tasks by rules (None where another generator does), makes examples of them and trains, and follows recipes.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    text: Digest
    titles: Digest
    weights: Annotated[str, Field(min_length=1, max_length=200)]
    base: BaseIdentity
    recipe: Digest
    warm_start: Digest | None
    budget_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    rules_version: _Version | None
    training_version: _Version
    recipe_version: _Version

    @property
    def key(self) -> str:
        """SHA-256 (hex) of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def differences(self, now: AbsorptionIdentity) -> tuple[str, ...]:
        """In words, what of it is otherwise `now`; empty where nothing is."""
        return tuple(self._differences(now))

    def _differences(self, now: AbsorptionIdentity) -> Iterator[str]:
        for name, what in _HASHED.items():
            if getattr(self, name) != getattr(now, name):
                yield f"it was made with {what}"
        for name, what in _BASE_HASHED.items():
            if getattr(self.base, name) != getattr(now.base, name):
                yield f"it was made with {what}"
        for name, what in _VERSIONS.items():
            before, after = getattr(self, name), getattr(now, name)
            if before != after and before is not None and after is not None:
                yield f"it was made with {what} {before}, and these are {what} {after}"
        if self.base.dtype != now.base.dtype:
            yield f"it was made in {self.base.dtype}, and this base computes in {now.base.dtype}"
        if self.base.quantization != now.base.quantization:
            before, after = self.base.quantization or "unquantised", now.base.quantization or "unquantised"
            yield f"it was made on {before} weights, and these are {after}"
        if self.budget_s != now.budget_s:
            yield f"it was made {_budget(self.budget_s)}, and this is {_budget(now.budget_s)}"


_HASHED = {
    "text": "another text",
    "titles": "another title",
    "weights": "other weights of the base model",
    "recipe": "other settings of the recipe",
    "warm_start": "another warm start",
}
_BASE_HASHED = {"tokenizer": "another tokenizer", "chat_template": "another chat template"}
_VERSIONS = {"rules_version": "rules", "training_version": "training code", "recipe_version": "recipe code"}


def _budget(budget_s: float | None) -> str:
    return "without a budget" if budget_s is None else f"with a budget of {budget_s:g} s"
