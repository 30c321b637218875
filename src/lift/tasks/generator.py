"""Which task generator a recipe asks for: `rules`, `self` or `openai`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lift.documents.sentences import Sentence
from lift.errors import UsageError
from lift.recipes.recipe import Recipe
from lift.tasks.generation import Generated, GenerationCounts, TaskGenerator
from lift.tasks.language_model import LanguageModelGenerator, Writer
from lift.tasks.requests import plan_requests, replacing_requests
from lift.tasks.rules.lines import rows_left_out
from lift.tasks.rules.rule_generator import tasks_by_sentence
from lift.tasks.selection import spread
from lift.tasks.task import Task

if TYPE_CHECKING:
    from lift.models.base_model import BaseModel


def open_generator(
    title: str, sentences: Sequence[Sentence], recipe: Recipe, base: BaseModel | None, language: str
) -> TaskGenerator:
    """The generator of `recipe.generator.kind` for the sentences of one document; nothing is asked of anybody yet.

    `language` is an ISO 639-1 code, for the rules. Raises GenerationError where an endpoint lacks its package or key,
    or a sentence does not fit the base model's window; ReplyCacheError where replies cannot be kept.
    """
    if recipe.generator.kind == "rules":
        return RulesGenerator(title, sentences, recipe, language)
    writer: Writer
    if recipe.generator.kind == "self":
        if base is None:
            raise UsageError("generator.kind self needs a local model to write tasks; use rules or openai")
        from lift.tasks.self_writer import SelfWriter

        writer = SelfWriter(base, recipe.generator)
    else:
        from lift.tasks.endpoint_generator import EndpointWriter

        writer = EndpointWriter(recipe.generator)
    return LanguageModelGenerator(
        writer,
        plan_requests(title, sentences, recipe),
        recipe.tasks,
        lambda before, count, turn: replacing_requests(title, sentences, recipe, before, count, turn),
    )


class RulesGenerator:
    """The TaskGenerator over the rules: no requests, a piece for every sentence."""

    cached_requests = 0

    def __init__(self, title: str, sentences: Sequence[Sentence], recipe: Recipe, language: str) -> None:
        self._title, self._sentences, self._recipe, self._language = title, sentences, recipe, language
        self.counts = GenerationCounts()

    def stream(self) -> Iterator[Generated]:
        """See TaskGenerator. With tasks.per_document, as many trained tasks, spread evenly over the document."""
        counts = self.counts = GenerationCounts()
        if left_out := len(rows_left_out(self._sentences)):
            counts.rejected["row of a long table"] = left_out
        groups: Iterable[Sequence[Task]] = tasks_by_sentence(
            self._title,
            self._sentences,
            per_sentence=self._recipe.tasks.per_sentence,
            held_out_per_sentence=self._recipe.tasks.held_out_per_sentence,
            seed=self._recipe.training.seed,
            language=self._language,
        )
        if self._recipe.tasks.per_document:
            groups = spread(list(groups), self._recipe.tasks.per_document)
        for place, group in enumerate(groups):
            counts.kept += len(group)
            yield Generated(place + 1, tuple(group))
