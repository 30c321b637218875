"""On a CUDA device everything trains and answers as on the processor; passed over where there is none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.test_adapter_architectures import PROMPTS, VARIANTS, disturb
from answering.test_many_memories import asked, memories  # noqa: F401  (a fixture)
from conftest import tiny_llama
from tiny_models import ARCHITECTURES, VOCABULARY, tiny

import lift
from lift.adapters.adapter import Adapter
from lift.adapters.attach import create_adapter, restore_adapter
from lift.answering.many_memories import ask_memories
from lift.documents.document import Document
from lift.inference.generate import generate
from lift.inference.sampling import SamplingParams, row_generator, sample
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import IGNORED, Example
from lift.packing.trie import split_batches
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.training_loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# Not English, so that the simplest tasks are written, which need no parser.
GERMAN = (
    "Ada Quill gründete das Museum des Leuchtturms von Port Merrow im Jahr 1911. Das Museum besitzt 42 Linsen. "
    "Ein Sturm zerstörte den alten Turm im Jahr 1907.\n\nPort Merrow liegt im Norden der Insel."
)


class Course:
    """Three epochs over eight questions with answers of three tokens, and a passage whose words are to be kept."""

    epochs = 3

    def __init__(self) -> None:
        self.leitner = LeitnerSampler(max_skip_epochs=1)
        generator = torch.Generator().manual_seed(3)
        rows = torch.randint(3, VOCABULARY, (8, 9), generator=generator).tolist()
        self._groups = [[Example((1, 5, *row), (*[IGNORED] * 8, *row[6:]))] for row in rows]
        self._groups.append([Example((1, *rows[0]), (IGNORED, *rows[0]), kl_to_base=True)])

    def optimizer_steps(self, _epoch: int) -> Iterator[OptimizerStep]:
        for batch in split_batches(self._groups, 60):
            yield OptimizerStep((batch,), 0.0)

    def record(self, epoch: int, examples: Sequence[Example], right: Sequence[bool]) -> None:
        """Nothing pauses."""


def losses(model: Any, adapter: Adapter, *, reuse: bool = False) -> list[float]:
    with caching_frozen_layers(model, adapter) as lower:
        objective = Objective(model, adapter, ObjectiveSettings(), lower if reuse else None)
        return [step.loss for step in train(adapter, objective, Course(), TrainingSettings(learning_rate=1e-3))]


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_goes_as_on_the_processor(architecture: str, variant: str) -> None:
    adapter = create_adapter(tiny(architecture), VARIANTS[variant], seed=0)
    start = adapter.trained_state()
    expected = losses(adapter.model, adapter)
    other = create_adapter(tiny(architecture).cuda(), VARIANTS[variant], seed=0)
    other.load_state(start)
    assert {parameter.device.type for parameter in other.parameters()} == {"cuda"}
    assert losses(other.model, other) == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_adapter_says_there_what_it_says_on_the_processor(architecture: str, variant: str) -> None:
    adapter = create_adapter(tiny(architecture), VARIANTS[variant], seed=0)
    disturb(adapter, 0.1)
    restored = restore_adapter(tiny(architecture).cuda(), *adapter.stored())
    expected = generate(adapter.model, PROMPTS, max_new_tokens=6, end_ids=[])
    assert generate(restored.model, PROMPTS, max_new_tokens=6, end_ids=[]) == expected


@pytest.mark.parametrize("architecture", ["smollm2", "gemma3"])
def test_states_of_lower_layers_are_reused(architecture: str) -> None:
    settings = AdapterSettings(rank=4, alpha=8, layers=(1,))
    expected, reused = (
        losses(adapter.model, adapter, reuse=reuse)
        for reuse in (False, True)
        for adapter in [create_adapter(tiny(architecture).cuda(), settings, seed=0)]
    )
    assert reused == pytest.approx(expected, rel=1e-4)


def test_many_memories_in_one_batch_answer_as_on_the_processor(
    tiny_model: BaseModel,
    memories: list[StoredMemory],  # noqa: F811
) -> None:
    questions = asked(memories)
    expected = [answer.text for answer in ask_memories(tiny_model, questions)]
    there = dataclasses.replace(tiny_model, model=tiny_llama().cuda())
    assert [answer.text for answer in ask_memories(there, questions)] == expected


@pytest.mark.parametrize("recipe", ["default", "fast", "lift-v3", "lift-v5"])
def test_a_text_is_absorbed_in_bfloat16_and_asked_about(tiny_directory: Path, tmp_path: Path, recipe: str) -> None:
    base = lift.load_model(str(tiny_directory), device="cuda")
    assert base.model.dtype == torch.bfloat16
    document = Document("Port Merrow", GERMAN, "test")
    changes = ["training.epochs=2", "generator.kind=rules"]
    memory = lift.absorb(document, model=base, recipe=recipe, overrides=changes, library=lift.Library(tmp_path))
    assert all(math.isfinite(row["loss"]) for row in memory.stored.training)
    for context in ("none", "evidence", "auto"):
        memory.ask("Wer gründete das Museum?", context=context)
    assert memory.manifest.cost.device == "cuda:0"


def test_a_temperature_draws_on_the_device() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).cuda()
    sampled = [
        [sample(logits, [SamplingParams(1.5, 0.9, row_generator(seed, logits.device))] * 2)[1].token for _ in range(8)]
        for seed in (3, 3, 4)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
