"""Earlier absorptions: the memory of the same one is used again, of one of the same text it is said why it is not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.documents.document import Document
from lift.errors import LibraryError
from lift.memories.identity import AbsorptionIdentity
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.memories.memory_names import normal_name
from lift.models.base_model import BaseModel
from lift.recipes.recipe import RECIPE_VERSION
from lift.tasks.rules.rule_generator import RULES_VERSION
from lift.training.batch_sampler import TRAINING_VERSION


def absorption_identity(
    document: Document, base: BaseModel, resolved: ResolvedRecipe, budget_s: float | None
) -> AbsorptionIdentity:
    """Identity of an absorption: the same text, base, start, settings, budget and code give the same memory."""
    titles = [document.title, *(part.title for part in document.split())]
    recipe, start = resolved.recipe, resolved.warm_start
    return AbsorptionIdentity(
        text=document.sha256,
        titles=hashlib.sha256(json.dumps(titles).encode()).hexdigest(),
        weights=base.fingerprint,
        base=base.identity,
        recipe=recipe.digest(),
        warm_start=start.digest if start is not None else None,
        budget_s=budget_s,
        rules_version=RULES_VERSION if recipe.generator.kind == "rules" else None,
        training_version=TRAINING_VERSION,
        recipe_version=RECIPE_VERSION,
    )


def absorbed_before(
    library: MemoryLibrary, key: str, name: str | None, *, replace: bool = False
) -> StoredMemory | None:
    """The memory that came of the absorption `key`, under `name` where one is asked for (copied then), or None."""
    known = library.find(key, name)
    if known is not None and name is not None and name != known.name:
        return library.copy(known.name, name, replace=replace)
    return known


@dataclass(frozen=True)
class LikeMemory:
    """A memory of the same text that was made otherwise."""

    name: str
    differences: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Why it is not used again."""
        return f"the memory {self.name!r} of the same text is not used again: {', '.join(self.differences)}"


def like_memory(library: MemoryLibrary, identity: AbsorptionIdentity) -> LikeMemory | None:
    """The memory of the same text that differs in the fewest things, None where there is none, or one that does not."""
    like = min(_like_memories(library, identity), key=lambda each: len(each.differences), default=None)
    return like if like is not None and like.differences else None


def _like_memories(library: MemoryLibrary, identity: AbsorptionIdentity) -> list[LikeMemory]:
    found = []
    for summary in library.summaries():
        made = summary.manifest.identity if summary.manifest is not None else None
        if made is not None and made.text == identity.text:
            found.append(LikeMemory(summary.name, made.differences(identity)))
    return found


def free_name(library: MemoryLibrary, name: str, identity: AbsorptionIdentity, *, replace: bool = False) -> str:
    """As MemoryLibrary.check_free; of a memory of that name and the same text it is said why it is not used again."""
    try:
        return library.check_free(name, identity.key, replace=replace)
    except LibraryError as error:
        named = [like for like in _like_memories(library, identity) if like.name == normal_name(name)]
        if not named or not named[0].differences:
            raise
        raise LibraryError(f"{error}; {named[0].sentence}") from None
