"""A recipe is resolved on its base once: what is trained, and what the memory says of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from adapters.test_warm_start import tuned

from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished, Prepared, Trained
from lift.absorbing.add import add_events
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.run_options import AbsorptionOptions
from lift.documents.document import Document
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, load_recipe

DOCUMENT = Document("Merrow", "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907.", "test")
ADDED = Document("Harbour", "The harbour has two piers. Ellen Marsh built the longer one in 1881.", "test")
QUICK = ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=3"]


@pytest.fixture
def start(tiny_model: BaseModel, tmp_path: Path) -> Path:
    tuned(tiny_model)[0].write(tmp_path / "start")
    return tmp_path / "start"


def recipe(*overrides: str) -> Recipe:
    return load_recipe("fast", [*QUICK, *overrides])


@pytest.mark.parametrize(
    ("settings", "share", "ratio"),
    [
        (["context.beside_warm_start=false", "training.lora_plus_from_zero=false"], 0.0, 3.0),
        (["context.beside_warm_start=true"], 0.7, 3.0),
        (["adapter.warm_start=none", "training.lora_plus_from_zero=false"], 0.7, 1.0),
        (["adapter.warm_start=none", "training.lora_plus_from_zero=true"], 0.7, 3.0),
        (["adapter.kind=dora", "adapter.activated=false", "training.lora_plus_from_zero=false"], 0.7, 1.0),
    ],
)
def test_the_recipe_is_followed_from_its_warm_start(
    tiny_model: BaseModel,
    start: Path,
    settings: list[str],
    share: float,
    ratio: float,
) -> None:
    given = recipe(f"adapter.warm_start={start}", "context.share=0.7", "training.lora_plus_ratio=3", *settings)
    resolved = resolve(given, tiny_model)
    assert (resolved.recipe.context.share, resolved.recipe.training.lora_plus_ratio) == (share, ratio)
    assert resolved.given == given
    assert (resolved.warm_start is None) == (given.adapter.warm_start == "none" or given.adapter.kind == "dora")


def test_a_prompt_is_as_long_as_recipe_and_base_allow(tiny_model: BaseModel) -> None:
    window = tiny_model.window_tokens
    for asked, longest in ((0, window), (64, 64), (2 * window, window)):
        assert resolve(recipe(f"context.window_tokens={asked}"), tiny_model).window_tokens == longest


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_run_reads_its_warm_start_once(
    tiny_model: BaseModel,
    start: Path,
    tmp_path: Path,
    stream: str,
) -> None:
    library, given = MemoryLibrary(tmp_path / "library"), recipe(f"adapter.warm_start={start}")
    given = given.model_copy(update={"generator": given.generator.model_copy(update={"stream": stream == "true"})})
    kept = tmp_path / "kept"

    def without_it(events: Any) -> list[Any]:
        """All events; the directory of the warm start is away from the first event to the last."""
        happened = [next(events)]
        shutil.move(start, kept)
        happened += events
        shutil.move(kept, start)
        return happened

    absorbed = without_it(absorb_events(DOCUMENT, tiny_model, given, library, AbsorptionOptions(name="merrow")))
    assert isinstance(absorbed[0], Prepared) and isinstance(absorbed[-1], Finished)
    assert absorbed[-1].memory.manifest.recipe == given.model_dump(mode="json")
    added = without_it(add_events(ADDED, library["merrow"], tiny_model, library))
    assert any(isinstance(event, Trained) for event in added) and isinstance(added[-1], Finished)
