"""Document and tasks -> the groups of examples of each epoch, drawn again for every epoch.

A group shares a long prefix and is best computed together: the tasks behind one context, or the tasks that are asked
closed book on one sentence's behalf. What an epoch holds depends on the recipe, the seed and the epoch's number alone,
so an interrupted training goes on where it was.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lift.prompts import Example, question_example, segment_example
from lift.recipes.recipe import Recipe
from lift.segments import split_segments
from lift.sentences import Sentence
from lift.tasks.task import Task


class Curriculum:
    """What is trained in which epoch."""

    def __init__(
        self,
        tokenizer: Any,
        title: str,
        text: str,
        sentences: Sequence[Sentence],
        tasks: Sequence[Task],
        recipe: Recipe,
    ) -> None:
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._sentences = sentences
        self._tasks = [task for task in tasks if not task.held_back] if recipe.tasks.weight else []
        self._tasks_of: dict[int, list[Task]] = defaultdict(list)
        for task in self._tasks:
            self._tasks_of[task.evidence[0]].append(task)
        self._segments = self._segment_examples(title, text) if recipe.segments.weight else []

    @property
    def epochs(self) -> int:
        """Epochs over segments alone, and then over everything (two-stage; joint where the first are none)."""
        return self._recipe.training.segment_epochs + self._recipe.training.epochs

    def groups(self, epoch: int) -> list[list[Example]]:
        """The groups of examples of `epoch`, counted from 0."""
        segments = [[example] for example in self._segments]
        if epoch < self._recipe.training.segment_epochs:
            return segments
        generator = random.Random(f"{self._recipe.training.seed}/{epoch}")
        return segments + self._closed_book() + self._contextualised(generator)

    def _segment_examples(self, title: str, text: str) -> list[Example]:
        settings = self._recipe.segments
        ids = self._tokenizer(f"{title}\n{text}", add_special_tokens=False)["input_ids"]
        segments = split_segments(len(ids), settings.length_tokens, settings.step_tokens)
        return [segment_example(ids[segment.start : segment.end], settings.weight) for segment in segments]

    def _closed_book(self) -> list[list[Example]]:
        return [[self._example(task, None)] for task in self._tasks]

    def _contextualised(self, generator: random.Random) -> list[list[Example]]:
        """A random partition of the sentences into contexts; each is asked a share of its sentences' tasks."""
        settings = self._recipe.context
        if not settings.share or not self._tasks:
            return []
        order = list(range(len(self._sentences)))
        generator.shuffle(order)
        groups = []
        for first in range(0, len(order), settings.sentences):
            chosen = sorted(order[first : first + settings.sentences])
            context = " ".join(self._sentences[index].text for index in chosen)
            tasks = [task for index in chosen for task in self._tasks_of[index]]
            count = round(settings.share * len(tasks))
            asked = generator.sample(tasks, min(count, len(tasks)))
            if asked:
                groups.append([self._example(task, context) for task in asked])
        return groups

    def _example(self, task: Task, context: str | None) -> Example:
        weight = task.weight * self._recipe.tasks.weight
        return question_example(self._tokenizer, task.question, task.answer, context, weight)
