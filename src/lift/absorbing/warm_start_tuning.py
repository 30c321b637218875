"""Warm-start tuning: documents with questions that people asked -> a warm start (adapters/warm_start.py): pre-LIFT SFT.

The adapter learns to answer behind a passage of the document, as short as people answer, from documents other than
those that will be absorbed. It is not to know them: each question comes up with the passage that proves its answer and,
where that holds the answer too, with the sentences that retrieval brings. The bare passages come up too: there the
adapter is to say what the base says, so that nothing else is unlearned.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pydantic import Field

from lift.adapters.warm_start import WarmStart, WarmStartOrigin, WarmStartPassage, find_warm_start, start_adapter
from lift.answering.scoring import contained
from lift.config import Settings
from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import joined, split_sentences
from lift.errors import DataError, cleaning_up
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.packing.prompts import Example, preserved_example, question_example
from lift.packing.trie import split_batches
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings
from lift.training.batch_sampler import OptimizerStep
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.leitner_sampler import LeitnerSampler
from lift.training.objective import Objective
from lift.training.training_loop import StepRecord, train


class AnsweredQuestion(Protocol):
    """A question that people asked, its answers, the first of them the usual one, and passages that prove it."""

    @property
    def text(self) -> str:
        """The question."""
        ...

    @property
    def answers(self) -> Sequence[str]:
        """At least one."""
        ...

    @property
    def evidence(self) -> Sequence[str]:
        """Passages of the document; none where it is not known."""
        ...


class QuestionedDocument(Protocol):
    """A document and the questions about it, such as a record of an evaluation."""

    @property
    def document(self) -> Document:
        """The text."""
        ...

    @property
    def questions(self) -> Sequence[AnsweredQuestion]:
        """In any order."""
        ...


class ReadingSettings(Settings):
    """Settings of what is read."""

    retrieved_sentences: int = Field(3, ge=1, description="sentences that retrieval brings")
    kl_weight: float = Field(0.05, ge=0, description="weight of keeping the base's words on the passages, a token")


class ReaderSettings(Settings):
    """How a warm start is tuned. The defaults are those of the one that comes with Lift."""

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
    """The same examples in every epoch, in another order: groups of questions that share a passage."""

    def __init__(self, tokenizer: Any, records: Sequence[QuestionedDocument], settings: ReaderSettings) -> None:
        self.leitner = LeitnerSampler(max_skip_epochs=1)
        self.epochs = settings.training.epochs
        self._settings = settings.training
        self._groups = [
            group for record in records for group in _groups(tokenizer, record, settings.reading.retrieved_sentences)
        ]
        kept = settings.reading.kl_weight > 0 and not settings.adapter.acts_on_answers
        for passage in _passages(records) if kept else ():
            ids = content_ids(tokenizer, passage.text)
            self._groups.append([preserved_example(ids, settings.reading.kl_weight)])

    @property
    def examples(self) -> int:
        """Examples of an epoch."""
        return sum(map(len, self._groups))

    @property
    def questions(self) -> int:
        """Those of them that are answered."""
        return sum(not example.kl_to_base for group in self._groups for example in group)

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


def tune_reader(
    base: BaseModel,
    records: Sequence[QuestionedDocument],
    settings: ReaderSettings,
    licence: str,
    found: list[WarmStart],
) -> Iterator[StepRecord]:
    """Tune a new adapter on `records`, yielding each step; the warm start is put into `found` at the end.

    It may begin at another warm start (`adapter.warm_start`), for a second course on other records. `licence`
    is that of the records. Raises DataError where no question can be answered from a passage.
    """
    sampler = WarmStartSampler(base.tokenizer, records, settings)
    if not sampler.questions:
        raise DataError("expected questions whose passage or retrieved sentences hold the answer, got none")
    start = find_warm_start(base, settings.adapter)
    adapter = start_adapter(base, settings.adapter, settings.training.seed, start)
    with cleaning_up(adapter.detach):
        with caching_frozen_layers(base.model, adapter) as lower:
            objective = Objective(base.model, adapter, settings.objective, lower)
            yield from train(adapter, objective, sampler, settings.training)
        config, state = adapter.stored()
    about = WarmStartOrigin(
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        documents=tuple(f"{record.document.title} ({record.document.source})" for record in records),
        licence=licence,
        tuning=settings.model_dump(mode="json", exclude_defaults=True),
    )
    found.append(WarmStart.of(about, config, state, list(_passages(records))))


def _passages(records: Sequence[QuestionedDocument]) -> Iterator[WarmStartPassage]:
    """Each passage that proves the answer of a question, with all its questions."""
    for record in records:
        asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for question in record.questions:
            for passage in question.evidence:
                if contained(passage, question.answers[:1]):
                    asked[passage].append((question.text, question.answers[0]))
        for passage, questions in asked.items():
            yield WarmStartPassage(passage, tuple(questions))


def _groups(tokenizer: Any, record: QuestionedDocument, retrieved: int) -> Iterator[list[Example]]:
    """The questions of each passage behind it, and each question alone behind the sentences that retrieval brings."""
    index = SentenceIndex(split_sentences(record.document.text))
    behind: dict[str, list[Example]] = defaultdict(list)
    for question in record.questions:
        answer = question.answers[0]
        shown = joined(index.evidence(question.text, retrieved))
        for passage in dict.fromkeys(["\n".join(question.evidence), shown]):
            if passage and contained(passage, question.answers):
                behind[passage].append(question_example(tokenizer, question.text, answer, passage, reads_evidence=True))
    yield from behind.values()
