"""Warm-start tuning: documents with questions that people asked -> a warm start (adapters/warm_start.py): pre-LIFT SFT.

The adapter learns to answer behind a text of the document (reading_examples.py), as short as people answer, and to say
where that text does not tell, from documents other than those that will be absorbed. It is not to know them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lift.absorbing.reading_examples import QuestionedDocument, ReadingExamples, ReadingSettings, balanced
from lift.adapters.warm_start import WarmStart, WarmStartOrigin, WarmStartPassage, find_warm_start, start_adapter
from lift.answering.scoring import contained
from lift.config import Settings
from lift.documents.sentences import document_sentences
from lift.errors import AdapterError, DataError, cleaning_up
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.packing.prompts import Example
from lift.packing.trie import split_batches
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.checkpoint import Checkpoint, CheckpointNotice
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.training_loop import StepRecord, train

_LONGEST_KEPT_CHARS = 1500


class ReaderSettings(Settings):
    """How a warm start is tuned; that which comes with Lift is of earlier settings (its warm_start.json)."""

    adapter: AdapterSettings = AdapterSettings(rank=16, alpha=32.0, upper_share=0.5)
    objective: ObjectiveSettings = ObjectiveSettings(mean_over="tokens")
    training: TrainingSettings = TrainingSettings(
        epochs=4,
        learning_rate=1e-3,
        schedule="linear",
        warmup_share=0.02,
        batch_tokens=512,
        weight_decay=1e-4,
    )
    reading: ReadingSettings = ReadingSettings()


class WarmStartSampler:
    """The same examples in every epoch, in another order: groups of questions that share a text."""

    def __init__(self, tokenizer: Any, records: Sequence[QuestionedDocument], settings: ReaderSettings) -> None:
        self.leitner = LeitnerSampler(max_skip_epochs=1)
        self.epochs = settings.training.epochs
        self._settings = settings.training
        examples = ReadingExamples(tokenizer, settings.reading)
        self._groups = [
            group
            for record, questions in balanced(records, settings.reading)
            for group in examples.groups(record, questions)
        ]

    @property
    def examples(self) -> int:
        """Examples of an epoch."""
        return sum(map(len, self._groups))

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """The optimiser steps of an epoch."""
        groups = list(self._groups)
        random.Random(f"{self._settings.seed}/{epoch}").shuffle(groups)
        done, examples = 0, self.examples
        for batch in split_batches(groups, self._settings.batch_tokens):
            yield OptimizerStep((batch,), done / examples)
            done += len(batch)

    def record(self, epoch: int, examples: Sequence[Example], correct: Sequence[bool]) -> None:
        """Nothing pauses."""


def tuning_checkpoint(
    out: Path,
    base: BaseModel,
    records: Sequence[QuestionedDocument],
    settings: ReaderSettings,
    tell: Callable[[CheckpointNotice], None] | None = None,
) -> Checkpoint:
    """Where the tuning of the warm start `out` keeps its state: beside it, under a hash of all that it depends on."""
    described = [
        base.fingerprint,
        settings.model_dump(mode="json"),
        [
            [record.document.source, record.document.sha256]
            + [[each.text, each.kind, *each.answers, *each.evidence] for each in record.questions]
            for record in records
        ],
    ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    return Checkpoint(out.with_name(f"{out.name}.unfinished-{digest[:12]}"), tell)


def tune_reader(
    base: BaseModel,
    records: Sequence[QuestionedDocument],
    settings: ReaderSettings,
    licence: str,
    found: list[WarmStart],
    checkpoint: Checkpoint | None = None,
) -> Iterator[StepRecord]:
    """Tune a new adapter on `records`, yielding each step; the warm start is put into `found` at the end.

    It may begin at another warm start (`adapter.warm_start`), for a second course on other records. `licence`
    is that of the records. `checkpoint`: where the state is kept, and gone on from. Raises DataError where no question
    can be answered from a passage.
    """
    sampler = WarmStartSampler(base.tokenizer, records, settings)
    if not sampler.examples:
        raise DataError("expected questions whose passage or retrieved sentences hold the answer, got none")
    start = find_warm_start(base, settings.adapter)
    adapter = start_adapter(base, settings.adapter, settings.training.seed, start)
    with cleaning_up(adapter.detach):
        with caching_frozen_layers(base.model, adapter) as lower:
            objective = Objective(base.model, adapter, settings.objective, lower)
            yield from train(
                adapter, objective, sampler, settings.training, checkpoint=checkpoint, resume=checkpoint is not None
            )
        config, state = adapter.stored()
    about = WarmStartOrigin(
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        documents=tuple(f"{record.document.title} ({record.document.source})" for record in records),
        licence=licence,
        tuning=settings.model_dump(mode="json", exclude_defaults=True),
    )
    found.append(WarmStart.of(about, config, state, _passages(records, settings.reading)))


def warm_start_of(memory: StoredMemory, licence: str) -> WarmStart:
    """A memory of other documents as the warm start of further ones (pre-LIFT SFT, method 1.4), with its tasks.

    Raises AdapterError for an adapter other than plain LoRA, LibraryError for damaged files.
    """
    config = memory.adapter_config
    recipe = memory.manifest.recipe
    kind = recipe.get("adapter", {}).get("kind")
    if kind != "lora":
        raise AdapterError(f"expected a memory that is a LoRA, got {kind}; absorb the documents with lift-v0-sft")
    document = memory.document
    sentences = {sentence.index: sentence.text for sentence in document_sentences(document)}
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for task in memory.tasks:
        if task.evidence and task.evidence[0] in sentences:
            asked[sentences[task.evidence[0]]].append((task.question, task.answer))
    about = WarmStartOrigin(
        base_id=memory.manifest.base.id,
        base_fingerprint=memory.manifest.base.fingerprint,
        documents=tuple(f"{part.title} ({part.source})" for part in document.split()),
        licence=licence,
        tuning=recipe,
    )
    passages = [WarmStartPassage(text, tuple(each)) for text, each in asked.items()]
    return WarmStart.of(about, config, memory.load_adapter_state(), passages)


def _passages(records: Sequence[QuestionedDocument], settings: ReadingSettings) -> list[WarmStartPassage]:
    """Some passages that prove the answers of questions, with these; spread over the documents."""
    found: list[WarmStartPassage] = []
    for _document, questions in balanced(records, settings):
        asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for question in questions:
            for passage in question.evidence:
                if contained(passage, question.answers[:1]) and len(passage) <= _LONGEST_KEPT_CHARS:
                    asked[passage].append((question.text, question.answers[0]))
        found += [WarmStartPassage(passage, tuple(each)) for passage, each in asked.items()]
    generator = random.Random(settings.seed)
    return generator.sample(found, min(len(found), settings.kept_passages))
