"""The options of a run: when it begins, what is refused before anything is loaded, and which run takes which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lift
from lift.absorbing.run_options import AbsorptionOptions, RunOptions
from lift.documents.document import Document
from lift.errors import BudgetError, UsageError
from lift.models.base_model import BaseModel
from lift.training.budget import Budget

DOCUMENT = Document("Merrow", "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907.", "test")
QUICK = ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=3"]


def test_a_run_begins_now_or_where_it_has_begun() -> None:
    def clock() -> float:
        return 7.0

    assert RunOptions(budget_s=60.0, clock=clock).begin() == Budget(60.0, 7.0, clock)
    assert AbsorptionOptions(budget_s=60.0, started=5.0, clock=clock).begin() == Budget(60.0, 5.0, clock)


@pytest.mark.parametrize(
    ("options", "error"), [({"budget_s": 1.0}, BudgetError), ({"until": 2.0}, UsageError), ({"untill": 1.0}, TypeError)]
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift.api.load_model", None)
    with pytest.raises(error):
        lift.absorb(DOCUMENT, **options)


def test_adding_takes_no_option_of_an_absorption(tiny_model: BaseModel, tmp_path: Path) -> None:
    library = lift.Library(tmp_path / "library", tiny_model)
    memory = lift.absorb(DOCUMENT, tiny_model, "fast", overrides=QUICK, name="merrow", library=library)
    with pytest.raises(TypeError, match="name"):
        memory.add(Document("Harbour", "The harbour has two piers.", "test"), name="harbour")
    assert library["merrow"].document.text == DOCUMENT.text
