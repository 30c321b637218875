"""What absorbing a document takes, predicted from a short calibration on the machine at hand."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lift.adapters.adapter import Adapter
from lift.adapters.resident import release
from lift.adapters.sharing import takes_one_turn
from lift.adapters.starting_point import start_adapter
from lift.answering import Answerer
from lift.batches import Batch, pack
from lift.documents.document import Document
from lift.errors import BudgetError
from lift.models.base_model import BaseModel
from lift.preparation import Preparation, TaskWriter, outline, prepare
from lift.prompts import MAX_ANSWER_TOKENS
from lift.recipes.recipe import GeneratorSettings, Recipe
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.curriculum import Curriculum
from lift.training.lower_layers import reusing_lower_layers
from lift.training.objective import Objective

CALIBRATION_TOKENS = 512
# Batches whose tokens stand for those of an epoch; their examples are drawn at random.
SAMPLED_BATCHES = 64
FEWEST_EPOCHS = 3
SMALLEST_EPOCH_SHARE = 0.5


@dataclass(frozen=True)
class Calibration:
    """What a short trial on this machine showed: its speed, and the tokens of a whole training.

    `epoch_tokens` are those of an epoch over segments and tasks, `total_tokens` those of all epochs of the recipe. The
    first epoch computes what later ones find computed, so it has a speed of its own.
    """

    first_tokens_per_s: float
    later_tokens_per_s: float
    epoch_tokens: int
    total_tokens: int

    @property
    def epoch_s(self) -> float:
        """Seconds an epoch takes in a training of the fewest that are planned."""
        return self._seconds(FEWEST_EPOCHS * self.epoch_tokens) / FEWEST_EPOCHS

    @property
    def total_s(self) -> float:
        """Seconds the whole training takes."""
        return self._seconds(self.total_tokens)

    @property
    def tokens_per_s(self) -> float:
        """Mean speed of the whole training."""
        return self.total_tokens / self.total_s

    def tokens_in(self, seconds: float) -> float:
        """Tokens that are trained in that time."""
        later_s = seconds - self._seconds(self.epoch_tokens)
        if later_s <= 0:
            return seconds * self.first_tokens_per_s
        return self.epoch_tokens + later_s * self.later_tokens_per_s

    def share_in(self, seconds: float) -> float:
        """Share of the whole training that is done in that time."""
        return self.tokens_in(seconds) / self.total_tokens

    def _seconds(self, tokens: int) -> float:
        first = min(tokens, self.epoch_tokens)
        return first / self.first_tokens_per_s + (tokens - first) / self.later_tokens_per_s


@dataclass(frozen=True)
class Plan:
    """The cost of absorbing a document, and after how many questions it has paid.

    `full_read_s` and `ask_s`: seconds of one question with the whole text in the prompt and with none of it;
    `full_read_s` is None where the text does not fit the window, and `break_even_questions` where nothing is saved.
    `requests` to a language model that writes the tasks, `cached_requests` of them are answered already; its tasks are
    not known yet, so those of the rules stand in for them.
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
    requests: int
    cached_requests: int


def calibrate(base: BaseModel, adapter: Adapter, curriculum: Curriculum, recipe: Recipe) -> Calibration:
    """Time a few batches (forward and backward, nothing is updated) and estimate the tokens of the training.

    Of a long text they are estimated from the first batches of an epoch, which hold a random sample of its examples.
    """
    settings = recipe.training
    stages = [(0, settings.segment_epochs), (settings.segment_epochs, settings.epochs)]
    plain = Objective(base.model, adapter, recipe.objective)
    total_tokens = epoch_tokens = 0
    packed: list[Batch] = []
    for first, epochs in stages:
        if epochs:
            packed, epoch_tokens = _sampled(curriculum, first)
            total_tokens += epochs * epoch_tokens
    adapter.set_trainable(True)
    try:
        plain.loss(min(packed, key=lambda batch: batch.tokens)).backward()  # type: ignore[no-untyped-call]
        with reusing_lower_layers(base.model, adapter) as lower:
            if lower is None:
                first_speed = later_speed = _tokens_per_s(plain, itertools.cycle(packed))
            else:
                reusing = Objective(base.model, adapter, recipe.objective, lower)
                first_speed = _tokens_per_s(reusing, packed)
                later_speed = _tokens_per_s(reusing, itertools.cycle(packed))
                kept = min(1.0, lower.most_tokens / epoch_tokens)
                later_speed = 1 / (kept / later_speed + (1 - kept) / first_speed)
    finally:
        for parameter in adapter.parameters():
            parameter.grad = None
        adapter.set_trainable(False)
    total_tokens = min(total_tokens, settings.max_tokens or total_tokens)
    return Calibration(first_speed, later_speed, epoch_tokens, total_tokens)


def _tokens_per_s(objective: Objective, batches: Iterable[Batch]) -> float:
    """The speed of these batches, or of the first of them that have CALIBRATION_TOKENS."""
    started, tokens = time.perf_counter(), 0
    for batch in batches:
        objective.loss(batch).backward()  # type: ignore[no-untyped-call]
        tokens += batch.tokens
        if tokens >= CALIBRATION_TOKENS:
            break
    return tokens / (time.perf_counter() - started)


def _sampled(curriculum: Curriculum, epoch: int) -> tuple[list[Batch], int]:
    """The first batches of `epoch`, and the tokens of all of it: counted where it is short, else extrapolated."""
    packed: list[Batch] = []
    for update in curriculum.updates(epoch):
        if len(packed) >= SAMPLED_BATCHES:
            return packed, round(sum(batch.tokens for batch in packed) / update.progress)
        packed.extend(map(pack, update.batches))
    return packed, sum(batch.tokens for batch in packed)


def thinned(preparation: Preparation, base: BaseModel, recipe: Recipe, epoch_s: float, budget_s: float) -> Preparation:
    """Fewer tasks a sentence where the budget would not allow FEWEST_EPOCHS of them all: every sentence stays covered.

    A recipe that states how many tasks a document gets, or trains on segments, is left as it is. Raises BudgetError
    where even one task a sentence, or the one update of an epoch that is gathered, is more than the budget allows.
    """
    if recipe.segments.weight or recipe.tasks.per_document:
        least_s = epoch_s if recipe.training.gather else 0.0
        if budget_s <= least_s:
            raise BudgetError(
                f"{budget_s:.0f} s of training is too little for the recipe {recipe.name!r}; expected at least "
                f"{least_s + 1:.0f} s, or a shorter text"
            )
        return preparation
    affordable = max(budget_s, 0.0) / (FEWEST_EPOCHS * epoch_s)
    if affordable >= 1:
        return preparation
    per_sentence = affordable * recipe.tasks.per_sentence
    if per_sentence * FEWEST_EPOCHS < SMALLEST_EPOCH_SHARE:
        least_s = SMALLEST_EPOCH_SHARE * epoch_s / recipe.tasks.per_sentence
        raise BudgetError(
            f"the text has {len(preparation.outline.sentences)} sentences, and {budget_s:.0f} s of training is too "
            f"little for them; expected at least {least_s + 1:.0f} s, or a shorter text"
        )
    keep = max(1, round(per_sentence))
    warning = (
        f"the budget allows {keep} tasks a sentence instead of {recipe.tasks.per_sentence}; more time teaches more"
    )
    tasks = _best_per_sentence(preparation.tasks, keep)
    return prepare(preparation.outline, tasks, base, recipe, warning, start=preparation.start)


@takes_one_turn
def make_plan(document: Document, base: BaseModel, recipe: Recipe, budget_s: float | None = None) -> Plan:
    """Predict the cost of absorbing `document`; trains nothing that lasts, and asks no endpoint for anything.

    Raises what prepare and thinned raise.
    """
    made = outline(document, base, recipe)
    requests, cached_requests = TaskWriter(made, base, recipe).requests
    recipe = recipe.model_copy(update={"generator": GeneratorSettings()})
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    preparation = prepare(made, tasks, base, recipe)
    release(base.model)
    adapter = start_adapter(base, recipe.adapter, recipe.training.seed)
    try:
        calibration = calibrate(base, adapter, preparation.curriculum, recipe)
        if budget_s is not None:
            preparation = thinned(preparation, base, recipe, calibration.epoch_s, budget_s)
            calibration = calibrate(base, adapter, preparation.curriculum, recipe)
        adapter_bytes = sum(parameter.numel() for parameter in adapter.parameters()) * 2
        answerer = Answerer.of(base, adapter, document, made.sentences)
        question = next((task.question for task in preparation.tasks), document.title)
        ask_s = _ask_seconds(answerer, question, "none")
        fits = made.tokens + MAX_ANSWER_TOKENS + 128 < base.window_tokens
        full_read_s = _ask_seconds(answerer, question, "full") if fits else None
    finally:
        adapter.detach()
    seconds = calibration.total_s
    if budget_s is not None:
        seconds = min(seconds, budget_s)
    saved_s = full_read_s - ask_s if full_read_s is not None else 0.0
    train_tokens = round(calibration.tokens_in(seconds))
    return Plan(
        tokens=made.tokens,
        sentences=len(made.sentences),
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
        requests=requests,
        cached_requests=cached_requests,
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _best_per_sentence(tasks: Sequence[Task], count: int) -> TaskFile:
    """The held-back tasks, and the `count` heaviest others of each sentence, in the order given."""
    by_sentence: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for number, task in enumerate(tasks):
        if not task.held_back:
            by_sentence[task.evidence[0]].append((-task.weight, number))
    kept = {number for found in by_sentence.values() for _, number in sorted(found)[:count]}
    return TaskFile(task for number, task in enumerate(tasks) if task.held_back or number in kept)


def _ask_seconds(answerer: Answerer, question: str, context: str) -> float:
    return answerer.ask(question, context).seconds
