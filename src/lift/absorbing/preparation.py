"""A document prepared for absorbing: its sentences, and the batch sampler of them and their tasks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from lift.absorbing.resolved_recipe import ResolvedRecipe
from lift.documents.document import Document
from lift.documents.language import document_language
from lift.documents.sentences import Sentence, document_sentences
from lift.errors import DocumentError
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.recipes.recipe import Recipe
from lift.tasks.generation import Generated
from lift.tasks.rules.lines import rows_left_out
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
    language = document_language(document)
    document = replace(document, language=language)
    sentences = learnable_sentences(document)
    warnings = list(document.warnings)
    if language != "en" and recipe.generator.kind == "rules":
        warnings.append("the text does not seem to be English: there are no question rules for it, only simpler tasks")
    if recipe.generator.kind == "rules" and (rows := len(rows_left_out(sentences))):
        warnings.append(f"{rows:,} rows of long tables get no questions, so that there is time for those of the rest")
    tokens = len(content_ids(base.tokenizer, document.text))
    return PreparedDocument(document, tokens, language, sentences, tuple(warnings))


def learnable_sentences(document: Document) -> tuple[Sentence, ...]:
    """The document's sentences; raises DocumentError where there is none to learn."""
    sentences = tuple(document_sentences(document))
    if not any(any(character.isalnum() for character in sentence.text) for sentence in sentences):
        raise DocumentError(f"{document.source}: expected text with at least one sentence, got no letter in it")
    return sentences


@dataclass(frozen=True)
class Preparation:
    """A prepared document with its tasks, and the batch sampler made of them.

    `start`: segments are those of the parts from this character on.
    """

    prepared: PreparedDocument
    tasks: Sequence[Task]
    sampler: BatchSampler
    start: int


def prepare(
    made: PreparedDocument, tasks: Sequence[Task], base: BaseModel, resolved: ResolvedRecipe, start: int = 0
) -> Preparation:
    """Put a batch sampler together; segments are those of the parts from character `start` on.

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
    return Preparation(made, tasks, sampler, start)


def nothing_to_train(made: PreparedDocument, recipe: Recipe) -> str:
    """The sentence for a document that has given nothing to train on."""
    return (
        f"{made.document.source}: expected at least one task to train on, got none from the generator "
        f"{recipe.generator.kind!r}; use another generator, or a recipe that trains on segments too"
    )


def prepare_stream(
    made: PreparedDocument, pieces: Generator[Generated], base: BaseModel, resolved: ResolvedRecipe
) -> StreamedBatchSampler:
    """The batch sampler of tasks that are still being written, as `pieces` bring them."""
    return StreamedBatchSampler(
        base.tokenizer, resolved.window_tokens, made.document, made.sentences, pieces, resolved.recipe
    )
