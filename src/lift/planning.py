"""What absorbing a document takes, predicted from a short calibration on the machine at hand."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lift.adapters.lora import LoraAdapter
from lift.adapters.resident import release
from lift.answering import MAX_ANSWER_TOKENS, Answerer
from lift.batches import pack, shuffled_batches
from lift.documents.document import Document
from lift.errors import BudgetError, DocumentError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.sentences import Sentence, detect_language, split_sentences
from lift.tasks.rules.generate import generate_tasks
from lift.tasks.task import Task
from lift.training.examples import Curriculum
from lift.training.loop import batch_loss

CALIBRATION_STEPS = 4
FEWEST_EPOCHS = 3
SMALLEST_EPOCH_SHARE = 0.5


@dataclass(frozen=True)
class Preparation:
    """A document as it is trained: its sentences and tasks, and the curriculum made of them."""

    document: Document
    tokens: int
    language: str
    sentences: tuple[Sentence, ...]
    tasks: tuple[Task, ...]
    curriculum: Curriculum
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What a short trial on this machine showed."""

    tokens_per_s: float
    epoch_tokens: int

    @property
    def epoch_s(self) -> float:
        """Seconds an epoch takes."""
        return self.epoch_tokens / self.tokens_per_s


@dataclass(frozen=True)
class Plan:
    """The cost of absorbing a document, and after how many questions it has paid.

    `full_read_s` and `ask_s`: seconds of one question with the whole text in the prompt and with none of it;
    `full_read_s` is None where the text does not fit the window, and `break_even_questions` where nothing is saved.
    """

    tokens: int
    sentences: int
    tasks: int
    epochs: float
    train_tokens: int
    tokens_per_s: float
    seconds: float
    peak_bytes: int
    adapter_bytes: int
    full_read_s: float | None
    ask_s: float
    break_even_questions: int | None


def prepare(document: Document, base: BaseModel, recipe: Recipe) -> Preparation:
    """Split the document and write its tasks; raises DocumentError where there is no sentence to learn."""
    sentences = tuple(split_sentences(document.text))
    if not any(any(character.isalnum() for character in sentence.text) for sentence in sentences):
        raise DocumentError(f"{document.source}: expected text with at least one sentence, got no letter in it")
    language = detect_language(document.text)
    tasks = tuple(
        generate_tasks(
            document.title,
            sentences,
            per_sentence=recipe.tasks.per_sentence,
            held_back_per_sentence=recipe.tasks.held_back_per_sentence,
            seed=recipe.training.seed,
            language=language,
        )
    )
    warnings = []
    if language != "en":
        warnings.append("the text does not seem to be English: there are no question rules for it, only simpler tasks")
    tokens = len(base.tokenizer(document.text, add_special_tokens=False)["input_ids"])
    curriculum = Curriculum(base.tokenizer, document.title, document.text, sentences, tasks, recipe)
    return Preparation(document, tokens, language, sentences, tasks, curriculum, tuple(warnings))


def calibrate(base: BaseModel, adapter: LoraAdapter, preparation: Preparation, recipe: Recipe) -> Calibration:
    """Time a few steps (forward and backward, nothing is updated) and count the tokens of an epoch."""
    epoch = recipe.training.segment_epochs
    groups = preparation.curriculum.groups(epoch)
    batches = shuffled_batches(groups, recipe.training.batch_tokens, random.Random(0))
    packed = [pack(batch) for batch in batches]
    adapter.set_trainable(True)
    try:
        batch_loss(base.model, packed[0]).backward()  # type: ignore[no-untyped-call]
        started = time.perf_counter()
        trial = [packed[(1 + index) % len(packed)] for index in range(CALIBRATION_STEPS)]
        for batch in trial:
            batch_loss(base.model, batch).backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - started
    finally:
        for parameter in adapter.parameters():
            parameter.grad = None
        adapter.set_trainable(False)
    return Calibration(sum(batch.tokens for batch in trial) / seconds, sum(batch.tokens for batch in packed))


def thinned(preparation: Preparation, base: BaseModel, recipe: Recipe, epoch_s: float, budget_s: float) -> Preparation:
    """Fewer tasks a sentence where the budget would not allow FEWEST_EPOCHS of them all: every sentence stays covered.

    Raises BudgetError where even one task a sentence is more than the budget allows.
    """
    affordable = max(budget_s, 0.0) / (FEWEST_EPOCHS * epoch_s)
    if affordable >= 1:
        return preparation
    per_sentence = affordable * recipe.tasks.per_sentence
    if per_sentence * FEWEST_EPOCHS < SMALLEST_EPOCH_SHARE:
        least_s = SMALLEST_EPOCH_SHARE * epoch_s / recipe.tasks.per_sentence
        raise BudgetError(
            f"the text has {len(preparation.sentences)} sentences, and {budget_s:.0f} s of training is too little for "
            f"them; expected at least {least_s + 1:.0f} s, or a shorter text"
        )
    keep = max(1, round(per_sentence))
    tasks = _best_per_sentence(preparation.tasks, keep)
    curriculum = Curriculum(
        base.tokenizer, preparation.document.title, preparation.document.text, preparation.sentences, tasks, recipe
    )
    most = recipe.tasks.per_sentence
    warning = f"the budget allows {keep} tasks a sentence instead of {most}; more time teaches more"
    return Preparation(
        preparation.document,
        preparation.tokens,
        preparation.language,
        preparation.sentences,
        tasks,
        curriculum,
        (*preparation.warnings, warning),
    )


def make_plan(document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None = None) -> Plan:
    """Predict the cost of absorbing `document`; trains nothing that lasts. Raises what prepare and thinned raise."""
    preparation = prepare(document, base, recipe)
    release(base.model)
    adapter = LoraAdapter.create(base.model, recipe.adapter, recipe.training.seed)
    try:
        calibration = calibrate(base, adapter, preparation, recipe)
        if budget_s is not None:
            preparation = thinned(preparation, base, recipe, calibration.epoch_s, budget_s)
            calibration = calibrate(base, adapter, preparation, recipe)
        adapter_bytes = sum(parameter.numel() for parameter in adapter.parameters()) * 2
        answerer = Answerer(base, adapter, document, preparation.sentences)
        question = next((task.question for task in preparation.tasks), document.title)
        ask_s = _ask_seconds(answerer, question, "none")
        fits = preparation.tokens + MAX_ANSWER_TOKENS + 128 < base.window_tokens
        full_read_s = _ask_seconds(answerer, question, "full") if fits else None
    finally:
        adapter.detach()
    seconds = calibration.epoch_s * recipe.training.epochs
    if budget_s is not None:
        seconds = min(seconds, budget_s)
    saved_s = full_read_s - ask_s if full_read_s is not None else 0.0
    train_tokens = round(seconds * calibration.tokens_per_s)
    return Plan(
        tokens=preparation.tokens,
        sentences=len(preparation.sentences),
        tasks=sum(not task.held_back for task in preparation.tasks),
        epochs=train_tokens / calibration.epoch_tokens,
        train_tokens=train_tokens,
        tokens_per_s=calibration.tokens_per_s,
        seconds=seconds,
        peak_bytes=peak_memory_bytes(),
        adapter_bytes=adapter_bytes,
        full_read_s=full_read_s,
        ask_s=ask_s,
        break_even_questions=-int(-seconds // saved_s) if saved_s > 0 else None,
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _best_per_sentence(tasks: Sequence[Task], count: int) -> tuple[Task, ...]:
    by_sentence: dict[int, list[Task]] = defaultdict(list)
    for task in tasks:
        if not task.held_back:
            by_sentence[task.evidence[0]].append(task)
    kept = {id(task) for group in by_sentence.values() for task in sorted(group, key=lambda task: -task.weight)[:count]}
    return tuple(task for task in tasks if task.held_back or id(task) in kept)


def _ask_seconds(answerer: Answerer, question: str, context: str) -> float:
    return answerer.ask(question, context).seconds
