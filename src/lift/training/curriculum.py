"""Document and tasks -> the updates of each epoch, with contexts drawn anew for every epoch.

A group of examples shares a long prefix and is best computed together: the tasks behind one context, or a task alone.
What an epoch holds depends on the recipe, the seed and the epoch's number alone, so that an interrupted training goes
on where it was.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lift.batches import shuffled_batches, split_batches
from lift.contexts import deal_sentences, draw_ends, evidence_text, room_for_context
from lift.documents.document import Document
from lift.prompts import (
    CUT_STEP_TOKENS,
    MAX_ANSWER_TOKENS,
    Example,
    contextual_segment_example,
    fit_context,
    question_example,
    recitation_tokens,
    segment_example,
)
from lift.recipes.recipe import Recipe
from lift.segments import Segment, segments_of
from lift.sentences import Sentence
from lift.tasks.generation import Generated
from lift.tasks.task import Task


@dataclass(frozen=True)
class Update:
    """What one optimiser step is computed on: one batch, or with training.gather all of an epoch's.

    `progress`: the share of the epoch that is done before it, 0 to 1.
    """

    batches: tuple[list[Example], ...]
    progress: float

    @property
    def weight(self) -> float:
        """Sum of the examples' weights."""
        return sum(example.weight for batch in self.batches for example in batch)


class Curriculum:
    """What is trained in which epoch.

    `window_tokens` is the longest prompt that the base model takes. Segments are those of the document's parts that
    begin at character `start` or after it.
    """

    def __init__(
        self,
        tokenizer: Any,
        window_tokens: int,
        document: Document,
        sentences: Sequence[Sentence],
        tasks: Sequence[Task],
        recipe: Recipe,
        start: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._window_tokens = min(window_tokens, recipe.context.window_tokens or window_tokens)
        self._document = document
        self._texts = [sentence.text for sentence in sentences]
        self._recipe = recipe
        self._tasks: list[Task] = []
        self._segments = list(self._tokenised_segments(start)) if recipe.segments.weight else []
        self._add(tasks)

    @property
    def epochs(self) -> int:
        """Epochs over segments alone, and then over everything (two-stage; joint where the first are none)."""
        return self._recipe.training.segment_epochs + self._recipe.training.epochs

    def updates(self, epoch: int) -> Iterator[Update]:
        """The optimiser steps of `epoch`, counted from 0."""
        settings = self._recipe.training
        order = random.Random(f"{settings.seed}/{epoch}/order")
        batches = shuffled_batches(self.groups(epoch), settings.batch_tokens, order)
        if settings.gather:
            yield Update(tuple(batches), 0.0)
            return
        for index, batch in enumerate(batches):
            yield Update((batch,), index / len(batches))

    def groups(self, epoch: int) -> list[list[Example]]:
        """The groups of examples of `epoch`, before they are shuffled and batched."""
        generator = random.Random(f"{self._recipe.training.seed}/{epoch}")
        segments = self._segment_groups(generator)
        if epoch < self._recipe.training.segment_epochs:
            return segments
        return segments + self._task_groups(self._tasks) + self._contextualised(generator)

    def _add(self, tasks: Iterable[Task]) -> None:
        if self._recipe.tasks.weight:
            self._tasks.extend(task for task in tasks if not task.held_back)

    def _tokenised_segments(self, start: int) -> Iterator[tuple[list[int], Segment]]:
        """Each segment with the tokens of the part it belongs to: the part's title, a line break, and its text."""
        settings = self._recipe.segments
        starts = [part.start for part in self._document.parts] or [0]
        for part, part_start in zip(self._document.split(), starts, strict=True):
            if part_start < start:
                continue
            text = f"{part.title}\n{part.text}"
            tokens = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            for segment in segments_of(text, tokens["offset_mapping"], settings):
                yield tokens["input_ids"], segment

    def _segment_groups(self, generator: random.Random) -> list[list[Example]]:
        weight = self._recipe.segments.weight
        groups = []
        for ids, segment in self._segments:
            window = ids[segment.start : segment.end]
            used_tokens = recitation_tokens(self._tokenizer) + len(window)
            room = room_for_context(self._window_tokens, used_tokens, self._recipe.context.segment_tokens)
            if room:
                head, tail = draw_ends(len(ids), room, generator)
                pieces = ids[head.start : head.end], ids[tail.start : tail.end]
                groups.append([contextual_segment_example(self._tokenizer, *pieces, window, weight)])
            elif len(window) > 1:
                groups.append([segment_example(window, weight)])
        return groups

    def _task_groups(self, tasks: Sequence[Task]) -> list[list[Example]]:
        """Closed book each task stands alone; behind the truncated document all of them share its prefix."""
        if not tasks:
            return []
        if self._recipe.context.tasks == "none":
            return [[self._example(task, None)] for task in tasks]
        return [[self._truncated(task) for task in tasks]]

    def _truncated(self, task: Task) -> Example:
        limit = self._window_tokens - MAX_ANSWER_TOKENS
        text, _ = fit_context(self._tokenizer, task.question, self._document.text, limit, CUT_STEP_TOKENS)
        return self._example(task, text)

    def _contextualised(self, generator: random.Random) -> list[list[Example]]:
        """The sentences dealt into contexts; each is asked a share of its sentences' tasks."""
        settings = self._recipe.context
        if not settings.share or not self._tasks:
            return []
        tasks_of: dict[int, list[Task]] = defaultdict(list)
        for task in self._tasks:
            tasks_of[task.evidence[0]].append(task)
        groups = []
        for chosen in deal_sentences(len(self._texts), settings.sentences, generator):
            tasks = [task for index in chosen for task in tasks_of[index]]
            asked = generator.sample(tasks, min(round(settings.share * len(tasks)), len(tasks)))
            if asked:
                context = evidence_text(self._texts, chosen)
                groups.append([self._example(task, context) for task in asked])
        return groups

    def _example(self, task: Task, context: str | None) -> Example:
        evidence = evidence_text(self._texts, task.evidence)
        return question_example(
            self._tokenizer,
            task.question,
            task.answer,
            context,
            task.weight * self._recipe.tasks.weight,
            reads_evidence=context is not None and all(self._texts[index] in context for index in task.evidence),
            teacher_context=evidence if self._recipe.objective.distillation and context is None else None,
        )


class StreamedCurriculum(Curriculum):
    """A curriculum whose tasks are still being written: its first epoch over tasks follows them (method 3.2).

    That epoch goes in the document's order, in batches that are full before they are trained, so what is trained does
    not depend on when the answers came: once all are there, the same tasks give the same updates. Later epochs are
    those of Curriculum. `pieces` is read once.
    """

    def __init__(
        self,
        tokenizer: Any,
        window_tokens: int,
        document: Document,
        sentences: Sequence[Sentence],
        pieces: Generator[Generated],
        recipe: Recipe,
    ) -> None:
        super().__init__(tokenizer, window_tokens, document, sentences, (), recipe)
        self._pieces = pieces
        self._position = 0
        self._written: list[Task] = []

    @property
    def written(self) -> tuple[Task, ...]:
        """Every task so far, held-back ones among them, in the document's order."""
        return tuple(self._written)

    def close(self) -> None:
        """Ask for no more tasks; what is being written is given up."""
        self._pieces.close()

    def updates(self, epoch: int) -> Iterator[Update]:
        """As Curriculum.updates; the streamed epoch is computed from pieces as they come."""
        first = self._recipe.training.segment_epochs
        if epoch < first:
            yield from super().updates(epoch)
        elif epoch == first:
            yield from self._streamed(epoch)
        else:
            for piece in self._pieces:  # all there already, but for a resumed training that skips the first epoch
                self._take(piece)
            yield from super().updates(epoch)

    def _streamed(self, epoch: int) -> Iterator[Update]:
        settings = self._recipe.training
        segments = self._segment_groups(random.Random(f"{settings.seed}/{epoch}"))
        batches = split_batches(self._arriving(segments), settings.batch_tokens)
        if settings.gather:
            yield Update(tuple(batches), 0.0)
            return
        done = 0.0
        for batch in batches:
            yield Update((batch,), done)
            # below 1 even behind the last sentence: its tasks may fill more batches, and 1 would end the training
            done = self._position / (len(self._texts) + 1)

    def _arriving(self, segments: list[list[Example]]) -> Iterator[list[Example]]:
        """Groups in the document's order: each piece's tasks as it arrives, the segments where their share is due."""
        waiting = list(segments)
        for piece in self._pieces:
            fresh = self._take(piece)
            yield from self._task_groups(fresh)
            due = len(segments) * piece.position // max(len(self._texts), 1)
            while len(segments) - len(waiting) < due:
                yield waiting.pop(0)
        yield from waiting

    def _take(self, piece: Generated) -> list[Task]:
        self._position = piece.position
        self._written.extend(piece.tasks)
        before = len(self._tasks)
        self._add(piece.tasks)
        return self._tasks[before:]
