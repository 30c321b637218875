"""A document prepared for absorbing: its sentences, its tasks by any generator, and the batch sampler of both."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.documents.document import Document
from lift.documents.sentences import Sentence, detect_language, split_sentences
from lift.errors import DocumentError
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.recipes.recipe import Recipe
from lift.tasks.generation import Generated, GenerationCounts, TaskGenerator
from lift.tasks.generator import open_generator
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler, StreamedBatchSampler


@dataclass(frozen=True)
class PreparedDocument:
    """A document that is split into sentences, before any task is written."""

    document: Document
    tokens: int
    language: str
    sentences: tuple[Sentence, ...]
    warnings: tuple[str, ...]


def prepare_document(document: Document, base: BaseModel, recipe: Recipe) -> PreparedDocument:
    """Split the document; raises DocumentError where there is no sentence to learn."""
    sentences = learnable_sentences(document)
    language = detect_language(document.text)
    warnings = []
    if language != "en" and recipe.generator.kind == "rules":
        warnings.append("the text does not seem to be English: there are no question rules for it, only simpler tasks")
    tokens = len(content_ids(base.tokenizer, document.text))
    return PreparedDocument(document, tokens, language, sentences, tuple(warnings))


def learnable_sentences(document: Document) -> tuple[Sentence, ...]:
    """The document's sentences; raises DocumentError where there is none to learn."""
    sentences = tuple(split_sentences(document.text))
    if not any(any(character.isalnum() for character in sentence.text) for sentence in sentences):
        raise DocumentError(f"{document.source}: expected text with at least one sentence, got no letter in it")
    return sentences


class TaskWriter:
    """The tasks of a document, or of its parts from character `start` on, each part under its own title.

    No task is written where the recipe neither trains on tasks nor holds any out. `base` is what the generator `self`
    asks; the others do without.
    """

    def __init__(self, made: PreparedDocument, base: BaseModel | None, recipe: Recipe, start: int = 0) -> None:
        self._prepared = made
        self._base = base
        self._recipe = recipe
        self._start = start
        self.position: int | None = None  # sentences that are done, None before the first

    @cached_property
    def _generators(self) -> list[tuple[TaskGenerator, int]]:
        """A generator for each part, and how many sentences come before that part."""
        document = self._prepared.document
        starts = [part.start for part in document.parts] or [0]
        titles = [part.title for part in document.parts] or [document.title]
        ends = [*starts[1:], len(document.text) + 1]
        found = []
        begins = [sentence.start for sentence in self._prepared.sentences]
        for title, start, end in zip(titles, starts, ends, strict=True):
            sentences = self._prepared.sentences[bisect_left(begins, start) : bisect_left(begins, end)]
            if start >= self._start and sentences:
                opened = open_generator(title, sentences, self._recipe, self._base, self._prepared.language)
                found.append((opened, sentences[0].index))
        return found

    @property
    def skipped(self) -> int:
        """Sentences before the first that tasks are written about."""
        return self._generators[0][1] if self._generators else 0

    @property
    def counts(self) -> GenerationCounts:
        """The counts of the generators of all parts: asked, got and rejected so far."""
        total = GenerationCounts()
        for generator, _ in self._generators:
            total.add(generator.counts)
        return total

    @property
    def requests(self) -> tuple[int, int]:
        """How many requests to a language model the document takes, and how many of them are answered in the cache."""
        generators = [generator for generator, _ in self._generators]
        return sum(each.counts.requests for each in generators), sum(each.cached_requests for each in generators)

    def stream(self) -> Generator[Generated]:
        """Pieces in the document's order as they are written, `position` counting over the whole document.

        Raises GenerationError. Closing the iterator ends what is still outstanding.
        """
        tasks = self._recipe.tasks
        if not tasks.weight and not tasks.held_out_per_sentence:
            return
        for generator, before in self._generators:
            for piece in generator.stream():
                self.position = before + piece.position
                yield Generated(self.position, piece.tasks)


@dataclass(frozen=True)
class Preparation:
    """A prepared document with its tasks, and the batch sampler made of them.

    `start`: segments are those of the parts from this character on. `shortenings`: what was left out for want of time.
    """

    prepared: PreparedDocument
    tasks: Sequence[Task]
    sampler: BatchSampler
    start: int
    shortenings: tuple[str, ...]


def prepare(
    made: PreparedDocument,
    tasks: Sequence[Task],
    base: BaseModel,
    resolved: ResolvedRecipe,
    *shortenings: str,
    start: int = 0,
) -> Preparation:
    """Put a batch sampler together; `shortenings` say in words what of the tasks was left out.

    Segments are those of the parts from character `start` on.

    Raises DocumentError where the recipe trains on tasks alone and there are none.
    """
    recipe, warm_start = resolved.recipe, resolved.warm_start
    if not recipe.segments.weight and all(task.held_out for task in tasks):
        raise DocumentError(nothing_to_train(made, recipe))
    sampler = BatchSampler(
        base.tokenizer,
        resolved.window_tokens,
        made.document,
        made.sentences,
        tasks,
        recipe,
        start,
        warm_start.passages if warm_start is not None else (),
    )
    return Preparation(made, tasks, sampler, start, shortenings)


def nothing_to_train(made: PreparedDocument, recipe: Recipe) -> str:
    """The sentence for a document that has given nothing to train on."""
    return (
        f"{made.document.source}: expected at least one task to train on, got none from the generator "
        f"{recipe.generator.kind!r}; use another generator, or a recipe that trains on segments too"
    )


def prepare_stream(
    made: PreparedDocument, writer: TaskWriter, base: BaseModel, resolved: ResolvedRecipe
) -> StreamedBatchSampler:
    """The batch sampler of tasks that are still being written."""
    return StreamedBatchSampler(
        base.tokenizer, resolved.window_tokens, made.document, made.sentences, writer.stream(), resolved.recipe
    )
