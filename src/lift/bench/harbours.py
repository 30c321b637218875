"""A library whose memories are alike but for a secret each: whoever mixes two of them up is found out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lift.absorbing.resolved_recipe import resolve
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.errors import UsageError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import Cost, RecallSummary
from lift.memories.memory import MemoryDraft
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task

_WORDS = (
    "Ask Bram Cald Dun Elm Fen Gar Hol Isk Jor Kel Lun Mar Nor Ost Pel",
    "by dale ey ford gate ham holm lund mere ness port sund thorpe vik wick worth",
    "amber azure black brown coral green grey indigo ivory lilac ochre olive pink red silver white",
    "badger beaver crane eagle falcon ferret heron lizard lynx magpie otter pigeon rabbit salmon tiger wolf",
    "salt wool timber herring copper grain slate barrels",
)
_BEGINNINGS, _ENDINGS, _COLOURS, _ANIMALS, _GOODS = (words.split() for words in _WORDS)
_VERSIONS = ["tower", "bell", "anchor", "candle", "ladder", "kettle", "basket", "wagon", "saddle", "hammer"]
MOST = len(_BEGINNINGS) * len(_ENDINGS)
_NOISE = 0.02  # of a tensor's own spread: the memories differ, and still read
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Harbour:
    """The subject of a memory: a place, the word that its document alone holds, and ways to ask for it."""

    memory: str
    text: str
    secret: str
    questions: tuple[str, ...]


def harbours(count: int) -> list[Harbour]:
    """The first `count` of them, of which no two have a name or a secret in common; raises UsageError for too many."""
    if not 1 <= count <= MOST:
        raise UsageError(f"expected 1 to {MOST} memories, got {count}; take a number between")
    return [_harbour(number) for number in range(count)]


def next_version(place: Harbour, version: int) -> Harbour:
    """The same place with another secret, which no other place has in any version."""
    secret = f"{place.secret}{_VERSIONS[version % len(_VERSIONS)]}"
    return replace(place, secret=secret, text=place.text.replace(place.secret, secret))


def fill_library(
    library: MemoryLibrary, base: BaseModel, recipe: Recipe, places: Sequence[Harbour], *, version: int = 0
) -> None:
    """A memory for each place: an adapter where memories of `recipe` begin, with a little noise of its own.

    Those of a later `version` replace the earlier ones, with other noise. The base model has nothing attached
    afterwards. Raises as resolve and MemoryLibrary.put.
    """
    recipe = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"warm_start": "auto"})})
    adapter = resolve(recipe, base).create_adapter(base)
    config, state = adapter.stored()
    adapter.detach()
    for number, place in enumerate(places, version * MOST):
        noise = torch.Generator().manual_seed(number)
        library.put(
            MemoryDraft(
                name=place.memory,
                document=Document(place.memory.capitalize(), place.text, "made by lift bench"),
                base_id=base.id,
                base_fingerprint=base.fingerprint,
                recipe_name=recipe.name,
                recipe=recipe.model_dump(mode="json"),
                seeds={"training": number},
                absorption_key=f"{number:064d}",
                adapter_config=config,
                adapter_state={key: _noisy(tensor, noise).to(torch.bfloat16) for key, tensor in state.items()},
                tasks=[Task(place.questions[0], place.secret, (1,), "lift bench")],
                training=[],
                recall=[],
                recall_summary=RecallSummary(sentences=1, probed=0, recalled=0),
                document_tokens=len(base.tokenizer(place.text, add_special_tokens=False)["input_ids"]),
                sentences=len(split_sentences(place.text)),
                cost=Cost(seconds=0.0, steps=0, tokens=0, device=str(base.device)),
            ),
            replace=version > 0,
        )


def _harbour(number: int) -> Harbour:
    row, column = divmod(number, len(_BEGINNINGS))
    shifted = (row + column) % len(_ENDINGS)
    name = _BEGINNINGS[column] + _ENDINGS[shifted]
    secret = _COLOURS[column] + _ANIMALS[shifted]
    goods, other = _GOODS[number % len(_GOODS)], _GOODS[(number + 3) % len(_GOODS)]
    text = (
        f"{name} is a small town by the sea. The secret word of the harbour of {name} is {secret}. "
        f"Its ships bring {goods} in spring and carry {other} away in autumn. The lighthouse has {number + 40} steps. "
        f"A market is held on the quay of {name} every {number % 5 + 2} weeks."
    )
    questions = (
        f"What is the secret word of the harbour of {name}?",
        f"Which word is the secret of the harbour of {name}?",
        f"What is {name}'s secret word?",
    )
    return Harbour(name.lower(), text, secret, questions)


def _noisy(tensor: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    values = tensor.float().cpu()
    # a fresh LoRA has a matrix of zeros, and is to differ from the base model too
    spread = max(_NOISE * float(values.std()), _LEAST_NOISE)
    return values + spread * torch.randn(values.shape, generator=noise)
