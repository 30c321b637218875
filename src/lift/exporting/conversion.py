"""A conversion, measured: what a plain LoRA keeps of the memory that it was distilled from, and what it harms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lift.errors import ExportError
from lift.evaluation.harms import Ability, measure_ability
from lift.evaluation.reader import ModelReader
from lift.evaluation.records import Record
from lift.exporting.convert import AFTER, BEFORE
from lift.exporting.targets import AdapterForm, adapter_form
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel


@dataclass(frozen=True)
class Conversion:
    """Before and after, on the same held-out questions and the same other texts.

    `recalled_before`, `recalled_after`: sentences recalled closed book, of `probed`. `base`, `before`, `after`: the
    ability of the base model alone, with the memory, and with the plain LoRA. `steps`, `tokens`, `seconds`: of the
    training.
    """

    form: AdapterForm
    steps: int
    tokens: int
    seconds: float
    probed: int
    recalled_before: int
    recalled_after: int
    base: Ability
    before: Ability
    after: Ability

    @property
    def abilities(self) -> tuple[Ability, Ability, Ability]:
        """Of the base model, with the memory, with the plain LoRA."""
        return self.base, self.before, self.after

    @property
    def kept_share(self) -> float | None:
        """Recall after, as a share of recall before; None where nothing was recalled before."""
        return self.recalled_after / self.recalled_before if self.recalled_before else None

    def record(self) -> dict[str, Any]:
        """Its part of export.json."""
        return {**asdict(self), "kept_share": self.kept_share}


def measure_conversion(memory: StoredMemory, converted: StoredMemory, base: BaseModel) -> Conversion:
    """Read an unrelated text and answer unrelated questions with both, and with neither; raises as open_memory.

    Raises ExportError where `converted` is no conversion.
    """
    points = {point.what: point for point in converted.manifest.recall_history[-2:]}
    if points.keys() != {BEFORE, AFTER}:
        raise ExportError(f"expected a memory that was converted, got {converted.name!r}, which was absorbed")
    record = Record(memory.name, memory.document, ())
    alone, with_memory, with_plain = (
        measure_ability(reader, reader, record)
        for reader in (ModelReader(base), ModelReader(base, memory), ModelReader(base, converted))
    )
    rows = converted.training[len(memory.training) :]
    return Conversion(
        form=adapter_form(memory.adapter_config),
        steps=len(rows),
        tokens=sum(row["tokens"] for row in rows),
        seconds=sum(row["seconds"] for row in rows),
        probed=points[BEFORE].probed,
        recalled_before=points[BEFORE].recalled,
        recalled_after=points[AFTER].recalled,
        base=alone,
        before=with_memory,
        after=with_plain,
    )
